//! The store, in memory: what survives a crash of the controller. After `store/` and `keep` in `controller/`.

use std::collections::{BTreeMap, BTreeSet};

use crate::action::{Intent, IntentState};
use crate::api::ids::{IntentId, Uid};
use crate::api::meta::{DEFAULT_NAMESPACE, FINALIZER, ObjectKey, ObjectMeta};
use crate::api::object::{AdaptDLJob, AnyObject, Kind, RayCluster};
use crate::api::record::{ClusterRecord, JobRecord};
use crate::plan::{LOCAL_CLUSTER, Plan, Snapshot};

use super::clock::{Ms, timestamp};

/// Objects, records and intents.
#[derive(Default)]
pub(super) struct Store {
    pub(super) clusters: BTreeMap<ObjectKey, RayCluster>,
    pub(super) records: BTreeMap<ObjectKey, ClusterRecord>,
    pub(super) jobs: BTreeMap<Uid, JobRow>,
    pub(super) intents: BTreeMap<IntentId, Intent>,
    made: u64,
}

/// A job and what was decided for it.
#[derive(Clone)]
pub(super) struct JobRow {
    pub(super) job: AdaptDLJob,
    pub(super) record: JobRecord,
}

impl JobRow {
    /// The clusters in whose plans it is.
    pub(super) fn clusters(&self) -> BTreeSet<ObjectKey> {
        let bound = self.record.binding.iter().map(|binding| binding.cluster.clone());
        bound.chain([cluster_of(&self.job)]).collect()
    }
}

/// The cluster that a job refers to.
pub(super) fn cluster_of(job: &AdaptDLJob) -> ObjectKey {
    job.spec.cluster_ref.as_ref().map_or_else(
        || ObjectKey::new(DEFAULT_NAMESPACE, LOCAL_CLUSTER),
        |reference| ObjectKey::new(&job.metadata.namespace, &reference.name),
    )
}

impl Store {
    /// The jobs that refer to a cluster or may be on it, by name.
    pub(super) fn jobs_of(&self, key: &ObjectKey) -> Vec<&JobRow> {
        let here = |row: &&JobRow| row.clusters().contains(key);
        let mut jobs: Vec<&JobRow> = self.jobs.values().filter(here).collect();
        jobs.sort_by_key(|row| row.job.metadata.key());
        jobs
    }

    pub(super) fn job(&self, key: &ObjectKey) -> Option<&JobRow> {
        self.jobs.values().find(|row| row.job.metadata.key() == *key)
    }

    pub(super) fn intents_of(&self, key: &ObjectKey) -> impl Iterator<Item = &Intent> {
        self.intents.values().filter(move |intent| intent.cluster == *key)
    }

    /// The keys under which there is anything to plan.
    pub(super) fn domains(&self) -> BTreeSet<ObjectKey> {
        let jobs = self.jobs.values().flat_map(JobRow::clusters);
        let intents = self.intents.values().map(|intent| intent.cluster.clone());
        let clusters = self.clusters.keys().chain(self.records.keys()).cloned();
        clusters.chain(jobs).chain(intents).collect()
    }

    // --- What users do -------------------------------------------------------------------------------------------

    /// Makes an object what `wanted` says; the clusters in whose plans it is, before and after.
    pub(super) fn apply(&mut self, wanted: AnyObject, now: Ms) -> BTreeSet<ObjectKey> {
        match wanted {
            AnyObject::Cluster(wanted) => {
                let key = wanted.metadata.key();
                let uid = self.next_uid("c");
                let stored = self.clusters.entry(key.clone()).or_insert_with(|| RayCluster {
                    metadata: new_metadata(&wanted.metadata, uid, now),
                    ..(*wanted).clone()
                });
                update(&mut stored.metadata, stored.spec != wanted.spec, &wanted.metadata);
                stored.spec = wanted.spec;
                [key].into()
            }
            AnyObject::Job(wanted) => {
                let uid = match self.job(&wanted.metadata.key()) {
                    Some(row) => row.job.metadata.uid.clone(),
                    None => self.next_uid("j"),
                };
                let row = self.jobs.entry(uid.clone()).or_insert_with(|| JobRow {
                    job: AdaptDLJob {
                        metadata: new_metadata(&wanted.metadata, uid, now),
                        ..(*wanted).clone()
                    },
                    record: JobRecord::default(),
                });
                let mut clusters = row.clusters();
                update(&mut row.job.metadata, row.job.spec != wanted.spec, &wanted.metadata);
                row.job.spec = wanted.spec;
                clusters.extend(row.clusters());
                clusters
            }
        }
    }

    fn next_uid(&mut self, prefix: &str) -> Uid {
        self.made += 1;
        Uid::from(format!("{prefix}{:07}", self.made))
    }

    /// Asks an object to go.
    pub(super) fn delete(&mut self, kind: Kind, key: &ObjectKey, now: Ms) -> BTreeSet<ObjectKey> {
        match kind {
            Kind::RayCluster => {
                if let Some(cluster) = self.clusters.get_mut(key) {
                    cluster.metadata.deletion_timestamp.get_or_insert(timestamp(now));
                }
                [key.clone()].into()
            }
            Kind::AdaptDLJob => {
                let row = self.jobs.values_mut().find(|row| row.job.metadata.key() == *key);
                let Some(row) = row else { return BTreeSet::new() };
                row.job.metadata.deletion_timestamp.get_or_insert(timestamp(now));
                row.clusters()
            }
        }
    }

    // --- What the controller does --------------------------------------------------------------------------------

    /// Whether a plan's jobs are still as they were when it was made.
    pub(super) fn is_current(&self, snapshot: &Snapshot, plan: &Plan) -> bool {
        snapshot.jobs.iter().all(|view| {
            let uid = &view.job.metadata.uid;
            let changed = plan.jobs.get(uid).is_some_and(|record| *record != view.record);
            !changed || self.jobs.get(uid).is_some_and(|row| row.record == view.record)
        })
    }

    /// Writes a plan down, all of it; the clusters that are to be planned because of it.
    pub(super) fn keep(&mut self, snapshot: &Snapshot, plan: &Plan, now: Ms) -> BTreeSet<ObjectKey> {
        let mut touched = BTreeSet::new();
        if plan.record != snapshot.record && snapshot.cluster.is_some() {
            self.records.insert(snapshot.key.clone(), plan.record.clone());
        }
        for view in &snapshot.jobs {
            let uid = &view.job.metadata.uid;
            let changed = plan.jobs.get(uid).filter(|record| **record != view.record);
            if let (Some(record), Some(row)) = (changed, self.jobs.get_mut(uid)) {
                row.record = record.clone();
            }
        }
        for intent in &plan.intents {
            let before = snapshot.intents.iter().find(|before| before.id == intent.id);
            if before != Some(intent) && !snapshot.in_flight.contains(&intent.id) {
                self.intents.insert(intent.id.clone(), intent.clone());
            }
        }
        for before in &snapshot.intents {
            if !plan.intents.iter().any(|intent| intent.id == before.id) {
                self.intents.remove(&before.id);
            }
        }
        for object in &plan.creations {
            touched.extend(self.apply(object.clone(), now));
        }
        for (kind, key) in &plan.deletions {
            touched.extend(self.delete(*kind, key, now));
        }
        for removal in &plan.removals {
            if let Some(row) = self.jobs.remove(&removal.uid) {
                touched.extend(row.clusters());
            }
            let cluster = self.clusters.values().find(|cluster| cluster.metadata.uid == removal.uid);
            if let Some(key) = cluster.map(|cluster| cluster.metadata.key()) {
                self.clusters.remove(&key);
                self.records.remove(&key);
                touched.insert(key);
            }
        }
        touched
    }

    /// Notes what came of an intent, if it is still waited for.
    pub(super) fn settle(&mut self, id: &IntentId, state: IntentState) {
        if let Some(intent) = self.intents.get_mut(id) {
            intent.state = state;
            intent.attempts += 1;
        }
    }
}

fn new_metadata(wanted: &ObjectMeta, uid: Uid, now: Ms) -> ObjectMeta {
    ObjectMeta {
        uid,
        generation: 1,
        creation_timestamp: Some(timestamp(now)),
        deletion_timestamp: None,
        finalizers: vec![FINALIZER.to_owned()],
        ..wanted.clone()
    }
}

fn update(stored: &mut ObjectMeta, changed: bool, wanted: &ObjectMeta) {
    stored.labels.clone_from(&wanted.labels);
    stored.annotations.clone_from(&wanted.annotations);
    stored.generation += u64::from(changed);
}
