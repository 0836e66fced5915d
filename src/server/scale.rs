//! The `scale` and `status` of an object, which Kubernetes has below its address.
//!
//! An elastic job chooses its number of workers itself. Whoever scales it by hand has another wish: that it has so
//! many, until further notice. That is `scaling: {policy: Fixed, replicas: N}`; 0 is `suspend: true`, and any other
//! number ends that. The bounds of the manifest hold: `minReplicas` and `maxReplicas` are not changed.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::USER_AGENT;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::Api;
use super::access::Caller;
use super::audit::About;
use super::body::Sent;
use super::change::{self, Condition, Writer};
use super::error::ApiError;
use super::objects::{find, job, kind, missing, patched, read_patch};
use super::patch::PatchKind;
use super::query::ChangeQuery;
use super::views::JOB_LABEL;
use crate::api::job::ScalingPolicy;
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject, Kind};
use crate::store::{StoreError, Tx};

const KIND: Kind = Kind::AdaptDLJob;

/// A job's scale.
fn scale(job: &AdaptDLJob) -> Value {
    let (spec, status) = (&job.spec, &job.status);
    let replicas = match (spec.suspend, spec.scaling.policy, spec.scaling.replicas) {
        (true, ..) => 0,
        (false, ScalingPolicy::Fixed, Some(replicas)) => replicas,
        _ => status.desired_replicas,
    };
    let metadata = &job.metadata;
    json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            "resourceVersion": metadata.resource_version.to_string(),
            "creationTimestamp": metadata.creation_timestamp,
        },
        "spec": {"replicas": replicas},
        "status": {"replicas": status.replicas, "selector": format!("{JOB_LABEL}={}", metadata.name)},
    })
}

pub(super) async fn get(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let job = job(&api, &ObjectKey::new(namespace, name)).await?;
    Ok(Json(scale(&job)).into_response())
}

pub(super) async fn put(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<ChangeQuery>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Sent(body): Sent,
) -> Result<Response, ApiError> {
    write(api, ObjectKey::new(namespace, name), query, caller, &headers, move |_| Ok((body, true))).await
}

pub(super) async fn patch(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<ChangeQuery>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (patch_kind, patch) = read_patch(&headers, body).await?;
    if patch_kind == PatchKind::Apply {
        return Err(ApiError::unsupported("a scale is not applied; patch or replace it"));
    }
    let change = move |mut scale: Value| {
        let is_wish = names_replicas(patch_kind, &patch);
        patched(patch_kind, &mut scale, patch).map(|()| (scale, is_wish))
    };
    write(api, ObjectKey::new(namespace, name), query, caller, &headers, change).await
}

/// Whether a patch says how many workers there are to be; maybe as many as there are already.
fn names_replicas(kind: PatchKind, patch: &Value) -> bool {
    if kind != PatchKind::Json {
        return patch.pointer("/spec/replicas").is_some();
    }
    let sets = |operation: &Value| {
        operation["op"] != "test"
            && matches!(operation["path"].as_str(), Some("" | "/spec" | "/spec/replicas"))
    };
    patch.as_array().is_some_and(|operations| operations.iter().any(sets))
}

/// Changes a job so that its scale is what is made of it, if that says how many workers there are to be.
async fn write(
    api: Api,
    key: ObjectKey,
    query: ChangeQuery,
    caller: Caller,
    headers: &HeaderMap,
    make: impl FnOnce(Value) -> Result<(Value, bool), ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    let writer = Writer { manager: query.manager(agent)?, caller };
    let (dry_run, wanted) = (query.is_dry_run()?, key.clone());
    let work = move |tx: &Tx<'_>| -> Result<change::Changed, StoreError> {
        let Some(AnyObject::Job(mut job)) = tx.get(KIND, &wanted)? else {
            return Ok(Err(missing(KIND, &wanted)));
        };
        let asked = make(scale(&job)).and_then(|(scale, is_wish)| {
            check(&scale, &wanted)?;
            let condition = Condition::of(&scale)?;
            if is_wish {
                set_replicas(&mut job, &scale["spec"]["replicas"])?;
            }
            Ok(condition)
        });
        match asked {
            Ok(condition) => change::change(tx, AnyObject::Job(job), &condition, &writer, None),
            Err(error) => Ok(Err(error.about("autoscaling", "Scale", &wanted.name))),
        }
    };
    let outcome = if dry_run { api.store.rehearse(work).await } else { api.store.write(work).await };
    match outcome?? {
        (_, AnyObject::Job(job)) => {
            Ok((Extension(About::object(key, dry_run)), Json(scale(&job))).into_response())
        }
        _ => Err(ApiError::no_such_address()),
    }
}

/// Refuses what is no scale, or that of another job.
fn check(scale: &Value, key: &ObjectKey) -> Result<(), ApiError> {
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    check_fields(scale, "", &known)?;
    check_fields(&scale["spec"], "spec.", &["replicas"])?;
    let is = |value: &Value, wanted: &str| value.is_null() || value == wanted;
    if !is(&scale["apiVersion"], "autoscaling/v1") || !is(&scale["kind"], "Scale") {
        return Err(ApiError::bad_request("what is sent is not a Scale of autoscaling/v1"));
    }
    let metadata = &scale["metadata"];
    if !is(&metadata["name"], &key.name) || !is(&metadata["namespace"], &key.namespace) {
        return Err(ApiError::bad_request("the scale is not that of the object that the address names"));
    }
    Ok(())
}

fn check_fields(value: &Value, place: &str, known: &[&str]) -> Result<(), ApiError> {
    let Some(fields) = value.as_object() else {
        let place = if place.is_empty() { "scale" } else { place.trim_end_matches('.') };
        return Err(ApiError::invalid_field(place, &format!("must have {}", known.join(", "))));
    };
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => {
            let message = format!("is not known; there is {}", known.join(", "));
            Err(ApiError::invalid_field(&format!("{place}{name}"), &message))
        }
        None => Ok(()),
    }
}

fn set_replicas(job: &mut AdaptDLJob, wanted: &Value) -> Result<(), ApiError> {
    let spec = &mut job.spec;
    let wrong = |message: &str| ApiError::invalid_field("spec.replicas", message);
    // Programs in Go leave out what is 0, as `kubectl scale --replicas=0 --current-replicas=2` does.
    let replicas = if wanted.is_null() { Some(0) } else { wanted.as_u64() };
    let replicas = replicas.and_then(|number| u32::try_from(number).ok());
    let replicas = replicas.ok_or_else(|| wrong("must be a number of workers"))?;
    if replicas == 0 {
        spec.suspend = true;
        return Ok(());
    }
    if replicas < spec.min_replicas || replicas > spec.max_replicas {
        return Err(wrong(&format!(
            "must be 0, or from minReplicas ({}) to maxReplicas ({}), found {replicas}",
            spec.min_replicas, spec.max_replicas
        )));
    }
    spec.suspend = false;
    spec.scaling.policy = ScalingPolicy::Fixed;
    spec.scaling.replicas = Some(replicas);
    Ok(())
}

/// The whole object, of which the status is the interesting part.
pub(super) async fn status(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    let object = find(&api, kind(&plural)?, &ObjectKey::new(namespace, name)).await?;
    Ok(Json(object.to_json()).into_response())
}

/// Nobody but the controller says what is.
pub(super) async fn refuse_status() -> ApiError {
    ApiError::not_allowed("status is what the controller sees; only it writes it")
}
