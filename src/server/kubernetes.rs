//! Lists, watches and single ones of what is derived from the objects (`views.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::form::Form;
use super::list::{Selection, Talk, check_known, check_version, list_of, resume};
use super::query::ListQuery;
use super::resource::{NAMESPACES, NODES, PODS, Resource};
use super::stream::{Lines, stream_lines};
use super::views;
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
use crate::store::Tx;
use crate::store::feed::{ChangeType, Feed};

/// How long changes are gathered before what is derived from them is looked at again.
const GATHER: Duration = Duration::from_millis(200);
/// What they can be selected by.
const FIELDS: [&str; 5] =
    ["metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "spec.unschedulable"];

/// Something that is derived from the objects.
#[derive(Clone, Copy)]
struct View {
    resource: &'static Resource,
    derive: fn(&[AnyObject]) -> Vec<Value>,
}

fn view(plural: &str) -> Result<View, ApiError> {
    let view = |resource, derive| Ok(View { resource, derive });
    match plural {
        "nodes" => view(&NODES, views::nodes),
        "pods" => view(&PODS, views::pods),
        "namespaces" => view(&NAMESPACES, views::namespaces),
        _ => Err(ApiError::no_such_address()),
    }
}

/// `/api/v1/PLURAL`
pub(super) async fn list_all(
    State(api): State<Api>,
    Path(plural): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(api, view(&plural)?, None, query, &headers).await
}

/// `/api/v1/namespaces/NAMESPACE/PLURAL`
pub(super) async fn list(
    State(api): State<Api>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let view = view(&plural)?;
    if !view.resource.namespaced {
        return Err(ApiError::no_such_address());
    }
    answer(api, view, Some(namespace), query, &headers).await
}

/// `/api/v1/PLURAL/NAME`
pub(super) async fn get(
    State(api): State<Api>,
    Path((plural, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let view = view(&plural)?;
    if view.resource.namespaced {
        return Err(ApiError::no_such_address());
    }
    one(&api, view, None, &name, &headers).await
}

/// `/api/v1/namespaces/NAMESPACE/PLURAL/NAME`
pub(super) async fn get_in(
    State(api): State<Api>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    one(&api, view(&plural)?, Some(namespace), &name, &headers).await
}

/// Nobody makes, changes or deletes these.
pub(super) async fn read_only() -> ApiError {
    ApiError::not_allowed(
        "nodes, pods, namespaces and events show what there is, and cannot be written; change the RayCluster or \
         AdaptDLJob that they belong to (a namespace is there while an object is in it)",
    )
}

async fn one(
    api: &Api,
    view: View,
    namespace: Option<String>,
    name: &str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let form = Form::of(headers, None)?;
    let found = find(api, view, namespace.as_deref(), name).await?;
    Ok(Json(form.one(view.resource, found)).into_response())
}

async fn find(api: &Api, view: View, namespace: Option<&str>, name: &str) -> Result<Value, ApiError> {
    let (objects, _) = api.store.read(everything).await?;
    let found = (view.derive)(&objects).into_iter().find(|item| {
        let metadata = &item["metadata"];
        metadata["name"] == name && namespace.is_none_or(|namespace| metadata["namespace"] == namespace)
    });
    found.ok_or_else(|| {
        let Resource { kind, plural, group, .. } = view.resource;
        ApiError::not_found(format!("there is no {kind} {name}")).about(group, plural, name)
    })
}

/// The job and the rank that a Pod is.
pub(super) async fn worker_of(api: &Api, namespace: &str, pod: &str) -> Result<(ObjectKey, u32), ApiError> {
    let pod = find(api, view("pods")?, Some(namespace), pod).await;
    match pod {
        Ok(pod) => {
            let name = pod["metadata"]["ownerReferences"][0]["name"].as_str().unwrap_or_default();
            let rank = pod["metadata"]["name"].as_str().and_then(|text| text.rsplit_once('-'));
            let rank = rank.and_then(|(_, rank)| rank.parse().ok()).unwrap_or(0);
            Ok((ObjectKey::new(namespace, name), rank))
        }
        Err(error) => Err(error),
    }
}

fn everything(tx: &Tx<'_>) -> Result<(Vec<AnyObject>, u64), crate::store::StoreError> {
    let mut objects = tx.list(Kind::RayCluster)?;
    objects.extend(tx.list(Kind::AdaptDLJob)?);
    Ok((objects, tx.newest_version()?))
}

async fn answer(
    api: Api,
    view: View,
    namespace: Option<String>,
    query: ListQuery,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let selection = Selection::new(namespace, &query, &FIELDS)?;
    let talk = Talk::new(view.resource, &query, headers)?;
    if let (false, Some(token)) = (query.watch, query.r#continue.as_deref().filter(|token| !token.is_empty()))
    {
        return resume(&api, &talk, &query, &selection, token);
    }
    let (objects, version) = api.store.read(everything).await?;
    let watch = Watch { api: api.clone(), view, selection, talk };
    let since = query.resource_version.filter(|version| *version > 0);
    if let (true, false, Some(since)) = (query.watch, query.send_initial_events, since) {
        check_known(&api, since)?;
        let then = objects_at(api.store.feed(), since, objects)
            .ok_or_else(|| ApiError::expired("what there was at that resourceVersion is not known"))?;
        let known = watch.items(&then);
        return Ok(stream_lines(api, move |lines| watch.follow(since, known, lines)));
    }
    check_version(&query, version)?;
    let items = watch.items(&objects);
    if !query.watch {
        let items = items.into_values().collect();
        return Ok(list_of(&api, &watch.talk, &query, &watch.selection, version, items));
    }
    Ok(stream_lines(api, move |lines| async move {
        watch.talk.begin(&lines, items.values().cloned().collect(), version).await?;
        watch.follow(version, items, lines).await
    }))
}

/// The objects as they were at a version, if that can be told from those of now and the changes that are remembered.
fn objects_at(feed: &Feed, version: u64, now: Vec<AnyObject>) -> Option<Vec<AnyObject>> {
    let mut objects: BTreeMap<(Kind, ObjectKey), AnyObject> =
        now.into_iter().map(|object| ((object.kind(), object.key()), object)).collect();
    let mut seen = std::collections::BTreeSet::new();
    let changes = feed.pick(version, |change| Some(((change.kind, change.key.clone()), change.change)));
    for (key, change) in changes.ok()? {
        if !seen.insert(key.clone()) {
            continue;
        }
        let before = match (feed.latest(key.0, &key.1, version), change) {
            (Some(before), _) if before.change == ChangeType::Deleted => None,
            (Some(before), _) => Some(AnyObject::from_json(before.object).ok()?),
            (None, ChangeType::Added) => None,
            (None, _) => return None,
        };
        match before {
            Some(before) => objects.insert(key, before),
            None => objects.remove(&key),
        };
    }
    Some(objects.into_values().collect())
}

/// What is wanted, by its place in lists.
type Items = BTreeMap<(String, String), Value>;

struct Watch {
    api: Api,
    view: View,
    selection: Selection,
    talk: Talk,
}

impl Watch {
    fn items(&self, objects: &[AnyObject]) -> Items {
        let items = (self.view.derive)(objects).into_iter().filter(|item| self.selection.matches(item));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let place = |item: &Value| (text(&item["metadata"]["namespace"]), text(&item["metadata"]["name"]));
        items.map(|item| (place(&item), item)).collect()
    }

    /// Tells what has become another since a version, for as long as somebody listens.
    async fn follow(self, since: u64, mut known: Items, lines: Lines) -> Option<()> {
        let mut news = self.api.store.feed().subscribe();
        let mut seen = since;
        loop {
            let more = async { news.wait_for(|newest| *newest > seen).await.ok().map(|_| ()) };
            self.talk.wait(&lines, seen, more).await?;
            tokio::time::sleep(GATHER).await;
            let (objects, version) = self.api.store.read(everything).await.ok()?;
            let now = self.items(&objects);
            for (place, mut item) in known.iter().map(|(place, item)| (place, item.clone())) {
                let same_uid = |new: &Value| new["metadata"]["uid"] == item["metadata"]["uid"];
                if !now.get(place).is_some_and(same_uid) {
                    item["metadata"]["resourceVersion"] = json!(version.to_string());
                    self.talk.change(&lines, "DELETED", item).await?;
                }
            }
            for (place, item) in &now {
                let old = known.get(place).filter(|old| old["metadata"]["uid"] == item["metadata"]["uid"]);
                let word = match old {
                    None => "ADDED",
                    Some(old) if differ(old, item) => "MODIFIED",
                    Some(_) => continue,
                };
                self.talk.change(&lines, word, item.clone()).await?;
            }
            (known, seen) = (now, version);
        }
    }
}

/// Whether two are different in more than the version of what they are derived from.
fn differ(one: &Value, other: &Value) -> bool {
    let plain = |item: &Value| {
        let mut item = item.clone();
        item["metadata"]["resourceVersion"] = Value::Null;
        item
    };
    plain(one) != plain(other)
}
