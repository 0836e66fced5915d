//! From a document to an object: version and kind, shape, names, and then the rules of the kind.

use serde_json::Value;

use super::finding::Finding;
use super::names;
use super::path::Path;
use super::shape::{self, quoted};
use super::suggest;
use super::{cluster, job, schema};
use crate::api::API_VERSION;
use crate::api::meta::ObjectMeta;
use crate::api::object::{AnyObject, Kind};

/// What the store gives an object. `get -o yaml` shows it; in a manifest it means nothing.
const SERVER_SET: [&str; 10] = [
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

/// Reads an object; one that names no namespace is in `namespace`.
pub(super) fn read(mut value: Value, namespace: &str) -> Result<AnyObject, Vec<Finding>> {
    if !value.is_object() {
        let help = "an object has apiVersion, kind, metadata and spec";
        let message = format!("must be an object, found {}", shape::found(&value));
        return Err(vec![Finding::new(Path::default(), message).help(help)]);
    }
    let mut findings = Vec::new();
    let kind = kind(&value, &mut findings).ok_or_else(|| std::mem::take(&mut findings))?;
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = value["metadata"].as_object_mut() {
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

fn typed(kind: Kind, value: &mut Value) -> Result<AnyObject, serde_json::Error> {
    let metadata: ObjectMeta = serde_json::from_value(value["metadata"].take())?;
    AnyObject::from_parts(kind, metadata, value["spec"].take(), Value::Null)
}

/// The kind of an object, if it is one of ours.
fn kind(value: &Value, findings: &mut Vec<Finding>) -> Option<Kind> {
    let mut is_ours = true;
    match &value["apiVersion"] {
        Value::String(version) if version == API_VERSION => {}
        Value::String(version) => {
            let (group, _) = API_VERSION.split_once('/').unwrap_or_default();
            is_ours = version.split('/').next() == Some(group);
            let message = format!("must be {API_VERSION}, found {}", quoted(version));
            let finding = Finding::new(Path::of("apiVersion"), message);
            findings.push(match (is_ours, suggest::closest(version, [API_VERSION])) {
                (true, _) => finding.help("this Rayconcile knows no other version of its kinds"),
                (false, Some(_)) => finding.help(format!("did you mean {API_VERSION}?")),
                (false, None) => finding.help("Rayconcile reads its own kinds only"),
            });
        }
        Value::Null => {
            let finding = Finding::new(Path::default(), "`apiVersion` is missing");
            findings.push(finding.help(format!("write apiVersion: {API_VERSION}")));
        }
        other => findings.push(Finding::new(
            Path::of("apiVersion"),
            format!("must be {API_VERSION}, found {}", shape::found(other)),
        )),
    }
    let names = Kind::ALL.map(Kind::name);
    let kinds = shape::either(&names);
    match &value["kind"] {
        Value::String(name) => {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).filter(|_| is_ours);
            if kind.is_none() && is_ours {
                let message = format!("must be {kinds}, found {}", quoted(name));
                let finding = Finding::new(Path::of("kind"), message);
                let meant = Kind::from_word(name).map(Kind::name).or_else(|| suggest::closest(name, names));
                findings.push(match meant {
                    Some(meant) => finding.help(format!("did you mean {meant}?")),
                    None => finding,
                });
            }
            return kind;
        }
        Value::Null => {
            findings.push(Finding::new(Path::default(), format!("`kind` is missing: {kinds}")));
        }
        other => {
            let message = format!("must be {kinds}, found {}", shape::found(other));
            findings.push(Finding::new(Path::of("kind"), message));
        }
    }
    None
}
