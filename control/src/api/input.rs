//! Reads JSON bodies field by field and collects everything that is wrong, instead of stopping at the first.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use longwatch_events::settings::Labels;
use longwatch_events::time::Timestamp;
use serde_json::{Map, Value};

use super::problem::{FieldError, Problem};
use crate::decide::command::{MAX_LABEL_KEY, MAX_LABEL_VALUE, MAX_LABELS, MAX_NAME};

/// The longest text that is read as a moment.
const MAX_TIME: usize = 64;

/// What is wrong so far.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<FieldError>);

impl Errors {
    pub(super) fn add(&mut self, pointer: &str, code: &'static str, detail: impl Into<String>) {
        self.0.push(FieldError::at(pointer, code, detail));
    }

    /// The value that was read, or everything that is wrong.
    pub(super) fn or<T>(self, value: Option<T>) -> Result<T, Problem> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            Some(_) | None => Err(Problem::invalid(self.0)),
        }
    }
}

/// An object that is being read. Fields nobody asked for are unknown: [`Object::finish`] reports them.
pub(super) struct Object<'a> {
    fields: Option<&'a Map<String, Value>>,
    pointer: String,
    known: BTreeSet<&'static str>,
}

impl<'a> Object<'a> {
    /// The body itself.
    pub(super) fn root(value: &'a Value, errors: &mut Errors) -> Self {
        Self::new(Some(value), String::new(), errors)
    }

    fn new(value: Option<&'a Value>, pointer: String, errors: &mut Errors) -> Self {
        let fields = match value {
            None => None,
            Some(Value::Object(fields)) => Some(fields),
            Some(other) => {
                errors.add(&pointer, "wrong_type", format!("expected an object, found {}", kind(other)));
                None
            }
        };
        Self { fields, pointer, known: BTreeSet::new() }
    }

    /// The pointer (RFC 6901) of a field.
    pub(super) fn at(&self, name: &str) -> String {
        format!("{}/{}", self.pointer, name.replace('~', "~0").replace('/', "~1"))
    }

    /// A field, unless it is absent or null.
    fn field(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.insert(name);
        self.fields?.get(name).filter(|value| !value.is_null())
    }

    /// A field that is an object; absent is as good as empty.
    pub(super) fn object(&mut self, name: &'static str, errors: &mut Errors) -> Object<'a> {
        let value = self.field(name);
        Object::new(value, self.at(name), errors)
    }

    /// A field that is an object, if it is there.
    pub(super) fn optional_object(&mut self, name: &'static str, errors: &mut Errors) -> Option<Object<'a>> {
        let value = self.field(name)?;
        Some(Object::new(Some(value), self.at(name), errors))
    }

    /// A list that must be there, of so many items; each with its pointer.
    pub(super) fn required_list(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        errors: &mut Errors,
    ) -> Option<Vec<(String, &'a Value)>> {
        self.required_list_of(("a list", "items"), name, count, errors)
    }

    /// The same; `what` is what is expected, and what there is so many of.
    fn required_list_of(
        &mut self,
        what: (&str, &str),
        name: &'static str,
        count: RangeInclusive<usize>,
        errors: &mut Errors,
    ) -> Option<Vec<(String, &'a Value)>> {
        let pointer = self.at(name);
        let Some(value) = self.field(name) else {
            if self.fields.is_some() {
                errors.add(&pointer, "required", "this field is required");
            }
            return None;
        };
        let (list, items) = what;
        let Some(values) = value.as_array() else {
            errors.add(&pointer, "wrong_type", format!("expected {list}, found {}", kind(value)));
            return None;
        };
        if !count.contains(&values.len()) {
            let detail =
                format!("expected {} to {} {items}, found {}", count.start(), count.end(), values.len());
            errors.add(&pointer, "out_of_range", detail);
            return None;
        }
        Some(values.iter().enumerate().map(|(at, value)| (format!("{pointer}/{at}"), value)).collect())
    }

    /// An item of a list that is an object.
    pub(super) fn item((pointer, value): (String, &'a Value), errors: &mut Errors) -> Self {
        Self::new(Some(value), pointer, errors)
    }

    /// A field that must be there and be an object.
    pub(super) fn required_object(&mut self, name: &'static str, errors: &mut Errors) -> Object<'a> {
        let value = self.field(name);
        if value.is_none() && self.fields.is_some() {
            errors.add(&self.at(name), "required", "this field is required");
        }
        Object::new(value, self.at(name), errors)
    }

    /// A text of so many characters, without control characters.
    pub(super) fn text(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
        errors: &mut Errors,
    ) -> Option<&'a str> {
        let pointer = self.at(name);
        let value = self.field(name)?;
        let Some(text) = value.as_str() else {
            errors.add(&pointer, "wrong_type", format!("expected a text, found {}", kind(value)));
            return None;
        };
        check_text(text, &length, &pointer, errors)
    }

    /// A text that must be there.
    pub(super) fn required_text(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
        errors: &mut Errors,
    ) -> Option<&'a str> {
        if self.field(name).is_none() && self.fields.is_some() {
            errors.add(&self.at(name), "required", "this field is required");
        }
        self.text(name, length, errors)
    }

    /// A name for people: must be there, is trimmed, and is not only blanks.
    pub(super) fn name(&mut self, errors: &mut Errors) -> Option<String> {
        let name = self.required_text("name", 1..=MAX_NAME, errors)?.trim();
        if name.is_empty() {
            errors.add(
                &self.at("name"),
                "too_short",
                "a name needs at least one character that is not a blank",
            );
            return None;
        }
        Some(name.to_owned())
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<u64>,
        errors: &mut Errors,
    ) -> Option<u64> {
        let value = self.field(name)?;
        match value.as_u64() {
            Some(number) if bounds.contains(&number) => Some(number),
            Some(_) => {
                let detail = format!("expected {} to {}, found {value}", bounds.start(), bounds.end());
                errors.add(&self.at(name), "out_of_range", detail);
                None
            }
            None if value.is_number() => {
                let detail = format!(
                    "expected a whole number from {} to {}, found {value}",
                    bounds.start(),
                    bounds.end()
                );
                errors.add(&self.at(name), "out_of_range", detail);
                None
            }
            None => {
                errors.add(&self.at(name), "wrong_type", format!("expected a number, found {}", kind(value)));
                None
            }
        }
    }

    /// As [`Self::number`], for 32 bits.
    pub(super) fn small_number(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<u32>,
        errors: &mut Errors,
    ) -> Option<u32> {
        let bounds = u64::from(*bounds.start())..=u64::from(*bounds.end());
        u32::try_from(self.number(name, bounds, errors)?).ok()
    }

    /// A moment, as RFC 3339 writes it.
    pub(super) fn time(&mut self, name: &'static str, errors: &mut Errors) -> Option<Timestamp> {
        match self.text(name, 1..=MAX_TIME, errors)?.parse() {
            Ok(at) => Some(at),
            Err(error) => {
                let error: longwatch_events::time::InvalidTimestamp = error;
                errors.add(&self.at(name), "invalid_time", error.to_string());
                None
            }
        }
    }

    /// True or false.
    pub(super) fn truth(&mut self, name: &'static str, errors: &mut Errors) -> Option<bool> {
        let value = self.field(name)?;
        if value.is_boolean() {
            return value.as_bool();
        }
        errors.add(&self.at(name), "wrong_type", format!("expected true or false, found {}", kind(value)));
        None
    }

    /// One of a closed list of words.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&'static str, T)],
        errors: &mut Errors,
    ) -> Option<T> {
        let value = self.field(name)?;
        meaning(value, words, &self.at(name), errors)
    }

    /// An id.
    pub(super) fn id<T: std::str::FromStr<Err = longwatch_events::id::InvalidId>>(
        &mut self,
        name: &'static str,
        errors: &mut Errors,
    ) -> Option<T> {
        match self.text(name, 1..=64, errors)?.parse() {
            Ok(id) => Some(id),
            Err(error) => {
                errors.add(&self.at(name), "invalid_id", error.to_string());
                None
            }
        }
    }

    /// An id that must be there.
    pub(super) fn required_id<T: std::str::FromStr<Err = longwatch_events::id::InvalidId>>(
        &mut self,
        name: &'static str,
        errors: &mut Errors,
    ) -> Option<T> {
        if self.field(name).is_none() && self.fields.is_some() {
            errors.add(&self.at(name), "required", "this field is required");
        }
        self.id(name, errors)
    }

    /// A list of ids that must be there, of so many items; each with its pointer.
    pub(super) fn required_ids<T: std::str::FromStr<Err = longwatch_events::id::InvalidId>>(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        errors: &mut Errors,
    ) -> Option<Vec<(String, T)>> {
        let mut ids = Vec::new();
        for (pointer, value) in self.required_list_of(("a list of ids", "ids"), name, count, errors)? {
            match value.as_str().map(str::parse::<T>) {
                Some(Ok(id)) => ids.push((pointer, id)),
                Some(Err(error)) => errors.add(&pointer, "invalid_id", error.to_string()),
                None => errors.add(&pointer, "wrong_type", format!("expected an id, found {}", kind(value))),
            }
        }
        Some(ids)
    }

    /// Free-form pairs of texts.
    pub(super) fn labels(&mut self, name: &'static str, errors: &mut Errors) -> Labels {
        let object = self.object(name, errors);
        let mut labels = Labels::new();
        let Some(fields) = object.fields else { return labels };
        if fields.len() > MAX_LABELS {
            let detail = format!("at most {MAX_LABELS} labels, found {}", fields.len());
            errors.add(&object.pointer, "too_many", detail);
            return labels;
        }
        for (key, value) in fields {
            let pointer = object.at(key);
            if key.is_empty() || key.len() > MAX_LABEL_KEY || key.chars().any(char::is_control) {
                let detail =
                    format!("a label's key has 1 to {MAX_LABEL_KEY} bytes and no control characters");
                errors.add(&pointer, "invalid_key", detail);
                continue;
            }
            let Some(text) = value.as_str() else {
                errors.add(&pointer, "wrong_type", format!("expected a text, found {}", kind(value)));
                continue;
            };
            if text.len() > MAX_LABEL_VALUE || text.chars().any(char::is_control) {
                let detail =
                    format!("a label's value has at most {MAX_LABEL_VALUE} bytes and no control characters");
                errors.add(&pointer, "invalid_value", detail);
                continue;
            }
            labels.insert(key.clone(), text.to_owned());
        }
        labels
    }

    /// A field that this version knows of and takes only as null.
    pub(super) fn only_null(&mut self, name: &'static str, why: &'static str, errors: &mut Errors) {
        if self.field(name).is_some() {
            errors.add(&self.at(name), "unsupported", why);
        }
    }

    /// Reports the fields nobody asked for.
    pub(super) fn finish(self, errors: &mut Errors) {
        let Some(fields) = self.fields else { return };
        for name in fields.keys().filter(|name| !self.known.contains(name.as_str())) {
            let known: Vec<_> = self.known.iter().copied().collect();
            let detail = format!("there is no such field; known here: {}", known.join(", "));
            errors.add(&self.at(name), "unknown_field", detail);
        }
    }
}

/// What a word of a closed list means.
pub(super) fn meaning<T: Copy>(
    value: &Value,
    words: &[(&'static str, T)],
    pointer: &str,
    errors: &mut Errors,
) -> Option<T> {
    let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
    if found.is_none() {
        let list: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let detail = format!("expected one of {}, found {}", list.join(", "), shown(value));
        errors.add(pointer, "unknown_word", detail);
    }
    found.map(|(_, meaning)| *meaning)
}

fn check_text<'a>(
    text: &'a str,
    length: &RangeInclusive<usize>,
    pointer: &str,
    errors: &mut Errors,
) -> Option<&'a str> {
    let count = text.chars().count();
    if count < *length.start() {
        errors.add(pointer, "too_short", format!("expected at least {} character(s)", length.start()));
        return None;
    }
    if count > *length.end() {
        errors.add(
            pointer,
            "too_long",
            format!("expected at most {} characters, found {count}", length.end()),
        );
        return None;
    }
    if text.chars().any(char::is_control) {
        errors.add(pointer, "control_character", "control characters (line breaks, tabs) are not allowed");
        return None;
    }
    Some(text)
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn shown(value: &Value) -> String {
    match value.as_str() {
        Some(text) => format!("`{}`", text.chars().take(40).collect::<String>()),
        None => kind(value).to_owned(),
    }
}

/// Applies a merge patch (RFC 7396, section 2) to `target`.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_examples_of_rfc_7396_hold() {
        // Appendix A.
        let examples = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ];
        for (mut target, patch, expected) in examples {
            merge(&mut target, &patch);
            assert_eq!(target, expected, "{patch}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_reported_at_once() {
        let body = json!({"name": "", "labels": {"a/b": 1}, "nmae": true, "copies": "two"});
        let mut errors = Errors::default();
        let mut object = Object::root(&body, &mut errors);
        let name = object.name(&mut errors);
        object.labels("labels", &mut errors);
        object.number("copies", 1..=1, &mut errors);
        object.finish(&mut errors);
        let pointers: Vec<_> = errors.0.iter().filter_map(|e| e.pointer.as_deref()).collect();
        assert_eq!(pointers, ["/name", "/labels/a~1b", "/copies", "/nmae"]);
        assert!(errors.or(name).is_err());
    }
}
