//! What the store keeps of jobs and clusters beside the objects: what was decided, and what came of it.
//!
//! Records are the planner's memory. It gets them in a snapshot and returns them changed; nobody else writes
//! them.

mod job;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::aws::{AwsNetwork, MarketKind, Offering};
use super::cluster::NodeTemplate;
use super::cost::ClusterCosts;
use super::ids::{Digest, InstanceId, IntentId, NodeName, RayNodeId};
use super::shared::Shared;
use super::wire::NoticeKind;

pub use job::{
    ArtifactsRecord, Binding, CheckpointRecord, CheckpointRequest, GroupOutcome, GroupReason, GroupRecord,
    HintsRecord, JobOutcome, JobRecord, LastOutput,
};

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
    pub nodes: BTreeMap<NodeName, Shared<NodeRecord>>,
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
