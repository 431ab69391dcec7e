//! Answers workers that ask to join: checks the proof, finds or makes their server, tells them its id.
//!
//! [`answer`] holds the rules; [`run`] is the door to NATS. Asking twice is answered twice with the same server.

use async_nats::Client;
use aws_lc_rs::hmac;
use futures::StreamExt;
use longwatch_events::id::{EventId, ServerId};
use longwatch_events::join::{JoinClaim, JoinReply, JoinRequest, RefusedReason};
use longwatch_events::state::{Membership, Server, State};
use longwatch_events::subject;
use tokio::time::{Duration, sleep};

use crate::decide::command::{Command, MAX_LABEL_KEY, MAX_LABEL_VALUE, MAX_LABELS, MAX_NAME, Refusal};
use crate::keys::Key;
use crate::observed::Pace;
use crate::service::{CommandError, Service};

/// Before subscribing again after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether a server that shows the join key belongs to the system at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Adopt {
    /// Yes.
    Auto,
    /// It is undefined until an operator adopts it.
    Manual,
}

/// Answers for as long as this replica may decide: until it halts. Before it has replayed the log, and then, another one is to be
/// asked.
pub async fn run(service: &Service, client: &Client, key: &Key, adopt: Adopt) {
    let mut progress = service.progress();
    let mut halted = service.subscribe_halted();
    if progress.wait_for(|progress| progress.caught_up).await.is_err() {
        return;
    }
    tokio::select! {
        () = answer_all(service, client, key, adopt) => {}
        _halted = halted.wait_for(Option::is_some) => {}
    }
}

async fn answer_all(service: &Service, client: &Client, key: &Key, adopt: Adopt) {
    loop {
        // One queue group: of several replicas one answers.
        match client.queue_subscribe(subject::JOIN, "control".to_owned()).await {
            Ok(mut requests) => {
                while let Some(request) = requests.next().await {
                    let Some(reply_to) = request.reply else { continue };
                    let reply = answer(service, key, adopt, &request.payload).await;
                    let bytes = serde_json::to_vec(&reply).unwrap_or_default();
                    if let Err(error) = client.publish(reply_to, bytes.into()).await {
                        tracing::warn!(%error, "a join could not be answered; the worker asks again");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot listen for joins"),
        }
        sleep(PAUSE).await;
    }
}

/// What a worker that sent `request` is told.
pub async fn answer(service: &Service, key: &Key, adopt: Adopt, request: &[u8]) -> JoinReply {
    match join(service, key, adopt, request).await {
        Ok(reply) => reply,
        Err((reason, detail)) => {
            tracing::warn!(?reason, detail, "a worker was refused");
            JoinReply::Refused { reason, detail }
        }
    }
}

type Refused = (RefusedReason, String);

async fn join(service: &Service, key: &Key, adopt: Adopt, request: &[u8]) -> Result<JoinReply, Refused> {
    let claim = checked_claim(key, request)?;
    // Before the log has been replayed a known worker would look like a new one.
    service.may_decide().await.map_err(|error| (RefusedReason::TryAgain, error.to_string()))?;
    let server_id = match find(&service.state(), &claim) {
        Found::Known(server_id) => Ok(server_id),
        Found::Detached(server_id) => Err(server_id),
        Found::Announced(server_id) => Err(server_id),
        Found::New => Err(ServerId::generate(service.ids())),
    };
    let server_id = match server_id {
        Ok(known) => known,
        Err(new) => {
            let actor = format!("server:{new}");
            let command = Command::JoinServer {
                server_id: new,
                name: claim.name.clone(),
                public_key: claim.public_key,
                labels: claim.labels,
                capacity: claim.capacity,
            };
            execute(service, &actor, command).await?;
            tracing::info!(server_id = %new, name = claim.name, "a server joined");
            // Another replica may have let the same worker in a moment earlier, under another id: that one counts.
            let joined = service.state().server_by_key(&claim.public_key).map(|(id, _)| id);
            // Or another worker took the name in that moment.
            joined.ok_or_else(|| {
                (RefusedReason::NameTaken, Refusal::NameTaken { name: claim.name }.to_string())
            })?
        }
    };
    if service.state().server(server_id).is_some_and(Server::is_detached) {
        // Only an owner takes it in again.
        return Err((RefusedReason::Detached, Refusal::Detached.to_string()));
    }
    if adopt == Adopt::Auto {
        adopt_if_undefined(service, server_id).await?;
    }
    let adopted = service.state().server(server_id).is_some_and(Server::is_adopted);
    let Pace { interval_ms, lease_ms } = service.observed().pace();
    // Without it the server records as well; it only gives nothing out.
    let media_key = service.seal_media_key(server_id, &claim.public_key);
    if let Err(error) = &media_key {
        tracing::warn!(%server_id, %error, "a server gets no key for what it gives out");
    }
    Ok(JoinReply::Welcome {
        server_id,
        adopted,
        heartbeat_interval_ms: interval_ms,
        lease_ms: Some(lease_ms),
        media_key: media_key.ok(),
    })
}

/// Whether nobody has decided about it yet. One that was let go in this moment is not taken in again.
fn is_new(server: &Server) -> bool {
    server.membership == Membership::Undefined
}

async fn adopt_if_undefined(service: &Service, server_id: ServerId) -> Result<(), Refused> {
    let undefined =
        service.state().server(server_id).filter(|server| is_new(server)).map(|server| server.version);
    match undefined {
        Some(expected) => execute(service, "system", Command::AdoptServer { server_id, expected }).await,
        None => Ok(()),
    }
}

async fn execute(service: &Service, actor: &str, command: Command) -> Result<(), Refused> {
    let event_id = EventId::generate(service.ids());
    match service.execute(actor, event_id, command).await {
        Ok(_) => Ok(()),
        Err(CommandError::Refused(refusal @ Refusal::NameTaken { .. })) => Err((
            RefusedReason::NameTaken,
            format!("{refusal}, or detach that server first if this worker replaces it"),
        )),
        Err(other) => Err((RefusedReason::TryAgain, other.to_string())),
    }
}

/// Which server a worker is.
enum Found {
    /// It was here before.
    Known(ServerId),
    /// An owner let it go, and it was not seen since.
    Detached(ServerId),
    /// An operator announced it.
    Announced(ServerId),
    /// Nobody knows it.
    New,
}

fn find(state: &State, claim: &JoinClaim) -> Found {
    if let Some((id, server)) = state.server_by_key(&claim.public_key) {
        return match server.membership {
            Membership::Detached { seen_again: false } => Found::Detached(id),
            Membership::Detached { seen_again: true } | Membership::Adopted | Membership::Undefined => {
                Found::Known(id)
            }
        };
    }
    match state.server_by_name(&claim.name) {
        Some((id, server)) if server.public_key.is_none() => Found::Announced(id),
        Some(_) | None => Found::New,
    }
}

/// Whether `text` is neither empty nor longer than `max`, and can be shown.
fn is_printable(text: &str, max: usize) -> bool {
    !text.is_empty() && text.chars().count() <= max && !text.chars().any(char::is_control)
}

fn checked_claim(key: &Key, request: &[u8]) -> Result<JoinClaim, Refused> {
    let malformed = |detail: String| (RefusedReason::Malformed, detail);
    let request: JoinRequest = serde_json::from_slice(request)
        .map_err(|error| malformed(format!("the request is not a join request: {error}")))?;
    let proof = hex::decode(&request.proof).unwrap_or_default();
    let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    hmac::verify(&hmac_key, request.claim.as_bytes(), &proof).map_err(|_| {
        let detail = "the worker's join key is not this system's; give it the file that --join-key-file of control names";
        (RefusedReason::WrongKey, detail.to_owned())
    })?;
    let claim: JoinClaim = serde_json::from_str(&request.claim)
        .map_err(|error| malformed(format!("the claim is not one: {error}")))?;
    if !is_printable(&claim.name, MAX_NAME) || claim.name.trim() != claim.name {
        return Err(malformed(format!(
            "a server's name has 1 to {MAX_NAME} printable characters, no spaces around"
        )));
    }
    let fits = |(key, value): (&str, &str)| {
        is_printable(key, MAX_LABEL_KEY)
            && value.len() <= MAX_LABEL_VALUE
            && !value.chars().any(char::is_control)
    };
    if claim.labels.len() > MAX_LABELS || !claim.labels.iter().all(fits) {
        return Err(malformed(format!(
            "a server has at most {MAX_LABELS} labels, of at most {MAX_LABEL_KEY} and {MAX_LABEL_VALUE} printable bytes"
        )));
    }
    if claim.capacity.max_cameras == 0 {
        return Err(malformed("a server's capacity is at least 1 camera".to_owned()));
    }
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use longwatch_events::event::DetachedCameras;
    use longwatch_events::id::{BootId, SystemIds};
    use longwatch_events::sealed::PublicKey;
    use longwatch_events::settings::{Capacity, Failover, Labels, ServerSettings};

    use super::*;
    use crate::testing::TestControl;

    fn key() -> Key {
        Key::from_text("lwj_0123456789abcdef0123456789abcdef")
    }

    fn request(name: &str, public_key: u8, key: &Key) -> Vec<u8> {
        let claim = JoinClaim {
            name: name.into(),
            public_key: PublicKey([public_key; 32]),
            boot_id: BootId::generate(&SystemIds),
            labels: Labels::new(),
            capacity: Capacity::default(),
        };
        let claim = serde_json::to_string(&claim).unwrap();
        let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        let proof = hex::encode(hmac::sign(&hmac_key, claim.as_bytes()));
        serde_json::to_vec(&JoinRequest { claim, proof }).unwrap()
    }

    fn refused(reply: &JoinReply) -> Option<RefusedReason> {
        match reply {
            JoinReply::Refused { reason, .. } => Some(*reason),
            JoinReply::Welcome { .. } => None,
        }
    }

    #[tokio::test]
    async fn who_shows_the_key_gets_one_server_however_often_it_asks() {
        let control = TestControl::start().await;
        let first = answer(&control.service, &key(), Adopt::Auto, &request("a", 1, &key())).await;
        let again = answer(&control.service, &key(), Adopt::Auto, &request("a", 1, &key())).await;
        let told = |reply: &JoinReply| match reply {
            // Sealed anew each time.
            JoinReply::Welcome { server_id, adopted, media_key: Some(_), .. } => Some((*server_id, *adopted)),
            JoinReply::Welcome { .. } | JoinReply::Refused { .. } => None,
        };
        assert_eq!(told(&first), told(&again));
        assert!(told(&first).is_some_and(|(_, adopted)| adopted), "{first:?}");
        assert_eq!(control.service.state().servers().count(), 1);
    }

    #[tokio::test]
    async fn a_wrong_key_or_no_request_gets_nothing() {
        let control = TestControl::start().await;
        let wrong = Key::from_text("lwj_ffffffffffffffffffffffffffffffff");
        let reply = answer(&control.service, &key(), Adopt::Auto, &request("a", 1, &wrong)).await;
        assert_eq!(refused(&reply), Some(RefusedReason::WrongKey));
        let reply = answer(&control.service, &key(), Adopt::Auto, b"{\"claim\": 3}").await;
        assert_eq!(refused(&reply), Some(RefusedReason::Malformed));
        let reply = answer(&control.service, &key(), Adopt::Auto, &request("a\nb", 1, &key())).await;
        assert_eq!(refused(&reply), Some(RefusedReason::Malformed));
        assert_eq!(control.service.state().servers().count(), 0);
    }

    #[tokio::test]
    async fn without_automatic_adoption_a_server_stays_undefined() {
        let control = TestControl::start().await;
        let reply = answer(&control.service, &key(), Adopt::Manual, &request("a", 1, &key())).await;
        assert!(matches!(reply, JoinReply::Welcome { adopted: false, .. }), "{reply:?}");
    }

    #[tokio::test]
    async fn a_worker_becomes_the_server_announced_under_its_name_and_nobody_else_does() {
        let control = TestControl::start().await;
        let server_id = ServerId::generate(control.service.ids());
        let settings = ServerSettings {
            name: "north".into(),
            labels: Labels::new(),
            capacity: Capacity { max_cameras: 7, max_bitrate_bps: None },
            failover: Failover::default(),
        };
        control.execute(Command::AddServer { server_id, settings }).await;
        let reply = answer(&control.service, &key(), Adopt::Manual, &request("north", 1, &key())).await;
        assert!(matches!(reply, JoinReply::Welcome { server_id: id, adopted: true, .. } if id == server_id));
        let max_cameras = control.service.state().server(server_id).unwrap().settings.capacity.max_cameras;
        assert_eq!(max_cameras, 7, "the operator's word counts");
        let other = answer(&control.service, &key(), Adopt::Auto, &request("north", 2, &key())).await;
        assert_eq!(refused(&other), Some(RefusedReason::NameTaken));
    }

    #[tokio::test]
    async fn a_detached_worker_stays_out_until_it_is_adopted_again() {
        let control = TestControl::start().await;
        answer(&control.service, &key(), Adopt::Auto, &request("a", 1, &key())).await;
        let (server_id, expected) =
            control.service.state().servers().map(|(id, server)| (id, server.version)).next().unwrap();
        control.execute(Command::DetachServer { server_id, expected, cameras: DetachedCameras::Keep }).await;
        // However often it asks, the log is told once.
        for _ in 0..2 {
            let reply = answer(&control.service, &key(), Adopt::Auto, &request("a", 1, &key())).await;
            assert_eq!(refused(&reply), Some(RefusedReason::Detached));
        }
        let seen_again = Membership::Detached { seen_again: true };
        let expected = {
            let state = control.service.state();
            let server = state.server(server_id).unwrap();
            assert_eq!(server.membership, seen_again);
            server.version
        };
        assert_eq!(control.service.state().position, expected);

        // Until an owner takes it in again.
        control.execute(Command::AdoptServer { server_id, expected }).await;
        let reply = answer(&control.service, &key(), Adopt::Manual, &request("a", 1, &key())).await;
        assert!(matches!(reply, JoinReply::Welcome { server_id: id, adopted: true, .. } if id == server_id));
    }
}
