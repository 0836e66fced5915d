//! Lists and watches: of objects, and of what is derived from them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Api;
use super::error::ApiError;
use super::form::Form;
use super::objects::kind;
use super::query::ListQuery;
use super::resource::Resource;
use super::selector::Selector;
use super::stream::{Lines, stream_lines};
use crate::api::object::{AnyObject, Kind};
use crate::store::Tx;
use crate::store::feed::{Change, ChangeType};

/// How often somebody who watches is told that nothing has happened.
const BOOKMARK: Duration = Duration::from_secs(60);
/// How many seconds somebody watches who does not say how long; then they ask again. As in Kubernetes, so that nobody
/// takes a silence for ever for news that there is none; and not all at the same time.
const LIFETIME: RangeInclusive<u64> = 1800..=3600;
/// What objects can be selected by.
const FIELDS: [&str; 2] = ["metadata.name", "metadata.namespace"];
/// What is said to who is too far behind.
pub(super) const UNKNOWN: &str = "changes after that resourceVersion are not known";

pub(super) async fn list_all(
    State(api): State<Api>,
    Path(plural): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(api, kind(&plural)?, None, query, &headers).await
}

pub(super) async fn list(
    State(api): State<Api>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(api, kind(&plural)?, Some(namespace), query, &headers).await
}

async fn answer(
    api: Api,
    kind: Kind,
    namespace: Option<String>,
    query: ListQuery,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let resource = Resource::of(kind);
    let selection = Selection::new(namespace, &query, &FIELDS)?;
    let talk = Talk::new(resource, &query, headers)?;
    // As in Kubernetes, 0 is any version: the watch begins with what there is.
    let since = query.resource_version.filter(|version| *version > 0);
    if let (true, false, Some(since)) = (query.watch, query.send_initial_events, since) {
        check_known(&api, since)?;
        let watch = Watch { api: api.clone(), kind, selection, talk };
        return Ok(stream_lines(api, move |lines| watch.follow(since, lines)));
    }
    if let Some(token) = query.r#continue.as_deref().filter(|token| !token.is_empty()) {
        return resume(&api, &talk, &query, &selection, token);
    }
    let read = move |tx: &Tx<'_>| Ok((tx.list(kind)?, tx.newest_version()?));
    let (objects, version) = api.store.read(read).await?;
    check_version(&query, version)?;
    let items: Vec<Value> =
        objects.iter().map(AnyObject::to_json).filter(|object| selection.matches(object)).collect();
    if !query.watch {
        return Ok(list_of(&api, &talk, &query, &selection, version, items));
    }
    let watch = Watch { api: api.clone(), kind, selection, talk };
    Ok(stream_lines(api, move |lines| async move {
        watch.talk.begin(&lines, items, version).await?;
        watch.follow(version, lines).await
    }))
}

/// Refuses to list as of a version that is not that of now: another is not kept.
pub(super) fn check_version(query: &ListQuery, newest: u64) -> Result<(), ApiError> {
    match (query.resource_version, query.resource_version_match.as_deref()) {
        (Some(version), _) if version > newest => Err(ApiError::too_new(version, newest)),
        (Some(version), Some("Exact")) if version != newest => {
            Err(ApiError::expired("lists are of now, and that version is over"))
        }
        (_, None | Some("" | "Exact" | "NotOlderThan")) => Ok(()),
        (_, Some(other)) => {
            let message = format!("resourceVersionMatch is Exact or NotOlderThan, not {other:?}");
            Err(ApiError::bad_request(message))
        }
    }
}

/// Refuses to go on from a version after which not all is known.
pub(super) fn check_known(api: &Api, since: u64) -> Result<(), ApiError> {
    let feed = api.store.feed();
    // A version that is yet to come is of another store: this one was begun anew, or restored.
    if since > *feed.subscribe().borrow() || !feed.knows(since) {
        return Err(ApiError::expired(UNKNOWN));
    }
    Ok(())
}

/// A list, or the first page of it.
pub(super) fn list_of(
    api: &Api,
    talk: &Talk,
    query: &ListQuery,
    selection: &Selection,
    version: u64,
    items: Vec<Value>,
) -> Response {
    let limit = query.limit.filter(|limit| *limit > 0).and_then(|limit| usize::try_from(limit).ok());
    let page = api.pages.begin(&selection.name(talk.resource), version, items, limit.unwrap_or(usize::MAX));
    talk.page(page, selection)
}

/// A later page of a list.
pub(super) fn resume(
    api: &Api,
    talk: &Talk,
    query: &ListQuery,
    selection: &Selection,
    token: &str,
) -> Result<Response, ApiError> {
    let limit = query.limit.filter(|limit| *limit > 0).and_then(|limit| usize::try_from(limit).ok());
    let page = api.pages.resume(&selection.name(talk.resource), token, limit)?;
    Ok(talk.page(page, selection))
}

/// What is wanted of a list.
pub(super) struct Selection {
    namespace: Option<String>,
    labels: Selector,
    fields: Selector,
    text: String,
}

impl Selection {
    /// What a query wants, of what can be selected by some fields.
    pub(super) fn new(
        namespace: Option<String>,
        query: &ListQuery,
        fields: &[&str],
    ) -> Result<Self, ApiError> {
        Self::of(namespace, query.label_selector.as_deref(), query.field_selector.as_deref(), fields)
    }

    /// The same, from its parts.
    pub(super) fn of(
        namespace: Option<String>,
        labels: Option<&str>,
        fields: Option<&str>,
        known: &[&str],
    ) -> Result<Self, ApiError> {
        let text = format!("{}&{}", labels.unwrap_or_default(), fields.unwrap_or_default());
        Ok(Self {
            namespace,
            labels: Selector::of_labels(labels)?,
            fields: Selector::of_fields(fields, known)?,
            text,
        })
    }

    /// What objects of our kinds can be selected by.
    pub(super) fn of_objects(
        namespace: Option<String>,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Self, ApiError> {
        Self::of(namespace, labels, fields, &FIELDS)
    }

    /// Whether a thing is wanted.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.matches_fields(object) && self.labels.matches(|name| labels[name].as_str())
    }

    fn matches_fields(&self, object: &Value) -> bool {
        let namespace = object["metadata"]["namespace"].as_str();
        let field = |path: &str| {
            let found = path.split('.').fold(object, |found, part| &found[part]);
            Some(found.as_str().unwrap_or_default())
        };
        self.namespace.as_ref().is_none_or(|wanted| Some(wanted.as_str()) == namespace)
            && self.fields.matches(field)
    }

    fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.matches(|name| labels.get(name).map(String::as_str))
    }

    /// What a change is to somebody who only sees what matches: an object that has come to match is new to them,
    /// and one that no longer does is gone.
    fn word(&self, change: &Change) -> Option<&'static str> {
        if !self.matches_fields(&change.object) {
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

    /// What tells this list from others.
    fn name(&self, resource: &Resource) -> String {
        format!("{}?{}&{}", resource.plural, self.namespace.as_deref().unwrap_or_default(), self.text)
    }

    /// Whether all of a kind are wanted.
    fn is_all(&self) -> bool {
        self.text == "&"
    }
}

/// How whoever asks wants to be told.
pub(super) struct Talk {
    /// Of what.
    pub(super) resource: &'static Resource,
    form: Form,
    bookmarks: bool,
    marks_beginning: bool,
    /// Whether a table was told: its columns are described once.
    has_header: AtomicBool,
    until: Instant,
}

impl Talk {
    /// How a query wants to be answered.
    pub(super) fn new(
        resource: &'static Resource,
        query: &ListQuery,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        // Nobody watches for longer than a day without asking again.
        let asked = query.timeout_seconds.filter(|seconds| *seconds > 0).map(|seconds| seconds.min(86_400));
        let lifetime = Duration::from_secs(asked.unwrap_or_else(|| fastrand::u64(LIFETIME)));
        Ok(Self {
            resource,
            form: Form::of(headers, query.include_object.as_deref())?,
            bookmarks: query.allow_watch_bookmarks,
            marks_beginning: query.send_initial_events,
            has_header: AtomicBool::new(false),
            until: Instant::now() + lifetime,
        })
    }

    /// Tells what there is when a watch begins.
    pub(super) async fn begin(&self, lines: &Lines, items: Vec<Value>, version: u64) -> Option<()> {
        for object in items {
            self.change(lines, "ADDED", object).await?;
        }
        if self.marks_beginning {
            let end = json!({"k8s.io/initial-events-end": "true"});
            lines.send(&self.bookmark(version, &end)).await?;
        }
        Some(())
    }

    /// Tells a change.
    pub(super) async fn change(&self, lines: &Lines, word: &str, object: Value) -> Option<()> {
        let is_first = !self.has_header.swap(true, Ordering::Relaxed);
        lines.send(&self.form.event(self.resource, word, object, is_first)).await
    }

    /// Tells that more cannot be told.
    pub(super) async fn expired(&self, lines: &Lines) -> Option<()> {
        lines.send(&json!({"type": "ERROR", "object": ApiError::expired(UNKNOWN).body()})).await
    }

    /// Waits for news, and meanwhile tells up to which version all was told. `None` when the time is up.
    pub(super) async fn wait<T>(
        &self,
        lines: &Lines,
        seen: u64,
        news: impl Future<Output = Option<T>>,
    ) -> Option<T> {
        tokio::pin!(news);
        loop {
            let next = Instant::now() + BOOKMARK;
            let over = self.until <= next;
            tokio::select! {
                found = &mut news => return found,
                () = tokio::time::sleep_until(next.min(self.until)) => {}
            }
            if self.bookmarks {
                lines.send(&self.bookmark(seen, &json!({}))).await?;
            }
            if over {
                return None;
            }
        }
    }

    fn bookmark(&self, version: u64, annotations: &Value) -> Value {
        let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
        let object = match self.form {
            Form::Table(_) => json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "Table", "metadata": metadata,
                "columnDefinitions": [], "rows": [],
            }),
            Form::Metadata => {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
            }
            Form::Whole => json!({
                "apiVersion": self.resource.api_version(), "kind": self.resource.kind, "metadata": metadata,
            }),
        };
        json!({"type": "BOOKMARK", "object": object})
    }

    fn page(&self, page: super::pages::Page, selection: &Selection) -> Response {
        let mut metadata = json!({"resourceVersion": page.version.to_string()});
        if let Some((token, left)) = page.next {
            metadata["continue"] = json!(token);
            // Kubernetes does not count what was selected; nor do clients expect it.
            if selection.is_all() {
                metadata["remainingItemCount"] = json!(left);
            }
        }
        Json(self.form.list(self.resource, page.items, metadata)).into_response()
    }
}

struct Watch {
    api: Api,
    kind: Kind,
    selection: Selection,
    talk: Talk,
}

impl Watch {
    /// Sends the changes after a version, for as long as somebody listens.
    async fn follow(self, since: u64, lines: Lines) -> Option<()> {
        let mut news = self.api.store.feed().subscribe();
        let mut seen = since;
        loop {
            let Ok(changes) = self.api.store.feed().since(seen) else {
                return self.talk.expired(&lines).await;
            };
            for change in changes {
                seen = change.version;
                if change.kind == self.kind
                    && let Some(word) = self.selection.word(&change)
                {
                    self.talk.change(&lines, word, change.object).await?;
                }
            }
            let more = async { news.wait_for(|newest| *newest > seen).await.ok().map(|_| ()) };
            self.talk.wait(&lines, seen, more).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::channel;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_watches_for_ever() -> Result<(), ApiError> {
        let unless_said = (1800, 3600);
        for (asked, (least, most)) in [
            (None, unless_said),
            (Some(0), unless_said),
            (Some(5), (5, 5)),
            (Some(1 << 30), (86_400, 86_400)),
        ] {
            let query = ListQuery { timeout_seconds: asked, ..ListQuery::default() };
            let talk = Talk::new(Resource::of(Kind::RayCluster), &query, &HeaderMap::new())?;
            let ((lines, _reader), began) = (channel(), Instant::now());
            assert_eq!(talk.wait(&lines, 0, std::future::pending::<Option<()>>()).await, None);
            let watched = began.elapsed().as_secs();
            assert!((least..=most).contains(&watched), "{asked:?}: {watched} s");
        }
        Ok(())
    }
}
