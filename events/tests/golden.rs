//! The golden samples in `schemas/events/golden/`: events exactly as they stand, or will one day stand, in somebody's
//! log.
//!
//! They are written by hand and never regenerated, and no switch does it: the log is kept for ever, so every program
//! to come must read these bytes and mean the same by them. A sample that was generated from the code would follow
//! each mistake in it; one that has to be *changed* to make a test pass says that a promise is about to be broken.
//! New optional fields get a new sample beside the old one; anything else gets a new version of the kind.

#[path = "common/contract.rs"]
mod contract;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use longwatch_events::envelope::Envelope;
use longwatch_events::fold::{self, Outcome};
use longwatch_events::position::Position;
use longwatch_events::state::State;
use longwatch_events::subject::{self, LogStream};
use longwatch_events::wire::Kind;
use serde_json::{Map, Value};

/// The samples that make a `LOG`, in the order in which they stand there, and what folding each of them does.
const LOG: &[(&str, Outcome)] = &[
    ("tenant.created.v1", Outcome::Applied),
    ("tenant.created.v1.minimal", Outcome::Applied),
    ("tenant.changed.v1", Outcome::Applied),
    ("server.added.v1", Outcome::Applied),
    ("server.added.v1.minimal", Outcome::Applied),
    ("server.joined.v1", Outcome::Applied),
    ("server.joined.v1.minimal", Outcome::Applied),
    ("server.adopted.v1", Outcome::Applied),
    ("server.changed.v1", Outcome::Applied),
    ("server.changed.v1.minimal", Outcome::Applied),
    ("camera.added.v1", Outcome::Applied),
    ("camera.added.v1.minimal", Outcome::Applied),
    ("camera.added.v1.texts", Outcome::Applied),
    ("camera.changed.v1", Outcome::Applied),
    ("camera.changed.v1.minimal", Outcome::Applied),
    // Three of its cameras are gone.
    ("plan.made.v1", Outcome::Stale(3)),
    ("plan.made.v1.minimal", Outcome::Applied),
    ("camera.deleted.v1", Outcome::Applied),
    ("server.detached.v1", Outcome::Applied),
    ("tenant.deleted.v1", Outcome::Applied),
    // The server of one of its cameras was detached after its basis.
    ("plan.made.v1.unplaced", Outcome::Stale(1)),
    ("server.lost.v1", Outcome::Applied),
    ("server.returned.v1", Outcome::Applied),
    ("server.lost.v1.minimal", Outcome::Applied),
    // One server has no worker yet, the other is lost.
    ("plan.made.v1.failover", Outcome::Stale(2)),
    ("version.required.v1", Outcome::Applied),
    ("policy.changed.v1", Outcome::Applied),
    ("server.returned.v1.again", Outcome::Applied),
    // The worker whose server was detached, and an owner who takes it in again.
    ("server.joined.v1.again", Outcome::Applied),
    ("server.adopted.v1.again", Outcome::Applied),
    ("server.joined.v1.announced", Outcome::Applied),
    ("server.disk_measured.v1", Outcome::Applied),
    ("camera.added.v1.placement", Outcome::Applied),
    ("camera.changed.v1.placement", Outcome::Applied),
    ("plan.made.v1.copies", Outcome::Applied),
    ("server.drain_started.v1", Outcome::Applied),
    ("camera.move_requested.v1", Outcome::Applied),
    ("plan.made.v1.drain", Outcome::Applied),
    ("server.drain_stopped.v1", Outcome::Applied),
    // One plan in two parts.
    ("plan.made.v1.moves", Outcome::Applied),
    ("plan.made.v1.rest", Outcome::Applied),
    ("server.failback_requested.v1", Outcome::Applied),
    ("plan.made.v1.back", Outcome::Applied),
    ("plan.made.v1.ends", Outcome::Applied),
    // One of its cameras goes with it; of another there is a copy, a third is only its guest.
    ("server.detached.v1.remove", Outcome::Applied),
    ("plan.made.v1.takeover", Outcome::Applied),
    ("plan.made.v1.labels", Outcome::Applied),
    ("camera.added.v1.latency", Outcome::Applied),
    ("camera.changed.v1.latency", Outcome::Applied),
    ("camera.added.v1.min_age", Outcome::Applied),
    ("camera.changed.v1.min_age", Outcome::Applied),
    ("camera.added.v1.schedule", Outcome::Applied),
    ("camera.changed.v1.schedule", Outcome::Applied),
    ("camera.added.v1.event", Outcome::Applied),
    ("camera.changed.v1.event", Outcome::Applied),
];

/// The State that follows from them. It changes only with [`State`] itself: whoever adds a field there writes the new
/// hash here, in the same commit, and says so.
const CONTENT_HASH: &str = "115f8ce37966c70dd339097d535f6269cca2e36b4674fbf14ce00411493ef37a";

/// The samples of other log streams.
const OTHERS: &[&str] = &[
    "assignments.published.v1",
    "assignments.published.v1.event",
    "assignments.published.v1.latency",
    "assignments.published.v1.lease",
    "assignments.published.v1.minimal",
    "assignments.published.v1.priority",
    "assignments.published.v1.retention",
    "assignments.published.v1.schedule",
    "assignments.published.v1.set",
    "camera.backlogged.v1",
    "camera.backlogged.v1.copy",
    "control.ticked.v1",
    "recording.reported.v1",
    "recording.reported.v1.causes",
    "recording.reported.v1.checked",
    "recording.reported.v1.jumped",
    "recording.reported.v1.deleted",
    "recording.reported.v1.lease_expired",
    "recording.reported.v1.not_scheduled",
    "recording.reported.v1.opus",
    "recording.reported.v1.sound",
    "recording.reported.v1.store",
    "recording.reported.v1.triggered",
    "recording.reported.v1.uploaded",
    "server.heartbeat.v1",
    "server.heartbeat.v1.clock",
    "server.heartbeat.v1.lease",
    "server.heartbeat.v1.media",
    "server.heartbeat.v1.minimal",
    "server.heartbeat.v1.scrubbed",
    "server.heartbeat.v1.scrubbing",
    "server.heartbeat.v1.spool_behind",
    "server.heartbeat.v1.spool_conflict",
    "server.heartbeat.v1.spool_refused",
    "server.heartbeat.v1.spool_store",
    "server.heartbeat.v1.spool_store_unreachable",
    "server.heartbeat.v1.spool_unreachable",
    "server.heartbeat.v1.storage_failed",
    "server.heartbeat.v1.storage_full",
    "server.heartbeat.v1.storage_low",
];

/// Words that are never written, because they are what a field means that is left out.
const LEFT_OUT: &[&str] = &["keep", "ok"];

fn names() -> impl Iterator<Item = &'static str> {
    LOG.iter().map(|(name, _)| *name).chain(OTHERS.iter().copied())
}

fn bytes(name: &str) -> Vec<u8> {
    let path = contract::folder().join("golden").join(format!("{name}.json"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn value(name: &str) -> Value {
    serde_json::from_slice(&bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn decoded(name: &str) -> Envelope {
    Envelope::decode(&bytes(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The kind a file says it is a sample of: `camera.added.v1.minimal` → `camera.added.v1`.
fn kind(name: &str) -> Kind {
    let mut kinds = Kind::ALL.iter().filter(|kind| {
        name.strip_prefix(contract::short_name(**kind))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    });
    *kinds.next().unwrap_or_else(|| panic!("golden/{name}.json is of no kind"))
}

#[test]
fn every_kind_has_a_golden() {
    let missing: Vec<_> = Kind::ALL
        .iter()
        .map(|kind| contract::short_name(*kind))
        .filter(|kind| !names().any(|n| n == *kind))
        .collect();
    assert!(missing.is_empty(), "no golden/<type>.json, or not listed in this test: {missing:?}");
}

#[test]
fn the_goldens_are_those_listed_here() {
    let mut listed: Vec<_> = names().map(|name| format!("{name}.json")).collect();
    listed.sort();
    assert_eq!(contract::files(&contract::folder().join("golden")), listed);
}

#[test]
fn a_golden_is_an_event_of_its_kind_and_stream() {
    for name in names() {
        let event = decoded(name).event;
        assert_eq!(Kind::of(&event), kind(name), "{name}");
        let in_log = LOG.iter().any(|(listed, _)| *listed == name);
        assert_eq!(subject::of(&event).0 == LogStream::Log, in_log, "{name}");
    }
}

#[test]
fn a_golden_is_written_again_as_it_was_read() {
    for name in names() {
        let again: Value = serde_json::from_slice(&decoded(name).encode()).expect("JSON");
        assert_eq!(again, value(name), "{name}");
    }
}

#[test]
fn a_golden_fits_its_schemas() {
    let envelope = contract::validator(&contract::json(&contract::folder().join("envelope.schema.json")));
    for name in names() {
        let file = format!("{}.schema.json", contract::short_name(kind(name)));
        let data = contract::validator(&contract::json(&contract::folder().join(file)));
        let value = value(name);
        envelope
            .validate(&value)
            .unwrap_or_else(|error| panic!("{name}: {error} at {}", error.instance_path()));
        data.validate(&value["data"])
            .unwrap_or_else(|error| panic!("{name}: {error} at data{}", error.instance_path()));
    }
}

#[test]
fn what_the_schema_requires_the_program_requires_too() {
    for name in names() {
        let schema = kind(name).schema().to_value();
        for required in schema["required"].as_array().expect("a list") {
            let mut without = value(name);
            let data = without["data"].as_object_mut().expect("an object");
            data.remove(required.as_str().expect("a name")).expect("a golden has all required fields");

            assert!(!contract::validator(&schema).is_valid(&without["data"]), "{name} without {required}");
            let error = Envelope::decode(without.to_string().as_bytes()).expect_err("a field is missing");
            assert!(error.to_string().contains(required.as_str().expect("a name")), "{name}: {error}");
        }
    }
}

#[test]
fn the_goldens_of_the_log_fold_to_the_state_they_always_did() {
    let mut state = State::default();
    for (position, (name, expected)) in (1..).map(Position).zip(LOG) {
        let envelope = decoded(name);
        let outcome = fold::apply(&mut state, position, envelope.time, &envelope.event);
        assert_eq!(outcome.as_ref(), Ok(expected), "{name} at {position}");
    }
    assert_eq!(
        state.content_hash().to_string(),
        CONTENT_HASH,
        "the same log means another State: {}",
        serde_json::to_string_pretty(&state).expect("JSON")
    );
}

/// Renaming a word of a closed list breaks old logs as surely as renaming a field.
#[test]
fn every_word_of_every_closed_list_stands_in_a_golden() {
    let mut used = BTreeSet::new();
    names().for_each(|name| words_in(&value(name)["data"], &mut used));
    for kind in Kind::ALL {
        let mut known = BTreeSet::new();
        words_of(&kind.schema().to_value(), &mut known);
        let missing: Vec<_> =
            known.difference(&used).filter(|word| !LEFT_OUT.contains(&word.as_str())).collect();
        assert!(missing.is_empty(), "{kind} knows words that no golden shows: {missing:?}");
    }
}

/// An integrator, or a version to come, may write it all the same.
#[test]
fn a_word_that_is_left_out_reads_as_the_field_left_out() {
    let mut with = value("server.detached.v1");
    with["data"]["cameras"] = "keep".into();
    let read = Envelope::decode(with.to_string().as_bytes()).expect("an event");
    assert_eq!(read, decoded("server.detached.v1"));
}

#[test]
fn every_optional_field_is_set_in_one_golden_and_unset_in_another() {
    for kind_ in Kind::ALL {
        let mut shapes = Vec::new();
        shapes_of(&kind_.schema().to_value(), &mut shapes);
        let (mut set, mut unset) = (BTreeSet::new(), BTreeSet::new());
        for name in names().filter(|name| kind(name) == *kind_) {
            fields_in(&value(name)["data"], &shapes, &mut set, &mut unset);
        }
        for shape in &shapes {
            let never_set: Vec<_> = shape.optional.keys().filter(|name| !set.contains(*name)).collect();
            assert!(
                never_set.is_empty(),
                "{kind_}: never set, or only to what they are anyway: {never_set:?}"
            );
            // What has a default and is written all the same was left out only by programs that did not know it.
            let left_out = shape.optional.iter().filter(|(_, default)| default.is_none());
            let never_unset: Vec<_> =
                left_out.map(|(name, _)| name).filter(|name| !unset.contains(*name)).collect();
            assert!(never_unset.is_empty(), "{kind_}: never unset: {never_unset:?}");
        }
    }
    let with = |name: &str| names().any(|golden| value(golden).get(name).is_some());
    let without = |name: &str| names().any(|golden| value(golden).get(name).is_none());
    for attribute in ["tenantid", "causationid"] {
        assert!(with(attribute) && without(attribute), "{attribute}");
    }
}

/// All strings, and all names of fields (a tagged choice is written as the name of a field).
fn words_in(value: &Value, words: &mut BTreeSet<String>) {
    match value {
        Value::String(word) => {
            words.insert(word.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| words_in(item, words)),
        Value::Object(fields) => {
            words.extend(fields.keys().cloned());
            fields.values().for_each(|field| words_in(field, words));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// All words a schema allows in some place, and all names of fields.
fn words_of(schema: &Value, words: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            let choices = fields.get("enum").and_then(Value::as_array).into_iter().flatten();
            words.extend(choices.chain(fields.get("const")).filter_map(Value::as_str).map(str::to_owned));
            if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
                words.extend(properties.keys().cloned());
            }
            fields.values().for_each(|field| words_of(field, words));
        }
        Value::Array(items) => items.iter().for_each(|item| words_of(item, words)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An object as a schema describes it.
struct Shape {
    required: BTreeSet<String>,
    /// With what each of them means when it is left out, if it is written even then.
    optional: BTreeMap<String, Option<Value>>,
}

impl Shape {
    fn describes(&self, fields: &Map<String, Value>) -> bool {
        self.required.iter().all(|name| fields.contains_key(name))
            && fields.keys().all(|name| {
                // Which fact it is stands beside the fact's own fields.
                self.required.contains(name) || self.optional.contains_key(name) || name == "fact"
            })
    }
}

/// All shapes of objects with optional fields in a schema.
fn shapes_of(schema: &Value, shapes: &mut Vec<Shape>) {
    match schema {
        Value::Object(fields) => {
            if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
                let required = fields.get("required").and_then(Value::as_array).into_iter().flatten();
                let required: BTreeSet<_> = required.filter_map(Value::as_str).map(str::to_owned).collect();
                let optional: BTreeMap<_, _> = properties
                    .iter()
                    .filter(|(name, _)| !required.contains(*name))
                    .map(|(name, property)| (name.clone(), property.get("default").cloned()))
                    .collect();
                if !optional.is_empty() {
                    shapes.push(Shape { required, optional });
                }
            }
            fields.values().for_each(|field| shapes_of(field, shapes));
        }
        Value::Array(items) => items.iter().for_each(|item| shapes_of(item, shapes)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Which optional fields of `shapes` say something in `value`, and which do not.
fn fields_in(value: &Value, shapes: &[Shape], set: &mut BTreeSet<String>, unset: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for shape in shapes.iter().filter(|shape| shape.describes(fields)) {
                for (name, default) in &shape.optional {
                    let field = fields.get(name).filter(|field| !field.is_null());
                    let says = field.is_some_and(|field| Some(field) != default.as_ref());
                    let kept = if says { &mut *set } else { &mut *unset };
                    kept.insert(name.clone());
                }
            }
            fields.values().for_each(|field| fields_in(field, shapes, set, unset));
        }
        Value::Array(items) => items.iter().for_each(|item| fields_in(item, shapes, set, unset)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
