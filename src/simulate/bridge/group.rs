//! A group as its bridge sees it, and the slots it sees it through: `group.py` and `reservation.py`.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::document::{GroupSpec, SlotSpec};
use crate::api::ids::{CheckpointId, Digest, GroupNumber, RayNodeId, SlotId};
use crate::api::wire::{Alone, GroupPhase, Outcome, RankReport};
use crate::simulate::clock::Ms;
use crate::simulate::env::{Env, Exit};
use crate::simulate::floor::{Actor, Floor, Link, SlotState};

/// Beyond the lease, before a slot's workers are taken for dead.
const LEASE_MARGIN_MS: Ms = 2_000;
/// With this exit code AdaptDL's workers leave when they were told to.
pub(super) const SIGTERM_EXIT: i32 = 143;

/// A slot, as its bridge knows it.
pub(super) struct Reservation {
    pub(super) actor: Actor,
    pub(super) spec: SlotSpec,
    pub(super) state: Known,
    /// What was heard last of each group's worker.
    runs: BTreeMap<GroupNumber, Run>,
    last_contact: Ms,
}

/// What a bridge knows of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Pending,
    Ready,
    /// It could not be had: the outcome this gives a group.
    Failed(&'static str),
    Lost,
}

/// What was heard last of a worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    pub(super) arrived: bool,
    pub(super) released: bool,
    pub(super) exit: Option<(Exit, Ms)>,
}

impl Reservation {
    pub(super) fn new(actor: Actor, spec: SlotSpec, now: Ms) -> Self {
        Self { actor, spec, state: Known::Pending, runs: BTreeMap::new(), last_contact: now }
    }

    /// Hears what the slot and Ray have to say.
    pub(super) fn listen(&mut self, floor: &Floor, now: Ms) {
        let Some(slot) = floor.slots.get(&self.actor) else { return };
        let node = &floor.nodes[slot.node];
        let waiting = matches!(self.state, Known::Pending | Known::Ready);
        if waiting {
            self.last_contact = slot.asked_last(now);
        }
        if !waiting || (node.link != Link::Up && node.alive) {
            return;
        }
        let gone = if self.state == Known::Ready { Known::Lost } else { Known::Failed("SlotFailed") };
        match slot.state {
            _ if !node.alive => self.state = gone,
            SlotState::Waiting | SlotState::Opening => {}
            SlotState::Failed(why) => self.state = Known::Failed(why),
            SlotState::Ended => self.state = gone,
            SlotState::Open => {
                self.state = Known::Ready;
                for worker in &slot.workers {
                    let run = Run { arrived: worker.arrived, released: worker.released, exit: worker.exit };
                    self.runs.insert(worker.group, run);
                }
            }
        }
    }

    pub(super) fn run(&self, group: GroupNumber) -> Option<Run> {
        self.runs.get(&group).copied()
    }

    pub(super) fn forget(&mut self, group: GroupNumber, floor: &mut Floor) {
        if self.state == Known::Ready && floor.reaches(self.actor) {
            floor.forget(self.actor, group);
            self.runs.remove(&group);
        }
    }

    /// When no worker of this slot can be alive any more, if that is known.
    fn gone_at(&self, fenced: &BTreeSet<RayNodeId>, floor: &Floor, lease: Ms) -> Option<Ms> {
        match self.state {
            Known::Failed(_) => Some(0),
            Known::Pending | Known::Ready => None,
            Known::Lost => {
                let confirmed = floor.node(&self.spec.ray).is_some_and(|node| node.alive);
                let known = confirmed || fenced.contains(&self.spec.ray);
                Some(if known { 0 } else { self.silent_until(lease) })
            }
        }
    }

    /// When its workers can be alive no longer, whatever happens.
    pub(super) fn silent_until(&self, lease: Ms) -> Ms {
        self.last_contact + lease + LEASE_MARGIN_MS
    }

    pub(super) fn describe(&self) -> (&'static str, Option<String>) {
        match self.state {
            Known::Pending => ("Pending", None),
            Known::Ready => ("Ready", None),
            Known::Failed(why) => ("Failed", Some(format!("{why} on {}", self.spec.node))),
            Known::Lost => ("Lost", Some(format!("the actor on {} has died", self.spec.node))),
        }
    }
}

/// A group, as its bridge knows it.
pub(super) struct Group {
    pub(super) spec: GroupSpec,
    /// Why it was begun without the bridge being told, if it was.
    pub(super) alone: Option<Alone>,
    /// In rank order; empty until they are reserved.
    pub(super) slots: Vec<SlotId>,
    pub(super) phase: GroupPhase,
    pub(super) started: bool,
    pub(super) times: BTreeMap<&'static str, Ms>,
    pub(super) outcome: Option<Outcome>,
    pub(super) restored: Option<(CheckpointId, Digest)>,
    pub(super) training: Option<Training>,
    /// How often rank 0 has saved, and what it saved last that nobody has taken in.
    pub(super) saves: u64,
    pub(super) unpacked: Option<Save>,
    pub(super) save_asked: Ms,
    pub(super) hints: Option<(String, u64)>,
    final_ranks: Option<Vec<RankReport>>,
}

/// How a group trains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Training {
    /// Work done before it, in steps from the very beginning.
    pub(super) base: u64,
    pub(super) first_step: Ms,
    /// Steps a second.
    pub(super) rate: f64,
    /// When it stopped to make steps.
    pub(super) stopped: Option<Ms>,
}

impl Training {
    /// Steps made so far.
    pub(super) fn steps(&self, now: Ms) -> u64 {
        let until = self.stopped.unwrap_or(now).min(now);
        if until < self.first_step {
            return 0;
        }
        1 + ((until - self.first_step) as f64 / 1000.0 * self.rate) as u64
    }
}

/// A save of rank 0.
#[derive(Clone, Debug)]
pub(super) struct Save {
    pub(super) id: CheckpointId,
    pub(super) steps: u64,
    pub(super) total: u64,
}

impl Group {
    pub(super) fn new(spec: GroupSpec, now: Ms) -> Self {
        Self {
            spec,
            alone: None,
            slots: Vec::new(),
            phase: GroupPhase::Reserving,
            started: false,
            times: [("created", now)].into(),
            outcome: None,
            restored: None,
            training: None,
            saves: 0,
            unpacked: None,
            save_asked: 0,
            hints: None,
            final_ranks: None,
        }
    }

    pub(super) fn number(&self) -> GroupNumber {
        self.spec.number
    }

    pub(super) fn steps(&self, now: Ms) -> u64 {
        self.training.map_or(0, |training| training.steps(now))
    }

    /// Rank 0 saves.
    pub(super) fn save(&mut self, now: Ms) {
        let steps = self.steps(now);
        let base = self.training.map_or(0, |training| training.base);
        self.saves += 1;
        let id = CheckpointId { group: self.number(), number: self.saves };
        self.unpacked = Some(Save { id, steps, total: base + steps });
    }

    /// Stops making steps.
    pub(super) fn stall(&mut self, now: Ms) {
        if let Some(training) = &mut self.training {
            training.stopped.get_or_insert(now);
        }
    }
}

/// A group together with the slots it is seen through.
pub(super) struct Seen<'a> {
    pub(super) group: &'a Group,
    pub(super) slots: &'a BTreeMap<SlotId, Reservation>,
    pub(super) fenced: &'a BTreeSet<RayNodeId>,
}

impl Seen<'_> {
    fn reservations(&self) -> impl Iterator<Item = &Reservation> {
        self.group.slots.iter().filter_map(|id| self.slots.get(id))
    }

    fn runs(&self) -> Vec<Option<Run>> {
        self.reservations().map(|slot| slot.run(self.group.number())).collect()
    }

    fn exits(&self) -> Vec<Option<(Exit, Ms)>> {
        self.runs().into_iter().map(|run| run.and_then(|run| run.exit)).collect()
    }

    pub(super) fn arrived(&self) -> bool {
        let runs = self.runs();
        !runs.is_empty() && runs.iter().all(|run| run.is_some_and(|run| run.arrived))
    }

    pub(super) fn lost(&self) -> Option<&Reservation> {
        self.reservations().find(|slot| matches!(slot.state, Known::Lost | Known::Failed(_)))
    }

    /// When no worker of it can be alive any more, if that is known.
    pub(super) fn over_at(&self, floor: &Floor, lease: Ms) -> Option<Ms> {
        let mut latest = 0;
        for slot in self.reservations() {
            let exited = slot.run(self.group.number()).is_some_and(|run| run.exit.is_some());
            let at = if exited { Some(0) } else { slot.gone_at(self.fenced, floor, lease) };
            latest = latest.max(at?);
        }
        Some(latest)
    }

    /// Whether it cannot go on: the master has ended, another rank failed, or a slot is gone.
    pub(super) fn ending(&self) -> bool {
        let ended = |(rank, exit): (usize, Option<(Exit, Ms)>)| {
            exit.is_some_and(|(exit, _)| rank == 0 || exit != Exit::Code(0))
        };
        self.lost().is_some() || self.exits().into_iter().enumerate().any(ended)
    }

    /// Whether the master has ended as a program does whose work is done.
    pub(super) fn finished(&self) -> bool {
        self.exits().first().copied().flatten().is_some_and(|(exit, _)| exit == Exit::Code(0))
    }

    /// The ranks whose workers are not known to have ended.
    pub(super) fn alive(&self) -> BTreeSet<usize> {
        let exits = self.exits().into_iter().enumerate();
        exits.filter(|(_, exit)| exit.is_none()).map(|(rank, _)| rank).collect()
    }

    /// Why it ended, from the ranks' exits; those that we killed say nothing.
    pub(super) fn judge(&self, killed_by_us: &BTreeSet<usize>) -> Outcome {
        if self.finished() {
            return Outcome::Succeeded;
        }
        if let Some(slot) = self.lost() {
            return Outcome::Lost { message: slot.describe().1.unwrap_or_default() };
        }
        let exits = self.exits().into_iter().enumerate();
        let own: Vec<(usize, Exit, Ms)> = exits
            .filter(|(rank, _)| !killed_by_us.contains(rank))
            .filter_map(|(rank, exit)| exit.map(|(exit, at)| (rank, exit, at)))
            .collect();
        if let Some((rank, ..)) = own.iter().find(|(_, exit, _)| *exit == Exit::Signal("SIGKILL")) {
            return Outcome::Killed { message: format!("rank {rank} was killed (SIGKILL)") };
        }
        let left = |exit: &Exit| matches!(exit, Exit::Code(SIGTERM_EXIT) | Exit::Signal("SIGTERM"));
        if !own.is_empty() && own.iter().all(|(_, exit, _)| left(exit)) {
            let message = "the workers were sent SIGTERM by somebody else".to_owned();
            return Outcome::Terminated { message };
        }
        let first = own.iter().filter(|(_, exit, _)| *exit != Exit::Code(0)).min_by_key(|(.., at)| *at);
        let (rank, exit) = first.map_or((0, Exit::Code(1)), |(rank, exit, _)| (*rank, *exit));
        let (code, signal) = match exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal.to_owned())),
        };
        Outcome::Failed {
            rank: u32::try_from(rank).unwrap_or(0),
            code,
            signal,
            tail: "it fails\n".to_owned(),
        }
    }

    pub(super) fn describe_ranks(&self) -> Vec<RankReport> {
        if let Some(ranks) = &self.group.final_ranks {
            return ranks.clone();
        }
        let ranks = self.group.slots.iter().zip(self.reservations()).enumerate().map(|(rank, (id, slot))| {
            let run = slot.run(self.group.number());
            RankReport {
                rank: u32::try_from(rank).unwrap_or(0),
                slot: id.clone(),
                node: slot.spec.ray.clone(),
                pid: run.map(|_| 1),
                arrived: run.is_some_and(|run| run.arrived),
                joined: run.is_some_and(|run| run.released && run.arrived),
                exit: run.and_then(|run| run.exit).map(|(exit, _)| exit.report()),
            }
        });
        ranks.collect()
    }
}

impl Group {
    pub(super) fn end(&mut self, outcome: Outcome, ranks: Vec<RankReport>, env: &mut Env<'_>) {
        self.stall(env.now);
        self.final_ranks = Some(ranks);
        self.phase = GroupPhase::Ended;
        self.outcome = Some(outcome);
        self.times.insert("ended", env.now);
    }
}
