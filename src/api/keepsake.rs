//! What a cluster keeps of its jobs and of itself for a controller that has lost its state directory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cluster::RayClusterSpec;
use super::ids::Uid;
use super::job::AdaptDLJobSpec;
use super::meta::{ObjectKey, ObjectMeta};
use super::object::{AdaptDLJob, Object, RayCluster};
use super::record::{GroupRecord, JobRecord};
use super::shared::Shared;

/// A job, and what was decided for it, when its document was sent last. It names secrets and has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobKeepsake {
    /// The job's name, labels and annotations, and its uid.
    pub metadata: ObjectMeta,
    /// What the job is to be.
    pub spec: AdaptDLJobSpec,
    /// What was decided for it.
    pub record: JobRecord,
    /// Its groups, which a record in the store has elsewhere.
    pub groups: Vec<Shared<GroupRecord>>,
}

impl JobKeepsake {
    /// What is to be kept of a job.
    pub fn of(job: &AdaptDLJob, record: &JobRecord) -> Self {
        Self {
            metadata: job.metadata.clone(),
            spec: job.spec.clone(),
            record: record.clone(),
            groups: record.groups.clone(),
        }
    }

    /// The job, and what was decided for it, for a controller that has none of the files of the one before: it sends
    /// the document again, and fetches again whatever is on the cluster.
    pub fn restore(self) -> (AdaptDLJob, JobRecord) {
        let mut record = JobRecord { groups: self.groups, sent: None, ..self.record };
        record.checkpoints.clear();
        record.artifacts.clear();
        if let Some(binding) = &mut record.binding {
            binding.bridge = None;
        }
        (Object { metadata: self.metadata, spec: self.spec, status: Default::default() }, record)
    }
}

/// A cluster as its manifest has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterKeepsake {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What the cluster is to be.
    pub spec: RayClusterSpec,
}

impl ClusterKeepsake {
    /// What is to be kept of a cluster.
    pub fn of(metadata: &ObjectMeta, spec: &RayClusterSpec) -> Self {
        Self {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            spec: spec.clone(),
        }
    }

    /// The cluster's namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }

    /// The cluster, with the uid it has always had.
    pub fn restore(self, uid: Uid) -> RayCluster {
        let mut metadata = ObjectMeta::named(&self.namespace, &self.name);
        (metadata.labels, metadata.annotations, metadata.uid) = (self.labels, self.annotations, uid);
        Object { metadata, spec: self.spec, status: Default::default() }
    }
}

/// What the agent of a cluster has kept, by the job's uid. One that cannot be read must not hide the others.
pub type Keepsakes = BTreeMap<Uid, Value>;
