//! Objects: list, watch, get, create, replace, patch, delete.

use std::collections::BTreeMap;
use std::future::Future;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::Api;
use super::error::ApiError;
use super::selector::Selector;
use crate::api::API_VERSION;
use crate::api::ids::Uid;
use crate::api::meta::{FORCE_DELETE, ObjectKey};
use crate::api::object::{AnyObject, Kind};
use crate::manifest;
use crate::store::feed::{Change, ChangeType, Gone};
use crate::store::{Applied, StoreError, Tx};

/// What is asked of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListQuery {
    watch: bool,
    resource_version: Option<u64>,
    label_selector: Option<String>,
    /// `metadata.name=...` or `metadata.namespace=...`.
    field_selector: Option<String>,
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

impl ChangeQuery {
    fn is_dry_run(&self) -> Result<bool, ApiError> {
        match self.dry_run.as_deref() {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!("dryRun is All or absent, not {other}"))),
        }
    }
}

/// The kinds of patches that are understood, which both mean the same here.
const PATCHES: [&str; 2] = ["application/merge-patch+json", "application/json"];

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
    let filter = Filter {
        namespace,
        labels: Selector::of_labels(query.label_selector.as_deref())?,
        fields: Selector::of_fields(
            query.field_selector.as_deref(),
            &["metadata.name", "metadata.namespace"],
        )?,
    };
    // As in Kubernetes, 0 is any version: the watch begins with what there is.
    if let (true, Some(since @ 1..)) = (query.watch, query.resource_version) {
        return watch(api, kind, filter, since);
    }
    let read = move |tx: &Tx<'_>| Ok((tx.list(kind)?, tx.newest_version()?));
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
    labels: Selector,
    fields: Selector,
}

impl Filter {
    fn matches(&self, object: &AnyObject) -> bool {
        let labels = &object.metadata().labels;
        self.matches_key(&object.key()) && self.matches_labels(labels)
    }

    fn matches_key(&self, key: &ObjectKey) -> bool {
        let field =
            |field: &str| Some(if field == "metadata.name" { key.name.as_str() } else { &key.namespace });
        self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.fields.matches(field)
    }

    fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.matches(|name| labels.get(name).map(String::as_str))
    }

    /// What a change is to somebody who only sees what matches: an object that has come to match is new to them,
    /// and one that no longer does is gone.
    fn word(&self, change: &Change) -> Option<&'static str> {
        if !self.matches_key(&change.key) {
            return None;
        }
        let now = change.change != ChangeType::Deleted && self.matches_labels(&change.labels);
        let before = change.labels_before.as_ref().is_some_and(|labels| self.matches_labels(labels));
        match (before, now) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }
}

fn watch(api: Api, kind: Kind, filter: Filter, since: u64) -> Result<Response, ApiError> {
    let feed = api.store.feed();
    // A version that is yet to come is of another store: this one was begun anew, or restored.
    if since > *feed.subscribe().borrow() || feed.since(since) == Err(Gone) {
        return Err(ApiError::expired());
    }
    Ok(stream_lines(api.clone(), move |lines| follow(api, kind, filter, since, lines)))
}

/// Sends the changes after a version, for as long as somebody listens.
async fn follow(api: Api, kind: Kind, filter: Filter, since: u64, lines: Lines) -> Option<()> {
    let mut news = api.store.feed().subscribe();
    let mut seen = since;
    loop {
        let Ok(changes) = api.store.feed().since(seen) else {
            return lines.send(&json!({"type": "ERROR", "object": ApiError::expired().body()})).await;
        };
        for change in changes {
            seen = change.version;
            if change.kind == kind
                && let Some(word) = filter.word(&change)
            {
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
    write(api, &query, move |tx| change(tx, object, &Condition::Absent)).await
}

pub(super) async fn put(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<ChangeQuery>,
    Json(body): Json<Value>,
) -> Result<Response, ApiError> {
    let condition = Condition::of(&body)?;
    let mut object = read(&api, kind(&plural)?, &namespace, Some(&name), body)?;
    let work = move |tx: &Tx<'_>| {
        tx.keep_wishes(&mut object)?;
        change(tx, object, &condition)
    };
    write(api, &query, work).await
}

/// A merge patch (RFC 7386).
pub(super) async fn patch(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
    patch: Result<Json<Value>, JsonRejection>,
) -> Result<Response, ApiError> {
    let given = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default().trim();
    if !PATCHES.contains(&given) {
        let message = format!("a patch is {}, not {given}", PATCHES.join(" or "));
        return Err(ApiError::unsupported(message));
    }
    let patch = match patch {
        Ok(Json(patch)) => patch,
        Err(rejection) => return Ok(rejection.into_response()),
    };
    let (kind, key) = (kind(&plural)?, ObjectKey::new(&namespace, &name));
    let condition = Condition::of(&patch)?;
    let reader = api.clone();
    // In one transaction: a status that is written in between must not fail what does not concern it.
    let work = move |tx: &Tx<'_>| {
        let Some(stored) = tx.get(kind, &key)? else { return Ok(Err(missing(kind, &key))) };
        let mut body = stored.to_json();
        merge(&mut body, patch);
        match read(&reader, kind, &key.namespace, Some(&key.name), body) {
            Ok(object) => change(tx, object, &condition),
            Err(error) => Ok(Err(error)),
        }
    };
    write(api, &query, work).await
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
    let packages = api.state.join("packages");
    let object = manifest::read_json(body, namespace, None)
        .and_then(|manifest| manifest.accept(&packages))
        .map_err(|problems| ApiError::invalid(&problems))?;
    if object.kind() != kind {
        return Err(ApiError::bad_request(format!(
            "a {} cannot be put where {} are",
            object.kind(),
            kind.plural()
        )));
    }
    Ok(object)
}

/// What must be so of the stored object for a change to be made.
enum Condition {
    Any,
    Absent,
    Version(u64),
}

impl Condition {
    /// What whoever sent this read before.
    fn of(body: &Value) -> Result<Self, ApiError> {
        let wrong =
            || ApiError::bad_request("metadata.resourceVersion must be as it was read, a string of digits");
        match body.get("metadata").and_then(|metadata| metadata.get("resourceVersion")) {
            None | Some(Value::Null) => Ok(Self::Any),
            Some(Value::String(text)) if text.is_empty() => Ok(Self::Any),
            Some(Value::String(text)) => text.parse().map(Self::Version).map_err(|_| wrong()),
            Some(_) => Err(wrong()),
        }
    }
}

/// What becomes of a change.
type Changed = Result<(Applied, AnyObject), ApiError>;

/// Makes a change, or only finds out what would become of it.
async fn write(
    api: Api,
    query: &ChangeQuery,
    work: impl FnOnce(&Tx<'_>) -> Result<Changed, StoreError> + Send + 'static,
) -> Result<Response, ApiError> {
    let outcome =
        if query.is_dry_run()? { api.store.rehearse(work).await } else { api.store.write(work).await };
    let (applied, object) = outcome??;
    let status = if applied == Applied::Created { StatusCode::CREATED } else { StatusCode::OK };
    let word = match applied {
        Applied::Created => "created",
        Applied::Configured => "configured",
        Applied::Unchanged => "unchanged",
    };
    Ok((status, [("x-applied", word)], Json(object.to_json())).into_response())
}

/// Changes an object, unless that is refused.
fn change(tx: &Tx<'_>, object: AnyObject, condition: &Condition) -> Result<Changed, StoreError> {
    let stored = tx.get(object.kind(), &object.key())?;
    if let (Some(_), Condition::Absent) = (&stored, condition) {
        let message = format!("{} {} exists already", object.kind(), object.key());
        return Ok(Err(ApiError::already_exists(message)));
    }
    if let Some(error) = stored.and_then(|stored| forbidden(&stored, &object)) {
        return Ok(Err(error));
    }
    let expected = match condition {
        Condition::Version(version) => Some(*version),
        Condition::Any | Condition::Absent => None,
    };
    tx.apply(object, expected, Uid(Uuid::new_v4().to_string()), Timestamp::now()).map(Ok)
}

/// Why an object cannot become another, if it cannot.
fn forbidden(stored: &AnyObject, wanted: &AnyObject) -> Option<ApiError> {
    if stored.metadata().is_deleting() {
        let (kind, key) = (stored.kind(), stored.key());
        return Some(ApiError::conflict(format!(
            "{kind} {key} is being deleted; apply it again when it is gone"
        )));
    }
    stored.forbids(wanted).map(|(field, message)| ApiError::invalid_field(field, message))
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<ChangeQuery>,
) -> Result<Response, ApiError> {
    let (kind, key) = (kind(&plural)?, ObjectKey::new(namespace, name));
    let wanted = key.clone();
    let force = query.force;
    let work = move |tx: &Tx<'_>| -> Result<Option<AnyObject>, StoreError> {
        if force && let Some(mut object) = tx.get(kind, &wanted)? {
            object.metadata_mut().annotations.insert(FORCE_DELETE.to_owned(), "true".to_owned());
            tx.update(object)?;
        }
        tx.delete(kind, &wanted, Timestamp::now())
    };
    let dry_run = query.is_dry_run()?;
    let deleted = if dry_run { api.store.rehearse(work).await } else { api.store.write(work).await };
    let object = deleted?.ok_or_else(|| missing(kind, &key))?;
    Ok(Json(object.to_json()).into_response())
}
