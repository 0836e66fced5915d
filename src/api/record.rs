//! What the store keeps of jobs and clusters beside the objects: what was decided, and what came of it.
//!
//! Records are the planner's memory. It gets them in a snapshot and returns them changed; nobody else writes
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::aws::{AwsNetwork, MarketKind, Offering};
use super::cluster::NodeTemplate;
use super::cost::{ClusterCosts, JobCosts};
use super::document::{Desired, Document, MOST_ALONE, SlotSpec};
use super::ids::{CheckpointId, Digest, GroupNumber, InstanceId, IntentId, NodeName, RayNodeId, SlotId};
use super::meta::ObjectKey;
use super::shared::Shared;
use super::status::JobPhase;
use super::units::Bytes;
use super::wire::NoticeKind;

/// The digest of a value's JSON form: equal values, equal digests.
pub fn digest_of(value: &impl Serialize) -> Digest {
    let text = serde_json::to_vec(value).unwrap_or_default();
    Digest::from(format!("{:x}", Sha256::digest(text)))
}

/// What was decided for a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterRecord {
    /// The cluster's present life, from its head's start to its end.
    pub incarnation: Option<Incarnation>,
    /// The life that is being begun on EC2: whatever was made for it carries its name, also if it never begins.
    pub opening: Option<String>,
    /// Whether that life is over: its head is lost, and what is left of it is being ended.
    pub ending: bool,
    /// The nodes that were launched and are not known to be gone.
    pub nodes: BTreeMap<NodeName, NodeRecord>,
    /// How many nodes were ever launched: names are not used twice.
    pub launched: u64,
    /// The agent that was submitted last, in this incarnation.
    pub agent: Option<AgentRecord>,
    /// Why nodes cannot be had, and until when nothing is tried.
    pub trouble: Option<Trouble>,
    /// Since when no unfinished job needs the cluster.
    pub unused_since: Option<Timestamp>,
    /// What was announced for nodes that we did not launch.
    pub notices: BTreeMap<RayNodeId, Notice>,
    /// Worker groups whose nodes do not come to be.
    pub failing_groups: BTreeMap<String, FailingGroup>,
    /// When it was last known what came of a launch: EC2 may list its instance a while later.
    pub last_launch: Option<Timestamp>,
    /// What EC2 had none of lately.
    pub unavailable: Vec<Unavailable>,
    /// Instances that carry the cluster's mark and are no node of it, and since when they were seen.
    pub orphans: BTreeMap<InstanceId, Timestamp>,
    /// What it has cost, if it is on EC2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<ClusterCosts>,
}

/// A worker group whose nodes do not come to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailingGroup {
    /// What its nodes were to be: another template is tried at once.
    pub template: Digest,
    /// What happened.
    pub trouble: Trouble,
}

/// Something that EC2 had none of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unavailable {
    /// What it is.
    pub what: Shortage,
    /// How often in a row.
    pub count: u32,
    /// Until when it is not asked for.
    pub until: Timestamp,
    /// What EC2 said.
    pub message: String,
}

/// What EC2 can have none of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Shortage {
    /// Instances of a type, in a zone, on a market.
    Type {
        /// The type.
        instance_type: String,
        /// The zone.
        zone: String,
        /// The market.
        market: MarketKind,
    },
    /// Addresses of a subnet.
    Subnet(String),
    /// The account's limit for a market.
    Market(MarketKind),
}

impl Shortage {
    /// Whether an offering falls under it.
    pub fn covers(&self, offering: &Offering) -> bool {
        match self {
            Self::Type { instance_type, zone, market } => {
                (instance_type, zone, market) == (&offering.instance_type, &offering.zone, &offering.market)
            }
            Self::Subnet(subnet) => *subnet == offering.subnet,
            Self::Market(market) => *market == offering.market,
        }
    }
}

/// A cluster's life, from its head's start to its end: where it is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incarnation {
    /// Tells it from others.
    pub id: String,
    /// When it was decided on.
    pub since: Timestamp,
    /// The address of Ray's dashboard.
    pub dashboard: String,
    /// The address of our agent.
    pub agent: String,
    /// Ray's version, as found.
    pub ray_version: String,
    /// Packages that jobs usually need and the cluster's interpreter does not have.
    #[serde(default)]
    pub missing: Vec<String>,
    /// For clusters whose nodes we launch here: what they need to find each other.
    pub local: Option<LocalNetwork>,
    /// For clusters on EC2: what their nodes share.
    #[serde(default)]
    pub aws: Option<AwsNetwork>,
}

/// The addresses and ports of a local cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalNetwork {
    /// The interpreter that has Ray.
    pub python: String,
    /// The head's loopback address; nodes have those after it.
    pub head: Ipv4Addr,
    /// The port of Ray's control service.
    pub gcs_port: u16,
    /// The port of the dashboard.
    pub dashboard_port: u16,
    /// The port of Ray's client server, which nobody uses but which must not be somebody else's.
    pub client_port: u16,
}

/// A node that was launched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// Its group; none is the head.
    pub group: Option<String>,
    /// Its how-many-eth launch it was, from which its address follows.
    pub index: u64,
    /// The intent it was launched by; its processes carry this.
    pub launch: IntentId,
    /// What it was launched as.
    pub template: Shared<NodeTemplate>,
    /// What EC2 was asked for.
    #[serde(default)]
    pub offering: Option<Shared<Offering>>,
    /// The instance it is.
    #[serde(default)]
    pub instance: Option<InstanceId>,
    /// Since when EC2 does not list its instance.
    #[serde(default)]
    pub missing_since: Option<Timestamp>,
    /// When EC2 was told to end its instance.
    #[serde(default)]
    pub ended: Option<Timestamp>,
    /// Where it is in its life.
    pub state: NodeState,
    /// Ray's id of it, once it has joined.
    pub ray: Option<RayNodeId>,
    /// Since when no worker is on it.
    pub idle_since: Option<Timestamp>,
    /// What was announced for it.
    #[serde(default)]
    pub notice: Option<Notice>,
}

/// That a node will be taken away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// What it is.
    pub kind: NoticeKind,
    /// What will be done with the node, such as `terminate`.
    pub action: String,
    /// When, if that was said.
    pub deadline: Option<Timestamp>,
    /// When it was heard first.
    pub heard: Timestamp,
}

impl Notice {
    /// What will be done, and when, seen from a moment.
    pub fn describe(&self, now: Timestamp) -> String {
        let action = if self.action.is_empty() { "taken away" } else { &self.action };
        let left =
            self.deadline.map(|deadline| (deadline.duration_since(now).as_millis() + 500).div_euclid(1000));
        match left {
            Some(left @ 0..) => format!("{}: {action} in {left}s", self.kind.words()),
            Some(_) => format!("{}: {action} now", self.kind.words()),
            None => self.kind.words().to_owned(),
        }
    }
}

/// Where a node is in its life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeState {
    /// It was decided on; it has not joined yet.
    Launching {
        /// Since when.
        since: Timestamp,
    },
    /// It has joined.
    Ready {
        /// Since when.
        since: Timestamp,
    },
    /// Ray starts nothing more on it; it ends when its workers have gone.
    Draining {
        /// Since when.
        since: Timestamp,
        /// Why.
        cause: String,
    },
    /// What is left of it is being ended.
    Terminating {
        /// Since when.
        since: Timestamp,
        /// Why.
        cause: String,
    },
}

impl NodeState {
    /// Since when it is in this state.
    pub fn since(&self) -> Timestamp {
        match self {
            Self::Launching { since }
            | Self::Ready { since }
            | Self::Draining { since, .. }
            | Self::Terminating { since, .. } => *since,
        }
    }

    /// The state's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Launching { .. } => "Launching",
            Self::Ready { .. } => "Ready",
            Self::Draining { .. } => "Draining",
            Self::Terminating { .. } => "Terminating",
        }
    }

    /// Whether it will be, or is, of use.
    pub fn is_wanted(&self) -> bool {
        matches!(self, Self::Launching { .. } | Self::Ready { .. })
    }
}

/// An agent that was submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentRecord {
    /// The Ray job it is.
    pub submission: String,
    /// When it was submitted.
    pub since: Timestamp,
    /// Whether it has ever answered.
    pub answered: bool,
}

/// Something failed and is tried again later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// How often in a row.
    pub count: u32,
    /// When it is tried again.
    pub until: Timestamp,
    /// Why, as a word.
    pub reason: String,
    /// Why, for a person.
    pub message: String,
}

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
    pub slots: BTreeMap<SlotId, SlotSpec>,
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
        slots: BTreeMap<SlotId, SlotSpec>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}
