//! How this worker is let in, and stays it: asks with the join key at every start and after every reconnect. The answer
//! is the same however often it is asked for. A server that lacks the key to give out video with asks for that, too.
//!
//! Recording does not wait for any of this, except before the very first answer, when there is nothing to record.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::hmac;
use longwatch_events::id::ServerId;
use longwatch_events::join::{JoinClaim, JoinReply, JoinRequest, RefusedReason};
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::giving_out::MediaKeys;
use crate::bus::{Bus, Error as BusError, Link};
use crate::identity::Membership;
use crate::retry::Retry;

/// How often a heartbeat goes out until control says otherwise.
pub(super) const DEFAULT_HEARTBEAT_MS: u32 = 1_000;
/// How long this server may be silent until control says otherwise.
pub(super) const DEFAULT_LEASE_MS: u32 = 3_000;
/// Between two attempts to join, after the first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Between two requests of a server that is detached, or waits to be adopted, at least; at most twice as long. An operator
/// who lets it in is waiting for it to record.
const SLOWLY: Duration = Duration::from_secs(5);
/// Between two requests of a server that lacks only the key to give out video with, at least; at most twice as long.
const FOR_THE_KEY: Duration = Duration::from_secs(40);

/// What this worker is to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Never answered yet.
    Unknown,
    /// A server.
    Known {
        /// Which one, and whether it was adopted.
        membership: Membership,
        /// How often it is to give a sign of life.
        heartbeat_interval_ms: u32,
        /// How long it may be silent, if that was said.
        lease_ms: Option<u32>,
    },
    /// A server no longer.
    Detached,
}

impl Standing {
    /// What is known before anybody was asked.
    pub(super) const fn remembered(membership: Option<Membership>) -> Self {
        match membership {
            Some(membership) => {
                Self::Known { membership, heartbeat_interval_ms: DEFAULT_HEARTBEAT_MS, lease_ms: None }
            }
            None => Self::Unknown,
        }
    }
}

/// Which server this is, as soon as it is one that records.
pub(super) async fn adopted(standing: &mut watch::Receiver<Standing>) -> ServerId {
    loop {
        if let Standing::Known { membership, .. } = *standing.borrow_and_update()
            && membership.adopted
        {
            return membership.server_id;
        }
        if standing.changed().await.is_err() {
            // Nobody is left who could say it: the process ends.
            std::future::pending::<()>().await;
        }
    }
}

/// Why one attempt to join came to nothing.
#[derive(Debug, thiserror::Error)]
enum Attempt {
    #[error("cannot read the join key {}: {source}", .path.display())]
    NoKey { path: PathBuf, source: std::io::Error },
    #[error("the join key {} is empty", .0.display())]
    EmptyKey(PathBuf),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("control refuses this worker: {detail}")]
    Refused { reason: RefusedReason, detail: String },
}

/// Asks for as long as the process lives, and says every change of standing. What comes along to give out video with goes to
/// `media_keys`.
pub(super) async fn keep(
    bus: Bus,
    claim: JoinClaim,
    key_file: PathBuf,
    standing: watch::Sender<Standing>,
    media_keys: MediaKeys,
) {
    let claim = serde_json::to_string(&claim).expect("invariant: strings and numbers always become JSON");
    let attempt = || attempt(&bus, &claim, &key_file);
    keep_asking(bus.link(), standing, media_keys, attempt).await;
}

/// Makes an `attempt` whenever there is a reason to.
async fn keep_asking<F: Future<Output = Result<JoinReply, Attempt>>>(
    mut link: watch::Receiver<Link>,
    standing: watch::Sender<Standing>,
    media_keys: MediaKeys,
    attempt: impl Fn() -> F,
) {
    let mut retry = Retry::new(RETRY.0, RETRY.1);
    let began = Instant::now();
    let mut lacked_key = false;
    loop {
        if link.wait_for(|link| link.up).await.is_err() {
            // The client ended, which it does only with the process.
            return std::future::pending().await;
        }
        let connects = link.borrow_and_update().connects;
        let again_in = match attempt().await.and_then(|reply| heard(reply, &media_keys)) {
            Ok(known) => {
                retry.worked();
                take(known, &standing);
                let lacks_key = media_keys.are_missing();
                if lacks_key && !std::mem::replace(&mut lacked_key, lacks_key) {
                    tracing::warn!("control told no key to give out video with; asking again");
                }
                again_after(known, lacks_key).map(jittered)
            }
            Err(e) => {
                let text = e.to_string();
                if retry.is_news(&text, began.elapsed()) {
                    tracing::warn!(error = text, "not joined; trying again");
                } else {
                    tracing::debug!(error = text, "not joined; trying again");
                }
                Some(retry.failed(rand::random()))
            }
        };
        tokio::select! {
            () = sleep(again_in) => {}
            // Of all that happens, only a new connection is a reason to ask again; after losing one it is waited for above.
            _ = link.wait_for(|link| link.connects > connects) => {}
        }
    }
}

/// After which time at least to ask again without any other reason; `None`: not at all.
const fn again_after(known: Standing, lacks_key: bool) -> Option<Duration> {
    match known {
        Standing::Known { membership: Membership { adopted: true, .. }, .. } if lacks_key => {
            Some(FOR_THE_KEY)
        }
        Standing::Known { membership: Membership { adopted: true, .. }, .. } => None,
        Standing::Known { .. } | Standing::Unknown | Standing::Detached => Some(SLOWLY),
    }
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(1.0 + rand::random::<f64>())
}

fn take(known: Standing, standing: &watch::Sender<Standing>) {
    let changed = standing.send_if_modified(|before| std::mem::replace(before, known) != known);
    if !changed {
        return;
    }
    match known {
        Standing::Known { membership: Membership { server_id, adopted: true }, .. } => {
            tracing::info!(%server_id, "joined");
        }
        Standing::Known { membership: Membership { server_id, adopted: false }, .. } => {
            tracing::warn!(%server_id, "joined as an undefined server; waiting for an operator to adopt it");
        }
        Standing::Detached => tracing::error!("this server was detached by an owner; it records nothing"),
        Standing::Unknown => {}
    }
}

async fn attempt(bus: &Bus, claim: &str, key_file: &Path) -> Result<JoinReply, Attempt> {
    let read = tokio::fs::read_to_string(key_file).await.map(Zeroizing::new);
    let key = read.map_err(|source| Attempt::NoKey { path: key_file.to_owned(), source })?;
    if key.trim().is_empty() {
        return Err(Attempt::EmptyKey(key_file.to_owned()));
    }
    Ok(bus.join(&request(key.trim(), claim)).await?)
}

/// What an answer makes of this worker.
fn heard(reply: JoinReply, media_keys: &MediaKeys) -> Result<Standing, Attempt> {
    match reply {
        JoinReply::Welcome { server_id, adopted, heartbeat_interval_ms, lease_ms, media_key } => {
            media_keys.take(media_key.as_ref());
            let membership = Membership { server_id, adopted };
            Ok(Standing::Known { membership, heartbeat_interval_ms, lease_ms })
        }
        JoinReply::Refused { reason: RefusedReason::Detached, .. } => Ok(Standing::Detached),
        JoinReply::Refused {
            reason:
                reason @ (RefusedReason::WrongKey
                | RefusedReason::Malformed
                | RefusedReason::NameTaken
                | RefusedReason::TryAgain),
            detail,
        } => Err(Attempt::Refused { reason, detail }),
    }
}

/// The request that proves knowledge of `key`.
fn request(key: &str, claim: &str) -> JoinRequest {
    let proof = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), claim.as_bytes());
    JoinRequest { claim: claim.to_owned(), proof: hex::encode(proof) }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use longwatch_events::id::SystemIds;

    use super::*;
    use crate::agent::giving_out::tests::sealed;
    use crate::identity::{Home, Identity};

    #[tokio::test(start_paused = true)]
    async fn a_server_that_lacks_the_key_asks_until_it_has_one_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&Home::take(folder.path()).unwrap()).unwrap();
        let server_id = ServerId::generate(&SystemIds);
        let welcome = |media_key| JoinReply::Welcome {
            server_id,
            adopted: true,
            heartbeat_interval_ms: 1_000,
            lease_ms: None,
            media_key,
        };
        // Given a control that knows the key only when it is asked for the third time, and forgets it then …
        let with_key = welcome(Some(sealed(&identity, &[1; 32])));
        let replies =
            Arc::new(Mutex::new(VecDeque::from([welcome(None), welcome(None), with_key, welcome(None)])));
        let (asked, asked_out) = watch::channel(Vec::new());
        let attempt = move || {
            asked.send_modify(|asked| asked.push(Instant::now()));
            std::future::ready(Ok(replies.lock().unwrap().pop_front().unwrap()))
        };
        let (link, link_out) = watch::channel(Link { up: true, connects: 1 });
        let (standing, mut standing_out) = watch::channel(Standing::Unknown);
        let (media_keys, key) = MediaKeys::new(identity.opener(), true);
        tokio::spawn(keep_asking(link_out, standing, media_keys, attempt));
        // … then this server asks so often, and not once more, …
        let minutes = |minutes: u64| tokio::time::sleep(Duration::from_secs(minutes * 60));
        minutes(1_000).await;
        let times = asked_out.borrow().clone();
        assert_eq!(times.len(), 3);
        for pair in times.windows(2) {
            assert!(
                (FOR_THE_KEY..=FOR_THE_KEY * 2 + Duration::from_millis(1)).contains(&(pair[1] - pair[0]))
            );
        }
        assert!(key.borrow().is_some());
        assert!(matches!(*standing_out.borrow_and_update(), Standing::Known { .. }));
        // … and an answer without a key takes nothing away, nor does it change anything else.
        link.send_modify(|link| link.connects += 1);
        minutes(1_000).await;
        assert_eq!(asked_out.borrow().len(), 4);
        assert!(key.borrow().is_some() && !standing_out.has_changed().unwrap());
    }

    #[test]
    fn whoever_records_and_lacks_nothing_does_not_ask_again() {
        let known = |adopted| Standing::Known {
            membership: Membership { server_id: ServerId::generate(&SystemIds), adopted },
            heartbeat_interval_ms: 1_000,
            lease_ms: None,
        };
        assert_eq!(
            (again_after(known(true), false), again_after(known(true), true)),
            (None, Some(FOR_THE_KEY))
        );
        for waiting in [known(false), Standing::Detached] {
            assert_eq!(again_after(waiting, true), Some(SLOWLY));
        }
    }

    #[test]
    fn the_proof_is_hmac_sha256_in_hexadecimal() {
        // RFC 4231, section 4.3 (test case 2).
        let request = request("Jefe", "what do ya want for nothing?");
        assert_eq!(request.proof, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert_eq!(request.claim, "what do ya want for nothing?");
    }
}
