//! `AdaptDLJob`: an elastic training job, as its manifest describes it.
//!
//! Defaults are filled in when a manifest is read, so a stored spec shows every value in force.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bucket::BucketAddress;
use super::ids::Digest;
use super::meta::ObjectMeta;
use super::units::{Bytes, MilliCpu, Span};

/// What an elastic training job is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptDLJobSpec {
    /// The RayCluster to run on, in the job's namespace. Left out: the built-in `local` one, on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_ref: Option<ClusterRef>,
    /// The directory with the program, relative to the manifest's file. It is packed when the manifest is
    /// admitted; `.gitignore` and `.rayignore` are honoured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The package that `workingDir` was packed into. Filled in at admission; an API client may give it instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", regex(pattern = "^[0-9a-f]{64}$"))]
    pub working_dir_digest: Option<Digest>,
    /// The Python script to run, relative to `workingDir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    /// A program to run instead of `entrypoint`; it must speak AdaptDL's worker protocol to be elastic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub command: Option<Vec<String>>,
    /// Arguments of the program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables of the program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Ray's runtime environment, passed on as it is. `pip` may also name a requirements file in `workingDir`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub runtime_env: Map<String, Value>,
    /// What each worker is given.
    #[serde(default)]
    pub resources: WorkerResources,
    /// Never fewer workers than this while the job runs. 0: it may wait with none.
    #[serde(default = "one")]
    pub min_replicas: u32,
    /// Never more workers than this.
    #[serde(default = "max_replicas")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_replicas: u32,
    /// Whether it may be shrunk or paused for others.
    #[serde(default = "yes")]
    pub preemptible: bool,
    /// Jobs with a higher priority are served first.
    #[serde(default)]
    pub priority: i32,
    /// Whether to checkpoint the job and free everything it uses.
    #[serde(default)]
    pub suspend: bool,
    /// How the number of workers is chosen.
    #[serde(default)]
    pub scaling: Scaling,
    /// How it is changed.
    #[serde(default)]
    pub rescale: Rescale,
    /// When the job's state is saved, and where it is kept.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// A directory that all workers see, for data sets (`ADAPTDL_SHARE_PATH`). Left out: scratch space of each
    /// node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_path: Option<String>,
    /// Where the workers' output goes beside bounded, rotated files in the state directory.
    #[serde(default)]
    pub logs: Logs,
    /// What to fetch when the job has succeeded.
    #[serde(default)]
    pub artifacts: Artifacts,
    /// How often the program may fail before the job does. Lost nodes and preemptions never count.
    #[serde(default = "backoff_limit")]
    pub backoff_limit: u32,
    /// How long the job may take, from its first group on, before it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_deadline: Option<Span>,
    /// How long a group that trains may make no step before it is taken for hung and started again. `0s`: for ever.
    #[serde(default = "progress_deadline")]
    pub progress_deadline: Span,
    /// How long the finished job is kept. Left out: until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_after_finished: Option<Span>,
    /// How long a deleted job may take to save its state and end.
    #[serde(default = "grace_period")]
    pub termination_grace_period: Span,
}

impl AdaptDLJobSpec {
    /// Where the output of a job's workers goes in object storage, if it goes there: a directory of its own.
    pub fn logs_place(&self, job: &ObjectMeta) -> Option<BucketAddress> {
        let place: BucketAddress = self.logs.url.as_ref()?.parse().ok()?;
        Some(place.join(&format!("{}/{}/{}", job.namespace, job.name, job.uid)))
    }
}

/// A reference to a RayCluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterRef {
    /// Its name.
    pub name: String,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the controller finds its value whenever workers are launched. The value is not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueSource>,
}

/// Where a value is found on the controller's machine: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ValueSource {
    /// An environment variable of the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// A file, without the line break it may end with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// What one worker is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerResources {
    /// CPUs. Numerical libraries start as many threads.
    #[serde(default = "one_cpu")]
    pub cpu: MilliCpu,
    /// GPUs. A worker sees no other.
    #[serde(default)]
    pub gpu: u32,
    /// Memory to reserve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Ray's custom resources.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, f64>,
}

/// How the number of workers is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scaling {
    /// `Goodput`: by what AdaptDL's workers report. `Fixed`: always `replicas`.
    #[serde(default)]
    pub policy: ScalingPolicy,
    /// For `Fixed`: how many workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// For `Goodput`: how much of a lone worker's goodput each of several must still bring, from 0 to 1.
    #[serde(default = "min_efficiency")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_efficiency: f64,
    /// For `Goodput`: how long to leave a job alone after it was rescaled.
    #[serde(default = "cooldown")]
    pub cooldown: Span,
}

/// What decides the number of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ScalingPolicy {
    /// The goodput that the job's own hints predict.
    #[default]
    Goodput,
    /// The manifest.
    Fixed,
}

/// How the number of workers is changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rescale {
    /// How long to wait for new nodes before taking a smaller step with what is there.
    #[serde(default = "rescale_timeout")]
    pub timeout: Span,
    /// Whether the next group's workers are started while the running group still trains.
    #[serde(default = "yes")]
    pub overlap: bool,
    /// Whether those workers are forked from a process that has torch and AdaptDL imported already.
    #[serde(default = "yes")]
    pub fork_server: bool,
}

/// When the job's state is saved, and where it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// How long rank 0 may take to save and hand over; after that the previous checkpoint is used.
    #[serde(default = "checkpoint_timeout")]
    pub timeout: Span,
    /// How often to save while training goes on. `0s`: only when rescaled.
    #[serde(default = "checkpoint_interval")]
    pub interval: Span,
    /// How many checkpoints to keep; never fewer than two.
    #[serde(default = "checkpoint_keep")]
    #[schemars(range(min = 2))]
    pub keep: u32,
    /// Where they are kept.
    #[serde(default)]
    pub storage: Storage,
}

/// Where checkpoints are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// A directory on the controller's machine. Left out: the state directory. Where the nodes share it, workers save
    /// there, and what they save need not be carried to those that go on from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A place in object storage instead: `s3://BUCKET/PREFIX`. The controller brings each checkpoint there, and from
    /// there; the nodes need no access to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Where the workers' output goes beside bounded, rotated files in the state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Logs {
    /// A place in object storage, `s3://BUCKET/PREFIX`, to which the controller brings all of it, and where nothing of
    /// it is removed. Left out: the newest is in the state directory, and the rest nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What to fetch when the job has succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifacts {
    /// Files and directories that rank 0 leaves in its working directory; `*` and `**` are allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Where to put them: a directory, relative to the manifest's file, or `s3://BUCKET/PREFIX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

impl Default for WorkerResources {
    fn default() -> Self {
        Self { cpu: one_cpu(), gpu: 0, memory: None, custom: BTreeMap::new() }
    }
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            policy: ScalingPolicy::default(),
            replicas: None,
            min_efficiency: min_efficiency(),
            cooldown: cooldown(),
        }
    }
}

impl Default for Rescale {
    fn default() -> Self {
        Self { timeout: rescale_timeout(), overlap: true, fork_server: true }
    }
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            timeout: checkpoint_timeout(),
            interval: checkpoint_interval(),
            keep: checkpoint_keep(),
            storage: Storage::default(),
        }
    }
}

// The defaults, which the manifests' documentation lists.

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

fn one_cpu() -> MilliCpu {
    MilliCpu(1000)
}

/// As many as a large job uses; what the cluster has and what the hints justify bound it long before.
fn max_replicas() -> u32 {
    64
}

fn min_efficiency() -> f64 {
    0.5
}

fn cooldown() -> Span {
    Span::from_secs(30)
}

fn rescale_timeout() -> Span {
    Span::from_secs(60)
}

fn checkpoint_timeout() -> Span {
    Span::from_secs(120)
}

fn checkpoint_interval() -> Span {
    Span::from_secs(600)
}

fn checkpoint_keep() -> u32 {
    2
}

/// Longer than any step, validation or exchange of data sets should take.
fn progress_deadline() -> Span {
    Span::from_secs(1800)
}

fn backoff_limit() -> u32 {
    3
}

fn grace_period() -> Span {
    Span::from_secs(300)
}
