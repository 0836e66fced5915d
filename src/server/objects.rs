//! Objects: got, made, replaced, patched and deleted.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::header::{CONTENT_TYPE, USER_AGENT};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::Api;
use super::access::Caller;
use super::audit::About;
use super::body::{self, Sent};
use super::change::{self, Changed, Condition, Writer};
use super::error::ApiError;
use super::form::Form;
use super::patch::{self, PatchKind};
use super::query::ChangeQuery;
use super::resource::{GROUP, Resource};
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject, Kind};
use crate::manifest;
use crate::store::{Applied, StoreError, Tx, blocking};

/// How long the part of a generated name is that was given.
const LONGEST_PREFIX: usize = 58;

/// The kind that an address names.
pub(super) fn kind(plural: &str) -> Result<Kind, ApiError> {
    let found = Kind::ALL.into_iter().find(|kind| kind.plural() == plural);
    found.ok_or_else(|| ApiError::not_found(format!("there are no {plural} here")))
}

/// There is no such object.
pub(super) fn missing(kind: Kind, key: &ObjectKey) -> ApiError {
    ApiError::not_found(format!("there is no {} {key}", kind.name())).about(GROUP, kind.plural(), &key.name)
}

pub(super) async fn get(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (kind, key, form) = (kind(&plural)?, ObjectKey::new(namespace, name), Form::of(&headers, None)?);
    let object = find(&api, kind, &key).await?;
    Ok(Json(form.one(Resource::of(kind), object.to_json())).into_response())
}

/// An object that must be there.
pub(super) async fn find(api: &Api, kind: Kind, key: &ObjectKey) -> Result<AnyObject, ApiError> {
    let wanted = key.clone();
    let object = api.store.read(move |tx| tx.get(kind, &wanted)).await?;
    object.ok_or_else(|| missing(kind, key))
}

/// The job of a name.
pub(super) async fn job(api: &Api, key: &ObjectKey) -> Result<AdaptDLJob, ApiError> {
    match find(api, Kind::AdaptDLJob, key).await? {
        AnyObject::Job(job) => Ok(*job),
        AnyObject::Cluster(_) => Err(missing(Kind::AdaptDLJob, key)),
    }
}

/// Who changes an object, and how.
fn writer(query: &ChangeQuery, caller: Caller, headers: &HeaderMap) -> Result<Writer, ApiError> {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    Ok(Writer { manager: query.manager(agent)?, caller })
}

pub(super) async fn create(
    State(api): State<Api>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(query): Query<ChangeQuery>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Sent(mut body): Sent,
) -> Result<Response, ApiError> {
    let (kind, writer) = (kind(&plural)?, writer(&query, caller, &headers)?);
    generate_name(&mut body);
    let dry_run = query.is_dry_run()?;
    let (reader, asked) = (api.clone(), body.clone());
    let object = blocking(move || read(&reader, dry_run, kind, &namespace, None, asked)).await?;
    let work = move |tx: &Tx<'_>| change::change(tx, object, &Condition::Absent, &writer, Some(&body));
    write(api, dry_run, work).await
}

/// Gives an object a name of its own, if it wants one.
fn generate_name(body: &mut Value) {
    let Some(Value::Object(metadata)) = body.get_mut("metadata") else { return };
    let nameless = metadata.get("name").is_none_or(|name| name.is_null() || name == "");
    if let Some(Value::String(prefix)) = metadata.get("generateName").filter(|_| nameless) {
        let prefix: String = prefix.chars().take(LONGEST_PREFIX).collect();
        let name = format!("{prefix}{}", manifest::suffix());
        metadata.insert("name".to_owned(), json!(name));
    }
}

pub(super) async fn put(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<ChangeQuery>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Sent(body): Sent,
) -> Result<Response, ApiError> {
    let writer = writer(&query, caller, &headers)?;
    let (kind, condition) = (kind(&plural)?, Condition::of(&body)?);
    let dry_run = query.is_dry_run()?;
    let (reader, asked) = (api.clone(), body.clone());
    let mut object = blocking(move || read(&reader, dry_run, kind, &namespace, Some(&name), asked)).await?;
    let may_create = query.create;
    let work = move |tx: &Tx<'_>| {
        if !may_create && tx.get(kind, &object.key())?.is_none() {
            return Ok(Err(missing(kind, &object.key())));
        }
        tx.keep_wishes(&mut object)?;
        change::change(tx, object, &condition, &writer, Some(&body))
    };
    write(api, dry_run, work).await
}

/// A patch of any kind.
pub(super) async fn patch(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<ChangeQuery>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (patch_kind, patch) = read_patch(&headers, body).await?;
    let writer = writer(&query, caller, &headers)?;
    let (kind, key) = (kind(&plural)?, ObjectKey::new(&namespace, &name));
    let dry_run = query.is_dry_run()?;
    if patch_kind == PatchKind::Apply {
        if !query.has_manager() {
            return Err(ApiError::bad_request("an apply must say who applies: fieldManager"));
        }
        let reader = api.clone();
        let read =
            move |key: &ObjectKey, body| read(&reader, dry_run, kind, &key.namespace, Some(&key.name), body);
        let work = move |tx: &Tx<'_>| change::apply(tx, kind, &key, &patch, &writer, query.force, read);
        return write(api, dry_run, work).await;
    }
    let reader = api.clone();
    // In one transaction: a status that is written in between must not fail what does not concern it.
    let work = move |tx: &Tx<'_>| {
        let Some(stored) = tx.get(kind, &key)? else { return Ok(Err(missing(kind, &key))) };
        let mut body = stored.to_json();
        let object = patched(patch_kind, &mut body, patch).and_then(|()| {
            // Of what comes of it: however a patch is made, it may say which object was read.
            let condition = Condition::of(&body)?;
            Ok((read(&reader, dry_run, kind, &key.namespace, Some(&key.name), body)?, condition))
        });
        match object {
            Ok((object, condition)) => change::change(tx, object, &condition, &writer, None),
            Err(error) => Ok(Err(error)),
        }
    };
    write(api, dry_run, work).await
}

/// Makes of a document what a patch says that is no apply.
pub(super) fn patched(kind: PatchKind, body: &mut Value, patch: Value) -> Result<(), ApiError> {
    match kind {
        PatchKind::Json => patch::json(body, patch),
        PatchKind::Strategic => patch::strategic(body, patch),
        PatchKind::Merge | PatchKind::Apply => {
            patch::merge(body, patch);
            Ok(())
        }
    }
}

/// The patch that a request has, and of which kind it is.
pub(super) async fn read_patch(headers: &HeaderMap, bytes: Bytes) -> Result<(PatchKind, Value), ApiError> {
    let given = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = PatchKind::of(given)?;
    let read = if kind == PatchKind::Apply { body::yaml } else { body::json };
    Ok((kind, blocking(move || read(&bytes)).await?))
}

/// Reads an object that came in a request; it must be the one that the address names. In a dry run it is not asked
/// whether its package is here: it comes when it is done.
fn read(
    api: &Api,
    dry_run: bool,
    kind: Kind,
    namespace: &str,
    name: Option<&str>,
    mut body: Value,
) -> Result<AnyObject, ApiError> {
    let given = &body["metadata"];
    let other_namespace =
        given["namespace"].as_str().is_some_and(|given| !given.is_empty() && given != namespace);
    let other_name = name.is_some_and(|name| given["name"].as_str() != Some(name));
    if other_namespace || other_name {
        return Err(ApiError::bad_request("the object is not the one that the address names"));
    }
    if let Some(Value::Object(metadata)) = body.get_mut("metadata") {
        // The name that came of it is in its place.
        metadata.remove("generateName");
    }
    let packages = api.state.join("packages");
    let about = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let object = manifest::read_json(body, namespace, None)
        .and_then(|manifest| if dry_run { manifest.admit(&packages) } else { manifest.accept(&packages) })
        .map_err(|problems| ApiError::invalid(&problems).about(GROUP, kind.name(), &about))?;
    if object.kind() != kind {
        return Err(ApiError::bad_request(format!(
            "a {} cannot be put where {} are",
            object.kind(),
            kind.plural()
        )));
    }
    Ok(object)
}

/// Makes a change, or only finds out what would become of it.
pub(super) async fn write(
    api: Api,
    dry_run: bool,
    work: impl FnOnce(&Tx<'_>) -> Result<Changed, StoreError> + Send + 'static,
) -> Result<Response, ApiError> {
    let outcome = if dry_run { api.store.rehearse(work).await } else { api.store.write(work).await };
    let (applied, object) = outcome??;
    let status = if applied == Applied::Created { StatusCode::CREATED } else { StatusCode::OK };
    let word = match applied {
        Applied::Created => "created",
        Applied::Configured => "configured",
        Applied::Unchanged => "unchanged",
    };
    let about = Extension(About::object(object.key(), dry_run));
    Ok((status, [("x-applied", word)], about, Json(object.to_json())).into_response())
}
