//! Properties of the envelope: what is written reads back; what was not written by us is refused or ignored, by rule,
//! and never panics.

use longwatch_events::envelope::{Envelope, Error};
use longwatch_events::wire::{self, Kind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::arbitrary::{envelope, envelope_of, event_of};

fn value(envelope: &Envelope) -> Value {
    serde_json::from_slice(&envelope.encode()).expect("JSON")
}

fn decode(value: &Value) -> Result<Envelope, Error> {
    Envelope::decode(value.to_string().as_bytes())
}

#[test]
fn an_event_of_every_kind_reads_back_as_written() {
    for kind in Kind::ALL {
        let events = envelope_of(event_of(*kind));
        TestRunner::new(ProptestConfig::with_cases(128))
            .run(&events, |envelope| {
                let bytes = envelope.encode();
                prop_assert_eq!(Kind::of(&envelope.event), *kind);
                prop_assert_eq!(&value(&envelope)["type"], kind.as_str());
                prop_assert_eq!(Envelope::decode(&bytes).expect("an event"), envelope);
                Ok(())
            })
            .unwrap_or_else(|failure| panic!("{kind}: {failure}"));
    }
}

/// One change somebody, or a broken disk, might make to bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let tokens = prop_oneof![
        vec(any::<u8>(), 1..8),
        proptest::sample::select(vec![
            "null", "{}", "[]", "\"", "\\u0000", "\\ud800", "-1", "1e999", ":", ",", "}"
        ])
        .prop_map(|token| token.as_bytes().to_vec()),
    ];
    prop_oneof![
        (any::<Index>(), 1..=u8::MAX).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), 1..40_usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        (any::<Index>(), tokens).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<Index>(), 1..80_usize).prop_map(|(at, length)| Damage::Repeat(at, length)),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
        match self {
            Self::Flip(at, bits) => {
                let at = place(at, bytes);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
            }
            Self::Cut(at) => bytes.truncate(place(at, bytes)),
            Self::Remove(at, length) => {
                let at = place(at, bytes);
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Self::Insert(at, inserted) => {
                let at = place(at, bytes);
                bytes.splice(at..at, inserted.iter().copied());
            }
            Self::Repeat(at, length) => {
                let at = place(at, bytes);
                let again = bytes[at..(at + length).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Pointers (RFC 6901) to all values inside `value`, itself included.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                pointers(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| pointers(item, &format!("{at}/{i}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whatever can be read must mean the same once it is written again.
fn if_it_reads_it_is_stable(bytes: &[u8]) -> Result<(), TestCaseError> {
    match Envelope::decode(bytes) {
        Ok(envelope) => {
            prop_assert_eq!(Envelope::decode(&envelope.encode()).expect("an event"), envelope);
        }
        Err(error) => prop_assert!(!error.to_string().is_empty()),
    }
    Ok(())
}

/// Adds a field to every object whose fields are ours: a label is a person's, and the one name inside a decision says
/// which decision it is.
fn add_unknown_fields(value: &mut Value, unknown: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match name.as_str() {
                    "labels" | "server_labels" => {}
                    "decision" => {
                        let decisions = field.as_object_mut().expect("a decision");
                        decisions.values_mut().for_each(|inner| add_unknown_fields(inner, unknown));
                    }
                    _ => add_unknown_fields(field, unknown),
                }
            }
            fields.insert("x_unknown".to_owned(), unknown.clone());
        }
        Value::Array(items) => items.iter_mut().for_each(|item| add_unknown_fields(item, unknown)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        if_it_reads_it_is_stable(&bytes)?;
    }

    #[test]
    fn damaged_events_never_panic(envelope in envelope(), damages in vec(damage(), 1..4)) {
        let mut bytes = envelope.encode();
        damages.iter().for_each(|damage| damage.apply(&mut bytes));
        if_it_reads_it_is_stable(&bytes)?;
    }

    #[test]
    fn events_with_a_value_replaced_never_panic(
        envelope in envelope(),
        at in any::<Index>(),
        replacement in any_json(),
    ) {
        let mut value = value(&envelope);
        let mut places = Vec::new();
        pointers(&value, "", &mut places);
        let place = &places[at.index(places.len())];
        *value.pointer_mut(place).expect("it is there") = replacement;
        if_it_reads_it_is_stable(value.to_string().as_bytes())?;
    }

    #[test]
    fn what_a_newer_version_adds_is_ignored(envelope in envelope(), unknown in any_json()) {
        let mut value = value(&envelope);
        add_unknown_fields(&mut value, &unknown);
        prop_assert_eq!(decode(&value).expect("an event"), envelope);
    }

    #[test]
    fn an_unknown_type_is_named_and_never_skipped(envelope in envelope(), version in 2..9_u32, other in "[a-z.]{1,40}") {
        let newer = value(&envelope)["type"].as_str().expect("a type").replace(".v1", &format!(".v{version}"));
        for unknown in [newer, other] {
            let mut value = value(&envelope);
            value["type"] = json!(unknown);
            let error = decode(&value).expect_err("unknown");
            prop_assert!(matches!(&error, Error::Event(wire::Error::UnknownKind(name)) if *name == unknown));
            let words = format!("unknown event type `{unknown}`");
            prop_assert!(error.to_string().contains(&words), "{}", error);
        }
    }

    #[test]
    fn another_specversion_is_named(envelope in envelope(), version in "[0-9.]{0,8}") {
        prop_assume!(version != "1.0");
        let mut value = value(&envelope);
        value["specversion"] = json!(version);
        let error = decode(&value).expect_err("another version");
        prop_assert!(matches!(&error, Error::SpecVersion(found) if *found == version));
        let words = format!("`{version}`, expected `1.0`");
        prop_assert!(error.to_string().contains(&words), "{}", error);
    }

    #[test]
    fn a_missing_attribute_is_named(envelope in envelope()) {
        for name in ["specversion", "id", "source", "type", "time", "actor", "data"] {
            let mut value = value(&envelope);
            value.as_object_mut().expect("an object").remove(name);
            let error = decode(&value).expect_err("something is missing");
            prop_assert!(matches!(error, Error::Envelope(_)));
            let words = format!("`{name}`");
            prop_assert!(error.to_string().contains(&words), "{}", error);
        }
    }

    #[test]
    fn the_order_of_attributes_and_white_space_do_not_matter(envelope in envelope()) {
        let pretty = serde_json::to_vec_pretty(&value(&envelope)).expect("JSON");
        prop_assert_eq!(Envelope::decode(&pretty).expect("an event"), envelope);
    }
}

#[test]
fn an_error_does_not_repeat_a_long_type_or_version() {
    let long = "x".repeat(1_000_000);
    for (kind, version) in [(long.as_str(), "1.0"), ("longwatch.camera.added.v1", long.as_str())] {
        let id = "00000000-0000-7000-8000-000000000001";
        let envelope = json!({
            "specversion": version, "id": id, "source": "/", "type": kind,
            "time": "2026-11-23T08:00:00Z", "actor": "system", "data": {}
        });
        let error = decode(&envelope).expect_err("neither is known").to_string();
        assert!(error.len() < 400, "{} characters", error.len());
    }
}
