//! Brings the store to what a source wants, object by object, and tells the objects of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::decide::{Id, Wanted, name};
use crate::api::event::{EventType, NewEvent, Subject};
use crate::api::ids::Uid;
use crate::api::meta::{
    CHECKPOINT_NOW, DEFAULT_NAMESPACE, ObjectKey, SOURCE, SOURCE_DIGEST, SOURCE_ERROR, SOURCE_FILE,
};
use crate::api::object::AnyObject;
use crate::api::source::{OutOfSync, PendingPrune, SourceError};
use crate::api::words::count;
use crate::store::{Applied, StoreError, Tx};

/// So many differences are named.
const NAMED: usize = 5;
/// So many objects are told that they would go.
const TOLD: usize = 100;

/// What is no file: the fetch of a repository.
pub(super) const FETCH: &str = "";

/// What became of an object.
pub(super) enum Kept {
    /// It is as wanted, with this resource version.
    Synced(u64),
    /// It was deleted in the meantime, or belongs to somebody else now: the next look decides.
    Moved,
    /// It cannot become what is wanted.
    Refused(SourceError),
    /// It is not this source's any more.
    Gone,
    /// It is not as wanted, and was left so.
    Differs(OutOfSync),
}

/// Makes an object what its source wants.
pub(super) fn apply(
    tx: &Tx<'_>,
    source: &str,
    id: &Id,
    wanted: &Wanted,
    was_deleted: bool,
) -> Result<Kept, StoreError> {
    let stored = tx.get(id.0, &id.1)?;
    if let Some(stored) = &stored {
        if stored.metadata().is_deleting() {
            return Ok(Kept::Moved);
        }
        if let Some((field, message)) = stored.forbids(&wanted.object) {
            let (file, line) = (&wanted.file, wanted.line);
            let message = format!("{file}:{line}: {} {}: {field}: {message}", id.0, id.1);
            return Ok(Kept::Refused(SourceError { file: file.clone(), message }));
        }
    }
    let (applied, object) = tx.apply_from_source(
        with_origin(tx, source, wanted)?,
        Uid::from(Uuid::new_v4().to_string()),
        Timestamp::now(),
    )?;
    if was_deleted && applied == Applied::Created {
        let message = format!("it was deleted by hand; {source} still has it, in {}", wanted.file);
        tell(tx, &object, EventType::Warning, "DriftCorrected", message)?;
    }
    Ok(Kept::Synced(object.metadata().resource_version))
}

/// An object as it is stored for its source.
fn with_origin(tx: &Tx<'_>, source: &str, wanted: &Wanted) -> Result<AnyObject, StoreError> {
    let mut object = (*wanted.object).clone();
    tx.keep_wishes(&mut object)?;
    let annotations = &mut object.metadata_mut().annotations;
    annotations.insert(SOURCE.to_owned(), source.to_owned());
    annotations.insert(SOURCE_FILE.to_owned(), wanted.file.clone());
    annotations.insert(SOURCE_DIGEST.to_owned(), wanted.digest.clone());
    Ok(object)
}

/// Compares an object with what its source wants, and sets it back if it is to be.
pub(super) fn inspect(
    tx: &Tx<'_>,
    source: &str,
    id: &Id,
    wanted: &Wanted,
    self_heal: bool,
) -> Result<Kept, StoreError> {
    let Some(stored) = tx.get(id.0, &id.1)? else { return Ok(Kept::Moved) };
    if stored.metadata().is_deleting() || stored.metadata().source() != Some(source) {
        return Ok(Kept::Moved);
    }
    let desired = with_origin(tx, source, wanted)?;
    let fields = differences(&stored, &desired);
    if fields.is_empty() {
        return Ok(Kept::Synced(stored.metadata().resource_version));
    }
    let fields = shortened(&fields);
    if !self_heal {
        let message = format!("changed by hand: {fields}");
        tell(
            tx,
            &stored,
            EventType::Warning,
            "OutOfSync",
            format!("{message}; {source} has it otherwise, in {}", wanted.file),
        )?;
        return Ok(Kept::Differs(OutOfSync { object: name(id), message }));
    }
    let (_, object) = tx.apply_from_source(desired, stored.uid().clone(), Timestamp::now())?;
    let message =
        format!("it was changed by hand, and is set back to what {source} has in {}: {fields}", wanted.file);
    tell(tx, &object, EventType::Warning, "DriftCorrected", message)?;
    Ok(Kept::Synced(object.metadata().resource_version))
}

/// The fields in which a stored object is another than it should be.
fn differences(stored: &AnyObject, desired: &AnyObject) -> Vec<String> {
    let mut fields = Vec::new();
    compare("spec", &stored.spec(), &desired.spec(), &mut fields);
    let maps = |object: &AnyObject| {
        let mut annotations = object.metadata().annotations.clone();
        annotations.retain(|name, _| name != CHECKPOINT_NOW && !name.starts_with("kubectl.kubernetes.io/"));
        let to_json = |map| serde_json::to_value(map).unwrap_or_default();
        (to_json(&object.metadata().labels), to_json(&annotations))
    };
    let ((labels, annotations), (wanted_labels, wanted_annotations)) = (maps(stored), maps(desired));
    compare("metadata.labels", &labels, &wanted_labels, &mut fields);
    compare("metadata.annotations", &annotations, &wanted_annotations, &mut fields);
    fields
}

fn compare(path: &str, one: &Value, other: &Value, fields: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
            for name in names {
                let value = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or_default();
                compare(&format!("{path}.{name}"), &value(one), &value(other), fields);
            }
        }
        (one, other) if one == other => {}
        _ => fields.push(path.to_owned()),
    }
}

fn shortened(fields: &[String]) -> String {
    let more = fields.len().saturating_sub(NAMED);
    let named = fields.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// Tells an object that nobody knows what its file wants.
pub(super) fn hold(tx: &Tx<'_>, id: &Id, error: &str) -> Result<Option<u64>, StoreError> {
    let Some(mut object) = tx.get(id.0, &id.1)? else { return Ok(None) };
    let annotations = &mut object.metadata_mut().annotations;
    if annotations.insert(SOURCE_ERROR.to_owned(), error.to_owned()).as_deref() == Some(error) {
        return Ok(None);
    }
    let message = format!("the last good manifest stays in force: {error}");
    tell(tx, &object, EventType::Warning, "InvalidManifest", message)?;
    Ok(Some(tx.update(object)?.metadata().resource_version))
}

/// Tells objects that they would go, if somebody confirmed it.
pub(super) fn tell_pending(
    tx: &Tx<'_>,
    source: &str,
    ids: &[Id],
    pending: &PendingPrune,
) -> Result<(), StoreError> {
    let names = shortened(&pending.objects);
    let number = count(u32::try_from(ids.len()).unwrap_or(u32::MAX), "object");
    let message = format!(
        "{source}: {}. {number} would be deleted, and stay until `rayconcile sync confirm` says so: {names}",
        pending.reason
    );
    for id in ids.iter().take(TOLD) {
        if let Some(object) = tx.get(id.0, &id.1)? {
            tell(tx, &object, EventType::Warning, "PruneBlocked", message.clone())?;
        }
    }
    Ok(())
}

/// Tells a source what is wrong with its files, and objects that are not there why they are not.
pub(super) fn tell_errors(
    tx: &Tx<'_>,
    source: &str,
    errors: &BTreeMap<String, Vec<String>>,
    never: &[(Id, String)],
) -> Result<(), StoreError> {
    let tell = |reason: &str, message: String| {
        let event = NewEvent {
            kind: Subject::Source,
            object: ObjectKey::new(DEFAULT_NAMESPACE, source),
            uid: Uid::from(source.to_owned()),
            event_type: EventType::Warning,
            reason: reason.to_owned(),
            message,
        };
        tx.record_event(&event, Timestamp::now())
    };
    for (file, messages) in errors.iter().take(TOLD) {
        let reason = match file {
            file if file == source => "SourceUnavailable",
            file if file == FETCH => "FetchFailed",
            _ => "InvalidManifest",
        };
        let more = messages.len().saturating_sub(1);
        let more = if more > 0 { format!("; and {more} more in this file") } else { String::new() };
        tell(reason, format!("{}{more}", messages.first().map_or("", String::as_str)))?;
    }
    let more = errors.len().saturating_sub(TOLD);
    if more > 0 {
        tell(
            "InvalidManifest",
            format!("{more} more files are not right: `rayconcile sync status` has them all"),
        )?;
    }
    for (id, error) in never.iter().take(TOLD) {
        let event = NewEvent {
            kind: id.0.into(),
            object: id.1.clone(),
            uid: Uid::from(String::new()),
            event_type: EventType::Warning,
            reason: "InvalidManifest".to_owned(),
            message: format!("it is not there, for its manifest was never good: {error}"),
        };
        tx.record_event(&event, Timestamp::now())?;
    }
    Ok(())
}

/// Asks an object to go, if it still is this source's.
pub(super) fn delete(tx: &Tx<'_>, source: &str, id: &Id) -> Result<bool, StoreError> {
    let Some(object) = tx.get(id.0, &id.1)? else { return Ok(false) };
    if object.metadata().source() != Some(source) {
        return Ok(false);
    }
    tell(tx, &object, EventType::Normal, "Pruned", format!("{source} does not have it any more"))?;
    tx.prune(id.0, &id.1, Timestamp::now())?;
    Ok(true)
}

fn tell(
    tx: &Tx<'_>,
    object: &AnyObject,
    event_type: EventType,
    reason: &str,
    message: String,
) -> Result<(), StoreError> {
    let event = NewEvent {
        kind: object.kind().into(),
        object: object.key(),
        uid: object.uid().clone(),
        event_type,
        reason: reason.to_owned(),
        message,
    };
    tx.record_event(&event, Timestamp::now())
}
