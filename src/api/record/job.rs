//! What was decided for a job, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::cost::JobCosts;
use super::super::document::{Desired, Document, MOST_ALONE, SlotSpec};
use super::super::ids::{CheckpointId, Digest, GroupNumber, NodeName, SlotId};
use super::super::meta::ObjectKey;
use super::super::shared::Shared;
use super::super::status::JobPhase;
use super::super::units::Bytes;
use super::Trouble;

/// What was decided for a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobRecord {
    /// Where its bridge may be.
    pub binding: Option<Binding>,
    /// The newest revision of its document. It only grows.
    pub revision: u64,
    /// What the bridge was told last.
    pub document: Option<Document>,
    /// Which revision of it was sent last, and when that was done.
    pub sent: Option<(u64, Timestamp)>,
    /// Its groups, oldest first. The store keeps them in a table of their own.
    #[serde(skip)]
    pub groups: Vec<Shared<GroupRecord>>,
    /// Its durable checkpoints, oldest first. The store keeps them in a table of their own.
    #[serde(skip)]
    pub checkpoints: Vec<CheckpointRecord>,
    /// Checkpoints on the cluster that cannot be fetched whole: spoilt, as far as anybody can tell.
    pub spoilt: BTreeSet<CheckpointId>,
    /// Artifacts that were fetched, oldest first; they go to their destination when the job has succeeded.
    pub artifacts: Vec<ArtifactsRecord>,
    /// How often the program failed.
    pub failures: u32,
    /// Why no group can be had, and until when nothing is tried.
    pub trouble: Option<Trouble>,
    /// The newest good hints.
    pub hints: Option<HintsRecord>,
    /// When its first group was wanted.
    pub started: Option<Timestamp>,
    /// When nothing that an earlier bridge left can be alive any more.
    pub fence_until: Option<Timestamp>,
    /// Which report of hints was looked at last, good or bad: the group, its how-many-eth.
    pub hints_seen: Option<(GroupNumber, u64)>,
    /// Since when it has waited for nodes that it wants.
    pub wanting_since: Option<Timestamp>,
    /// How it finished.
    pub outcome: Option<JobOutcome>,
    /// Whether its artifacts are where the manifest wants them.
    pub delivered: bool,
    /// How far the end of its output has come, if it goes to object storage and nothing more is added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_output: Option<LastOutput>,
    /// The newest note of the bridge that became an event: its bridge, its number.
    pub noted: Option<(String, u64)>,
    /// The newest wish to have it saved at once that a bridge took, and what came of it.
    pub checkpoint_request: Option<CheckpointRequest>,
    /// What it has cost, if it has been on EC2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<JobCosts>,
    /// Numbers of groups below this one may have been used by a bridge that was lost before it could say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused_from: Option<GroupNumber>,
}

impl JobRecord {
    /// The group of a number.
    pub fn group(&self, number: GroupNumber) -> Option<&GroupRecord> {
        self.groups.iter().map(|group| &**group).find(|group| group.number == number)
    }

    /// The number of the next group.
    pub fn next_group(&self) -> GroupNumber {
        let next = self.groups.last().map_or(GroupNumber(0), |group| group.number.next());
        self.unused_from.map_or(next, |unused| next.max(unused))
    }

    /// Leaves out the numbers that a bridge may have given to groups that it began alone.
    pub fn leave_out_what_was_begun_alone(&mut self) {
        let GroupNumber(next) = self.next_group();
        self.unused_from = Some(GroupNumber(next.saturating_add(MOST_ALONE)));
    }

    /// The checkpoint that was made for a wish to have the job saved.
    pub fn granted(&self, wish: &str) -> Option<CheckpointId> {
        self.checkpoint_request.as_ref().filter(|request| request.id == wish)?.checkpoint
    }

    /// The group that the document wants.
    pub fn target(&self) -> Option<&GroupRecord> {
        match &self.document.as_ref()?.desired {
            Desired::Run { group, .. } => self.group(group.number),
            Desired::Stop { .. } => None,
        }
    }
}

/// The end of the output of a job that has stopped for good, on its way to object storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LastOutput {
    /// It is waited for, since then.
    Awaited(Timestamp),
    /// It is there.
    Kept,
    /// It is not, and is not waited for any more.
    GivenUp,
}

/// Where a job's bridge may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// The cluster.
    pub cluster: ObjectKey,
    /// The incarnation of the cluster.
    pub incarnation: String,
    /// The bridge that was seen, and when last.
    pub bridge: Option<(String, Timestamp)>,
}

/// A group that was decided on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupRecord {
    /// Its number.
    pub number: GroupNumber,
    /// When it was wanted.
    pub created: Timestamp,
    /// Why.
    pub reason: GroupReason,
    /// Why, for a person.
    pub message: String,
    /// What it runs, and in what kind of slots: a group with another digest must be replaced.
    pub program: Digest,
    /// The nodes of its ranks.
    pub nodes: Vec<NodeName>,
    /// The slots of its ranks.
    pub slots: Shared<BTreeMap<SlotId, SlotSpec>>,
    /// Workers of the group before it.
    pub from_replicas: u32,
    /// The checkpoint it began from.
    #[serde(default)]
    pub restored: Option<CheckpointId>,
    /// When things happened to it.
    #[serde(default)]
    pub timeline: BTreeMap<String, Timestamp>,
    /// Steps it made.
    #[serde(default)]
    pub steps: u64,
    /// When its last step was.
    #[serde(default)]
    pub last_step: Option<Timestamp>,
    /// How long the job stood still before its first step, in milliseconds.
    #[serde(default)]
    pub downtime_ms: Option<u64>,
    /// Steps of the group before it that had to be made again.
    #[serde(default)]
    pub lost_steps: Option<u64>,
    /// Whether its workers came where AdaptDL has them wait.
    #[serde(default)]
    pub spoke_adaptdl: bool,
    /// How it ended.
    #[serde(default)]
    pub outcome: Option<GroupOutcome>,
}

impl GroupRecord {
    /// The record of a group to which nothing has happened yet, with why it is wanted.
    pub fn new(
        number: GroupNumber,
        created: Timestamp,
        (reason, message): (GroupReason, String),
        program: Digest,
        nodes: Vec<NodeName>,
        slots: Shared<BTreeMap<SlotId, SlotSpec>>,
        from_replicas: u32,
    ) -> Self {
        Self {
            number,
            created,
            reason,
            message,
            program,
            nodes,
            slots,
            from_replicas,
            restored: None,
            timeline: BTreeMap::new(),
            steps: 0,
            last_step: None,
            downtime_ms: None,
            lost_steps: None,
            spoke_adaptdl: false,
            outcome: None,
        }
    }
}

/// Why there is a new group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupReason {
    /// The job begins.
    Started,
    /// It was suspended, and goes on.
    Resumed,
    /// Another number of workers pays, or another placement is needed.
    Scaled,
    /// The manifest wants another number of workers.
    ReplicasChanged,
    /// The manifest wants another program, environment or resources.
    SpecChanged,
    /// The program failed.
    ProgramFailed,
    /// A worker was killed.
    WorkerKilled,
    /// A node, slot or bridge was lost.
    NodeLost,
    /// A node will be taken away.
    NodeLeaving,
    /// A group could not be had, and is tried again.
    Retried,
}

/// How a group ended, in a word and a sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupOutcome {
    /// The outcome's name on the wire.
    pub kind: String,
    /// For a person; empty if there is nothing to add.
    pub message: String,
}

/// A checkpoint in durable storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointRecord {
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
    /// The file it is in.
    pub path: String,
}

/// A wish to have a job saved at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointRequest {
    /// The wish's name.
    pub id: String,
    /// The checkpoint that was made; it becomes durable a little later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointId>,
}

/// Artifacts that a group left, fetched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactsRecord {
    /// The group.
    pub group: GroupNumber,
    /// Their contents.
    pub digest: Digest,
}

/// Hints that passed every check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HintsRecord {
    /// The group that reported them.
    pub group: GroupNumber,
    /// Which of its reports.
    pub number: u64,
    /// When they were taken in.
    pub at: Timestamp,
    /// The hints, as checked.
    pub hints: Value,
}

/// How a job finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobOutcome {
    /// `Succeeded` or `Failed`.
    pub phase: JobPhase,
    /// Why, as a word.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// What its file said then, in short, if it came from one: what the file says later has not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}
