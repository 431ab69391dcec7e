//! The schemas in `schemas/events/`: what integrators and auditors read instead of our code.
//!
//! Those of the kinds are generated from the shapes in `wire`; `UPDATE_SCHEMAS=1 cargo test -p longwatch-events`
//! writes them anew. The envelope's is written by hand, from the CloudEvents specification, and checked here against
//! what is really written.

#[path = "common/contract.rs"]
mod contract;

use std::collections::BTreeSet;
use std::fs;

use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Event, TenantDeleted};
use longwatch_events::id::{EventId, TenantId};
use longwatch_events::time::Timestamp;
use longwatch_events::wire::Kind;
use serde_json::{Value, json};

/// A kind's schema as it is published.
fn published(kind: Kind) -> Value {
    let mut schema = kind.schema().to_value();
    plain(&mut schema);
    let name = contract::short_name(kind);
    schema["$id"] = json!(format!("urn:longwatch:schema:{name}"));
    schema["title"] = json!(kind.as_str());
    schema["description"] = json!(format!("The data of an event of type {}, version 1.", kind.as_str()));
    schema
}

/// Takes out what only a reader of our code can follow: descriptions that point to a type, and links to types.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            // A property may also be called `description`; that one is no string but a schema.
            if let Some(Value::String(text)) = fields.get("description") {
                if text.starts_with("See [`") {
                    fields.remove("description");
                } else {
                    let text = text
                        .replace("[`crate::assignment::SourceSecret`]", "`SourceSecret`")
                        .replace("`None`", "null");
                    fields.insert("description".to_owned(), Value::String(text));
                }
            }
            fields.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn file_name(kind: Kind) -> String {
    format!("{}.schema.json", contract::short_name(kind))
}

#[test]
fn every_kind_has_its_schema_and_no_schema_is_stale() {
    let update = std::env::var_os("UPDATE_SCHEMAS").is_some();
    let mut stale = Vec::new();
    for kind in Kind::ALL {
        let (path, schema) = (contract::folder().join(file_name(*kind)), published(*kind));
        if path.is_file() && contract::json(&path) == schema {
            continue;
        }
        if update {
            let text = serde_json::to_string_pretty(&schema).expect("JSON");
            fs::write(&path, text + "\n").expect("written");
        } else {
            stale.push(file_name(*kind));
        }
    }
    assert!(
        stale.is_empty(),
        "missing or stale in schemas/events/: {stale:?}; if the change only adds optional fields, write them anew \
         with `UPDATE_SCHEMAS=1 cargo test -p longwatch-events`; any other change needs a new version of the kind"
    );
}

#[test]
fn no_file_belongs_to_no_kind() {
    let mut expected: BTreeSet<_> = Kind::ALL.iter().map(|kind| file_name(*kind)).collect();
    expected.insert("envelope.schema.json".to_owned());
    let strangers: Vec<_> =
        contract::files(&contract::folder()).into_iter().filter(|name| !expected.contains(name)).collect();
    assert!(strangers.is_empty(), "in schemas/events/, but of no kind: {strangers:?}");
}

#[test]
fn every_schema_is_one() {
    for name in contract::files(&contract::folder()) {
        let schema = contract::json(&contract::folder().join(&name));
        assert!(jsonschema::draft202012::meta::is_valid(&schema), "{name} is not a schema of draft 2020-12");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        assert!(!schema.to_string().contains("crate::"), "{name} speaks of our code");
    }
}

fn envelope(full: bool) -> Value {
    let tenant_id = TenantId::DEFAULT;
    let id = EventId::from_uuid(tenant_id.as_uuid());
    let envelope = Envelope {
        id,
        source: "/control/1".to_owned(),
        time: Timestamp::UNIX_EPOCH,
        tenant: full.then_some(tenant_id),
        actor: "system".to_owned(),
        causation: full.then_some(id),
        event: Event::TenantDeleted(TenantDeleted { tenant_id }),
    };
    serde_json::from_slice(&envelope.encode()).expect("JSON")
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn the_envelopes_schema_names_what_is_written() {
    let schema = contract::json(&contract::folder().join("envelope.schema.json"));
    let required: BTreeSet<_> = schema["required"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|name| name.as_str().expect("a name"))
        .collect();
    assert_eq!(keys(&schema["properties"]), keys(&envelope(true)), "all attributes");
    assert_eq!(required, keys(&envelope(false)), "attributes that are always written");
}

#[test]
fn the_envelopes_schema_refuses_what_is_none() {
    let validator = contract::validator(&contract::json(&contract::folder().join("envelope.schema.json")));
    for full in [true, false] {
        assert!(validator.is_valid(&envelope(full)));
    }
    for name in keys(&envelope(false)) {
        let mut without = envelope(true);
        without.as_object_mut().expect("an object").remove(name);
        assert!(!validator.is_valid(&without), "without {name}");
    }
    let wrong = [
        ("specversion", json!("0.3")),
        ("id", json!("../../etc/passwd")),
        ("id", json!("00000000-0000-7000-8000-00000000000A")),
        ("source", json!("")),
        ("type", json!("com.example.other.v1")),
        ("time", json!("yesterday")),
        ("time", json!("2026-11-23T09:00:00+01:00")),
        ("datacontenttype", json!("text/plain")),
        ("tenantid", json!(null)),
        ("data", json!("")),
    ];
    for (name, value) in wrong {
        let mut envelope = envelope(true);
        envelope[name] = value.clone();
        assert!(!validator.is_valid(&envelope), "{name}: {value}");
    }
}
