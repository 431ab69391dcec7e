//! The read model on PostgreSQL (12 or newer), for several control replicas: one database, whoever folds first writes.
//!
//! Invariant: who writes a batch of a log stream holds the lock on the row that says how far that stream has been folded,
//! from before it reads it until the batch is committed. The two log streams write different tables, so their writers
//! never wait for each other.

use std::io::ErrorKind;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use sqlx::Connection as _;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use url::Url;

use super::address;
use super::batch::{Due, count_written};
use super::sql::{self, Connection, Database, Dialect, sql};
use super::{Answer, Applied, Batch, Error};

static MIGRATIONS: Migrator = sqlx::migrate!("../schemas/migrations/postgres");

/// One for each log stream: no reader keeps the fold waiting.
const WRITERS: u32 = 2;
/// Readers at once. PostgreSQL takes 100 connections as shipped, which several replicas share.
const READERS: u32 = 8;
/// How long a connection may take, before who asked is told that the database is away.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a transaction may wait for its own replica. One that was paused, or cut off, must not keep the others from
/// writing: the server ends it, and the replica tries again.
const IDLE_IN_TRANSACTION: &str = "2s";
/// Sees what was committed before each of its statements, so also what the replica wrote whose lock it waited for.
const WRITING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
/// Sees what was committed before its first statement, and nothing later.
const READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// What the address may say behind its `?`. Others are refused: the driver would only log them, with their values.
const PARAMETERS: [&str; 12] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// A read model in one PostgreSQL database.
#[derive(Debug)]
pub struct PostgresReadModel {
    writers: PgPool,
    readers: PgPool,
}

impl PostgresReadModel {
    /// Opens the database named by `url`, `postgres://USER:PASSWORD@HOST/DATABASE`, and brings its tables up to date.
    ///
    /// # Errors
    /// [`Error::Away`] if it cannot be reached (yet). Otherwise if `url` is not of this form, the database refuses this
    /// user, cannot hold every text, or was written by a newer version.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let options = options(url)?;
        let writers = pool(WRITERS).connect_with(options.clone()).await.map_err(opening)?;
        let encoding: String =
            sqlx::query_scalar("SHOW server_encoding").fetch_one(&writers).await.map_err(opening)?;
        if encoding != "UTF8" {
            return Err(Error::Encoding(encoding));
        }
        MIGRATIONS.run(&writers).await.map_err(|error| Error::Database(Box::new(error)))?;
        let readers = pool(READERS).connect_with(options).await.map_err(opening)?;
        Ok(Self { writers, readers })
    }
}

fn pool(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections).acquire_timeout(CONNECT_WITHIN)
}

fn options(url: &str) -> Result<PgConnectOptions, Error> {
    // Errors of the parsers may repeat what they were given.
    let parsed: Url = url.parse().map_err(|_| address::error(url, "it is no URL"))?;
    if parsed.query_pairs().any(|(key, _)| !PARAMETERS.contains(&&*key)) {
        let why = format!("it has an unknown parameter; there are {}", PARAMETERS.join(", "));
        return Err(address::error(url, &why));
    }
    let options: PgConnectOptions =
        url.parse().map_err(|_| address::error(url, "a parameter has a value it cannot have"))?;
    let named = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("longwatch-control"),
    };
    Ok(named.options([("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION)]))
}

/// What an error while the database is opened means.
fn opening(error: sqlx::Error) -> Error {
    // <https://www.postgresql.org/docs/current/errcodes-appendix.html>
    const TOO_MANY_CONNECTIONS: &str = "53300";
    const CANNOT_CONNECT_NOW: &str = "57P03";
    let code = error.as_database_error().and_then(|error| error.code());
    // A certificate that does not hold comes as invalid data: no waiting mends it.
    let is_cut_off = matches!(&error, sqlx::Error::Io(io) if io.kind() != ErrorKind::InvalidData);
    let is_away = is_cut_off
        || matches!(error, sqlx::Error::PoolTimedOut)
        || code.is_some_and(|code| code == TOO_MANY_CONNECTIONS || code == CANNOT_CONNECT_NOW);
    if is_away { Error::Away(Box::new(error)) } else { error.into() }
}

/// How far `stream` has been folded; nobody else may move it before this transaction ends.
async fn locked_position(db: &mut PgConnection, stream: LogStream) -> Result<Position, Error> {
    // A row to lock, when there is none yet. It is not there for others unless something is written with it.
    const FIRST: &str = "INSERT INTO positions (stream, position) VALUES ($1, 0) ON CONFLICT DO NOTHING";
    const LOCK: &str = "SELECT FROM positions WHERE stream = $1 FOR UPDATE";
    let lock = sqlx::query(LOCK).bind(stream.name()).fetch_optional(&mut *db).await?;
    if lock.is_none() {
        // Whoever comes second waits here until the first has committed, then finds its row.
        Connection::execute(db, sql(FIRST).bind(stream.name())).await?;
        sqlx::query(LOCK).bind(stream.name()).fetch_one(&mut *db).await?;
    }
    Ok(sql::written(db, stream).await?.position)
}

impl Database for PostgresReadModel {
    const DIALECT: Dialect = Dialect {
        observed: (
            "SELECT server, silent, boot FROM jsonb_to_recordset(",
            "::jsonb) AS seen (server uuid, silent boolean, boot uuid)",
        ),
        position_in_text: "strpos",
    };

    fn reading<'a, T: Send + 'a>(
        &'a self,
        work: impl for<'c> FnOnce(&'c mut dyn Connection) -> BoxFuture<'c, Result<T, Error>> + Send + 'a,
    ) -> Answer<'a, T> {
        async move {
            let mut transaction = self.readers.begin_with(READING).await?;
            let answer = work(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(answer)
        }
        .boxed()
    }

    fn write<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Applied> {
        async move {
            let mut connection = self.writers.acquire().await?;
            let mut transaction = connection.begin_with(WRITING).await?;
            let stored = locked_position(&mut transaction, batch.stream).await?;
            let changes = match batch.due(stored) {
                Due::Nothing(answer) => {
                    transaction.rollback().await?;
                    return Ok(answer);
                }
                Due::Changes(changes) => changes,
            };
            sql::write::batch(&mut *transaction, batch, &changes).await?;
            transaction.commit().await?;
            count_written(&changes);
            Ok(Applied::Written)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
