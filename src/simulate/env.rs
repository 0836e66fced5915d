//! What the parts of a simulated Ray cluster share while something happens to them.

use std::collections::BTreeMap;

use super::clock::{Ms, Random};
use super::floor::Actor;
use super::program::Workload;
use super::transcript::Transcript;
use crate::api::ids::{CheckpointId, Digest, GroupNumber, RayNodeId, Uid};
use crate::api::wire::ExitReport;

/// What is at hand while something happens in a Ray cluster.
pub(super) struct Env<'a> {
    pub(super) now: Ms,
    /// How long a slot lives without its bridge.
    pub(super) lease: Ms,
    /// For how long the controller has not been heard.
    pub(super) away: Ms,
    pub(super) random: &'a mut Random,
    /// What will happen there, and when.
    pub(super) timers: &'a mut Vec<(Ms, RayEvent)>,
    /// What invariants are checked by.
    pub(super) facts: &'a mut Vec<Fact>,
    pub(super) transcript: &'a mut Transcript,
    pub(super) workloads: &'a BTreeMap<Uid, Workload>,
    pub(super) saves: &'a mut Saves,
}

impl Env<'_> {
    /// Has something happen later.
    pub(super) fn after(&mut self, delay: Ms, event: RayEvent) {
        self.timers.push((self.now + delay, event));
    }

    /// Has something happen after a time between two.
    pub(super) fn within(&mut self, low: Ms, high: Ms, event: RayEvent) {
        let delay = self.random.between(low, high);
        self.after(delay, event);
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        self.transcript.say(self.now, line);
    }

    pub(super) fn workload(&self, job: &Uid) -> Workload {
        self.workloads.get(job).cloned().unwrap_or_default()
    }
}

/// What happens in a Ray cluster by itself.
#[derive(Clone, Debug)]
pub(super) enum RayEvent {
    /// A slot's runtime environment is built, or cannot be.
    SlotOpens(Actor),
    /// A slot has had no contact since then for its whole lease.
    SlotLease(Actor, Ms),
    /// A slot's actor ends.
    SlotEnds(Actor),
    /// Ray looks whether a node still answers.
    NodeMissed(RayNodeId),
    /// A node can be reached again.
    NodeBack(RayNodeId),
    /// A worker comes to where AdaptDL has it wait.
    Arrives(Actor, GroupNumber),
    /// A worker ends by itself.
    Exits(Actor, GroupNumber, Exit),
    /// Something happens to a group.
    Group(BridgeId, GroupNumber, GroupEvent),
    /// A bridge looks whether its time has come.
    Bridge(BridgeId),
    /// The agent notices that a bridge is dead.
    BridgeMissed(BridgeId),
    /// The agent begins to serve.
    AgentServes(String),
}

/// What happens to a group as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) enum GroupEvent {
    /// Its workers make their first step.
    FirstStep,
    /// Rank 0 has saved; `leaving`: because they were told to end, which they now do.
    Saved {
        /// Whether they leave.
        leaving: bool,
    },
    /// Its workers report what they measured.
    Hints,
    /// Its program has done its work.
    Done,
}

/// A bridge: the job, and which of its bridges it is.
pub(super) type BridgeId = (Uid, u64);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(&'static str),
}

impl Exit {
    /// As it is reported.
    pub(super) fn report(self) -> ExitReport {
        match self {
            Self::Code(code) => ExitReport { code: Some(code), signal: None },
            Self::Signal(signal) => ExitReport { code: None, signal: Some(signal.to_owned()) },
        }
    }
}

/// What happened that somebody who sees everything must judge.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    /// A group's workers began to train, or could.
    Began {
        /// The job.
        job: Uid,
        /// The group.
        group: GroupNumber,
        /// How many they are.
        workers: usize,
        /// The checkpoint they began from.
        from: Option<CheckpointId>,
        /// The best checkpoint on the head that could have been read.
        on_head: Option<CheckpointId>,
    },
    /// A bridge was removed because it was asked for.
    Removed {
        /// The job.
        job: Uid,
        /// The group that trained.
        training: Option<GroupNumber>,
        /// The newest checkpoint that it had, if it could be read.
        newest: Option<CheckpointId>,
    },
    /// A job's program has done its work.
    Succeeded(Uid),
}

/// How much work each checkpoint holds, by its contents: steps from the very beginning.
#[derive(Default)]
pub(super) struct Saves {
    totals: BTreeMap<Digest, u64>,
}

impl Saves {
    /// The digest of a new save.
    pub(super) fn add(&mut self, total: u64) -> Digest {
        let digest = Digest::from(format!("{:012x}{:052}", self.totals.len() + 1, 0));
        self.totals.insert(digest.clone(), total);
        digest
    }

    /// How much work a save holds.
    pub(super) fn total(&self, digest: &Digest) -> u64 {
        self.totals.get(digest).copied().unwrap_or(0)
    }
}
