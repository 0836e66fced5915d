//! What a change of objects would come to: asked of the planner, on a copy of what is stored and what was seen last.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Controller, lock};
use crate::api::API_VERSION;
use crate::api::ids::Uid;
use crate::api::meta::{CHECKPOINT_NOW, DEFAULT_NAMESPACE, ObjectKey, SOURCE, SOURCE_ERROR, SOURCE_FILE};
use crate::api::object::{AnyObject, Kind};
use crate::api::review::{ChangeKind, ObjectName, ObjectReview, Review};
use crate::plan::{LOCAL_CLUSTER, Snapshot, review};
use crate::store::{Applied, DomainRows, StoreError, Tx};

/// What is no business of a manifest's.
const INTERNAL: [&str; 4] = [SOURCE, SOURCE_FILE, SOURCE_ERROR, CHECKPOINT_NOW];

/// A cluster with its jobs, as they are and as they would be.
struct Domain {
    key: ObjectKey,
    before: DomainRows,
    after: DomainRows,
}

impl Controller {
    /// What would come of it if objects were applied and others deleted. Nothing is changed.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn review(
        &self,
        objects: Vec<AnyObject>,
        deletions: Vec<ObjectName>,
    ) -> Result<Review, StoreError> {
        let in_flight = lock(&self.inner.in_flight).clone();
        let work = move |tx: &Tx<'_>| rehearse(tx, objects, &deletions);
        let (objects, domains) = self.inner.store.rehearse(work).await?;
        let mut clusters = Vec::new();
        for Domain { key, before, after } in domains {
            let before = self.snapshot(&key, before, in_flight.clone()).await;
            let after = Snapshot {
                jobs: self.views(after.jobs),
                cluster: after.cluster,
                record: after.record,
                intents: after.intents,
                ..before.clone()
            };
            let planned = tokio::task::spawn_blocking(move || review::review(&before, &after)).await;
            clusters.extend(planned.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
        }
        Ok(Review { objects, clusters })
    }
}

/// Makes the changes, and says what became of each object and of what is planned with it.
fn rehearse(
    tx: &Tx<'_>,
    mut objects: Vec<AnyObject>,
    deletions: &[ObjectName],
) -> Result<(Vec<ObjectReview>, Vec<Domain>), StoreError> {
    objects.sort_by_key(AnyObject::kind);
    let mut keys = BTreeSet::new();
    for object in &objects {
        keys.insert(cluster_of(object));
        let stored = tx.get(object.kind(), &object.key())?;
        keys.extend(stored.iter().map(cluster_of));
    }
    for name in deletions {
        keys.extend(tx.get(name.kind, &name.key)?.iter().map(cluster_of));
    }
    let before = keys.iter().map(|key| tx.domain(key)).collect::<Result<Vec<_>, _>>()?;
    let mut reviews = Vec::new();
    for object in objects {
        reviews.push(apply(tx, object)?);
    }
    for name in deletions {
        let stored = tx.get(name.kind, &name.key)?.filter(|stored| !stored.metadata().is_deleting());
        let Some(stored) = stored else { continue };
        tx.delete(name.kind, &name.key, Timestamp::now())?;
        reviews.push(ObjectReview {
            name: name.clone(),
            change: ChangeKind::Deleted,
            before: Some(manifest(&stored)),
            after: None,
            message: None,
        });
    }
    let after = keys.iter().map(|key| tx.domain(key)).collect::<Result<Vec<_>, _>>()?;
    let domains = keys.into_iter().zip(before).zip(after);
    Ok((reviews, domains.map(|((key, before), after)| Domain { key, before, after }).collect()))
}

fn apply(tx: &Tx<'_>, mut object: AnyObject) -> Result<ObjectReview, StoreError> {
    let name = ObjectName { kind: object.kind(), key: object.key() };
    let stored = tx.get(name.kind, &name.key)?;
    let before = stored.as_ref().map(manifest);
    let refusal = stored.and_then(|stored| refusal(&stored, &object));
    if refusal.is_some() {
        let after = Some(manifest(&object));
        return Ok(ObjectReview { name, change: ChangeKind::Refused, before, after, message: refusal });
    }
    tx.keep_wishes(&mut object)?;
    let (applied, object) =
        tx.apply(object, None, Uid::from(Uuid::new_v4().to_string()), Timestamp::now())?;
    let change = match applied {
        Applied::Created => ChangeKind::Created,
        Applied::Configured => ChangeKind::Configured,
        Applied::Unchanged => ChangeKind::Unchanged,
    };
    Ok(ObjectReview { name, change, before, after: Some(manifest(&object)), message: None })
}

/// Why an object cannot become another, if it cannot.
fn refusal(stored: &AnyObject, wanted: &AnyObject) -> Option<String> {
    if stored.metadata().is_deleting() {
        return Some("it is being deleted; apply it again when it is gone".to_owned());
    }
    stored.forbids(wanted).map(|(field, message)| format!("{field}: {message}"))
}

/// The cluster that an object is planned with.
fn cluster_of(object: &AnyObject) -> ObjectKey {
    match object {
        AnyObject::Cluster(cluster) => cluster.metadata.key(),
        AnyObject::Job(job) => job.spec.cluster_ref.as_ref().map_or_else(
            || ObjectKey::new(DEFAULT_NAMESPACE, LOCAL_CLUSTER),
            |reference| ObjectKey::new(&job.metadata.namespace, &reference.name),
        ),
    }
}

/// An object as a manifest has it: without what only the store knows.
fn manifest(object: &AnyObject) -> Value {
    let metadata = object.metadata();
    let annotations = metadata.annotations.iter().filter(|(name, _)| !INTERNAL.contains(&name.as_str()));
    let annotations: serde_json::Map<String, Value> =
        annotations.map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut kept = json!({"name": metadata.name, "namespace": metadata.namespace});
    if !metadata.labels.is_empty() {
        kept["labels"] = json!(metadata.labels);
    }
    if !annotations.is_empty() {
        kept["annotations"] = Value::Object(annotations);
    }
    let kind: Kind = object.kind();
    json!({"apiVersion": API_VERSION, "kind": kind, "metadata": kept, "spec": object.spec()})
}
