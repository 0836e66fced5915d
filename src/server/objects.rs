//! Objects: list, watch, get, create, replace, patch, delete.

use std::future::Future;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Api;
use super::error::ApiError;
use crate::api::API_VERSION;
use crate::api::ids::Uid;
use crate::api::meta::{FORCE_DELETE, ObjectKey};
use crate::api::object::{AnyObject, Kind};
use crate::manifest;
use crate::store::feed::{Change, ChangeType, Gone};
use crate::store::{Applied, StoreError};

/// What is asked of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListQuery {
    watch: bool,
    resource_version: Option<u64>,
    label_selector: Option<String>,
}

/// What is asked of a change.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ChangeQuery {
    /// `All`: say what would be, and change nothing.
    dry_run: Option<String>,
    /// Of a deletion: give up what cannot be reached.
    force: bool,
}

fn kind(plural: &str) -> Result<Kind, ApiError> {
    let found = Kind::ALL.into_iter().find(|kind| kind.plural() == plural);
    found.ok_or_else(|| ApiError::not_found(format!("there are no {plural} here")))
}

fn missing(kind: Kind, key: &ObjectKey) -> ApiError {
    ApiError::not_found(format!("there is no {} {key}", kind.name()))
}

pub(super) async fn list_all(
    State(api): State<Api>,
    Path(plural): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    answer(api, kind(&plural)?, None, query).await
}

pub(super) async fn list(
    State(api): State<Api>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    answer(api, kind(&plural)?, Some(namespace), query).await
}

async fn answer(
    api: Api,
    kind: Kind,
    namespace: Option<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let filter = Filter { namespace, labels: labels(query.label_selector.as_deref())? };
    if let (true, Some(since)) = (query.watch, query.resource_version) {
        return watch(api, kind, filter, since);
    }
    let read = move |tx: &crate::store::Tx<'_>| Ok((tx.list(kind)?, tx.newest_version()?));
    let (objects, version) = api.store.read(read).await?;
    let items: Vec<Value> =
        objects.iter().filter(|object| filter.matches(object)).map(AnyObject::to_json).collect();
    if query.watch {
        return Ok(stream_lines(api.clone(), move |lines| async move {
            for object in items {
                lines.send(&json!({"type": "ADDED", "object": object})).await?;
            }
            follow(api, kind, filter, version, lines).await
        }));
    }
    let body = json!({
        "apiVersion": API_VERSION,
        "kind": format!("{}List", kind.name()),
        "metadata": {"resourceVersion": version.to_string()},
        "items": items,
    });
    Ok(Json(body).into_response())
}

struct Filter {
    namespace: Option<String>,
    labels: Vec<(String, String)>,
}

impl Filter {
    fn matches(&self, object: &AnyObject) -> bool {
        let metadata = object.metadata();
        self.namespace.as_ref().is_none_or(|namespace| *namespace == metadata.namespace)
            && self.labels.iter().all(|(name, value)| metadata.labels.get(name) == Some(value))
    }

    fn matches_change(&self, change: &Change) -> bool {
        let label = |name: &str| change.object["metadata"]["labels"][name].as_str();
        self.namespace.as_ref().is_none_or(|namespace| *namespace == change.key.namespace)
            && self.labels.iter().all(|(name, value)| label(name) == Some(value))
    }
}

fn labels(selector: Option<&str>) -> Result<Vec<(String, String)>, ApiError> {
    let parts = selector.into_iter().flat_map(|selector| selector.split(',')).filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once("==").or_else(|| part.split_once('='))?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    parts
        .map(|part| pair(part).ok_or_else(|| ApiError::bad_request("a label selector is NAME=VALUE")))
        .collect()
}

fn watch(api: Api, kind: Kind, filter: Filter, since: u64) -> Result<Response, ApiError> {
    api.store.feed().since(since).map_err(|Gone| ApiError::gone())?;
    Ok(stream_lines(api.clone(), move |lines| follow(api, kind, filter, since, lines)))
}

/// Sends the changes after a version, for as long as somebody listens.
async fn follow(api: Api, kind: Kind, filter: Filter, since: u64, lines: Lines) -> Option<()> {
    let mut news = api.store.feed().subscribe();
    let mut seen = since;
    loop {
        let Ok(changes) = api.store.feed().since(seen) else {
            let gone =
                json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}});
            return lines.send(&gone).await;
        };
        for change in changes {
            seen = change.version;
            if change.kind == kind && filter.matches_change(&change) {
                let word = match change.change {
                    ChangeType::Added => "ADDED",
                    ChangeType::Modified => "MODIFIED",
                    ChangeType::Deleted => "DELETED",
                };
                lines.send(&json!({"type": word, "object": change.object})).await?;
            }
        }
        news.wait_for(|newest| *newest > seen).await.ok()?;
    }
}

/// Where a stream's lines go.
pub(super) struct Lines {
    sender: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
}

impl Lines {
    /// Sends one value as a line; `None` when nobody listens any more.
    pub(super) async fn send(&self, value: &Value) -> Option<()> {
        self.sender.send(Ok(Bytes::from(format!("{value}\n")))).await.ok()
    }
}

/// An answer of lines that go on until the writer ends, the reader leaves or the server stops.
pub(super) fn stream_lines<F>(api: Api, write: impl FnOnce(Lines) -> F) -> Response
where
    F: Future<Output = Option<()>> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel(64);
    let writing = write(Lines { sender: sender.clone() });
    tokio::spawn(async move {
        tokio::select! {
            _ = writing => {}
            () = sender.closed() => {}
            () = api.stop.cancelled() => {}
        }
    });
    let body = Body::from_stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)));
    ([("content-type", "application/json")], body).into_response()
}

pub(super) async fn get(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    let (kind, key) = (kind(&plural)?, ObjectKey::new(namespace, name));
    let wanted = key.clone();
    let object = api.store.read(move |tx| tx.get(kind, &wanted)).await?;
    let object = object.ok_or_else(|| missing(kind, &key))?;
    Ok(Json(object.to_json()).into_response())
}

pub(super) async fn create(
    State(api): State<Api>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(query): Query<ChangeQuery>,
    Json(body): Json<Value>,
) -> Result<Response, ApiError> {
    let object = read(&api, kind(&plural)?, &namespace, None, body)?;
    let (kind, key) = (object.kind(), object.key());
    let wanted = key.clone();
    if api.store.read(move |tx| tx.get(kind, &wanted)).await?.is_some() {
        return Err(ApiError::already_exists(format!("{} {key} exists already", kind.name())));
    }
    apply(api, object, None, &query).await
}

pub(super) async fn put(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<ChangeQuery>,
    Json(body): Json<Value>,
) -> Result<Response, ApiError> {
    let expected = body["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    let object = read(&api, kind(&plural)?, &namespace, Some(&name), body)?;
    apply(api, object, expected, &query).await
}

/// A merge patch (RFC 7386).
pub(super) async fn patch(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<ChangeQuery>,
    Json(patch): Json<Value>,
) -> Result<Response, ApiError> {
    let (kind, key) = (kind(&plural)?, ObjectKey::new(&namespace, &name));
    let wanted = key.clone();
    let stored = api.store.read(move |tx| tx.get(kind, &wanted)).await?.ok_or_else(|| missing(kind, &key))?;
    let version = stored.metadata().resource_version;
    let mut body = stored.to_json();
    merge(&mut body, patch);
    let object = read(&api, kind, &namespace, Some(&name), body)?;
    apply(api, object, Some(version), &query).await
}

fn merge(into: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *into = patch;
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(object) = into.as_object_mut() {
                object.remove(&name);
            }
        } else {
            merge(&mut into[name.as_str()], value);
        }
    }
}

/// Reads an object that came in a request; it must be the one that the address names.
fn read(
    api: &Api,
    kind: Kind,
    namespace: &str,
    name: Option<&str>,
    body: Value,
) -> Result<AnyObject, ApiError> {
    let given = &body["metadata"];
    let other_namespace = given["namespace"].as_str().is_some_and(|given| given != namespace);
    let other_name = name.is_some_and(|name| given["name"].as_str() != Some(name));
    if other_namespace || other_name {
        return Err(ApiError::bad_request("the object is not the one that the address names"));
    }
    let invalid = |problems: Vec<manifest::Problem>| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        ApiError::invalid(lines.join("\n"))
    };
    let packages = api.state.join("packages");
    let object = manifest::read_json(body, namespace, None)
        .and_then(|manifest| manifest.admit(&packages))
        .map_err(invalid)?;
    if object.kind() != kind {
        return Err(ApiError::bad_request(format!(
            "a {} cannot be put where {} are",
            object.kind(),
            kind.plural()
        )));
    }
    Ok(object)
}

async fn apply(
    api: Api,
    object: AnyObject,
    expected: Option<u64>,
    query: &ChangeQuery,
) -> Result<Response, ApiError> {
    let dry_run = match query.dry_run.as_deref() {
        None => false,
        Some("All") => true,
        Some(other) => return Err(ApiError::bad_request(format!("dryRun is All or absent, not {other}"))),
    };
    if let AnyObject::Job(job) = &object
        && let Some(digest) = &job.spec.working_dir_digest
        && !api.state.join("packages").join(format!("{digest}.zip")).exists()
    {
        return Err(ApiError::invalid(format!("spec.workingDirDigest: there is no package {digest}")));
    }
    let work = move |tx: &crate::store::Tx<'_>| {
        if dry_run {
            let before = tx.get(object.kind(), &object.key())?;
            let applied = match &before {
                None => Applied::Created,
                Some(before) if before.spec() == object.spec() => Applied::Unchanged,
                Some(_) => Applied::Configured,
            };
            return Ok(Ok((applied, object)));
        }
        if let Some(reason) =
            tx.get(object.kind(), &object.key())?.and_then(|stored| forbidden(&stored, &object))
        {
            return Ok(Err(reason));
        }
        tx.apply(object, expected, Uid(Uuid::new_v4().to_string()), Timestamp::now()).map(Ok)
    };
    let outcome: Result<(Applied, AnyObject), String> = api.store.write(work).await?;
    let (applied, object) = outcome.map_err(ApiError::invalid)?;
    let status = if applied == Applied::Created { StatusCode::CREATED } else { StatusCode::OK };
    let word = match applied {
        Applied::Created => "created",
        Applied::Configured => "configured",
        Applied::Unchanged => "unchanged",
    };
    Ok((status, [("x-applied", word)], Json(object.to_json())).into_response())
}

/// Why an object cannot become another, if it cannot.
fn forbidden(stored: &AnyObject, wanted: &AnyObject) -> Option<String> {
    if stored.metadata().is_deleting() {
        return Some(format!(
            "{} {} is being deleted; apply it again when it is gone",
            stored.kind(),
            stored.key()
        ));
    }
    match (stored, wanted) {
        (AnyObject::Cluster(stored), AnyObject::Cluster(wanted)) => {
            let same = std::mem::discriminant(&stored.spec.provider)
                == std::mem::discriminant(&wanted.spec.provider);
            (!same).then(|| {
                "spec.provider: a cluster cannot go from one provider to another; delete it first".to_owned()
            })
        }
        _ => None,
    }
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<ChangeQuery>,
) -> Result<Response, ApiError> {
    let (kind, key) = (kind(&plural)?, ObjectKey::new(namespace, name));
    let wanted = key.clone();
    let force = query.force;
    let work = move |tx: &crate::store::Tx<'_>| -> Result<Option<AnyObject>, StoreError> {
        if force && let Some(mut object) = tx.get(kind, &wanted)? {
            object.metadata_mut().annotations.insert(FORCE_DELETE.to_owned(), "true".to_owned());
            tx.update(object)?;
        }
        tx.delete(kind, &wanted, Timestamp::now())
    };
    let object = api.store.write(work).await?.ok_or_else(|| missing(kind, &key))?;
    Ok(Json(object.to_json()).into_response())
}

/// The directories that are watched, and how they are.
pub(super) async fn sources(State(api): State<Api>) -> Response {
    let sources = api.sources.borrow().clone();
    Json(json!({"items": sources})).into_response()
}
