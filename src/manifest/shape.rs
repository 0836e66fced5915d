//! Whether an object has the shape that its kind's JSON Schema asks for.
//!
//! It reads just what our generated schemas use (a test holds that they use nothing else), to say everything
//! in our own words. It is more lenient than the schema in one thing: what has no value, or `null`, counts as
//! left out, as in Kubernetes, and is taken out of the object.

use serde_json::{Map, Value};

use super::finding::Finding;
use super::path::Path;
use super::words::{either, found, quoted};
use super::{MAX_PROBLEMS, suggest};
use crate::api::money::Money;
use crate::api::units::{Bytes, MilliCpu, Span, UnitError};

/// Checks an object against its kind's schema.
pub(super) fn check(object: &mut Value, schema: &Value) -> Vec<Finding> {
    let mut checker = Checker { root: schema, findings: Vec::new() };
    checker.value(object, schema, &Path::default());
    checker.findings
}

struct Checker<'a> {
    root: &'a Value,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn value(&mut self, value: &mut Value, schema: &Value, path: &Path) {
        if let Some(variants) = schema["oneOf"].as_array() {
            return match variants.iter().all(|variant| variant.get("const").is_some()) {
                true => self.word(value, variants.iter().map(|variant| &variant["const"]), path),
                false => self.variant(value, variants, path),
            };
        }
        if let Some(words) = schema["enum"].as_array() {
            return self.word(value, words.iter(), path);
        }
        if !types(schema).any(|name| is_type(value, name)) && schema.get("type").is_some() {
            let finding = Finding::new(path.clone(), format!("{}, found {}", wanted(schema), found(value)));
            return self.findings.push(finding.help_if(remedy(value, schema)));
        }
        match value {
            Value::Object(fields) => self.fields(fields, schema, path),
            Value::Array(items) => self.items(items, schema, path),
            Value::Number(_) => self.number(value, schema, path),
            Value::String(text) => self.unit(text, schema, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn fields(&mut self, fields: &mut Map<String, Value>, schema: &Value, path: &Path) {
        let none = Map::new();
        let known = schema["properties"].as_object().unwrap_or(&none);
        let required = || schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        fields.retain(|name, value| {
            !value.is_null() || !known.contains_key(name) || required().any(|required| required == name)
        });
        for (name, value) in fields.iter_mut() {
            let path = path.key(name);
            match (known.get(name), &schema["additionalProperties"]) {
                (Some(schema), _) | (None, schema @ Value::Object(_)) => self.value(value, schema, &path),
                (None, Value::Bool(false)) => self.unknown(name, path, known),
                (None, _) => {}
            }
        }
        for name in required().filter(|name| !fields.contains_key(*name)) {
            let finding = Finding::new(path.clone(), format!("`{name}` is missing")).at_key();
            let description = known.get(name).and_then(|schema| schema["description"].as_str());
            self.findings.push(finding.help_if(description.map(|text| format!("{name}: {text}"))));
        }
    }

    fn items(&mut self, items: &mut [Value], schema: &Value, path: &Path) {
        let least = schema["minItems"].as_u64().unwrap_or_default();
        if (items.len() as u64) < least {
            self.findings.push(Finding::new(path.clone(), "must not be empty"));
        }
        for (index, item) in items.iter_mut().enumerate() {
            self.value(item, &schema["items"], &path.item(index));
        }
    }

    fn number(&mut self, value: &mut Value, schema: &Value, path: &Path) {
        if is_unit(schema) {
            return self.unit(&value.to_string(), schema, path);
        }
        let Some(number) = value.as_f64() else { return };
        let message = match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
            (Some(least), _) if number < least => format!("must be at least {least}, found {value}"),
            (_, Some(most)) if number > most => format!("must be at most {most}, found {value}"),
            // 2.0 is a whole number too, but not to serde.
            _ if types(schema).any(|name| name == "integer") && value.is_f64() => {
                *value = Value::from(number as i64);
                return;
            }
            _ => return,
        };
        self.findings.push(Finding::new(path.clone(), message));
    }

    /// A quantity or a duration, as the types of the API read it.
    fn unit(&mut self, text: &str, schema: &Value, path: &Path) {
        if let Some(error) = misread(text, schema) {
            let finding = Finding::new(path.clone(), format!("{error}, found {}", quoted(text)));
            let meant = match schema["format"].as_str() {
                Some("bytes") => suggest::bytes(text),
                Some("duration") => suggest::duration(text),
                Some("dollars") => suggest::dollars(text),
                _ => None,
            };
            self.findings.push(finding.help_if(meant.map(|meant| format!("did you mean {meant}?"))));
        }
    }

    /// One of several words.
    fn word<'a>(&mut self, value: &Value, words: impl Iterator<Item = &'a Value>, path: &Path) {
        let words: Vec<_> = words.filter_map(Value::as_str).collect();
        let given = value.as_str();
        if given.is_some_and(|given| words.contains(&given)) {
            return;
        }
        let message = format!("must be {}, found {}", either(&words), found(value));
        let finding = Finding::new(path.clone(), message);
        let meant = given.and_then(|given| suggest::closest(given, words.iter().copied()));
        self.findings.push(finding.help_if(meant.map(|meant| format!("did you mean {meant}?"))));
    }

    /// A mapping with just one of several keys.
    fn variant(&mut self, value: &mut Value, variants: &[Value], path: &Path) {
        let known: Map<String, Value> = variants
            .iter()
            .filter_map(|variant| variant["properties"].as_object())
            .flat_map(|properties| properties.iter().map(|(name, schema)| (name.clone(), schema.clone())))
            .collect();
        let names: Vec<_> = known.keys().map(String::as_str).collect();
        let Value::Object(fields) = value else {
            let message = format!("must be a mapping with {}, found {}", either(&names), found(value));
            let finding = Finding::new(path.clone(), message);
            return self
                .findings
                .push(finding.help_if(value.as_str().and_then(|word| written(word, &known))));
        };
        for (name, value) in fields.iter_mut() {
            let path = path.key(name);
            match known.get(name) {
                Some(schema) => {
                    if value.is_null() && types(schema).any(|name| name == "object") {
                        *value = Value::Object(Map::new());
                    }
                    self.value(value, schema, &path);
                }
                None => self.unknown(name, path, &known),
            }
        }
        let given: Vec<_> = fields.keys().filter(|name| known.contains_key(*name)).collect();
        match given.as_slice() {
            [] if fields.is_empty() => {
                self.findings
                    .push(Finding::new(path.clone(), format!("must have {}", either(&names))).at_key());
            }
            [first, second, ..] => {
                let message = format!("must have only one of {}", either(&names));
                let finding = Finding::new(path.key(second), message).at_key();
                self.findings.push(finding.also(path.key(first), "the other one"));
            }
            [] | [_] => {}
        }
    }

    /// A field that is not known, and what may have been meant.
    fn unknown(&mut self, name: &str, path: Path, known: &Map<String, Value>) {
        // So many are not shown, and need no help.
        let help = (self.findings.len() < MAX_PROBLEMS).then(|| self.meant(name, known));
        self.findings.push(Finding::new(path, "there is no such field").at_key().help_if(help));
    }

    fn meant(&self, name: &str, known: &Map<String, Value>) -> String {
        let known = || known.keys().map(String::as_str);
        if let Some(meant) = suggest::closest(name, known()) {
            return format!("did you mean `{meant}`?");
        }
        let mut elsewhere = Vec::new();
        find(name, self.root, "", &mut elsewhere);
        match elsewhere.as_slice() {
            [] => format!("known here: {}", known().collect::<Vec<_>>().join(", ")),
            elsewhere => format!("there is {}", elsewhere.join(" and ")),
        }
    }
}

/// How a word is written where a mapping with one of some keys is wanted: it is the key, or the text that any of them
/// takes.
fn written(word: &str, known: &Map<String, Value>) -> Option<String> {
    if known.values().all(|schema| schema["type"] == "string") {
        let mappings = known.keys().map(|name| format!("{{{name}: {}}}", quoted(word)));
        return Some(format!("write {}", mappings.collect::<Vec<_>>().join(" or ")));
    }
    let meant = suggest::closest(word, known.keys().map(String::as_str))?;
    Some(format!("write {{{meant}: {{}}}}"))
}

/// The paths of the fields of a name.
fn find(name: &str, schema: &Value, path: &str, paths: &mut Vec<String>) {
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
        if field == name {
            paths.push(format!("`{path}`"));
        }
        find(name, schema, &path, paths);
    }
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        find(name, variant, path, paths);
    }
    if schema["items"].is_object() {
        find(name, &schema["items"], &format!("{path}[]"), paths);
    }
}

fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let several = schema["type"].as_array().into_iter().flatten();
    schema["type"].as_str().into_iter().chain(several.filter_map(Value::as_str))
}

fn is_type(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(_) => name == "boolean",
        Value::Number(number) => {
            name == "number"
                || name == "integer" && number.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
    }
}

/// Why a text is no quantity or duration, where the schema asks for one.
fn misread(text: &str, schema: &Value) -> Option<UnitError> {
    match schema["format"].as_str()? {
        "cpu" => text.parse::<MilliCpu>().err(),
        "bytes" => text.parse::<Bytes>().err(),
        "duration" => text.parse::<Span>().err(),
        "dollars" => text.parse::<Money>().err(),
        _ => None,
    }
}

fn is_unit(schema: &Value) -> bool {
    misread("", schema).is_some()
}

/// What a value must be, for a person.
fn wanted(schema: &Value) -> String {
    if let Some(error) = misread("", schema) {
        return error.to_string();
    }
    let wanted = match types(schema).next() {
        Some("boolean") => "true or false",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("string") => "a string",
        Some("array") => "a list",
        _ => "a mapping",
    };
    format!("must be {wanted}")
}

/// What to write for a value of the wrong type, if it only has the wrong type.
fn remedy(value: &Value, schema: &Value) -> Option<String> {
    let wants = |name: &str| types(schema).any(|known| known == name);
    match value {
        Value::Number(number) if schema["format"] == "duration" => {
            let meant = suggest::duration(&number.to_string())?;
            Some(format!("did you mean {meant}?"))
        }
        Value::Number(_) | Value::Bool(_) if wants("string") => Some("put it in quotes".to_owned()),
        Value::String(text) if wants("array") && text.starts_with('-') => {
            Some("a `-` needs a space after it".to_owned())
        }
        Value::String(_) if wants("array") => Some("put it in brackets".to_owned()),
        Value::String(text) if wants("object") && text.contains(':') => {
            Some("a `:` needs a space after it".to_owned())
        }
        Value::String(text) if wants("boolean") => match text.to_lowercase().as_str() {
            "yes" | "on" | "true" => Some("write true".to_owned()),
            "no" | "off" | "false" => Some("write false".to_owned()),
            _ => None,
        },
        Value::String(text) if wants("number") || wants("integer") => {
            let number: f64 = text.parse().ok()?;
            (number.is_finite() && (wants("number") || number.fract() == 0.0))
                .then(|| "leave out the quotes".to_owned())
        }
        Value::Array(_) if wants("object") => Some("fields of a mapping are written without `-`".to_owned()),
        Value::Object(_) if wants("array") => Some("items of a list each begin with `-`".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
