//! Deletion: objects are asked to go, one or all that are selected. They stay until what they stand for has ended.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::access::Caller;
use super::audit::About;
use super::error::ApiError;
use super::form::Form;
use super::list::Selection;
use super::objects::{kind, missing};
use super::query::{ChangeQuery, is_dry_run};
use super::resource::Resource;
use crate::api::meta::{FORCE_DELETE, ObjectKey};
use crate::api::object::{AnyObject, Kind};
use crate::api::token::Role;
use crate::api::units::Span;
use crate::api::words::count;
use crate::store::{StoreError, Tx};

/// How long anything may take to end: a week.
const LONGEST_GRACE: u64 = 7 * 86_400;

/// How something is to be deleted, as the body of the request says it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Options {
    grace_period_seconds: Option<i64>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    dry_run: Option<Vec<String>>,
    preconditions: Option<Preconditions>,
}

/// What must be so of an object that is deleted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// What is to be done.
#[derive(Clone)]
struct Order {
    dry_run: bool,
    force: bool,
    grace: Option<u64>,
    preconditions: Preconditions,
}

impl Order {
    fn new(query: &ChangeQuery, body: &Bytes, caller: &Caller) -> Result<Self, ApiError> {
        let options: Options = match body.is_empty() {
            true => Options::default(),
            false => serde_json::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("these are no DeleteOptions: {error}")))?,
        };
        let mut dry_run = query.is_dry_run()?;
        for word in options.dry_run.iter().flatten() {
            dry_run |= is_dry_run(Some(word))?;
        }
        let policy = options.propagation_policy.as_deref().or(query.propagation_policy.as_deref());
        match policy {
            _ if options.orphan_dependents == Some(true) => return Err(no_orphans()),
            None | Some("" | "Background" | "Foreground") => {}
            Some("Orphan") => return Err(no_orphans()),
            Some(other) => {
                let message = format!("propagationPolicy is Background or Foreground, not {other:?}");
                return Err(ApiError::bad_request(message));
            }
        }
        let grace = match options.grace_period_seconds {
            Some(seconds) => Some(
                u64::try_from(seconds)
                    .map_err(|_| ApiError::bad_request("gracePeriodSeconds must not be negative"))?,
            ),
            None => query.grace_period_seconds,
        };
        let force = query.force || grace == Some(0);
        if force {
            caller.must_be(Role::Admin, "to give up what cannot be reached")?;
        }
        let grace = grace.filter(|seconds| *seconds > 0).map(|seconds| seconds.min(LONGEST_GRACE));
        Ok(Self { dry_run, force, grace, preconditions: options.preconditions.unwrap_or_default() })
    }

    /// Asks an object to go.
    fn carry_out(
        &self,
        tx: &Tx<'_>,
        kind: Kind,
        key: &ObjectKey,
    ) -> Result<Result<AnyObject, ApiError>, StoreError> {
        let Some(mut object) = tx.get(kind, key)? else { return Ok(Err(missing(kind, key))) };
        let metadata = object.metadata();
        let Preconditions { uid, resource_version } = &self.preconditions;
        if uid.as_ref().is_some_and(|uid| *uid != metadata.uid.0) {
            return Ok(Err(ApiError::conflict(format!("{kind} {key} has the uid {}", metadata.uid))));
        }
        if resource_version.as_ref().is_some_and(|version| *version != metadata.resource_version.to_string())
        {
            let message = format!("{kind} {key} has the resourceVersion {}", metadata.resource_version);
            return Ok(Err(ApiError::conflict(message)));
        }
        let mut changed = false;
        if self.force && !metadata.annotations.contains_key(FORCE_DELETE) {
            object.metadata_mut().annotations.insert(FORCE_DELETE.to_owned(), "true".to_owned());
            changed = true;
        }
        if let (AnyObject::Job(job), Some(seconds)) = (&mut object, self.grace) {
            let (grace, before) = (Span::from_secs(seconds), job.spec.termination_grace_period);
            // Who is going already may only be given less time.
            if grace < before || (grace > before && !job.metadata.is_deleting()) {
                job.spec.termination_grace_period = grace;
                job.metadata.generation += 1;
                changed = true;
            }
        }
        if changed {
            tx.update(object)?;
        }
        let deleted = tx.delete(kind, key, Timestamp::now())?;
        Ok(deleted.ok_or_else(|| missing(kind, key)))
    }
}

fn no_orphans() -> ApiError {
    let message = "workers and nodes end with what they were started for; they cannot be left behind";
    ApiError::invalid_field("propagationPolicy", message)
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<ChangeQuery>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (kind, key) = (kind(&plural)?, ObjectKey::new(namespace, name));
    let order = Order::new(&query, &body, &caller)?;
    let (dry_run, wanted) = (order.dry_run, key.clone());
    let work = move |tx: &Tx<'_>| order.carry_out(tx, kind, &wanted);
    let deleted = if dry_run { api.store.rehearse(work).await } else { api.store.write(work).await };
    let object = deleted??;
    Ok((Extension(About::object(key, dry_run)), Json(object.to_json())).into_response())
}

/// Asks all objects to go that are selected.
pub(super) async fn delete_collection(
    State(api): State<Api>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(query): Query<ChangeQuery>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let kind = kind(&plural)?;
    let order = Order::new(&query, &body, &caller)?;
    let (labels, fields) = (query.label_selector.as_deref(), query.field_selector.as_deref());
    let selection = Selection::of_objects(Some(namespace), labels, fields)?;
    let dry_run = order.dry_run;
    let work = move |tx: &Tx<'_>| -> Result<Result<(Vec<Value>, u64), ApiError>, StoreError> {
        let mut deleted = Vec::new();
        for object in tx.list(kind)?.iter().filter(|object| selection.matches(&object.to_json())) {
            match order.carry_out(tx, kind, &object.key())? {
                Ok(object) => deleted.push(object.to_json()),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok((deleted, tx.newest_version()?)))
    };
    let deleted = if dry_run { api.store.rehearse(work).await } else { api.store.write(work).await };
    let (items, version) = deleted??;
    let metadata = json!({"resourceVersion": version.to_string()});
    let about = About { what: Some(told(&query, &items)), dry_run, ..About::default() };
    Ok((Extension(about), Json(Form::Whole.list(Resource::of(kind), items, metadata))).into_response())
}

/// What was selected, how many objects that is, and which, as far as there is room.
fn told(query: &ChangeQuery, items: &[Value]) -> String {
    let selectors = [("labels", &query.label_selector), ("fields", &query.field_selector)];
    let selectors =
        selectors.iter().filter_map(|(what, selector)| Some(format!("{what} {}; ", selector.as_ref()?)));
    let names: Vec<&str> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    format!("{}{}: {}", selectors.collect::<String>(), count(names.len(), "object"), names.join(", "))
}
