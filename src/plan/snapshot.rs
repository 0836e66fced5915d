//! Everything a plan is made from, and everything that comes of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::guards::Guards;
use super::report::Report;
use crate::action::Intent;
use crate::api::cost::{ListPrices, SpotPrices};
use crate::api::event::NewEvent;
use crate::api::ids::{IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject, Kind, RayCluster};
use crate::api::observed::{Archiving, Instances, Observed, Processes};
use crate::api::record::{ClusterRecord, JobRecord};
use crate::api::units::{Bytes, Span};
use crate::api::wire::AgentState;

/// What was observed of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Its nodes' processes, where they run on this machine.
    pub processes: Observed<Processes>,
    /// Its instances, where they are EC2's.
    pub instances: Observed<Instances>,
    /// What EC2 asks for spot instances of the types that it may launch.
    pub spot_prices: Observed<SpotPrices>,
    /// What AWS's price list has of the types that its nodes may have.
    pub list_prices: Observed<ListPrices>,
    /// How the jobs' output gets to object storage, of those that want it there and were looked at.
    pub archives: BTreeMap<Uid, Archiving>,
    /// What its agent says.
    pub agent: Observed<AgentState>,
    /// Whether the Ray job that the agent is has ended, and with what message. Looked at only while the agent
    /// does not answer.
    pub agent_ended: Observed<Option<String>>,
}

/// A job, with what was decided for it and what is known beside its bridge's report.
#[derive(Clone, Debug)]
pub struct JobView {
    /// The job.
    pub job: AdaptDLJob,
    /// What was decided for it.
    pub record: JobRecord,
    /// Bytes of its workers' output that are still only on the cluster.
    pub logs_behind: u64,
}

/// What this machine has: the size of the built-in cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// CPUs.
    pub cpus: u32,
    /// GPUs.
    pub gpus: u32,
    /// Memory.
    pub memory: Bytes,
}

/// Settings of the controller that plans follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a slot lives without its bridge.
    pub lease: Span,
    /// How long the built-in cluster is kept when no job needs it.
    pub built_in_idle: Span,
    /// How long a node may take to join.
    pub join_timeout: Span,
    /// What this machine has.
    pub machine: Machine,
}

/// Everything a plan is made from.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub now: Timestamp,
    /// From which ids for new intents and slots are made; never the same twice.
    pub seed: u64,
    /// The cluster's name.
    pub key: ObjectKey,
    /// The cluster, if there is one of that name.
    pub cluster: Option<RayCluster>,
    /// What was decided for it.
    pub record: ClusterRecord,
    /// The jobs that refer to it or are on it.
    pub jobs: Vec<JobView>,
    /// Effects that are not settled.
    pub intents: Vec<Intent>,
    /// Those that are being done at this moment.
    pub in_flight: BTreeSet<IntentId>,
    /// What was observed.
    pub seen: Seen,
    /// The controller's settings.
    pub settings: Settings,
    /// What keeps plans safe; a test may switch one off to see that it is needed.
    pub guards: Guards,
}

/// What is to be kept and done. Kept first: nothing is done that is not written down.
#[must_use]
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was decided for the cluster.
    pub record: ClusterRecord,
    /// What was decided for the jobs.
    pub jobs: BTreeMap<Uid, JobRecord>,
    /// The effects that are wanted now, old and new. An unsettled intent that is not here is given up.
    pub intents: Vec<Intent>,
    /// Objects to be made.
    pub creations: Vec<AnyObject>,
    /// Objects to be asked to go.
    pub deletions: Vec<(Kind, ObjectKey)>,
    /// Objects for which nothing is left to be done before they go.
    pub removals: Vec<Removal>,
    /// What people should know.
    pub events: Vec<NewEvent>,
    /// What is waited for, and why.
    pub report: Report,
    /// When to plan again even if nothing happens.
    pub wake_at: Option<Timestamp>,
}

/// An object that may go for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The object.
    pub uid: Uid,
    /// For a job: its name, and until when its checkpoints and logs are kept.
    pub retire: Option<(ObjectKey, Timestamp)>,
}
