//! What the agent of a cluster reports. The Python side is `src/agent/rayconcile_agent/{agent,report}.py`.
//!
//! Times are ages in milliseconds at the moment of the report: the cluster's clocks are not ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{CheckpointId, Digest, GroupNumber, RayNodeId, SlotId, Uid};

/// The version of what controller and agent say to each other; another one is refused.
pub const PROTOCOL: u32 = 3;

/// Everything an agent observes.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentState {
    /// The version of the protocol.
    pub protocol: u32,
    /// The version of Ray that it runs on.
    #[serde(default)]
    pub ray_version: String,
    /// Which process of the agent this is.
    pub instance: String,
    /// Grows with all news.
    pub version: i64,
    /// The head's node id.
    pub head: RayNodeId,
    /// Ray's nodes, dead ones too.
    pub nodes: Vec<RayNode>,
    /// What Ray's autoscaler was asked for, if this process of the agent has asked it.
    #[serde(default)]
    pub requested: Option<Vec<ResourceBundles>>,
    /// The bridges, by the uid of their job.
    pub jobs: BTreeMap<Uid, BridgeReport>,
}

impl AgentState {
    /// What a plan could act on: all but how far training and output are.
    pub fn essence(&self) -> Self {
        let mut state = Self { version: 0, ..self.clone() };
        for job in state.jobs.values_mut() {
            job.age_ms = 0.0;
            for log in &mut job.logs {
                log.end = log.end.min(1);
            }
            for notice in &mut job.notices {
                notice.deadline_ms = notice.deadline_ms.map(|_| 0.0);
            }
            for blob in &mut job.blobs {
                blob.at = 0.0;
            }
            for group in &mut job.groups {
                group.times.values_mut().for_each(|age| *age = 0.0);
                group.steps = group.steps.min(1);
                group.first_step = group.first_step.map(|_| 0.0);
                group.last_step = None;
                group.progress = None;
            }
        }
        state
    }
}

/// A node as Ray sees it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RayNode {
    /// Ray's id of it.
    pub id: RayNodeId,
    /// Its address.
    pub address: String,
    /// Whether it is there.
    pub alive: bool,
    /// Whether Ray starts nothing more on it.
    pub draining: bool,
    /// Whether it is the head.
    pub head: bool,
    /// What it offers in total.
    #[serde(default)]
    pub resources: BTreeMap<String, f64>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Resources of one node, and how often they are wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceBundles {
    /// Ray's name of each resource, and how much of it.
    pub resources: BTreeMap<String, f64>,
    /// How often.
    pub count: u32,
}

/// What a job's bridge reports, or that it is dead.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeReport {
    /// How old this is.
    pub age_ms: f64,
    /// What the bridge does.
    pub phase: BridgePhase,
    /// Which process of the bridge this is.
    #[serde(default)]
    pub bridge: String,
    /// The revision of the document in force.
    #[serde(default)]
    pub revision: Option<u64>,
    /// Its slots.
    #[serde(default)]
    pub slots: Vec<SlotReport>,
    /// Its groups, the newest twenty.
    #[serde(default)]
    pub groups: Vec<GroupReport>,
    /// Checkpoints and artifacts on the head.
    #[serde(default)]
    pub blobs: Vec<BlobReport>,
    /// Nodes of its slots that will be taken away.
    #[serde(default)]
    pub notices: Vec<NoticeReport>,
    /// The newest wish to have the job saved at once, and what came of it.
    #[serde(default)]
    pub save_request: Option<SaveRequestReport>,
    /// What people should know.
    #[serde(default)]
    pub notes: Vec<NoteReport>,
    /// How far the workers' output reaches.
    #[serde(default)]
    pub logs: Vec<LogReport>,
    /// Why it is dead.
    #[serde(default)]
    pub message: Option<String>,
}

/// What a bridge does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum BridgePhase {
    /// It waits until nothing of an earlier bridge can be alive.
    Fencing,
    /// It runs groups.
    Active,
    /// It was told to stop, and has nothing left.
    Idle,
    /// It is gone.
    Dead,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SlotReport {
    /// Its id.
    pub id: SlotId,
    /// Its node.
    pub node: RayNodeId,
    /// `Pending`, `Ready`, `Failed`, `Lost` or `Closed`.
    pub state: String,
    /// Why it failed or was lost.
    pub message: Option<String>,
}

/// What a group does. Groups only go forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum GroupPhase {
    /// Its slots are being had.
    Reserving,
    /// Its workers were started.
    Starting,
    /// It can be switched to.
    Prepared,
    /// It trains, or is about to.
    Running,
    /// It saves and leaves.
    Stopping,
    /// No worker of it can be alive.
    Ended,
}

/// What a node's metadata service has announced.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NoticeReport {
    /// The node.
    pub node: RayNodeId,
    /// What it is.
    pub kind: NoticeKind,
    /// What will be done with it, such as `terminate`.
    pub action: String,
    /// In how many milliseconds, if that was said.
    pub deadline_ms: Option<f64>,
}

/// Why a node will be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NoticeKind {
    /// The spot instance is reclaimed.
    SpotInterruption,
    /// The spot instance is more likely than others to be reclaimed soon.
    RebalanceRecommendation,
    /// Its host is to be mended.
    ScheduledMaintenance,
}

impl NoticeKind {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::SpotInterruption => "spot interruption",
            Self::RebalanceRecommendation => "rebalance recommendation",
            Self::ScheduledMaintenance => "scheduled maintenance",
        }
    }
}

/// A wish to have the job saved at once, and what came of it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SaveRequestReport {
    /// The wish's name.
    pub id: String,
    /// The checkpoint that was made.
    pub checkpoint: Option<CheckpointId>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupReport {
    /// Its number.
    pub number: GroupNumber,
    /// Why the bridge made it without being told, if it did.
    #[serde(default)]
    pub alone: Option<Alone>,
    /// What it does.
    pub phase: GroupPhase,
    /// Its ranks.
    pub ranks: Vec<RankReport>,
    /// How long ago things happened to it.
    pub times: BTreeMap<String, f64>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// The checkpoint it began from.
    pub restored: Option<CheckpointId>,
    /// Training steps it made.
    pub steps: u64,
    /// How long ago its first step ended.
    pub first_step: Option<f64>,
    /// How long ago its last step ended.
    pub last_step: Option<f64>,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// AdaptDL's progress.
    pub progress: Option<f64>,
    /// Samples a step, over all workers.
    pub batch_size: Option<u64>,
    /// The newest hints, as the program wrote them.
    pub hints: Option<String>,
    /// How many hints it has reported.
    pub hints_number: u64,
}

/// Why a bridge made a group while the controller was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Alone {
    /// A worker of the one before was killed.
    WorkerKilled,
    /// A node or slot of the one before was lost.
    NodeLost,
    /// A node of the one before will be taken away.
    Notice,
}

/// A rank of a group.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RankReport {
    /// Its rank.
    pub rank: u32,
    /// Its slot.
    pub slot: SlotId,
    /// Its node.
    pub node: RayNodeId,
    /// Its process.
    pub pid: Option<u32>,
    /// Whether it has come where AdaptDL has it wait.
    pub arrived: bool,
    /// Whether it has met its peers.
    pub joined: bool,
    /// How it ended.
    pub exit: Option<ExitReport>,
}

/// How a process ended: one of these.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ExitReport {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<String>,
}

impl std::fmt::Display for ExitReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.code, &self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => f.write_str(signal),
            (None, None) => f.write_str("unknown end"),
        }
    }
}

/// How a group ended.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind")]
pub enum Outcome {
    /// The program has done its work.
    Succeeded,
    /// It was stopped as asked.
    Stopped {
        /// Whether it saved a checkpoint then.
        saved: bool,
    },
    /// It gave way to another before it began.
    Superseded,
    /// The program failed.
    Failed {
        /// The first rank to fail.
        rank: u32,
        /// Its exit code.
        code: Option<i32>,
        /// The signal that killed it.
        signal: Option<String>,
        /// The end of its output.
        #[serde(default)]
        tail: String,
    },
    /// A worker was killed by the kernel or by a person.
    Killed {
        /// In words.
        message: String,
    },
    /// No step was made for too long, because a worker was stopped or could not go on.
    Hung {
        /// In words.
        message: String,
    },
    /// The workers were told to end, but not by us.
    Terminated {
        /// In words.
        message: String,
    },
    /// A slot or its node was lost.
    Lost {
        /// In words.
        message: String,
    },
    /// A slot could not be had.
    SlotFailed {
        /// In words.
        message: String,
    },
    /// The runtime environment could not be built.
    RuntimeEnvFailed {
        /// In words.
        message: String,
    },
    /// The checkpoint it was to begin from was not to be had.
    NoCheckpoint {
        /// In words.
        message: String,
    },
}

/// What a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum BlobKind {
    /// A checkpoint.
    Checkpoint,
    /// Artifacts that a group left.
    Artifacts,
}

/// A checkpoint or artifacts on the head.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobReport {
    /// What it is.
    pub kind: BlobKind,
    /// Its place in the job's history.
    #[serde(flatten)]
    pub id: CheckpointId,
    /// Its contents.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How many files it holds.
    pub files: u64,
    /// The group's steps that a checkpoint holds.
    #[serde(default)]
    pub steps: u64,
    /// How long training stood still for a checkpoint, in milliseconds.
    #[serde(default)]
    pub save_ms: f64,
    /// How long ago it was saved.
    pub at: f64,
}

/// What people should know.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct NoteReport {
    /// Counts a bridge's notes.
    pub number: u64,
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub kind: super::event::EventType,
    /// A word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// How far a worker's output reaches.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LogReport {
    /// The worker's group.
    pub group: GroupNumber,
    /// Its rank.
    pub rank: u32,
    /// Bytes so far.
    pub end: u64,
}
