//! Events, as Kubernetes' core/v1 Events.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::objects::stream_lines;
use super::selector::Selector;
use crate::api::event::Event;

/// How often new events are looked for while somebody watches.
const POLL: Duration = Duration::from_millis(250);
/// What events can be selected by.
const FIELDS: [&str; 4] = ["involvedObject.uid", "involvedObject.name", "involvedObject.kind", "reason"];

/// What is asked of events.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EventQuery {
    watch: bool,
    /// Only what came after this.
    resource_version: Option<u64>,
    /// Only these: `involvedObject.name=...` and so on.
    field_selector: Option<String>,
}

pub(super) async fn list_all(
    State(api): State<Api>,
    Query(query): Query<EventQuery>,
) -> Result<Response, ApiError> {
    answer(api, None, query).await
}

pub(super) async fn list(
    State(api): State<Api>,
    Path(namespace): Path<String>,
    Query(query): Query<EventQuery>,
) -> Result<Response, ApiError> {
    answer(api, Some(namespace), query).await
}

async fn answer(api: Api, namespace: Option<String>, query: EventQuery) -> Result<Response, ApiError> {
    let filter = Filter::new(namespace, query.field_selector.as_deref())?;
    let since = query.resource_version.unwrap_or(0);
    let events = api.store.read(move |tx| tx.events_since(since)).await?;
    let newest = events.last().map_or(since, |event| event.version);
    let chosen: Vec<Value> = events.iter().filter(|event| filter.matches(event)).map(render).collect();
    if !query.watch {
        let body = json!({
            "apiVersion": "v1",
            "kind": "EventList",
            "metadata": {"resourceVersion": newest.to_string()},
            "items": chosen,
        });
        return Ok(Json(body).into_response());
    }
    Ok(stream_lines(api.clone(), move |lines| async move {
        let mut seen = newest;
        let mut chosen = chosen;
        loop {
            for event in chosen.drain(..) {
                lines.send(&json!({"type": "ADDED", "object": event})).await?;
            }
            tokio::time::sleep(POLL).await;
            let events = api.store.read(move |tx| tx.events_since(seen)).await.ok()?;
            seen = events.last().map_or(seen, |event| event.version);
            chosen.extend(events.iter().filter(|event| filter.matches(event)).map(render));
        }
    }))
}

struct Filter {
    namespace: Option<String>,
    fields: Selector,
}

impl Filter {
    fn new(namespace: Option<String>, selector: Option<&str>) -> Result<Self, ApiError> {
        Ok(Self { namespace, fields: Selector::of_fields(selector, &FIELDS)? })
    }

    fn matches(&self, event: &Event) -> bool {
        let about = &event.event;
        let field = |field: &str| {
            Some(match field {
                "involvedObject.uid" => about.uid.0.as_str(),
                "involvedObject.name" => &about.object.name,
                "involvedObject.kind" => about.kind.name(),
                _ => &about.reason,
            })
        };
        self.namespace.as_ref().is_none_or(|namespace| *namespace == about.object.namespace)
            && self.fields.matches(field)
    }
}

fn render(event: &Event) -> Value {
    let about = &event.event;
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{}.{}", about.object.name, event.version),
            "namespace": about.object.namespace,
            "resourceVersion": event.version.to_string(),
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
    })
}
