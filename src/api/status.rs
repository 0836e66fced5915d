//! The status of each kind: what is, as far as it was observed, and what is being done about the rest.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::aws::MarketKind;
use super::condition::Condition;
use super::cost::{ClusterCostStatus, JobCostStatus};
use super::ids::{CheckpointId, Digest, GroupNumber, InstanceId, NodeName};
use super::money::Money;
use super::record::CheckpointRequest;
use super::units::Bytes;

/// What is known of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AdaptDLJobStatus {
    /// The generation that this is about.
    pub observed_generation: u64,
    /// The state in a word, derived from the rest.
    pub phase: JobPhase,
    /// The state in a sentence: what is done, and what is waited for.
    pub message: String,
    /// When `phase` became what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Timestamp>,
    /// Aspects of the state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Workers at work: they train, or run a program of which no more can be seen.
    pub replicas: u32,
    /// Workers that should.
    pub desired_replicas: u32,
    /// Why that many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
    /// The group that trains or trained last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupNumber>,
    /// Its workers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<WorkerStatus>,
    /// How far training is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The newest durable checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointStatus>,
    /// The newest wish to have it saved at once that was taken in the cluster, and what came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_request: Option<CheckpointRequest>,
    /// What it costs, if it is or was on EC2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<JobCostStatus>,
    /// How often the program failed.
    pub failures: u32,
    /// When the first group was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When the job finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Timestamp>,
    /// The newest groups, oldest first: why each came, and what it cost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<GroupStatus>,
}

/// A job's state in a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobPhase {
    /// It has no workers yet, or none for now.
    #[default]
    Pending,
    /// Its workers are being started.
    Starting,
    /// It trains.
    Running,
    /// It goes from one group to another.
    Rescaling,
    /// It is being stopped, to be resumed or deleted.
    Stopping,
    /// It is suspended.
    Suspended,
    /// Its program has done its work.
    Succeeded,
    /// It was given up.
    Failed,
    /// It cannot be seen.
    Unknown,
}

impl JobPhase {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl std::fmt::Display for JobPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Why a job has, or should have, as many workers as it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// How many it should have.
    pub replicas: u32,
    /// Why, as a word.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// Its rank.
    pub rank: u32,
    /// The node it is on.
    pub node: NodeName,
    /// Its process there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it does, in a word: `Starting`, `Waiting`, `Training`, `Exited`.
    pub state: String,
}

/// How far training is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Training steps of all groups whose work was not lost.
    pub steps: u64,
    /// Steps a second, lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_rate: Option<f64>,
    /// The epoch, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// AdaptDL's progress, in scale-invariant iterations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// Samples a step, over all workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u64>,
    /// What the hints predict for this many workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goodput: Option<GoodputStatus>,
    /// When the newest step was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_step_time: Option<Timestamp>,
}

/// What the hints predict for the workers there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GoodputStatus {
    /// Samples a second.
    pub throughput: f64,
    /// Statistical efficiency, from 0 to 1.
    pub efficiency: f64,
    /// Their product: useful samples a second.
    pub goodput: f64,
    /// The goodput, relative to that of a lone worker.
    pub speedup: f64,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// Its place in the job's history.
    pub id: CheckpointId,
    /// Its contents.
    pub digest: Digest,
    /// Its size.
    pub size: Bytes,
    /// How many files it holds.
    pub files: u64,
    /// The group's steps that it holds.
    pub steps: u64,
    /// How long training stood still for it, in milliseconds.
    pub save_ms: f64,
    /// When it was saved.
    pub saved: Timestamp,
}

/// One group in a job's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Its number.
    pub number: GroupNumber,
    /// When it was wanted.
    pub created: Timestamp,
    /// Why, as a word: `Started`, `Scaled`, `SpecChanged`, `WorkerFailed` and so on.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
    /// Workers of the group before it.
    pub from_replicas: u32,
    /// Its workers.
    pub replicas: u32,
    /// The nodes of its ranks.
    pub nodes: Vec<NodeName>,
    /// The group that trained before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<GroupBefore>,
    /// The checkpoint it began from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<CheckpointId>,
    /// When each thing happened to it: `prepared`, `handedOver`, `released`, `firstStep`, then `signalled`, `saved`
    /// and `ended`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timeline: BTreeMap<String, Timestamp>,
    /// How long the job stood still, from the last step before to the first step after, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// Steps of the group before that had to be made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_steps: Option<u64>,
    /// Whether these two are only what could be seen: the group before was lost out of reach, and may have made steps
    /// that nobody has heard of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// The group that trained before another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupBefore {
    /// Its number.
    pub number: GroupNumber,
    /// The nodes of its ranks.
    pub nodes: Vec<NodeName>,
    /// When it made way: `signalled`, `saved`, `ended`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timeline: BTreeMap<String, Timestamp>,
}

/// What is known of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RayClusterStatus {
    /// The generation that this is about.
    pub observed_generation: u64,
    /// The state in a word, derived from the rest.
    pub phase: ClusterPhase,
    /// The state in a sentence.
    pub message: String,
    /// When `phase` became what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Timestamp>,
    /// Aspects of the state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The address of its dashboard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dashboard: Option<String>,
    /// Ray's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ray_version: Option<String>,
    /// Worker nodes that are ready.
    pub ready_nodes: u32,
    /// Worker nodes that should be.
    pub desired_nodes: u32,
    /// Its nodes, the head first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeStatus>,
    /// What it costs, if it is on EC2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<ClusterCostStatus>,
}

/// A cluster's state in a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClusterPhase {
    /// Nothing is there yet.
    #[default]
    Pending,
    /// Its head is being started.
    Starting,
    /// It can take jobs.
    Ready,
    /// It is being given back.
    Stopping,
    /// It is suspended.
    Suspended,
    /// It cannot be had; the conditions say why.
    Failed,
    /// It cannot be seen.
    Unknown,
}

impl std::fmt::Display for ClusterPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// One node of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// Its group; none is the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its state, in a word.
    pub state: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// For local nodes: its main process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// For nodes on EC2: the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceStatus>,
    /// What it offers.
    pub capacity: String,
    /// Workers on it.
    pub workers: u32,
    /// What was announced for it: that it will be taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// The instance of EC2 that a node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// Its id, once EC2 has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<InstanceId>,
    /// Its type.
    pub instance_type: String,
    /// Its zone.
    pub zone: String,
    /// Its market.
    pub market: MarketKind,
    /// What an hour of it costs, in US dollars, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Money>,
}
