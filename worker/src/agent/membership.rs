//! How this worker is let in, and stays it: asks with the join key at every start and after every reconnect. The answer
//! is the same however often it is asked for.
//!
//! Recording does not wait for any of this, except before the very first answer, when there is nothing to record.

use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::hmac;
use longwatch_events::id::ServerId;
use longwatch_events::join::{JoinClaim, JoinReply, JoinRequest, RefusedReason};
use tokio::sync::watch;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::giving_out::MediaKeys;
use crate::bus::{Bus, Error as BusError};
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
    let mut link = bus.link();
    let mut retry = Retry::new(RETRY.0, RETRY.1);
    let began = Instant::now();
    loop {
        bus.up().await;
        let connects = link.borrow_and_update().connects;
        let again_in = match attempt(&bus, &claim, &key_file, &media_keys).await {
            Ok(known) => {
                retry.worked();
                take(known, &standing);
                match known {
                    Standing::Known { membership: Membership { adopted: true, .. }, .. } => None,
                    Standing::Known { .. } | Standing::Unknown | Standing::Detached => Some(jittered(SLOWLY)),
                }
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
            // Only a new connection is a reason to ask again; after losing one `up` waits.
            _ = link.wait_for(|link| link.connects > connects) => {}
        }
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

async fn attempt(
    bus: &Bus,
    claim: &str,
    key_file: &PathBuf,
    media_keys: &MediaKeys,
) -> Result<Standing, Attempt> {
    let read = tokio::fs::read_to_string(key_file).await.map(Zeroizing::new);
    let key = read.map_err(|source| Attempt::NoKey { path: key_file.clone(), source })?;
    if key.trim().is_empty() {
        return Err(Attempt::EmptyKey(key_file.clone()));
    }
    match bus.join(&request(key.trim(), claim)).await? {
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
    use super::*;

    #[test]
    fn the_proof_is_hmac_sha256_in_hexadecimal() {
        // RFC 4231, section 4.3 (test case 2).
        let request = request("Jefe", "what do ya want for nothing?");
        assert_eq!(request.proof, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert_eq!(request.claim, "what do ya want for nothing?");
    }
}
