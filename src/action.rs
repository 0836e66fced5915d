//! Every effect the controller can have on the world, fully specified.
//!
//! An effect is written down as an intent before it is done. Doing it again, after a lost reply or a crash at
//! any point, must be harmless: each effect names what it makes by the intent's id, by a digest or by a
//! revision, and looks for that first.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::aws::Offering;
use crate::api::cluster::NodeTemplate;
use crate::api::ids::{CheckpointId, Digest, GroupNumber, InstanceId, IntentId, NodeName, RayNodeId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::record::{CheckpointRecord, Incarnation};
use crate::api::units::Bytes;
use crate::api::wire::ResourceBundles;

/// An effect, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Names the effect; what it makes carries this.
    pub id: IntentId,
    /// The cluster it belongs to: the key under which it is planned.
    pub cluster: ObjectKey,
    /// What is to be done.
    pub effect: Effect,
    /// When it was decided on.
    pub created: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// It is not tried again before.
    pub not_before: Timestamp,
    /// Why it failed, if it did when it was tried last.
    #[serde(default)]
    pub last_error: Option<String>,
    /// What came of it.
    pub state: IntentState,
}

/// What came of an intent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IntentState {
    /// Not known: it is to be done, or done again.
    Pending,
    /// It is done.
    Done {
        /// When that was known.
        at: Timestamp,
        /// What it gave.
        result: EffectResult,
    },
    /// It could not be done.
    Failed {
        /// When.
        at: Timestamp,
        /// Why.
        error: EffectError,
    },
}

/// Something the controller does to the world.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// Find out where a cluster is, or, for a local one, where it shall be: interpreter, addresses, ports.
    OpenCluster {
        /// The new incarnation's id.
        incarnation: String,
    },
    /// Remove what an ended incarnation left lying about.
    CloseCluster {
        /// The incarnation's id.
        incarnation: String,
    },
    /// Start a node; it carries the intent's id.
    LaunchNode {
        /// Its name.
        node: NodeName,
        /// Its group; none is the head.
        group: Option<String>,
        /// Its how-many-eth launch it is.
        index: u64,
        /// What it is.
        template: Box<NodeTemplate>,
        /// What EC2 is asked for.
        #[serde(default)]
        offering: Option<Offering>,
    },
    /// Have Ray start nothing more on a node.
    DrainNode {
        /// The node.
        node: NodeName,
        /// Ray's id of it.
        ray: RayNodeId,
    },
    /// End whatever was started for a launch.
    TerminateNode {
        /// The node.
        node: NodeName,
        /// The intent it was launched by.
        launch: IntentId,
        /// Its how-many-eth launch it was.
        index: u64,
        /// Since when it has been wanted gone.
        since: Timestamp,
    },
    /// End an instance of EC2 that carries the cluster's mark and is no node of it.
    TerminateInstance {
        /// The instance.
        instance: InstanceId,
    },
    /// Submit the agent as a Ray job.
    SubmitAgent {
        /// The Ray job's id.
        submission: String,
    },
    /// Stop the agent, on a cluster that is not ours to end.
    StopAgent {
        /// The Ray job's id.
        submission: String,
    },
    /// Ask Ray's autoscaler for room, in the place of what it was asked for before.
    RequestResources {
        /// All of it, what is there already included.
        bundles: Vec<ResourceBundles>,
    },
    /// Send a job's document to its bridge.
    SendDocument {
        /// The job.
        job: Uid,
        /// Which revision of its document.
        revision: u64,
    },
    /// Bring a durable checkpoint to a job's bridge.
    SendCheckpoint {
        /// The job.
        job: Uid,
        /// The checkpoint.
        id: CheckpointId,
    },
    /// End a job's bridge and everything of it.
    RemoveBridge {
        /// The job.
        job: Uid,
        /// Whether what the job has on the head stays, for the bridge that follows one that died.
        #[serde(default)]
        keep: bool,
    },
    /// Bring a checkpoint from the cluster to durable storage.
    FetchCheckpoint {
        /// The job.
        job: Uid,
        /// What the checkpoint will be recorded as.
        checkpoint: CheckpointRecord,
    },
    /// Bring artifacts from the cluster to the state directory.
    FetchArtifacts {
        /// The job.
        job: Uid,
        /// The group that left them.
        group: GroupNumber,
        /// Their contents.
        digest: Digest,
        /// Their size.
        size: Bytes,
    },
    /// Put the artifacts that were fetched where the manifest wants them.
    DeliverArtifacts {
        /// The job.
        job: Uid,
    },
    /// Delete a checkpoint from durable storage.
    DropCheckpoint {
        /// The job.
        job: Uid,
        /// The checkpoint.
        id: CheckpointId,
    },
}

/// What an effect acts on: two effects on the same are never under way together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The cluster as such.
    Cluster,
    /// A node.
    Node(NodeName),
    /// An instance that is no node.
    Instance(InstanceId),
    /// The agent.
    Agent,
    /// Ray's autoscaler.
    Autoscaler,
    /// A job's bridge.
    Bridge(Uid),
    /// A job's checkpoint.
    Checkpoint(Uid, CheckpointId),
    /// The artifacts of a job's group.
    Artifacts(Uid, GroupNumber),
    /// The destination of a job's artifacts.
    Delivery(Uid),
}

impl Effect {
    /// What it acts on.
    pub fn target(&self) -> Target {
        match self {
            Self::OpenCluster { .. } | Self::CloseCluster { .. } => Target::Cluster,
            Self::LaunchNode { node, .. }
            | Self::DrainNode { node, .. }
            | Self::TerminateNode { node, .. } => Target::Node(node.clone()),
            Self::TerminateInstance { instance } => Target::Instance(instance.clone()),
            Self::SubmitAgent { .. } | Self::StopAgent { .. } => Target::Agent,
            Self::RequestResources { .. } => Target::Autoscaler,
            Self::SendDocument { job, .. }
            | Self::SendCheckpoint { job, .. }
            | Self::RemoveBridge { job, .. } => Target::Bridge(job.clone()),
            Self::FetchCheckpoint { job, checkpoint } => Target::Checkpoint(job.clone(), checkpoint.id),
            Self::DropCheckpoint { job, id } => Target::Checkpoint(job.clone(), *id),
            Self::FetchArtifacts { job, group, .. } => Target::Artifacts(job.clone(), *group),
            Self::DeliverArtifacts { job } => Target::Delivery(job.clone()),
        }
    }

    /// Its name, for logs and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OpenCluster { .. } => "OpenCluster",
            Self::CloseCluster { .. } => "CloseCluster",
            Self::LaunchNode { .. } => "LaunchNode",
            Self::DrainNode { .. } => "DrainNode",
            Self::TerminateNode { .. } => "TerminateNode",
            Self::TerminateInstance { .. } => "TerminateInstance",
            Self::SubmitAgent { .. } => "SubmitAgent",
            Self::StopAgent { .. } => "StopAgent",
            Self::RequestResources { .. } => "RequestResources",
            Self::SendDocument { .. } => "SendDocument",
            Self::SendCheckpoint { .. } => "SendCheckpoint",
            Self::RemoveBridge { .. } => "RemoveBridge",
            Self::FetchCheckpoint { .. } => "FetchCheckpoint",
            Self::FetchArtifacts { .. } => "FetchArtifacts",
            Self::DeliverArtifacts { .. } => "DeliverArtifacts",
            Self::DropCheckpoint { .. } => "DropCheckpoint",
        }
    }
}

/// What an effect gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EffectResult {
    /// Nothing but that it is done.
    Done,
    /// Where the cluster is.
    Opened(Box<Incarnation>),
}

/// Why an effect could not be done, as far as a plan can act on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub struct EffectError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// Why, for a person.
    pub message: String,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Out of reach, or no reply: it may or may not have happened.
    Unavailable,
    /// It was refused, and will be again until something changes.
    Rejected,
    /// What it needs is not there.
    NotFound,
    /// EC2 has none of the instance type that it was asked for, there and on that market.
    NoCapacity,
    /// The subnet that EC2 was asked for has no address left.
    SubnetFull,
    /// The account's limit for that market of EC2 is reached.
    MarketLimit,
    /// A checkpoint is not what its digest says, or a durable one is gone. No other failure says anything of it.
    Unreadable,
}
