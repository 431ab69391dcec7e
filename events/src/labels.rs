//! Free-form `key: value` pairs of cameras and servers, as one short text: State holds a million of them, and a map of
//! one pair takes twenty times as much.
//!
//! Invariant: keys are unique and in order, so equal labels are equal texts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Free-form `key: value` pairs; each key once. As JSON an object.
///
/// Inside, one text behind the other, each as a netstring without its comma (<https://cr.yp.to/proto/netstrings.txt>):
/// `4:site7:harbour`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(Box<str>);

impl Labels {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().value_of(key)
    }

    /// All of them, by key.
    pub fn iter(&self) -> Pairs<'_> {
        Pairs(&self.0)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: String, value: String) {
        let others = self.iter().filter(|(known, _)| *known != key);
        *self = others.chain([(key.as_str(), value.as_str())]).collect();
    }

    /// The text that they are inside.
    pub(crate) const fn as_text(&self) -> &str {
        &self.0
    }
}

/// The pairs of [`Labels`], by key.
#[derive(Debug, Clone)]
pub struct Pairs<'a>(&'a str);

impl<'a> Pairs<'a> {
    /// Those of a text that [`Labels::as_text`] gave.
    pub(crate) const fn of_text(text: &'a str) -> Self {
        Self(text)
    }

    /// The value of a key, if it is one of these.
    pub fn value_of(mut self, key: &str) -> Option<&'a str> {
        self.find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    fn text(&mut self) -> Option<&'a str> {
        let (bytes, rest) = self.0.split_once(':')?;
        let (text, rest) = rest.split_at_checked(bytes.parse().ok()?)?;
        self.0 = rest;
        Some(text)
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.text()?, self.text()?))
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = Pairs<'a>;

    fn into_iter(self) -> Pairs<'a> {
        self.iter()
    }
}

impl From<Pairs<'_>> for Labels {
    fn from(pairs: Pairs<'_>) -> Self {
        Self(pairs.0.into())
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    /// Of a key that comes twice the last value counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs: Vec<_> = pairs.into_iter().collect();
        let sorted: BTreeMap<_, _> =
            pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
        let texts = sorted.into_iter().flat_map(|(key, value)| [key, value]);
        let written: String = texts.map(|text| format!("{}:{text}", text.len())).collect();
        Self(written.into())
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(pairs: [(String, String); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(pairs: BTreeMap<String, String>) -> Self {
        pairs.into_iter().collect()
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = BTreeMap::<Cow<'_, str>, Cow<'_, str>>::deserialize(deserializer)?;
        Ok(pairs.into_iter().collect())
    }
}

impl JsonSchema for Labels {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        BTreeMap::<String, String>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, String>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_what_a_map_would_be(
            map in btree_map(any::<String>(), any::<String>(), 0..5),
            key in any::<String>(),
            value in any::<String>(),
        ) {
            let mut labels = Labels::from(map.clone());
            prop_assert_eq!(BTreeMap::from(labels.clone()), map.clone());
            prop_assert_eq!((labels.len(), labels.is_empty()), (map.len(), map.is_empty()));
            let json = serde_json::to_string(&labels).unwrap();
            prop_assert_eq!(&json, &serde_json::to_string(&map).unwrap());
            prop_assert_eq!(&serde_json::from_str::<Labels>(&json).unwrap(), &labels);

            let mut map = map;
            labels.insert(key.clone(), value.clone());
            map.insert(key.clone(), value.clone());
            prop_assert_eq!(labels.get(&key), Some(value.as_str()));
            prop_assert!(map.iter().all(|(key, value)| labels.get(key) == Some(value)));
            prop_assert_eq!(labels, Labels::from(map));
        }
    }

    #[test]
    fn of_a_key_that_comes_twice_the_last_value_counts() {
        let labels: Labels = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3")]);
        assert_eq!(labels.get("c"), None);
    }
}
