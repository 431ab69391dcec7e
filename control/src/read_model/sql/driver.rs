//! Statements and rows of [`super`] ↔ those of sqlx, for whichever engine.

use futures::future::BoxFuture;
use futures::{FutureExt as _, TryStreamExt as _};
use sqlx::query::Query;
use sqlx::{
    AssertSqlSafe, Column as _, ColumnIndex, Decode, Encode, Executor, IntoArguments, Row, Type,
    TypeInfo as _, ValueRef as _,
};
use uuid::Uuid;

use super::super::Error;
use super::super::digest::{self, Hasher};
use super::{Columns, Connection, RowWork, Statement, Value};

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

impl<C, DB> Connection for C
where
    DB: sqlx::Database,
    C: sqlx::Connection<Database = DB>,
    DB::Row: Columns,
    DB::Arguments: IntoArguments<DB>,
    for<'e> &'e mut C: Executor<'e, Database = DB>,
    for<'v> Option<Uuid>: Encode<'v, DB> + Type<DB>,
    for<'v> Option<i64>: Encode<'v, DB> + Type<DB>,
    for<'v> Option<String>: Encode<'v, DB> + Type<DB>,
    for<'v> bool: Encode<'v, DB> + Type<DB>,
    for<'v> Option<Vec<u8>>: Encode<'v, DB> + Type<DB>,
{
    fn execute(&mut self, statement: Statement) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            Executor::execute(self, query(statement)).await?;
            Ok(())
        }
        .boxed()
    }

    fn each_row<'c>(
        &'c mut self,
        statement: Statement,
        work: &'c mut RowWork<'_>,
    ) -> BoxFuture<'c, Result<(), Error>> {
        async move {
            let mut rows = Executor::fetch(self, query(statement));
            while let Some(row) = rows.try_next().await? {
                work(&row)?;
            }
            Ok(())
        }
        .boxed()
    }
}

fn query<DB>(statement: Statement) -> Query<'static, DB, DB::Arguments>
where
    DB: sqlx::Database,
    DB::Arguments: IntoArguments<DB>,
    for<'v> Option<Uuid>: Encode<'v, DB> + Type<DB>,
    for<'v> Option<i64>: Encode<'v, DB> + Type<DB>,
    for<'v> Option<String>: Encode<'v, DB> + Type<DB>,
    for<'v> bool: Encode<'v, DB> + Type<DB>,
    for<'v> Option<Vec<u8>>: Encode<'v, DB> + Type<DB>,
{
    // A statement's text is put together from constants only.
    let query = sqlx::query(AssertSqlSafe(statement.text.into_owned()));
    statement.values.into_iter().fold(query, |query, value| match value {
        Value::Id(id) => query.bind(id),
        Value::Integer(number) => query.bind(number),
        Value::Text(text) => query.bind(text),
        Value::Truth(truth) => query.bind(truth),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

impl<R> Columns for R
where
    R: Row,
    usize: ColumnIndex<R>,
    for<'c> &'c str: ColumnIndex<R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r str: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> bool: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> &'r [u8]: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Uuid: Decode<'r, R::Database> + Type<R::Database>,
{
    fn integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(column)
    }

    fn text(&self, column: &str) -> Result<Option<&str>, sqlx::Error> {
        self.try_get(column)
    }

    fn truth(&self, column: &str) -> Result<Option<bool>, sqlx::Error> {
        self.try_get(column)
    }

    fn bytes(&self, column: &str) -> Result<Option<&[u8]>, sqlx::Error> {
        self.try_get(column)
    }

    fn id(&self, column: &str) -> Result<Option<Uuid>, sqlx::Error> {
        self.try_get(column)
    }

    fn hash(&self, hasher: &mut Hasher) -> Result<(), sqlx::Error> {
        for column in self.columns() {
            let index = column.ordinal();
            let raw = self.try_get_raw(index)?;
            if raw.is_null() {
                hasher.value(digest::Value::Null);
                continue;
            }
            // As SQLite and PostgreSQL call them. The same value of both gives the same bytes.
            match raw.type_info().name() {
                "INTEGER" | "INT8" => hasher.value(digest::Value::Integer(self.try_get_unchecked(index)?)),
                "BOOL" => {
                    let truth: bool = self.try_get_unchecked(index)?;
                    hasher.value(digest::Value::Integer(i64::from(truth)));
                }
                "TEXT" => hasher.value(digest::Value::Text(self.try_get_unchecked(index)?)),
                "BLOB" | "BYTEA" => hasher.value(digest::Value::Bytes(self.try_get_unchecked(index)?)),
                "UUID" => {
                    let id: Uuid = self.try_get_unchecked(index)?;
                    hasher.value(digest::Value::Bytes(id.as_bytes()));
                }
                other => {
                    let why = format!("the hash knows no values of type {other}");
                    return Err(sqlx::Error::ColumnDecode {
                        index: column.name().to_owned(),
                        source: why.into(),
                    });
                }
            }
        }
        Ok(())
    }
}
