//! Connecting to NATS, the same way from every process: now or later, and again for ever.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use rand::RngExt as _;
use zeroize::Zeroizing;

/// Why there is no connection to be had, ever.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The credentials file.
    #[error("cannot read the NATS credentials in {path}: {source}")]
    Credentials {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address.
    #[error("`{url}` is not a NATS address: expected nats://HOST:PORT[,nats://HOST:PORT…]: {reason}")]
    Address {
        /// As given.
        url: String,
        /// Why not.
        reason: String,
    },
    /// A setting of the connection.
    #[error("cannot connect to NATS: {0}")]
    Connect(String),
}

/// A client that connects now or later, and again for ever. `credentials` names an nkey seed or a `.creds` file.
///
/// # Errors
/// If the address or the credentials cannot be used at all; a NATS server that is away is not an error.
pub async fn connect(urls: &str, credentials: Option<&Path>, name: &str) -> Result<Client, Error> {
    let servers = urls
        .split(',')
        .map(|url| url.trim().parse::<async_nats::ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Address { url: without_userinfo(urls), reason: error.to_string() })?;
    options(credentials)?
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(Duration::from_secs(2))
        .ping_interval(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(5)))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(|event| async move { report(&event) })
        .connect(servers)
        .await
        .map_err(|error| Error::Connect(error.to_string()))
}

fn options(credentials: Option<&Path>) -> Result<ConnectOptions, Error> {
    let Some(path) = credentials else { return Ok(ConnectOptions::new()) };
    let unreadable = |source| Error::Credentials { path: path.to_owned(), source };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    // An nkey seed (https://docs.nats.io/running-a-nats-service/nats_admin/security/jwt#nkeys) starts with `SU`.
    if text.trim_start().starts_with("SU") {
        return Ok(ConnectOptions::with_nkey(text.trim().to_owned()));
    }
    ConnectOptions::with_credentials(&text).map_err(unreadable)
}

/// Exponential from 50 ms to 2 s, with full jitter, so that a fleet does not return in one moment.
fn reconnect_delay(attempts: usize) -> Duration {
    let exponent = u32::try_from(attempts.min(6)).unwrap_or(6);
    let ceiling = 50_u64.saturating_mul(1 << exponent).min(2_000);
    Duration::from_millis(rand::rng().random_range(ceiling / 2..=ceiling))
}

fn report(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected => tracing::warn!("disconnected from NATS; connecting again"),
        Event::ClientError(error) => tracing::warn!(%error, "NATS client error"),
        Event::ServerError(error) => tracing::warn!(%error, "NATS server error"),
        other @ (Event::LameDuckMode | Event::Draining | Event::Closed | Event::SlowConsumer(_)) => {
            tracing::warn!(event = %other, "NATS connection changed");
        }
    }
}

fn without_userinfo(urls: &str) -> String {
    urls.split(',')
        .map(|url| url.rsplit_once('@').map_or(url, |(_, host)| host))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(without_userinfo("nats://u:p@a:1,nats://b:2"), "a:1,nats://b:2");
    }

    #[test]
    fn the_pause_before_a_new_connection_is_bounded() {
        assert!((0..1_000).all(|n| reconnect_delay(n) <= Duration::from_secs(2)));
    }
}
