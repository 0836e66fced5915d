//! What is observed: the newest that was seen from a source, and whether it still can be seen.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::aws::MarketKind;
use super::ids::{InstanceId, IntentId};

/// The label by which a Ray node tells which launch it comes from.
pub const LAUNCH_LABEL: &str = "rayconcile.dev/launch";
/// The label with a node's name.
pub const NODE_LABEL: &str = "rayconcile.dev/node";

/// What was observed from one source: the newest that was seen, and whether it still can be seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed<T> {
    /// What was seen last, and when.
    pub last: Option<(Timestamp, T)>,
    /// Why nothing newer can be seen, and since when.
    pub error: Option<(Timestamp, String)>,
}

impl<T> Default for Observed<T> {
    fn default() -> Self {
        Self { last: None, error: None }
    }
}

impl<T> Observed<T> {
    /// Something that was just seen.
    pub fn seen(at: Timestamp, value: T) -> Self {
        Self { last: Some((at, value)), error: None }
    }

    /// Notes that nothing could be seen. What was seen before is kept, but is not fresh any more.
    pub fn fail(&mut self, at: Timestamp, error: String) {
        let since = self.error.as_ref().map_or(at, |(since, _)| *since);
        self.error = Some((since, error));
    }

    /// What is seen now, if anything can be.
    pub fn fresh(&self) -> Option<(Timestamp, &T)> {
        match (&self.last, &self.error) {
            (Some((at, value)), None) => Some((*at, value)),
            _ => None,
        }
    }
}

/// What the processes of this machine show of a local cluster's nodes: all of them, by the launch they carry.
pub type Processes = BTreeMap<IntentId, LocalNode>;

/// What is left of one launch: the processes that carry its mark, and what they wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalNode {
    /// The main process, if it lives: its pid and when it started, in clock ticks since boot.
    pub leader: Option<(u32, u64)>,
    /// Whether its raylet lives.
    pub raylet: bool,
    /// Whether it has the cluster's control service, and that lives.
    pub gcs: bool,
    /// These two, likewise.
    pub daemons: Vec<(u32, u64)>,
    /// How many processes live, workers included.
    pub processes: u32,
    /// The end of what its main process wrote.
    pub output: String,
}

/// How a job's output gets to object storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archiving {
    /// Bytes that are here, and not there yet.
    pub behind: u64,
    /// Why they cannot be brought there at the moment.
    pub error: Option<String>,
}

/// The instances of EC2 that carry a cluster's mark: all of them, those that have ended lately too.
pub type Instances = BTreeMap<InstanceId, CloudInstance>;

/// An instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudInstance {
    /// The launch it carries the mark of.
    pub launch: Option<IntentId>,
    /// Where it is in its life.
    pub phase: InstancePhase,
    /// Its type.
    pub instance_type: String,
    /// Its zone.
    pub zone: String,
    /// Its market.
    pub market: MarketKind,
    /// Its private address, once it has one.
    pub address: Option<String>,
    /// Why it is where it is, as EC2 says; empty if it says nothing.
    pub reason: String,
}

/// Where an instance is in its life (EC2's instance states).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstancePhase {
    /// It is being started.
    Pending,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// It is stopped.
    Stopped,
    /// It is being ended.
    ShuttingDown,
    /// It has ended.
    Terminated,
}

impl InstancePhase {
    /// Whether it runs, or will.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Pending | Self::Running)
    }

    /// Whether it is being ended or has ended: nothing needs to be done for that any more.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}
