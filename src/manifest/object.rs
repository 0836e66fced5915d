//! From a document to an object: version and kind, shape, names, and then the rules of the kind.

use serde_json::{Map, Value};

use super::finding::Finding;
use super::names;
use super::path::Path;
use super::suggest;
use super::words::{either, found, quoted};
use super::{cluster, job, schema, shape};
use crate::api::API_VERSION;
use crate::api::meta::{ObjectKey, ObjectMeta, name_problem};
use crate::api::object::{AnyObject, Kind};

/// What the store gives an object. `get -o yaml` shows it; in a manifest it means nothing.
pub(super) const SERVER_SET: [&str; 10] = [
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "managedFields",
    "ownerReferences",
    "selfLink",
];

/// No object nests deeper. What is stored of one, such as whose its fields are, nests deeper than itself, and is read
/// again by readers that go 127 levels deep.
pub(crate) const MAX_DEPTH: usize = 64;

/// Reads an object; one that names no namespace is in `namespace`.
pub(super) fn read(mut value: Value, namespace: &str) -> Result<AnyObject, Vec<Finding>> {
    let Value::Object(fields) = &mut value else {
        let help = "an object has apiVersion, kind, metadata and spec";
        let message = format!("must be an object, found {}", found(&value));
        return Err(vec![Finding::new(Path::default(), message).help(help)]);
    };
    let mut findings = too_deep(fields);
    if !findings.is_empty() {
        return Err(findings);
    }
    let kind = kind(fields, &mut findings).ok_or_else(|| std::mem::take(&mut findings))?;
    // It has been looked at.
    fields.insert("apiVersion".to_owned(), API_VERSION.into());
    fields.remove("status");
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        metadata.retain(|name, _| !SERVER_SET.contains(&name.as_str()));
        if metadata.get("namespace").is_none_or(Value::is_null) {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
        findings.extend(names::metadata(metadata));
    }
    findings.extend(shape::check(&mut value, schema::schema(kind)));
    if !findings.is_empty() {
        return Err(findings);
    }
    let object = typed(kind, &mut value)
        .map_err(|error| vec![Finding::new(Path::of("spec"), error.to_string()).at_key()])?;
    findings = match &object {
        AnyObject::Job(job) => job::check(&job.spec),
        AnyObject::Cluster(cluster) => cluster::check(&cluster.spec),
    };
    if findings.is_empty() { Ok(object) } else { Err(findings) }
}

/// Which object a document is meant to be, whatever else is wrong with it.
pub(super) fn named(value: &Value, namespace: &str) -> Option<(Kind, ObjectKey)> {
    let kind = Kind::ALL.into_iter().find(|kind| value["kind"] == kind.name())?;
    let metadata = value["metadata"].as_object()?;
    let key = ObjectKey::new(
        metadata.get("namespace").and_then(Value::as_str).unwrap_or(namespace),
        metadata.get("name")?.as_str()?,
    );
    let is_name = |text: &String| name_problem(text).is_none();
    (is_name(&key.name) && is_name(&key.namespace)).then_some((kind, key))
}

/// The parts of an object that nest too deeply.
fn too_deep(fields: &Map<String, Value>) -> Vec<Finding> {
    let deep =
        fields.iter().map(|(name, value)| (name, 1 + depth(value))).filter(|(_, depth)| *depth > MAX_DEPTH);
    let told = deep.map(|(name, depth)| {
        Finding::new(
            Path::default().key(name),
            format!("nests {depth} levels deep; {MAX_DEPTH} is the most there may be"),
        )
    });
    told.collect()
}

/// How deeply a value nests.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn typed(kind: Kind, value: &mut Value) -> Result<AnyObject, serde_json::Error> {
    let metadata: ObjectMeta = serde_json::from_value(value["metadata"].take())?;
    AnyObject::from_parts(kind, metadata, value["spec"].take(), Value::Null)
}

/// The kind of an object, or the one that was probably meant, if it may be one of ours.
fn kind(fields: &Map<String, Value>, findings: &mut Vec<Finding>) -> Option<Kind> {
    let is_ours = version(fields.get("apiVersion"), findings);
    let names = Kind::ALL.map(Kind::name);
    let kinds = either(&names);
    let name = match fields.get("kind") {
        Some(Value::String(name)) => name,
        None | Some(Value::Null) => {
            findings.push(Finding::new(Path::default(), format!("`kind` is missing: {kinds}")));
            return None;
        }
        Some(other) => {
            let message = format!("must be {kinds}, found {}", found(other));
            findings.push(Finding::new(Path::of("kind"), message));
            return None;
        }
    };
    if !is_ours {
        return None;
    }
    let known = |name: &str| Kind::ALL.into_iter().find(|kind| kind.name() == name);
    if let Some(kind) = known(name) {
        return Some(kind);
    }
    let meant = Kind::from_word(name).or_else(|| known(suggest::closest(name, names)?));
    let finding = Finding::new(Path::of("kind"), format!("must be {kinds}, found {}", quoted(name)));
    findings.push(finding.help_if(meant.map(|meant| format!("did you mean {meant}?"))));
    meant
}

/// Looks at an `apiVersion`, and says whether it may be one of ours.
fn version(version: Option<&Value>, findings: &mut Vec<Finding>) -> bool {
    let path = Path::of("apiVersion");
    let text = match version {
        Some(Value::String(text)) => text,
        None | Some(Value::Null) => {
            let finding = Finding::new(Path::default(), "`apiVersion` is missing");
            findings.push(finding.help(format!("write apiVersion: {API_VERSION}")));
            return true;
        }
        Some(other) => {
            let message = format!("must be {API_VERSION}, found {}", found(other));
            findings.push(Finding::new(path, message));
            return true;
        }
    };
    if text == API_VERSION {
        return true;
    }
    let group = |version: &str| version.split('/').next().map(str::to_owned);
    let is_ours = group(text) == group(API_VERSION);
    let finding = Finding::new(path, format!("must be {API_VERSION}, found {}", quoted(text)));
    findings.push(if is_ours {
        finding.help("this Rayconcile knows no other version of its kinds")
    } else if suggest::closest(text, [API_VERSION]).is_some() {
        finding.help(format!("did you mean {API_VERSION}?"))
    } else if text.starts_with("adaptdl.petuum.com/") {
        finding.help(format!("of AdaptDL's own, AdaptDLJobs of {} are read as well", super::old::VERSION))
    } else {
        finding.help("Rayconcile reads its own kinds only")
    });
    is_ours
}
