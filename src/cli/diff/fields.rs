//! The fields in which two objects differ.

use serde_json::{Map, Value, json};

use crate::api::review::{ChangeKind, ObjectReview};

/// What stands for a value that may be a secret.
const HIDDEN: &str = "(hidden)";
/// Of whatever has such a word in its name the value is not shown.
const SECRET: [&str; 8] =
    ["token", "secret", "password", "passwd", "credential", "apikey", "api_key", "private"];

/// A field that is another: what is stored, and what would be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FieldChange {
    /// The way to it: `spec.env[LR].value`.
    pub(super) path: String,
    /// What is stored; nothing if it is new.
    pub(super) before: Option<Value>,
    /// What would be; nothing if it goes.
    pub(super) after: Option<Value>,
}

/// The fields that would be others. Of an object that is made or goes there are none: all of it would.
pub(super) fn changes(object: &ObjectReview) -> Vec<FieldChange> {
    let mut found = Vec::new();
    if let (ChangeKind::Configured | ChangeKind::Refused, Some(before), Some(after)) =
        (object.change, &object.before, &object.after)
    {
        compare(String::new(), Some(before), Some(after), false, &mut found);
    }
    found
}

fn compare(
    path: String,
    before: Option<&Value>,
    after: Option<&Value>,
    secret: bool,
    found: &mut Vec<FieldChange>,
) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
            for name in names {
                let field = if path.is_empty() { name.clone() } else { format!("{path}.{}", quoted(name)) };
                // Where a secret is found is none.
                let secret = !name.ends_with("From") && (secret || is_secret(name));
                compare(field, old.get(name), new.get(name), secret, found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if is_named(old) && is_named(new) => {
            let (old, new) = (by_name(old), by_name(new));
            let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
            for name in names {
                let secret = secret || is_secret(name);
                compare(format!("{path}[{name}]"), old.get(name), new.get(name), secret, found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.iter().chain(new).any(Value::is_object) => {
            for index in 0..old.len().max(new.len()) {
                compare(format!("{path}[{index}]"), old.get(index), new.get(index), secret, found);
            }
        }
        _ => {
            let shown = |value: Option<&Value>| value.map(|value| masked(value, secret));
            found.push(FieldChange { path, before: shown(before), after: shown(after) });
        }
    }
}

/// A key, in quotes where its dots would be taken for steps.
fn quoted(name: &str) -> String {
    if name.contains('.') { format!("{name:?}") } else { name.to_owned() }
}

/// Whether a list is one of things with names, which are compared by name wherever they stand.
fn is_named(items: &[Value]) -> bool {
    let names: Vec<&str> = items.iter().filter_map(|item| item["name"].as_str()).collect();
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    names.len() == items.len() && unique.len() == names.len()
}

fn by_name(items: &[Value]) -> Map<String, Value> {
    items.iter().filter_map(|item| Some((item["name"].as_str()?.to_owned(), item.clone()))).collect()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    // A key of some service; but a file of keys, or a parameter's name, is none.
    SECRET.iter().any(|word| name.contains(word)) || name.ends_with("_key")
}

/// A value without what may be secret in it.
fn masked(value: &Value, secret: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let named = fields.get("name").and_then(Value::as_str).is_some_and(is_secret);
            let fields = fields.iter().map(|(name, value)| {
                let shown = name == "name" || name.ends_with("From");
                let hide = !shown && (secret || named || is_secret(name));
                (name.clone(), masked(value, hide))
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.iter().map(|item| masked(item, secret)).collect(),
        _ if secret => json!(HIDDEN),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(before: Value, after: Value) -> Vec<String> {
        let mut found = Vec::new();
        compare(String::new(), Some(&before), Some(&after), false, &mut found);
        let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string);
        found
            .iter()
            .map(|change| format!("{}: {} {}", change.path, text(&change.before), text(&change.after)))
            .collect()
    }

    #[test]
    fn things_with_names_are_compared_by_name() {
        let before =
            json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["x"]});
        let after = json!({"env": [{"name": "B", "value": "3"}, {"name": "A", "value": "1"}, {"name": "C"}], "args": ["x", "y"]});
        assert_eq!(
            lines(before, after),
            [r#"args: ["x"] ["x","y"]"#, r#"env[B].value: "2" "3""#, r#"env[C]: - {"name":"C"}"#]
        );
    }

    #[test]
    fn fields_that_come_and_go_are_told_of() {
        let (before, after) =
            (json!({"a": {"x": 1}, "b.c": 2}), json!({"a": {"x": 1, "y": null}, "d": true}));
        assert_eq!(lines(before, after), ["a.y: - null", r#"b.c: 2 -"#, "d: - true"]);
    }

    #[test]
    fn secrets_are_never_shown() {
        let with = |secret: &str| {
            json!({
                "env": [{"name": "HF_TOKEN", "value": secret}, {"name": "AWS_SECRET_ACCESS_KEY", "value": secret}],
                "runtimeEnv": {"env_vars": {"WANDB_API_KEY": secret, "DB_PASSWORD": secret}},
                "labels": {"private-key": secret},
            })
        };
        let changed = lines(with("s3cr3t-1"), with("s3cr3t-2"));
        assert_eq!(changed.len(), 5, "{changed:?}");
        let added = lines(json!({"env": []}), with("s3cr3t-1"));
        assert_eq!(added.len(), 4, "{added:?}");
        for line in changed.iter().chain(&added) {
            assert!(!line.contains("s3cr3t") && line.contains(HIDDEN), "{line}");
        }
        let from = json!({"env": [{"name": "HF_TOKEN", "valueFrom": {"file": "/run/token"}}]});
        let named = lines(json!({"env": []}), from);
        assert!(named[0].contains("/run/token"), "where it is found is no secret: {named:?}");
        let found = |file: &str| json!({"env": [{"name": "HF_TOKEN", "valueFrom": {"file": file}}], "tokenFrom": {"env": file}});
        let moved = lines(found("/a"), found("/b"));
        assert!(
            moved.len() == 2 && moved.iter().all(|line| line.contains("/a") && line.contains("/b")),
            "{moved:?}"
        );
    }
}
