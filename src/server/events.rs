//! Events, as Kubernetes' core/v1 Events. Their versions are their own, and are not those of objects.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Api;
use super::error::ApiError;
use super::form::Form;
use super::list::{Selection, Talk, UNKNOWN, list_of, resume};
use super::query::ListQuery;
use super::resource::EVENTS;
use super::stream::stream_lines;
use crate::api::columns::{Column, age};
use crate::api::event::{Event, Subject};

/// What events can be selected by.
const FIELDS: [&str; 11] = [
    "involvedObject.uid",
    "involvedObject.name",
    "involvedObject.namespace",
    "involvedObject.kind",
    "involvedObject.apiVersion",
    "metadata.name",
    "metadata.namespace",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

pub(super) const COLUMNS: [Column; 7] = [
    Column::new("Last Seen", "How long ago it happened last."),
    Column::new("Type", "Normal or Warning."),
    Column::new("Reason", "What happened, in a word."),
    Column::new("Object", "What it is about."),
    Column::new("Message", "What happened, in a sentence."),
    Column::wide("Count", "How often it happened."),
    Column::wide("Name", "The event's name."),
];

pub(super) fn cells(event: &Value, now: Timestamp) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["involvedObject"];
    vec![
        age(event["lastTimestamp"].as_str().and_then(|text| text.parse().ok()), now),
        text(&event["type"]),
        text(&event["reason"]),
        format!("{}/{}", text(&object["kind"]).to_lowercase(), text(&object["name"])),
        text(&event["message"]),
        event["count"].to_string(),
        text(&event["metadata"]["name"]),
    ]
}

pub(super) async fn list_all(
    State(api): State<Api>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(api, None, query, &headers).await
}

pub(super) async fn list(
    State(api): State<Api>,
    Path(namespace): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(api, Some(namespace), query, &headers).await
}

pub(super) async fn get(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let form = Form::of(&headers, None)?;
    let events = api.store.read(|tx| tx.events_since(0)).await?;
    let found = events
        .iter()
        .map(render)
        .find(|event| event["metadata"]["name"] == name && event["metadata"]["namespace"] == namespace);
    let found = found.ok_or_else(|| {
        ApiError::not_found(format!("there is no Event {namespace}/{name}")).about("", "events", &name)
    })?;
    Ok(Json(form.one(&EVENTS, found)).into_response())
}

async fn answer(
    api: Api,
    namespace: Option<String>,
    query: ListQuery,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let selection = Selection::new(namespace, &query, &FIELDS)?;
    let talk = Talk::new(&EVENTS, &query, headers)?;
    if let (false, Some(token)) = (query.watch, query.r#continue.as_deref().filter(|token| !token.is_empty()))
    {
        return resume(&api, &talk, &query, &selection, token);
    }
    let since = query.resource_version.filter(|_| query.watch && !query.send_initial_events).unwrap_or(0);
    // A version that is yet to come is of another store: this one was begun anew, or restored.
    if since > *api.store.newest_event().borrow() {
        return Err(ApiError::expired(UNKNOWN));
    }
    let events = api.store.read(move |tx| tx.events_since(since)).await?;
    let newest = events.last().map_or(since, |event| event.version);
    let chosen: Vec<Value> = events.iter().map(render).filter(|event| selection.matches(event)).collect();
    if !query.watch {
        return Ok(list_of(&api, &talk, &query, &selection, newest, chosen));
    }
    Ok(stream_lines(api.clone(), move |lines| async move {
        let (mut seen, mut news) = (newest, api.store.newest_event());
        if since == 0 {
            talk.begin(&lines, chosen, newest).await?;
        } else {
            for event in chosen {
                talk.change(&lines, word(&event), event).await?;
            }
        }
        loop {
            let more = async { news.wait_for(|newest| *newest > seen).await.ok().map(|_| ()) };
            talk.wait(&lines, seen, more).await?;
            let events = api.store.read(move |tx| tx.events_since(seen)).await.ok()?;
            seen = events.last().map_or(seen, |event| event.version);
            for event in events.iter().map(render).filter(|event| selection.matches(event)) {
                talk.change(&lines, word(&event), event).await?;
            }
        }
    }))
}

/// What an event is to who watches: one that is counted again has been there before.
fn word(event: &Value) -> &'static str {
    if event["count"] == 1 { "ADDED" } else { "MODIFIED" }
}

fn render(event: &Event) -> Value {
    let about = &event.event;
    // It keeps its name however often it is counted.
    let first = (&about.uid, event.first_seen, &about.reason, &about.message);
    let digest = Sha256::digest(format!("{first:?}"));
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name = match about.kind {
        Subject::RayCluster | Subject::AdaptDLJob => &about.object.name,
        // Its name is a path or an address.
        Subject::Source => "source",
    };
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{name}.{digest}"),
            "namespace": about.object.namespace,
            "uid": format!("event.{digest}"),
            "resourceVersion": event.version.to_string(),
            "creationTimestamp": event.first_seen,
        },
        "involvedObject": {
            "apiVersion": crate::api::API_VERSION,
            "kind": about.kind.name(),
            "namespace": about.object.namespace,
            "name": about.object.name,
            "uid": about.uid,
        },
        "type": about.event_type,
        "reason": about.reason,
        "message": about.message,
        "count": event.count,
        "firstTimestamp": event.first_seen,
        "lastTimestamp": event.last_seen,
        "source": {"component": "rayconcile"},
        "reportingComponent": "rayconcile",
        "reportingInstance": "",
        "eventTime": null,
    })
}
