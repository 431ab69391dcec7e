//! The engines the contract is tested on, and their databases.

use std::sync::Arc;

use tempfile::TempDir;

use super::super::ReadModel;
use super::super::sqlite::SqliteReadModel;

/// What holds the rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Engine {
    Sqlite,
}

/// An empty database at first; it goes with this value.
pub(super) struct Database {
    folder: TempDir,
}

impl Engine {
    pub(super) async fn database(self) -> Database {
        match self {
            Self::Sqlite => Database { folder: tempfile::tempdir().unwrap() },
        }
    }
}

impl Database {
    /// The read model in it, as one more replica opens it.
    pub(super) async fn open(&self) -> Arc<dyn ReadModel> {
        Arc::new(SqliteReadModel::open_file(&self.folder.path().join("read_model.db")).await.unwrap())
    }

    /// Removes it; nobody may have it open.
    pub(super) async fn remove(self) {
        self.folder.close().unwrap();
    }
}
