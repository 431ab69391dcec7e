//! The read model on SQLite: WAL, one writing connection with `BEGIN IMMEDIATE`, a few reading ones.
//!
//! `synchronous = NORMAL`: a power cut may take the newest transactions, never tear one; the position goes with its
//! rows, and the fold writes them again.

use std::path::Path;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::Connection as _;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use tokio::time::{Instant, sleep};

use super::batch::{Due, count_written};
use super::sql::{self, Connection, Database, Dialect};
use super::{Answer, Applied, Batch, Error};

static MIGRATIONS: Migrator = sqlx::migrate!("../schemas/migrations/sqlite");

/// Readers at once. A read is short, and SQLite reads from the page cache: more would only compete.
const READERS: u32 = 4;
/// How long a connection waits for a lock: only writers lock, one in each process, and their transactions are short.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between tries to open a file that is locked.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Locks the database for writing at once, so that what is read before it is written still holds.
const WRITING: &str = "BEGIN IMMEDIATE";

/// A read model in one SQLite file.
#[derive(Debug)]
pub struct SqliteReadModel {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl SqliteReadModel {
    /// Opens `file`, makes it if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// If the file cannot be opened, is not a database, or was written by a newer version.
    pub async fn open(file: &Path) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .create_if_missing(true);
        let writer = open_writer(&options).await?;
        migrate(&writer).await?;
        let reading = options.create_if_missing(false).pragma("query_only", "ON");
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(reading).await?;
        Ok(Self { writer, readers })
    }

    /// Removes all rows, as if the file had been replaced by a new one.
    #[cfg(test)]
    pub(crate) async fn empty(&self) {
        let mut transaction = self.writer.begin_with(WRITING).await.unwrap();
        for table in &super::digest::TABLES {
            let sql = sqlx::AssertSqlSafe(format!("DELETE FROM {}", table.name));
            sqlx::query(sql).execute(&mut *transaction).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }

    /// Lets go of the file, after what is under way.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// The connection that writes, of a file that other replicas may be opening at the same moment: who turns a new file to
/// WAL needs it for itself, and for that SQLite does not wait ([`BUSY_TIMEOUT`] or not), it fails.
async fn open_writer(options: &SqliteConnectOptions) -> Result<SqlitePool, Error> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let opened = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await;
        match opened {
            Err(error) if is_busy(&error) && Instant::now() < deadline => sleep(BUSY_PAUSE).await,
            opened => return Ok(opened?),
        }
    }
}

/// Whether another connection has the lock (SQLITE_BUSY, <https://sqlite.org/rescode.html>).
fn is_busy(error: &sqlx::Error) -> bool {
    const SQLITE_BUSY: u32 = 5;
    // The primary code is the low byte of an extended one.
    let code = error.as_database_error().and_then(|error| error.code()?.parse().ok());
    code.is_some_and(|code: u32| code & 0xff == SQLITE_BUSY)
}

/// Brings the tables up to date, alone: another replica may be about to do the same.
async fn migrate(writer: &SqlitePool) -> Result<(), Error> {
    let mut transaction = writer.begin_with(WRITING).await?;
    MIGRATIONS.run(&mut *transaction).await.map_err(|error| Error::Database(Box::new(error)))?;
    transaction.commit().await?;
    Ok(())
}

impl Database for SqliteReadModel {
    const DIALECT: Dialect = Dialect {
        observed: (
            "SELECT unhex(value ->> 'server'), value ->> 'silent', unhex(value ->> 'boot') FROM json_each(",
            ")",
        ),
        position_in_text: "instr",
    };

    fn reading<'a, T: Send + 'a>(
        &'a self,
        work: impl for<'c> FnOnce(&'c mut dyn Connection) -> BoxFuture<'c, Result<T, Error>> + Send + 'a,
    ) -> Answer<'a, T> {
        async move {
            let mut transaction = self.readers.begin().await?;
            let answer = work(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(answer)
        }
        .boxed()
    }

    fn write<'a>(&'a self, batch: &'a Batch) -> Answer<'a, Applied> {
        async move {
            let mut connection = self.writer.acquire().await?;
            let applied = write(&mut connection, batch).await;
            if applied.is_err() {
                // After some failures (a full disk is one) SQLite has rolled back by itself, and the connection no
                // longer knows whether it is inside a transaction: the next try begins with a new one.
                connection.close().await?;
            }
            applied
        }
        .boxed()
    }
}

async fn write(connection: &mut SqliteConnection, batch: &Batch) -> Result<Applied, Error> {
    let mut transaction = connection.begin_with(WRITING).await?;
    let stored = sql::written(&mut *transaction, batch.stream).await?.position;
    let changes = match batch.due(stored) {
        Due::Nothing(answer) => return Ok(answer),
        Due::Changes(changes) => changes,
    };
    sql::write::batch(&mut *transaction, batch, &changes).await?;
    transaction.commit().await?;
    count_written(&changes);
    Ok(Applied::Written)
}

#[cfg(test)]
mod tests {
    use longwatch_events::hash::Sha256;
    use longwatch_events::id::TenantId;
    use longwatch_events::position::Position;
    use longwatch_events::subject::LogStream;
    use longwatch_events::time::Timestamp;

    use super::super::rows::{Change, TenantRow};
    use super::super::{KnownRecord, ReadModel as _, Written};
    use super::*;

    #[tokio::test]
    async fn a_control_of_before_moves_the_position_and_leaves_the_record_true() {
        let folder = tempfile::tempdir().unwrap();
        let model = SqliteReadModel::open(&folder.path().join("read_model.db")).await.unwrap();
        let (stream, sha256) = (LogStream::Log, Sha256::of(b"seven"));
        let batch = Batch {
            stream,
            after: Position::START,
            up_to: Position(7),
            record: Some(sha256),
            changes: Vec::new(),
        };
        model.apply(&batch).await.unwrap();
        // What it writes, in a rolling upgrade for instance.
        let before = "INSERT INTO positions (stream, position) VALUES ('LOG', 9) \
                      ON CONFLICT (stream) DO UPDATE SET position = excluded.position";
        assert_eq!(stream.name(), "LOG");
        sqlx::query(before).execute(&model.writer).await.unwrap();
        let known = KnownRecord { position: Position(7), sha256 };
        let written = Written { position: Position(9), record: Some(known) };
        assert_eq!(model.written(stream).await.unwrap(), written);
    }

    #[tokio::test]
    async fn a_disk_that_was_full_is_written_again_once_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let model = SqliteReadModel::open(&folder.path().join("read_model.db")).await.unwrap();
        // No page more than there are: what SQLite says of a full disk. It holds for this connection only.
        sqlx::query("PRAGMA max_page_count = 1").execute(&model.writer).await.unwrap();
        let tenants = |from: u128| {
            (from..from + 500).map(|n| {
                Change::PutTenant(TenantRow {
                    tenant_id: TenantId::from_uuid(uuid::Uuid::from_u128(n)),
                    name: "x".repeat(200),
                    created_at: Timestamp::UNIX_EPOCH,
                    version: Position(1),
                })
            })
        };
        let batch = Batch {
            stream: LogStream::Log,
            after: Position::START,
            up_to: Position(1),
            record: None,
            changes: tenants(0).map(|change| (Position(1), change)).collect(),
        };
        let full = model.apply(&batch).await;
        assert!(full.is_err_and(|error| error.to_string().contains("full")));
        assert_eq!(model.apply(&batch).await.unwrap(), Applied::Written);
    }
}
