//! Who has set which fields: what server-side apply needs to know whose changes it would undo.
//!
//! A field is a path of names; a list is one field, with all that is in it. What was filled in by default, or written
//! by a watched directory, is nobody's. Only `spec`, labels and annotations are looked at: all else is the store's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::api::API_VERSION;
use crate::api::meta::{ManagedBy, ManagedFields};

/// A field, by the names that lead to it.
type Field = Vec<String>;

/// The fields that each manager has set.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners {
    sets: BTreeMap<(String, Operation), BTreeSet<Field>>,
    before: Vec<ManagedFields>,
}

/// How fields were set, in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operation {
    Apply,
    Update,
}

impl From<ManagedBy> for Operation {
    fn from(by: ManagedBy) -> Self {
        match by {
            ManagedBy::Apply => Self::Apply,
            ManagedBy::Update => Self::Update,
        }
    }
}

impl Owners {
    /// What an object says of itself.
    pub(super) fn of(known: &[ManagedFields]) -> Self {
        let mut sets: BTreeMap<_, BTreeSet<Field>> = BTreeMap::new();
        for entry in known {
            let mut fields = BTreeSet::new();
            read_tree(&entry.fields_v1, &mut Vec::new(), &mut fields);
            sets.entry((entry.manager.clone(), entry.operation.into())).or_default().append(&mut fields);
        }
        Self { sets, before: known.to_vec() }
    }

    /// Notes that a manager made of one object another, by anything but an apply. Of a new object (`before` is null)
    /// it has set what it sent.
    pub(super) fn update(&mut self, manager: &str, before: &Value, after: &Value, sent: Option<&Value>) {
        let (old, new) = (fields(before), fields(after));
        let is_new = before.is_null();
        let asked = sent.filter(|_| is_new).map(fields);
        let changed: BTreeSet<Field> = new
            .iter()
            .filter(|field| at(before, field) != at(after, field))
            .filter(|field| asked.as_ref().is_none_or(|asked| touches(asked, field, sent.unwrap_or(after))))
            .cloned()
            .collect();
        let gone: BTreeSet<Field> = old.into_iter().filter(|field| at(after, field).is_none()).collect();
        for set in self.sets.values_mut() {
            set.retain(|field| !touches(&changed, field, after) && !touches(&gone, field, before));
        }
        self.sets.entry((manager.to_owned(), Operation::Update)).or_default().extend(changed);
    }

    /// The document that an apply asks for: the stored one with what is applied, and without what the manager applied
    /// earlier, applies no more, and nobody else has set.
    pub(super) fn applied(&self, manager: &str, stored: &Value, wanted: &Value) -> Value {
        let mut document = stored.clone();
        let applies = fields(wanted);
        let key = (manager.to_owned(), Operation::Apply);
        for field in self.sets.get(&key).into_iter().flatten().filter(|field| !applies.contains(*field)) {
            let mut others = self.sets.iter().filter(|(other, _)| **other != key).map(|(_, set)| set);
            if !touches(&applies, field, wanted) && !others.any(|set| touches(set, field, stored)) {
                remove(&mut document, field);
            }
        }
        for field in &applies {
            if let Some(value) = at(wanted, field) {
                put(&mut document, field, value.clone());
            }
        }
        document
    }

    /// The fields that an apply would change though others have set them: who, and which.
    pub(super) fn conflicts(
        &self,
        manager: &str,
        stored: &Value,
        after: &Value,
        wanted: &Value,
    ) -> Vec<(String, String)> {
        let changed: Vec<Field> =
            fields(wanted).into_iter().filter(|field| changes(stored, after, wanted, field)).collect();
        let mut conflicts = BTreeSet::new();
        for ((other, _), set) in self.others(manager) {
            for field in &changed {
                if touches(set, field, stored) {
                    conflicts.insert((other.clone(), format!(".{}", field.join("."))));
                }
            }
        }
        conflicts.into_iter().collect()
    }

    /// Notes that a manager applied a document: it has set what is in it, and nobody else what changed by it.
    pub(super) fn apply(&mut self, manager: &str, stored: &Value, after: &Value, wanted: &Value) {
        let applies = fields(wanted);
        let changed = applies.iter().filter(|field| changes(stored, after, wanted, field));
        let changed: BTreeSet<Field> = changed.cloned().collect();
        let key = (manager.to_owned(), Operation::Apply);
        for (_, set) in self.sets.iter_mut().filter(|(other, _)| **other != key) {
            set.retain(|field| !touches(&changed, field, wanted));
        }
        self.sets.insert(key, applies);
    }

    fn others(&self, manager: &str) -> impl Iterator<Item = (&(String, Operation), &BTreeSet<Field>)> {
        self.sets.iter().filter(move |((other, by), _)| other != manager || *by != Operation::Apply)
    }

    /// What the object is to say of itself from now on. Who has set the same as before did so then.
    pub(super) fn entries(&self, now: Timestamp) -> Vec<ManagedFields> {
        let known = self.sets.iter().filter(|(_, fields)| !fields.is_empty());
        let entries = known.map(|((manager, operation), fields)| {
            let operation = match operation {
                Operation::Apply => ManagedBy::Apply,
                Operation::Update => ManagedBy::Update,
            };
            let fields_v1 = write_tree(fields);
            let same = self.before.iter().find(|old| {
                old.manager == *manager && old.operation == operation && old.fields_v1 == fields_v1
            });
            ManagedFields {
                manager: manager.clone(),
                operation,
                api_version: API_VERSION.to_owned(),
                time: same.map_or(now, |old| old.time),
                fields_type: "FieldsV1".to_owned(),
                fields_v1,
            }
        });
        entries.collect()
    }
}

/// The fields of an object that somebody can have set: the ends of its branches.
fn fields(object: &Value) -> BTreeSet<Field> {
    let mut found = BTreeSet::new();
    for path in [&["metadata", "labels"][..], &["metadata", "annotations"], &["spec"]] {
        let path: Field = path.iter().map(|name| (*name).to_owned()).collect();
        // These themselves are always there.
        for (name, value) in at(object, &path).and_then(Value::as_object).into_iter().flatten() {
            collect(value, [path.as_slice(), std::slice::from_ref(name)].concat(), &mut found);
        }
    }
    found
}

fn collect(value: &Value, path: Field, found: &mut BTreeSet<Field>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                collect(value, [path.as_slice(), std::slice::from_ref(name)].concat(), found);
            }
        }
        _ => drop(found.insert(path)),
    }
}

/// What is at a field.
fn at<'a>(object: &'a Value, field: &[String]) -> Option<&'a Value> {
    field.iter().try_fold(object, |found, name| found.as_object()?.get(name))
}

/// Whether a field is one of a set, or in one of them, or one of them is in it. One that is an object was set when it
/// was empty, and has nothing in it: what is there came in another way.
fn touches(set: &BTreeSet<Field>, field: &[String], of: &Value) -> bool {
    let holds = |outer: &[String]| !at(of, outer).is_some_and(Value::is_object);
    let within = (1..field.len()).any(|length| set.contains(&field[..length]) && holds(&field[..length]));
    let from = (Bound::Included(field), Bound::Unbounded);
    within
        || set.contains(field)
        || set.range::<[String], _>(from).next().is_some_and(|next| next.starts_with(field))
}

/// Whether an apply changes a field. An empty object asks only that there be one.
fn changes(stored: &Value, after: &Value, wanted: &Value, field: &[String]) -> bool {
    let is_object = |value| at(value, field).is_some_and(Value::is_object);
    at(stored, field) != at(after, field) && !(is_object(wanted) && is_object(stored))
}

/// Puts a value at a field. An empty object there asks only that there be one.
fn put(object: &mut Value, field: &[String], value: Value) {
    let mut place = object;
    for name in field {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[name.as_str()];
    }
    let asks_nothing = value.as_object().is_some_and(Map::is_empty) && place.is_object();
    if !asks_nothing {
        *place = value;
    }
}

/// Removes a field, and what becomes empty by it.
fn remove(object: &mut Value, field: &[String]) {
    let Some((name, rest)) = field.split_first() else { return };
    let Value::Object(fields) = object else { return };
    if rest.is_empty() {
        fields.remove(name);
    } else if let Some(inner) = fields.get_mut(name) {
        remove(inner, rest);
        if inner.as_object().is_some_and(Map::is_empty) {
            fields.remove(name);
        }
    }
}

/// Reads what `write_tree` writes. What else a tree of Kubernetes can have is passed over.
fn read_tree(tree: &Value, path: &mut Field, found: &mut BTreeSet<Field>) {
    let children = tree.as_object().into_iter().flatten();
    let children = children.filter_map(|(name, inner)| Some((name.strip_prefix("f:")?, inner)));
    let mut is_leaf = true;
    for (name, inner) in children {
        is_leaf = false;
        path.push(name.to_owned());
        read_tree(inner, path, found);
        path.pop();
    }
    if is_leaf && !path.is_empty() {
        found.insert(path.clone());
    }
}

fn write_tree(fields: &BTreeSet<Field>) -> Value {
    let mut tree = json!({});
    for field in fields {
        let named: Field = field.iter().map(|name| format!("f:{name}")).collect();
        put(&mut tree, &named, json!({}));
    }
    tree
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn owned(owners: &Owners, manager: &str) -> Vec<String> {
        let sets = owners.sets.iter().filter(|((name, _), _)| name == manager);
        sets.flat_map(|(_, set)| set.iter().map(|field| field.join("."))).collect()
    }

    #[test]
    fn whoever_changes_a_field_has_set_it_from_then_on() {
        let mut owners = Owners::default();
        let first =
            json!({"spec": {"a": 1, "b": {"c": [1]}, "filled": "in"}, "metadata": {"labels": {"x": "1"}}});
        let sent = json!({"spec": {"a": 1, "b": {"c": [1]}}, "metadata": {"labels": {"x": "1"}}});
        owners.update("one", &Value::Null, &first, Some(&sent));
        assert_eq!(owned(&owners, "one"), ["metadata.labels.x", "spec.a", "spec.b.c"]);
        let second = json!({"spec": {"a": 2, "b": {"c": [1]}, "filled": "in"}, "metadata": {"labels": {}}});
        owners.update("two", &first, &second, None);
        assert_eq!(
            (owned(&owners, "one"), owned(&owners, "two")),
            (vec!["spec.b.c".to_owned()], vec!["spec.a".to_owned()])
        );
        let entries = owners.entries(Timestamp::UNIX_EPOCH);
        let again = Owners::of(&entries);
        assert_eq!(again.sets.values().filter(|set| !set.is_empty()).count(), 2);
        assert_eq!(again.entries(Timestamp::MAX), entries, "who has set the same did so then");
    }

    #[test]
    fn what_is_applied_no_more_goes_unless_somebody_else_wants_it() {
        let mut owners = Owners::default();
        let wanted = json!({"spec": {"a": 1, "b": 2}});
        let one = owners.applied("one", &json!({"spec": {"x": 0}}), &wanted);
        assert_eq!(one, json!({"spec": {"a": 1, "b": 2, "x": 0}}));
        owners.apply("one", &json!({"spec": {"x": 0}}), &one, &wanted);
        let two = json!({"spec": {"b": 2}});
        assert!(
            owners.conflicts("two", &one, &owners.applied("two", &one, &two), &two).is_empty(),
            "it is the same"
        );
        owners.apply("two", &one, &one, &two);
        let none = json!({"spec": {"c": {}}});
        assert_eq!(owners.applied("one", &one, &none), json!({"spec": {"b": 2, "x": 0, "c": {}}}));
    }

    #[test]
    fn an_empty_object_that_is_applied_has_nothing_in_it() {
        let mut owners = Owners::default();
        let stored = json!({"spec": {"a": {"b": 1, "filled": "in"}}});
        let wanted = json!({"spec": {"a": {"b": 5}}});
        let five = owners.applied("one", &stored, &wanted);
        owners.apply("one", &stored, &five, &wanted);
        owners.update("two", &five, &json!({"spec": {"a": {"b": 5, "c": 2, "filled": "in"}}}), None);
        let five = json!({"spec": {"a": {"b": 5, "c": 2, "filled": "in"}}});
        let empty = json!({"spec": {"a": {}}});
        let after = owners.applied("one", &five, &empty);
        assert_eq!(after, json!({"spec": {"a": {"c": 2, "filled": "in"}}}), "the five is given up");
        assert!(
            owners.conflicts("one", &five, &after, &empty).is_empty(),
            "what is another's stays as it was"
        );
        owners.apply("one", &five, &after, &empty);
        assert_eq!(
            (owned(&owners, "one"), owned(&owners, "two")),
            (vec!["spec.a".into()], vec!["spec.a.c".into()])
        );
        let six = json!({"spec": {"a": {"b": 6}}});
        let later = owners.applied("three", &after, &six);
        assert!(owners.conflicts("three", &after, &later, &six).is_empty(), "nobody has set what is in it");
    }

    #[test]
    fn to_change_what_others_have_set_is_a_conflict_until_it_is_forced() {
        let mut owners = Owners::default();
        let stored = json!({"spec": {"a": 1, "m": {"n": 1}}});
        owners.update("one", &Value::Null, &stored, Some(&stored));
        let wanted = json!({"spec": {"a": 2, "m": "flat"}});
        let after = owners.applied("two", &stored, &wanted);
        let conflicts = owners.conflicts("two", &stored, &after, &wanted);
        let one = |field: &str| ("one".to_owned(), field.to_owned());
        assert_eq!(conflicts, [one(".spec.a"), one(".spec.m")]);
        owners.apply("two", &stored, &after, &wanted);
        assert!(owned(&owners, "one").is_empty());
        assert_eq!(owned(&owners, "two"), ["spec.a", "spec.m"]);
    }
}
