//! What only PostgreSQL has: passwords, and replicas that hold a lock and are gone.

use longwatch_events::id::TenantId;
use tokio::time::timeout;

use super::super::ReadModel as _;
use super::super::contract::{Database as TestDatabase, batch_of_one};
use super::super::rows::Change;
use super::*;

fn a_batch(position: u64) -> Batch {
    let changes = vec![Change::DeleteTenant(TenantId::DEFAULT)];
    batch_of_one(LogStream::Log, Position(position), changes)
}

#[tokio::test]
async fn a_password_that_is_wrong_is_not_shown() {
    let database = TestDatabase::postgres().await;
    let url = database.url().replace("password=", "password=s3cret");
    let error = PostgresReadModel::open(&url).await.unwrap_err();
    let (text, debug) = (error.to_string(), format!("{error:?}"));
    assert!(text.contains("password authentication failed"), "{text}");
    assert!(!text.contains("s3cret") && !debug.contains("s3cret"), "{text} {debug}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("postgres:///lw?host={}", folder.path().display());
    let error = PostgresReadModel::open(&url).await.unwrap_err();
    assert!(matches!(error, Error::Away(_)), "{error}");
}

#[test]
fn a_certificate_that_does_not_hold_is_not_waited_for() {
    let error = |kind: ErrorKind| opening(sqlx::Error::Io(kind.into()));
    assert!(matches!(error(ErrorKind::ConnectionReset), Error::Away(_)));
    assert!(matches!(error(ErrorKind::InvalidData), Error::Database(_)));
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused() {
    let database = TestDatabase::postgres_with("ENCODING 'LATIN1'").await;
    let error = PostgresReadModel::open(&database.url()).await.unwrap_err();
    assert!(matches!(&error, Error::Encoding(encoding) if encoding == "LATIN1"), "{error}");
}

#[tokio::test]
async fn a_replica_that_is_paused_while_it_writes_does_not_keep_the_others_from_writing() {
    let database = TestDatabase::postgres().await;
    let paused = PostgresReadModel::open(&database.url()).await.unwrap();
    let other = PostgresReadModel::open(&database.url()).await.unwrap();
    other.apply(&a_batch(1)).await.unwrap();
    // It has taken the lock, and then nothing more is heard of it.
    let mut connection = paused.writers.acquire().await.unwrap();
    let mut transaction = connection.begin_with(WRITING).await.unwrap();
    locked_position(&mut transaction, LogStream::Log).await.unwrap();

    let (next, other_stream) = (a_batch(2), Batch { stream: LogStream::Recordings, ..a_batch(1) });
    assert_eq!(other.apply(&other_stream).await.unwrap(), Applied::Written, "they are locked apart");
    let written = timeout(Duration::from_secs(10), other.apply(&next)).await.expect("it waits for ever");

    assert_eq!(written.unwrap(), Applied::Written);
    // And when it goes on, what it began is void.
    assert!(sql::write::batch(&mut *transaction, &next, &[]).await.is_err());
}

#[tokio::test]
async fn rows_are_hashed_in_one_order_whatever_the_database_s_collation() {
    // In this collation punctuation is looked at last, other than by bytes.
    let database = TestDatabase::postgres_with("LOCALE_PROVIDER icu ICU_LOCALE 'en-US'").await;
    let model = PostgresReadModel::open(&database.url()).await.unwrap();
    for text in ["a_z", "ab", "a-z", "B"] {
        let insert = "INSERT INTO positions (stream, position) VALUES ($1, 1)";
        sqlx::query(insert).bind(text).execute(&model.writers).await.unwrap();
    }
    let query = "SELECT stream FROM positions ORDER BY stream";
    let streams: Vec<String> = sqlx::query_scalar(query).fetch_all(&model.writers).await.unwrap();
    assert_eq!(streams, ["B", "a-z", "a_z", "ab"]);
}
