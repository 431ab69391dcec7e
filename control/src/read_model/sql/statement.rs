//! Statements as values: a text and what goes into it. No engine and no connection.

use std::borrow::Cow;

use longwatch_events::id::{BootId, CameraId, ServerId, StoreId, TenantId};
use longwatch_events::position::{Epoch, Position};
use longwatch_events::time::Timestamp;
use uuid::Uuid;

/// What goes into a statement. `None` is NULL, whose type some engines have to be told, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Value {
    /// An id.
    Id(Option<Uuid>),
    /// A whole number.
    Integer(Option<i64>),
    /// A text.
    Text(Option<String>),
    /// A truth.
    Truth(bool),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

/// A statement. The n-th value stands for `$n` in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Statement {
    pub(super) text: Cow<'static, str>,
    pub(super) values: Vec<Value>,
}

/// A statement that has no values yet.
pub(in super::super) const fn sql(text: &'static str) -> Statement {
    Statement { text: Cow::Borrowed(text), values: Vec::new() }
}

impl Statement {
    /// Gives the next value.
    pub(in super::super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Goes on with this text.
    pub(super) fn push(mut self, text: &'static str) -> Self {
        self.text.to_mut().push_str(text);
        self
    }

    /// Goes on with the place of a value, and gives the value.
    pub(super) fn push_bind(self, value: impl Into<Value>) -> Self {
        let mut statement = self.bind(value);
        let place = format!("${}", statement.values.len());
        statement.text.to_mut().push_str(&place);
        statement
    }

    /// The same for several values, separated by commas.
    pub(super) fn push_values(self, values: impl IntoIterator<Item = Value>) -> Self {
        values.into_iter().enumerate().fold(self, |statement, (index, value)| {
            let statement = if index == 0 { statement } else { statement.push(", ") };
            statement.push_bind(value)
        })
    }
}

/// The databases' integers are signed. No position, epoch or size of a real system comes near the bound; one made up by a
/// broken worker is kept at the bound.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Not every engine's texts may hold the character NUL, and a broken worker may send one.
fn text(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

macro_rules! values {
    ($($type:ty: $variant:ident($given:ident => $value:expr)),+ $(,)?) => {
        $(
            impl From<$type> for Value {
                fn from($given: $type) -> Self {
                    Self::$variant(Some($value))
                }
            }

            impl From<Option<$type>> for Value {
                fn from(given: Option<$type>) -> Self {
                    Self::$variant(given.map(|$given| $value))
                }
            }
        )+
    };
}

values! {
    Uuid: Id(id => id),
    TenantId: Id(id => id.as_uuid()),
    CameraId: Id(id => id.as_uuid()),
    ServerId: Id(id => id.as_uuid()),
    BootId: Id(id => id.as_uuid()),
    StoreId: Id(id => id.as_uuid()),
    i64: Integer(number => number),
    u32: Integer(number => i64::from(number)),
    u64: Integer(number => integer(number)),
    Position: Integer(position => integer(position.0)),
    Epoch: Integer(epoch => integer(epoch.0)),
    Timestamp: Integer(time => time.as_micros()),
    &str: Text(given => text(given.to_owned())),
    String: Text(given => text(given)),
    &[u8]: Bytes(bytes => bytes.to_vec()),
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_they_were_pushed() {
        let statement = sql("SELECT 1 WHERE a = $1").bind(7_i64).push(" AND b = ").push_bind("x");
        assert_eq!(statement.text, "SELECT 1 WHERE a = $1 AND b = $2");
        assert_eq!(statement.values, [Value::Integer(Some(7)), Value::Text(Some("x".to_owned()))]);
    }

    #[test]
    fn what_a_database_cannot_hold_becomes_what_it_can() {
        assert_eq!(Value::from("a\0b"), Value::Text(Some("a\u{fffd}b".to_owned())));
        assert_eq!(Value::from(u64::MAX), Value::Integer(Some(i64::MAX)));
    }
}
