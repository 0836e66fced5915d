//! What runs on the nodes of a Ray cluster: slot actors with the workers in them.
//!
//! Here is the truth. What Ray's control service, the bridges, the agent and at last the planner know of it comes
//! later, and sometimes not at all.

use std::collections::BTreeMap;

use super::clock::Ms;
use super::env::{BridgeId, Env, Exit, RayEvent};
use super::program::{Conduct, can_be_built};
use crate::api::document::{GroupSpec, SlotSpec};
use crate::api::ids::{GroupNumber, IntentId, NodeName, RayNodeId, SlotId, Uid};
use crate::api::wire::NoticeKind;
use crate::plan::Capacity;

/// A slot's actor.
pub(super) type Actor = u64;

/// After its lease a slot ends as soon as it looks at its clock.
const LEASE_WATCH_MS: Ms = 100;
/// How often Ray asks its nodes; after a few silences it takes one for dead.
const HEALTH_MS: (Ms, Ms) = (1_500, 12_000);

/// The nodes and slots of one Ray cluster.
#[derive(Default)]
pub(super) struct Floor {
    pub(super) nodes: Vec<Node>,
    pub(super) slots: BTreeMap<Actor, Slot>,
    made: Actor,
}

/// A node that has joined.
pub(super) struct Node {
    pub(super) id: RayNodeId,
    pub(super) address: String,
    /// What it was launched as, if we did.
    pub(super) launch: Option<(NodeName, IntentId)>,
    pub(super) head: bool,
    pub(super) total: Capacity,
    /// The same as Ray says it; of our own nodes nobody asks.
    pub(super) resources: BTreeMap<String, f64>,
    /// Whether Ray takes it for alive.
    pub(super) alive: bool,
    /// Whether Ray starts nothing more on it.
    pub(super) draining: bool,
    /// That it will be taken away, and when.
    pub(super) notice: Option<(NoticeKind, Option<Ms>)>,
    pub(super) link: Link,
}

/// What is true of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It answers.
    Up,
    /// It runs, but nobody can reach it.
    Cut,
    /// Nothing of it runs.
    Gone,
}

/// A slot's actor.
pub(super) struct Slot {
    pub(super) job: Uid,
    pub(super) id: SlotId,
    pub(super) node: usize,
    pub(super) owner: BridgeId,
    pub(super) state: SlotState,
    pub(super) workers: Vec<Worker>,
    need: Capacity,
    buildable: bool,
    /// Since when its bridge has not asked it anything.
    alone_since: Option<Ms>,
    /// Whether its bridge is dead.
    orphan: bool,
}

impl Slot {
    /// When its bridge asked it last, as it does all the time.
    pub(super) fn asked_last(&self, now: Ms) -> Ms {
        self.alone_since.unwrap_or(now)
    }
}

/// What a slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// There is no room for it.
    Waiting,
    /// Its runtime environment is being built.
    Opening,
    /// It can host workers.
    Open,
    /// It could not be had; with the bridge's word for why.
    Failed(&'static str),
    /// It has ended, and its workers with it.
    Ended,
}

/// A worker's process.
pub(super) struct Worker {
    pub(super) group: GroupNumber,
    pub(super) rank: u32,
    pub(super) conduct: Conduct,
    pub(super) arrived: bool,
    pub(super) released: bool,
    pub(super) exit: Option<(Exit, Ms)>,
}

impl Worker {
    /// Whether it trains, or is about to.
    pub(super) fn trains(&self) -> bool {
        self.exit.is_none() && (self.released || !self.conduct.speaks_adaptdl)
    }
}

impl Floor {
    /// A cluster that has only a head.
    pub(super) fn of(head: Node) -> Self {
        Self { nodes: vec![head], ..Self::default() }
    }

    // --- What is there -----------------------------------------------------------------------------------------

    pub(super) fn index(&self, id: &RayNodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == *id)
    }

    pub(super) fn node(&self, id: &RayNodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == *id)
    }

    /// Whether a slot can be asked.
    pub(super) fn reaches(&self, actor: Actor) -> bool {
        self.slots
            .get(&actor)
            .is_some_and(|slot| self.nodes[slot.node].link == Link::Up && slot.state == SlotState::Open)
    }

    pub(super) fn worker(&self, actor: Actor, group: GroupNumber) -> Option<&Worker> {
        self.slots.get(&actor)?.workers.iter().find(|worker| worker.group == group)
    }

    fn worker_mut(&mut self, actor: Actor, group: GroupNumber) -> Option<&mut Worker> {
        self.slots.get_mut(&actor)?.workers.iter_mut().find(|worker| worker.group == group)
    }

    /// The workers that train: the job, whose bridge's, the group, the node.
    pub(super) fn training(&self) -> impl Iterator<Item = (&Slot, &Worker)> {
        let pairs =
            self.slots.values().flat_map(|slot| slot.workers.iter().map(move |worker| (slot, worker)));
        pairs.filter(|(_, worker)| worker.trains())
    }

    /// What is not reserved on a node.
    pub(super) fn free(&self, node: usize) -> Capacity {
        let mut free = self.nodes[node].total.clone();
        for slot in self.slots.values().filter(|slot| slot.node == node) {
            if matches!(slot.state, SlotState::Opening | SlotState::Open) {
                free.take(&slot.need, 1);
            }
        }
        free
    }

    // --- Slots ---------------------------------------------------------------------------------------------------

    /// Makes a slot's actor, which waits until there is room on its node.
    pub(super) fn make(
        &mut self,
        env: &mut Env<'_>,
        id: &SlotId,
        spec: &SlotSpec,
        owner: &BridgeId,
    ) -> Option<Actor> {
        let node = self.index(&spec.ray)?;
        self.made += 1;
        let slot = Slot {
            job: owner.0.clone(),
            id: id.clone(),
            node,
            owner: owner.clone(),
            state: SlotState::Waiting,
            workers: Vec::new(),
            need: Capacity::of_worker(&spec.kind.resources),
            buildable: can_be_built(&spec.kind),
            alone_since: None,
            orphan: false,
        };
        self.slots.insert(self.made, slot);
        self.admit(node, env);
        Some(self.made)
    }

    /// Gives room on a node to the slots that wait for it, in the order in which they came.
    fn admit(&mut self, node: usize, env: &mut Env<'_>) {
        let at = &self.nodes[node];
        let (alive, open) = (at.alive, at.link == Link::Up && !at.draining);
        let waiting: Vec<Actor> = self.slots_on(node, |slot| slot.state == SlotState::Waiting);
        for actor in waiting {
            let free = self.free(node);
            let Some(slot) = self.slots.get_mut(&actor) else { continue };
            if !alive {
                slot.state = SlotState::Failed("SlotFailed");
            } else if open && free.fits(&slot.need) > 0 {
                slot.state = SlotState::Opening;
                env.within(200, 3_000, RayEvent::SlotOpens(actor));
            }
        }
    }

    fn slots_on(&self, node: usize, like: impl Fn(&Slot) -> bool) -> Vec<Actor> {
        let slots = self.slots.iter().filter(|(_, slot)| slot.node == node && like(slot));
        slots.map(|(actor, _)| *actor).collect()
    }

    /// A slot's runtime environment is built, or cannot be.
    pub(super) fn opens(&mut self, actor: Actor, env: &mut Env<'_>) {
        let Some(slot) = self.slots.get_mut(&actor) else { return };
        let node = slot.node;
        if slot.state == SlotState::Opening && self.nodes[node].link == Link::Up {
            slot.state = if slot.buildable { SlotState::Open } else { SlotState::Failed("RuntimeEnvFailed") };
            self.admit(node, env);
        }
    }

    /// Ends a slot, and its workers with it.
    pub(super) fn end(&mut self, actor: Actor, env: &mut Env<'_>) {
        let Some(slot) = self.slots.get_mut(&actor) else { return };
        if matches!(slot.state, SlotState::Ended | SlotState::Failed(_)) {
            return;
        }
        slot.state = SlotState::Ended;
        for worker in slot.workers.iter_mut().filter(|worker| worker.exit.is_none()) {
            worker.exit = Some((Exit::Signal("SIGKILL"), env.now));
        }
        let node = slot.node;
        self.leave_if_drained(node);
        self.admit(node, env);
    }

    /// The bridge of some slots has died: Ray ends them, if it can, and they themselves at the end of their lease.
    pub(super) fn orphan(&mut self, owner: &BridgeId, env: &mut Env<'_>) {
        let orphans: Vec<Actor> =
            self.slots.iter().filter(|(_, slot)| slot.owner == *owner).map(|(actor, _)| *actor).collect();
        for actor in orphans {
            self.leave_alone(actor, env);
            if let Some(slot) = self.slots.get_mut(&actor) {
                slot.orphan = true;
            }
            if self.reaches(actor) && env.random.chance(0.7) {
                env.within(0, 3_000, RayEvent::SlotEnds(actor));
            }
        }
    }

    /// A slot's bridge does not ask it any more.
    pub(super) fn leave_alone(&mut self, actor: Actor, env: &mut Env<'_>) {
        let Some(slot) = self.slots.get_mut(&actor) else { return };
        if slot.alone_since.is_none() {
            slot.alone_since = Some(env.now);
            env.after(env.lease + LEASE_WATCH_MS, RayEvent::SlotLease(actor, env.now));
        }
    }

    /// A slot that has been alone since then, without a break, ends.
    pub(super) fn lease_over(&mut self, actor: Actor, since: Ms, env: &mut Env<'_>) {
        if self.slots.get(&actor).is_some_and(|slot| slot.alone_since == Some(since)) {
            self.end(actor, env);
        }
    }

    /// Ends what other bridges of a job left, as far as Ray can reach it.
    pub(super) fn end_strays(&mut self, owner: &BridgeId, env: &mut Env<'_>) {
        let strays = self.slots.iter().filter(|(_, slot)| slot.job == owner.0 && slot.owner != *owner);
        let strays: Vec<Actor> = strays.map(|(actor, _)| *actor).collect();
        for actor in strays {
            // What is only just being made is not yet in Ray's list of names.
            if self.reaches(actor) && !env.random.chance(0.1) {
                self.end(actor, env);
            }
        }
    }

    // --- Workers -------------------------------------------------------------------------------------------------

    /// Starts a worker. It waits for its release, if it speaks AdaptDL's protocol.
    pub(super) fn start(&mut self, env: &mut Env<'_>, actor: Actor, spec: &GroupSpec, rank: u32) {
        let conduct = Conduct::of(&spec.program);
        let group = spec.number;
        let Some(slot) = self.slots.get_mut(&actor) else { return };
        if slot.workers.iter().any(|worker| worker.group == group) {
            return;
        }
        slot.workers.push(Worker { group, rank, conduct, arrived: false, released: false, exit: None });
        if conduct.fails_at_start {
            env.within(500, 4_000, RayEvent::Exits(actor, group, Exit::Code(1)));
        } else if conduct.speaks_adaptdl {
            env.within(300, 6_000, RayEvent::Arrives(actor, group));
        }
    }

    pub(super) fn arrives(&mut self, actor: Actor, group: GroupNumber) {
        if let Some(worker) = self.worker_mut(actor, group).filter(|worker| worker.exit.is_none()) {
            worker.arrived = true;
        }
    }

    pub(super) fn release(&mut self, actor: Actor, group: GroupNumber) {
        if let Some(worker) = self.worker_mut(actor, group) {
            worker.released = true;
        }
    }

    /// Ends a worker like this, if it lives.
    pub(super) fn exit(&mut self, actor: Actor, group: GroupNumber, exit: Exit, now: Ms) {
        if let Some(worker) = self.worker_mut(actor, group) {
            worker.exit.get_or_insert((exit, now));
        }
    }

    /// Kills what lives of a worker and removes what it left.
    pub(super) fn forget(&mut self, actor: Actor, group: GroupNumber) {
        if self.reaches(actor)
            && let Some(slot) = self.slots.get_mut(&actor)
        {
            slot.workers.retain(|worker| worker.group != group);
        }
    }

    // --- Nodes ---------------------------------------------------------------------------------------------------

    /// A node ends with everything on it, at once.
    pub(super) fn lose(&mut self, node: usize, env: &mut Env<'_>) {
        if self.nodes[node].link == Link::Gone {
            return;
        }
        self.nodes[node].link = Link::Gone;
        for actor in self.slots_on(node, |_| true) {
            self.end(actor, env);
        }
        let id = self.nodes[node].id.clone();
        env.within(HEALTH_MS.0, HEALTH_MS.1, RayEvent::NodeMissed(id));
    }

    /// A node cannot be reached for a while.
    pub(super) fn cut(&mut self, node: usize, duration: Ms, env: &mut Env<'_>) {
        if self.nodes[node].link != Link::Up {
            return;
        }
        self.nodes[node].link = Link::Cut;
        for actor in self.slots_on(node, |slot| slot.state == SlotState::Open) {
            self.leave_alone(actor, env);
        }
        let id = self.nodes[node].id.clone();
        env.within(HEALTH_MS.0, HEALTH_MS.1, RayEvent::NodeMissed(id.clone()));
        env.after(duration, RayEvent::NodeBack(id));
    }

    /// Ray has asked a node often enough: if it does not answer it is taken for dead.
    pub(super) fn missed(&mut self, id: &RayNodeId, env: &mut Env<'_>) {
        let Some(node) = self.index(id).filter(|node| self.nodes[*node].link != Link::Up) else { return };
        self.nodes[node].alive = false;
        self.admit(node, env);
    }

    /// A node can be reached again. If Ray took it for dead it ends.
    pub(super) fn back(&mut self, id: &RayNodeId, env: &mut Env<'_>) {
        let Some(node) = self.index(id).filter(|node| self.nodes[*node].link == Link::Cut) else { return };
        if !self.nodes[node].alive {
            return self.lose(node, env);
        }
        self.nodes[node].link = Link::Up;
        for (actor, slot) in self.slots.iter_mut().filter(|(_, slot)| slot.node == node) {
            if !slot.orphan {
                slot.alone_since = None;
            }
            if slot.state == SlotState::Opening {
                env.within(200, 3_000, RayEvent::SlotOpens(*actor));
            }
        }
        self.leave_if_drained(node);
        self.admit(node, env);
    }

    /// Has Ray start nothing more on a node, which ends when nothing is on it.
    pub(super) fn drain(&mut self, node: usize, env: &mut Env<'_>) {
        self.nodes[node].draining = true;
        self.leave_if_drained(node);
        self.admit(node, env);
    }

    fn leave_if_drained(&mut self, node: usize) {
        let busy =
            |slot: &&Slot| slot.node == node && matches!(slot.state, SlotState::Opening | SlotState::Open);
        let at = &self.nodes[node];
        if at.draining && at.link == Link::Up && !self.slots.values().any(|slot| busy(&slot)) {
            self.nodes[node].link = Link::Gone;
            self.nodes[node].alive = false;
        }
    }
}
