//! The engines the contract is tested on, and their databases.

use std::sync::Arc;

use longwatch_testing::postgres::Postgres;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tempfile::TempDir;

use super::super::{ReadModel, open};

/// What holds the rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Engine {
    Sqlite,
    Postgres,
}

/// An empty database at first; it goes with this value, or with its server.
pub(in super::super) enum Database {
    Sqlite(TempDir),
    Postgres { server: Arc<Postgres>, name: String },
}

impl Engine {
    pub(super) async fn database(self) -> Database {
        match self {
            Self::Sqlite => Database::Sqlite(tempfile::tempdir().unwrap()),
            Self::Postgres => Database::postgres().await,
        }
    }
}

impl Database {
    pub(in super::super) async fn postgres() -> Self {
        Self::postgres_with("").await
    }

    /// With these options of `CREATE DATABASE`.
    pub(in super::super) async fn postgres_with(options: &str) -> Self {
        let server = Postgres::shared();
        let name = server.unused_name();
        run(&server, format!("CREATE DATABASE {name} TEMPLATE template0 {options}")).await;
        Self::Postgres { server, name }
    }

    pub(in super::super) fn url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite://{}/read_model.db", folder.path().display()),
            Self::Postgres { server, name } => server.url(name),
        }
    }

    /// The read model in it, as one more replica opens it.
    pub(super) async fn open(&self) -> Arc<dyn ReadModel> {
        open(&self.url()).await.unwrap()
    }

    /// Removes it; nobody may use it any more.
    pub(super) async fn remove(self) {
        match self {
            Self::Sqlite(folder) => folder.close().unwrap(),
            Self::Postgres { server, name } => {
                run(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
            }
        }
    }
}

async fn run(server: &Postgres, sql: String) {
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
