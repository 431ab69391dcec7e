//! Answers workers that ask to join: checks the proof, finds or makes their server, tells them its id.
//!
//! [`answer`] holds the rules; [`run`] is the door to NATS. Asking twice is answered twice with the same server.

use async_nats::Client;
use aws_lc_rs::hmac;
use futures::StreamExt;
use longwatch_events::id::{EventId, ServerId};
use longwatch_events::join::{JoinClaim, JoinReply, JoinRequest, RefusedReason};
use longwatch_events::state::State;
use longwatch_events::subject;
use tokio::time::{Duration, sleep};

use crate::decide::command::{Command, Refusal};
use crate::keys::Key;
use crate::observed::HEARTBEAT_INTERVAL_MS;
use crate::service::{CommandError, Service};

/// A worker's name may be this long.
const NAME_LENGTH: usize = 128;
/// A worker may bring this many labels.
const LABELS: usize = 64;
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

/// Answers for ever.
pub async fn run(service: &Service, client: &Client, key: &Key, adopt: Adopt) {
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
    let server_id = match find(&service.state(), &claim) {
        Found::Known(server_id) => Ok(server_id),
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
            service.state().server_by_key(&claim.public_key).map_or(new, |(id, _)| id)
        }
    };
    if adopt == Adopt::Auto {
        adopt_if_undefined(service, server_id).await?;
    }
    let adopted = service.state().server(server_id).is_some_and(|server| server.adopted);
    Ok(JoinReply::Welcome { server_id, adopted, heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS })
}

async fn adopt_if_undefined(service: &Service, server_id: ServerId) -> Result<(), Refused> {
    let undefined =
        service.state().server(server_id).filter(|server| !server.adopted).map(|server| server.version);
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
        Err(CommandError::Refused(refusal @ Refusal::Detached)) => {
            Err((RefusedReason::Detached, refusal.to_string()))
        }
        Err(other) => Err((RefusedReason::TryAgain, other.to_string())),
    }
}

/// Which server a worker is.
enum Found {
    /// It was here before.
    Known(ServerId),
    /// An operator announced it.
    Announced(ServerId),
    /// Nobody knows it.
    New,
}

fn find(state: &State, claim: &JoinClaim) -> Found {
    if let Some((id, _)) = state.server_by_key(&claim.public_key) {
        return Found::Known(id);
    }
    match state.server_by_name(&claim.name) {
        Some((id, server)) if server.public_key.is_none() => Found::Announced(id),
        Some(_) | None => Found::New,
    }
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
    let name = claim.name.trim();
    if name.is_empty() || name.len() > NAME_LENGTH || name.chars().any(char::is_control) {
        return Err(malformed(format!("a server's name has 1 to {NAME_LENGTH} printable characters")));
    }
    if claim.labels.len() > LABELS
        || claim.labels.iter().any(|(k, v)| k.len() > NAME_LENGTH || v.len() > NAME_LENGTH)
    {
        return Err(malformed(format!(
            "a server has at most {LABELS} labels of at most {NAME_LENGTH} characters"
        )));
    }
    if claim.capacity.max_cameras == 0 {
        return Err(malformed("a server's capacity is at least 1 camera".to_owned()));
    }
    Ok(claim)
}
