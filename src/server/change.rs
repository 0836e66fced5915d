//! How objects change: what must be so, who may, and who has set what from then on.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::MAX_OBJECT;
use super::access::Caller;
use super::error::ApiError;
use super::ownership::Owners;
use crate::api::ids::Uid;
use crate::api::meta::{FORCE_DELETE, ObjectKey};
use crate::api::object::{AnyObject, Kind};
use crate::api::token::Role;
use crate::store::{Applied, StoreError, Tx};

/// By so much a spec may differ and still count as no larger: `suspend: true`.
const SLIGHT: usize = 64;

/// Who changes an object.
pub(super) struct Writer {
    /// The name by which fields are kept.
    pub(super) manager: String,
    /// Who asks.
    pub(super) caller: Caller,
}

/// What becomes of a change.
pub(super) type Changed = Result<(Applied, AnyObject), ApiError>;

/// What must be so of the stored object for a change to be made.
pub(super) enum Condition {
    /// It is not there.
    Absent,
    /// It is that one, if that is said, and in that version.
    Is { uid: Option<String>, version: Option<u64> },
}

impl Condition {
    /// What whoever sent this read before.
    pub(super) fn of(body: &Value) -> Result<Self, ApiError> {
        let given = |name: &str, what: &str| match body.get("metadata").and_then(|found| found.get(name)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(ApiError::bad_request(format!("metadata.{name} must be as it was read, {what}"))),
        };
        let digits = "a string of digits";
        let version = given("resourceVersion", digits)?.map(|text| text.parse()).transpose();
        let version = version.map_err(|_| {
            ApiError::bad_request(format!("metadata.resourceVersion must be as it was read, {digits}"))
        })?;
        Ok(Self::Is { uid: given("uid", "a string")?, version })
    }

    /// Refuses a stored object that is another.
    fn check(&self, stored: &AnyObject) -> Result<(), ApiError> {
        let (kind, key) = (stored.kind(), stored.key());
        match self {
            Self::Absent => {
                let error = ApiError::already_exists(format!("{kind} {key} exists already"));
                Err(error.about(super::resource::GROUP, kind.plural(), &key.name))
            }
            Self::Is { uid: Some(uid), .. } if *uid != stored.uid().0.as_str() => {
                let message =
                    format!("{kind} {key} is another one now: its uid is {}, not {uid}", stored.uid());
                Err(ApiError::conflict(message))
            }
            Self::Is { .. } => Ok(()),
        }
    }

    fn version(&self) -> Option<u64> {
        match self {
            Self::Is { version, .. } => *version,
            Self::Absent => None,
        }
    }
}

/// Changes an object, unless that is refused. Of a new one, `sent` is what was asked for.
pub(super) fn change(
    tx: &Tx<'_>,
    mut object: AnyObject,
    condition: &Condition,
    writer: &Writer,
    sent: Option<&Value>,
) -> Result<Changed, StoreError> {
    let stored = tx.get(object.kind(), &object.key())?;
    if let Some(Err(error)) = stored.as_ref().map(|stored| condition.check(stored)) {
        return Ok(Err(error));
    }
    if let Some(error) = refusal(stored.as_ref(), &object, writer) {
        return Ok(Err(error));
    }
    let mut owners = Owners::of(managed(stored.as_ref()));
    owners.update(&writer.manager, &document(stored.as_ref()), &object.to_json(), sent);
    let now = Timestamp::now();
    object.metadata_mut().managed_fields = owners.entries(now);
    if let Some(error) = too_large(stored.as_ref(), &object) {
        return Ok(Err(error));
    }
    tx.apply(object, condition.version(), new_uid(), now).map(Ok)
}

/// Server-side apply: of an object, only what is given is set, and it is kept who gave it.
pub(super) fn apply(
    tx: &Tx<'_>,
    kind: Kind,
    key: &ObjectKey,
    wanted: &Value,
    writer: &Writer,
    force: bool,
    read: impl FnOnce(&ObjectKey, Value) -> Result<AnyObject, ApiError>,
) -> Result<Changed, StoreError> {
    let condition = match Condition::of(wanted) {
        Ok(condition) => condition,
        Err(error) => return Ok(Err(error)),
    };
    if wanted["metadata"]["name"].as_str() != Some(&key.name) {
        return Ok(Err(ApiError::bad_request("the object is not the one that the address names")));
    }
    let stored = tx.get(kind, key)?;
    if let Some(Err(error)) = stored.as_ref().map(|stored| condition.check(stored)) {
        return Ok(Err(error));
    }
    let before = document(stored.as_ref());
    let mut owners = Owners::of(managed(stored.as_ref()));
    let mut asked = match stored {
        Some(_) => owners.applied(&writer.manager, &before, wanted),
        None => wanted.clone(),
    };
    for field in ["apiVersion", "kind"] {
        asked[field] = wanted[field].clone();
    }
    let mut object = match read(key, asked) {
        Ok(object) => object,
        Err(error) => return Ok(Err(error)),
    };
    if let Some(error) = refusal(stored.as_ref(), &object, writer) {
        return Ok(Err(error));
    }
    let after = object.to_json();
    if stored.is_some() && !force {
        let conflicts = owners.conflicts(&writer.manager, &before, &after, wanted);
        if !conflicts.is_empty() {
            return Ok(Err(ApiError::managed_by_others(&conflicts)));
        }
    }
    owners.apply(&writer.manager, &before, &after, wanted);
    let now = Timestamp::now();
    object.metadata_mut().managed_fields = owners.entries(now);
    if let Some(error) = too_large(stored.as_ref(), &object) {
        return Ok(Err(error));
    }
    tx.apply(object, condition.version(), new_uid(), now).map(Ok)
}

/// Refuses an object that becomes larger than it could be sent: many small changes can make a large one. One that a
/// directory has as large already can still be suspended.
fn too_large(stored: Option<&AnyObject>, object: &AnyObject) -> Option<ApiError> {
    let length = |value: Value| value.to_string().len();
    let own = |object: &AnyObject| {
        let mut metadata = object.metadata().clone();
        metadata.managed_fields.clear();
        length(object.spec()) + length(serde_json::to_value(metadata).unwrap_or_default())
    };
    let size =
        own(object) + length(serde_json::to_value(&object.metadata().managed_fields).unwrap_or_default());
    let as_before = stored.is_some_and(|stored| own(object) <= own(stored) + SLIGHT);
    let most = if as_before { 2 * MAX_OBJECT } else { MAX_OBJECT };
    let message = || format!("the object would have {size} bytes, and {MAX_OBJECT} is the most there may be");
    (size > most).then(|| ApiError::too_large(message()))
}

fn new_uid() -> Uid {
    Uid::from(Uuid::new_v4().to_string())
}

fn document(stored: Option<&AnyObject>) -> Value {
    stored.map(AnyObject::to_json).unwrap_or_default()
}

fn managed(stored: Option<&AnyObject>) -> &[crate::api::meta::ManagedFields] {
    stored.map_or(&[], |stored| &stored.metadata().managed_fields)
}

/// Why an object cannot become another, or not by this caller.
fn refusal(stored: Option<&AnyObject>, wanted: &AnyObject, writer: &Writer) -> Option<ApiError> {
    let forces = |object: &AnyObject| object.metadata().annotations.contains_key(FORCE_DELETE);
    if forces(wanted) && !stored.is_some_and(forces) {
        let refused = writer.caller.must_be(Role::Admin, &format!("to set {FORCE_DELETE}"));
        if let Err(error) = refused {
            return Some(error);
        }
    }
    let stored = stored?;
    if stored.metadata().is_deleting() {
        let (kind, key) = (stored.kind(), stored.key());
        return Some(ApiError::conflict(format!(
            "{kind} {key} is being deleted; apply it again when it is gone"
        )));
    }
    stored.forbids(wanted).map(|(field, message)| ApiError::invalid_field(field, message))
}
