//! The contract that others read: the folder `schemas/events/`.

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use longwatch_events::wire::Kind;
use serde_json::Value;

/// `schemas/events/`.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/events")
}

/// A kind's name in this folder: its type without what all types begin with.
pub(crate) fn short_name(kind: Kind) -> &'static str {
    kind.as_str().strip_prefix("longwatch.").expect("every type begins with it")
}

/// The names of the files in `folder`, in order.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.file_type().expect("its type").is_file())
        .map(|entry| entry.file_name().into_string().expect("a name in UTF-8"))
        .collect();
    names.sort();
    names
}

/// The JSON in a file.
pub(crate) fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A validator that also checks formats, which draft 2020-12 leaves to the reader.
pub(crate) fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::options().should_validate_formats(true).build(schema).expect("a valid schema")
}
