//! Patches: what a document becomes. Merge patches (RFC 7386), JSON patches (RFC 6902), and Kubernetes' strategic
//! merge patches. However a patch is made, what comes of it is bounded in depth and size.

use json_patch::{Patch, PatchOperation};
use serde_json::{Map, Value, json};

use super::error::ApiError;
use crate::manifest::{MAX_DEPTH, depth};

/// Of a JSON patch: no longer, and what it copies no larger than an object may be.
const MAX_OPERATIONS: usize = 10_000;
const MAX_COPIED: usize = super::MAX_OBJECT;

/// By what the entries of some lists are known, in a strategic merge patch. Other lists are replaced.
const MERGE_KEYS: [(&str, &str); 2] = [("env", "name"), ("workerGroups", "name")];

/// The kinds of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatchKind {
    Merge,
    Json,
    Strategic,
    Apply,
}

impl PatchKind {
    /// The kind that a content type names. Plain JSON is a merge patch.
    pub(super) fn of(content_type: &str) -> Result<Self, ApiError> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/merge-patch+json" | "application/json" => Ok(Self::Merge),
            "application/json-patch+json" => Ok(Self::Json),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => Err(ApiError::unsupported(format!(
                "a patch is application/merge-patch+json, application/json-patch+json, \
                 application/strategic-merge-patch+json or application/apply-patch+yaml, not {other}"
            ))),
        }
    }
}

/// Makes of a document what a merge patch says.
pub(super) fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    for (name, value) in patch {
        let fields = object(into);
        if value.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
    object(into);
}

/// The fields of a value, which is made an object if it is none.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(fields) => fields,
        _ => unreachable!("it was made an object"),
    }
}

/// Makes of a document what a JSON patch says.
pub(super) fn json(document: &mut Value, patch: Value) -> Result<(), ApiError> {
    let Patch(operations) = serde_json::from_value(patch)
        .map_err(|error| ApiError::bad_request(format!("this is no JSON patch: {error}")))?;
    if operations.len() > MAX_OPERATIONS {
        let message = format!("a JSON patch has at most {MAX_OPERATIONS} operations");
        return Err(impossible(message));
    }
    let mut copied = 0;
    for (index, operation) in operations.into_iter().enumerate() {
        let put = match &operation {
            PatchOperation::Add(add) => Some((&add.path, Some(&add.value))),
            PatchOperation::Replace(replace) => Some((&replace.path, Some(&replace.value))),
            PatchOperation::Copy(copy) => Some((&copy.path, copy.from.resolve(document).ok())),
            PatchOperation::Move(moved) => Some((&moved.path, moved.from.resolve(document).ok())),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
        };
        if let Some((path, value)) = put {
            if path.count() + value.map_or(0, depth) > MAX_DEPTH {
                return Err(impossible(format!("operation {index} nests too deeply")));
            }
            if matches!(operation, PatchOperation::Copy(_)) {
                copied += value.map_or(0, size);
            }
            if copied > MAX_COPIED {
                return Err(impossible("a JSON patch must not copy so much"));
            }
        }
        json_patch::patch(document, std::slice::from_ref(&operation))
            .map_err(|error| impossible(format!("operation {index}: {}", error.kind)))?;
    }
    Ok(())
}

/// A patch that cannot be carried out.
fn impossible(message: impl AsRef<str>) -> ApiError {
    ApiError::invalid_field("patch", message.as_ref())
}

/// About how many bytes a value takes.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 16,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + 16 + size(value)).sum::<usize>() + 16
        }
        Value::String(text) => text.len() + 16,
        _ => 16,
    }
}

/// Makes of a document what a strategic merge patch says.
pub(super) fn strategic(into: &mut Value, patch: Value) -> Result<(), ApiError> {
    let Value::Object(mut patch) = patch else {
        *into = patch;
        return Ok(());
    };
    match patch.remove("$patch").as_ref().map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            *into = Value::Object(patch);
            return Ok(());
        }
        Some(Some("delete")) => {
            *into = json!({});
            return Ok(());
        }
        Some(_) => return Err(ApiError::bad_request("$patch is merge, replace or delete")),
    }
    if let Some(kept) = patch.remove("$retainKeys") {
        let kept: Vec<String> = texts(&kept, "$retainKeys")?;
        object(into).retain(|name, _| kept.contains(name));
    }
    for (name, value) in patch {
        let fields = object(into);
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let unwanted = value.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(items)) = fields.get_mut(list) {
                items.retain(|item| !unwanted.contains(item));
            }
        } else if name.starts_with("$setElementOrder/") {
            // Entries are known by their names; in which order they are means nothing.
        } else if value.is_null() {
            fields.remove(&name);
        } else if let (Some(key), Value::Array(entries)) = (merge_key(&name), &value) {
            entries_by_key(fields.entry(name).or_insert(json!([])), entries, key)?;
        } else {
            strategic(fields.entry(name).or_insert(Value::Null), value)?;
        }
    }
    object(into);
    Ok(())
}

/// Merges the entries of a list by their keys.
fn entries_by_key(into: &mut Value, patch: &[Value], key: &str) -> Result<(), ApiError> {
    if patch.iter().any(|entry| entry["$patch"] == "replace" && entry[key].is_null()) {
        *into = patch.iter().filter(|entry| entry["$patch"] != "replace").cloned().collect();
        return Ok(());
    }
    let mut items = into.as_array().cloned().unwrap_or_default();
    for entry in patch {
        let name = &entry[key];
        if !name.is_string() {
            return Err(ApiError::bad_request(format!("each entry of this list must have `{key}`")));
        }
        if entry["$patch"] == "delete" {
            items.retain(|item| item[key] != *name);
        } else if let Some(item) = items.iter_mut().find(|item| item[key] == *name) {
            strategic(item, entry.clone())?;
        } else {
            let mut item = json!({});
            strategic(&mut item, entry.clone())?;
            items.push(item);
        }
    }
    *into = Value::Array(items);
    Ok(())
}

fn merge_key(list: &str) -> Option<&'static str> {
    MERGE_KEYS.iter().find(|(name, _)| *name == list).map(|(_, key)| *key)
}

fn texts(value: &Value, what: &str) -> Result<Vec<String>, ApiError> {
    serde_json::from_value(value.clone())
        .map_err(|_| ApiError::bad_request(format!("{what} must be a list of names")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn strategic_of(mut document: Value, patch: Value) -> Value {
        strategic(&mut document, patch).unwrap();
        document
    }

    #[test]
    fn lists_of_named_entries_are_merged_by_name() {
        let document = json!({"spec": {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "args": ["x"]}});
        let patch = json!({"spec": {
            "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}, {"name": "A", "$patch": "delete"}],
            "$setElementOrder/env": [{"name": "B"}, {"name": "C"}],
            "args": ["y"],
        }});
        let env = json!([{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]);
        assert_eq!(strategic_of(document.clone(), patch), json!({"spec": {"env": env, "args": ["y"]}}));
        let replaced =
            strategic_of(document, json!({"spec": {"env": [{"name": "Z"}, {"$patch": "replace"}]}}));
        assert_eq!(replaced["spec"]["env"], json!([{"name": "Z"}]));
    }

    #[test]
    fn directives_of_maps_are_followed() {
        let document = || json!({"a": {"b": 1, "c": 2}, "list": [1, 2, 3]});
        assert_eq!(
            strategic_of(document(), json!({"a": {"$patch": "replace", "d": 3}}))["a"],
            json!({"d": 3})
        );
        assert_eq!(strategic_of(document(), json!({"a": {"$patch": "delete"}}))["a"], json!({}));
        let kept = strategic_of(document(), json!({"a": {"$retainKeys": ["c", "d"], "d": 3}}));
        assert_eq!(kept["a"], json!({"c": 2, "d": 3}));
        let fewer = strategic_of(document(), json!({"$deleteFromPrimitiveList/list": [2]}));
        assert_eq!(fewer["list"], json!([1, 3]));
        for bad in [json!({"$patch": "x"}), json!({"$retainKeys": 1}), json!({"env": [{}]})] {
            assert!(strategic(&mut document(), bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_json_patch_cannot_make_much_of_little() {
        let double = json!({"op": "copy", "from": "", "path": "/a"});
        let deep = json!((0..200).map(|_| double.clone()).collect::<Vec<_>>());
        assert!(json(&mut json!({}), deep).is_err(), "it would be deeper with each");
        let grow: Vec<Value> = (0..40)
            .flat_map(|n| {
                [
                    json!({"op": "copy", "from": "/x", "path": format!("/y{n}")}),
                    json!({"op": "copy", "from": "/x", "path": "/x/-"}),
                ]
            })
            .collect();
        let mut document = json!({"x": ["0123456789"]});
        assert!(json(&mut document, Value::Array(grow)).is_err());
        assert!(size(&document) < 64 << 20);
        let many = vec![json!({"op": "test", "path": "", "value": {}}); MAX_OPERATIONS + 1];
        assert!(json(&mut json!({}), Value::Array(many)).is_err());
    }

    /// JSON of any shape, with names that patches and documents have in common.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            "[a-c$/~]{0,4}".prop_map(Value::from),
        ];
        let name = prop_oneof![
            Just("env".to_owned()),
            Just("name".to_owned()),
            Just("$patch".to_owned()),
            Just("$retainKeys".to_owned()),
            Just("$deleteFromPrimitiveList/a".to_owned()),
            "[a-c]",
        ];
        leaf.prop_recursive(6, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(name.clone(), inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// JSON patches whose operations often fit something.
    fn any_json_patch() -> impl Strategy<Value = Value> {
        let path = "(/(a|b|c|env|0|-|~0|~2)){0,5}";
        let word = prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test", "else"]);
        let operation = (word, path, path, any_json()).prop_map(
            |(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}),
        );
        prop::collection::vec(operation, 0..20).prop_map(Value::from)
    }

    proptest! {
        #[test]
        fn no_patch_does_harm(document in any_json(), patch in any_json(), operations in any_json_patch()) {
            let bound = depth(&document) + depth(&patch);
            let mut merged = document.clone();
            merge(&mut merged, patch.clone());
            prop_assert!(depth(&merged) <= bound);
            let mut again = merged.clone();
            merge(&mut again, patch.clone());
            prop_assert_eq!(again, merged);
            let mut merged = document.clone();
            if strategic(&mut merged, patch.clone()).is_ok() {
                prop_assert!(depth(&merged) <= bound + 1);
            }
            for patch in [patch, operations] {
                let mut patched = document.clone();
                if json(&mut patched, patch).is_ok() {
                    prop_assert!(depth(&patched) <= MAX_DEPTH + depth(&document));
                }
            }
        }
    }
}
