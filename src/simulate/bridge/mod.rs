//! The bridge of one job, after `bridge.py`: it is told which group should run, and makes it so.
//!
//! What there is one coroutine that waits is here a state that is looked at whenever something has happened.

mod alone;
mod begin;
mod end;
mod group;
mod happens;
mod report;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::clock::Ms;
use super::env::{BridgeId, Env, Fact, GroupEvent, RayEvent};
use super::floor::Floor;
use crate::api::document::{Desired, Document, GroupSpec};
use crate::api::event::EventType;
use crate::api::ids::{CheckpointId, Digest, GroupNumber, RayNodeId, SlotId, Uid};
use crate::api::wire::{BlobKind, BridgePhase, GroupPhase, NoteReport};
use begin::{Preparing, Switching};
use end::{Ending, Then};
use group::{Group, Known, Reservation, Seen};

const KEEP_GROUPS: usize = 20;
const KEEP_ARTIFACTS: usize = 3;

/// A job's bridge.
pub(super) struct Bridge {
    pub(super) id: BridgeId,
    pub(super) document: Option<Document>,
    phase: BridgePhase,
    slots: BTreeMap<SlotId, Reservation>,
    groups: BTreeMap<GroupNumber, Group>,
    current: Option<GroupNumber>,
    next: Option<GroupNumber>,
    preparing: Option<Preparing>,
    doing: Doing,
    blobs: Vec<Blob>,
    /// Checkpoints that are handed over already, while they are brought to the head, and until when that takes.
    copying: Vec<(Ms, Blob)>,
    notes: Vec<NoteReport>,
    fenced: BTreeSet<RayNodeId>,
    /// The group that it began without being told, until it is told of another.
    alone: Option<GroupSpec>,
    /// Whether it stopped a group without being told, for a node of it will be taken away.
    has_left: bool,
    /// When it looks whether it must act alone.
    alone_at: Ms,
    /// When it looks whether a save is due.
    save_at: Ms,
    /// How long what an earlier bridge left may still be alive.
    fence: Ms,
}

/// A checkpoint or artifacts on the head.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) kind: BlobKind,
    pub(super) id: CheckpointId,
    pub(super) digest: Digest,
    pub(super) steps: u64,
    pub(super) at: Ms,
    /// Whether it still is what its digest says.
    pub(super) good: bool,
}

/// What the bridge's one coroutine waits for.
enum Doing {
    /// Its first document.
    Nothing,
    /// Whatever an earlier bridge left to be gone.
    Fencing { until: Ms },
    /// News.
    Watching,
    /// A group's end.
    Ending(Ending),
    /// The next group's beginning.
    Switching(Switching),
    /// Its own end.
    Closing { until: Ms },
}

impl Bridge {
    pub(super) fn new(id: BridgeId, fence: Ms) -> Self {
        Self {
            id,
            document: None,
            phase: BridgePhase::Fencing,
            slots: BTreeMap::new(),
            groups: BTreeMap::new(),
            current: None,
            next: None,
            preparing: None,
            doing: Doing::Nothing,
            blobs: Vec::new(),
            copying: Vec::new(),
            notes: Vec::new(),
            fenced: BTreeSet::new(),
            alone: None,
            has_left: false,
            alone_at: 0,
            save_at: 0,
            fence,
        }
    }

    fn job(&self) -> &Uid {
        &self.id.0
    }

    // --- What the agent calls ------------------------------------------------------------------------------------

    /// Takes a document, unless it is older than the one in force.
    pub(super) fn apply(&mut self, document: &Document, fence: Ms, floor: &mut Floor, env: &mut Env<'_>) {
        let target = match &document.desired {
            Desired::Run { group, .. } => Some(group),
            Desired::Stop { .. } => None,
        };
        let newest = self.groups.keys().next_back().copied();
        let newer = self.document.as_ref().is_none_or(|old| document.revision > old.revision);
        // Under the number of one that it began alone no other is begun.
        let fits = target.is_none_or(|wanted| match self.groups.get(&wanted.number) {
            Some(known) => known.spec.ranks == wanted.ranks,
            None => Some(wanted.number) > newest,
        });
        if newer && fits {
            self.alone.take_if(|alone| target.is_none_or(|wanted| wanted.number >= alone.number));
            self.has_left &= target.is_some();
            self.fenced.clone_from(&document.fenced);
            self.document = Some(document.clone());
        }
        if matches!(self.doing, Doing::Nothing) {
            floor.end_strays(&self.id, env);
            let until = env.now + fence.max(self.fence);
            self.doing = Doing::Fencing { until };
            self.wake(until, env);
        }
        self.advance(floor, env);
    }

    pub(super) fn add_blob(&mut self, blob: Blob) {
        if !self.blobs.iter().any(|other| (other.kind, other.id) == (blob.kind, blob.id)) {
            self.blobs.push(blob);
            self.blobs.sort_by_key(|blob| (blob.kind, blob.id));
        }
    }

    /// What stays on the head when it dies.
    pub(super) fn left_blobs(&self) -> Vec<Blob> {
        self.blobs.clone()
    }

    pub(super) fn blob(&self, digest: &Digest) -> Option<&Blob> {
        self.blobs.iter().find(|blob| blob.digest == *digest)
    }

    /// Kills every worker, gives everything back, and says what was given up with it, and when it is done: when no
    /// worker that cannot be reached can be alive any more.
    pub(super) fn shut_down(&mut self, floor: &mut Floor, env: &mut Env<'_>) -> Ms {
        if let Doing::Closing { until } = self.doing {
            return until;
        }
        let training = self.current.filter(|number| {
            floor.training().any(|(slot, worker)| slot.owner == self.id && worker.group == *number)
        });
        let newest = self.newest_good();
        env.facts.push(Fact::Removed { job: self.job().clone(), training, newest });
        let mut until = env.now;
        for slot in self.slots.values() {
            if floor.reaches(slot.actor) || slot.state == Known::Pending {
                floor.end(slot.actor, env);
            } else {
                until = until.max(slot.silent_until(env.lease));
            }
        }
        self.doing = Doing::Closing { until };
        until
    }

    /// Whether it was shut down, and that is done.
    pub(super) fn closed(&self, now: Ms) -> bool {
        matches!(self.doing, Doing::Closing { until } if until <= now)
    }

    /// The newest checkpoint that can be read.
    pub(super) fn newest_good(&self) -> Option<CheckpointId> {
        let checkpoints = self.blobs.iter().filter(|blob| blob.kind == BlobKind::Checkpoint && blob.good);
        checkpoints.map(|blob| blob.id).max()
    }

    /// The newest checkpoint becomes unreadable, unless it is the only one.
    pub(super) fn spoil_newest(&mut self) -> bool {
        let mut good: Vec<&mut Blob> =
            self.blobs.iter_mut().filter(|blob| blob.kind == BlobKind::Checkpoint && blob.good).collect();
        if good.len() > 1
            && let Some(newest) = good.pop()
        {
            newest.good = false;
            return true;
        }
        false
    }

    // --- Driving -------------------------------------------------------------------------------------------------

    /// Looks around at a time.
    fn wake(&self, at: Ms, env: &mut Env<'_>) {
        if at > env.now {
            env.after(at - env.now, RayEvent::Bridge(self.id.clone()));
        }
    }

    /// Does everything that can be done now.
    pub(super) fn advance(&mut self, floor: &mut Floor, env: &mut Env<'_>) {
        loop {
            self.finish_copies(env);
            for slot in self.slots.values_mut() {
                slot.listen(floor, env.now);
            }
            let stalled = self.current.filter(|number| self.seen(*number).is_some_and(|seen| seen.ending()));
            if let Some(group) = stalled.and_then(|number| self.groups.get_mut(&number)) {
                group.stall(env.now);
            }
            if !self.prepare(floor, env) && !self.drive(floor, env) {
                return;
            }
        }
    }

    /// One step of the coroutine; whether there was anything to do.
    fn drive(&mut self, floor: &mut Floor, env: &mut Env<'_>) -> bool {
        match std::mem::replace(&mut self.doing, Doing::Watching) {
            Doing::Nothing => {
                self.doing = Doing::Nothing;
                false
            }
            Doing::Fencing { until } if env.now < until => {
                self.doing = Doing::Fencing { until };
                false
            }
            Doing::Fencing { .. } => {
                self.phase = BridgePhase::Active;
                true
            }
            Doing::Watching => {
                let stepped = self.step(floor, env);
                if !stepped {
                    self.trim(floor, env);
                    self.save_sometimes(env);
                }
                stepped
            }
            Doing::Closing { until } => {
                self.doing = Doing::Closing { until };
                false
            }
            Doing::Ending(ending) => self.go_on_ending(ending, floor, env),
            Doing::Switching(switching) => self.go_on_switching(switching, floor, env),
        }
    }

    fn step(&mut self, floor: &mut Floor, env: &mut Env<'_>) -> bool {
        if let Some(number) = self.current
            && self.seen(number).is_some_and(|seen| seen.ending())
        {
            self.conclude(number, env);
            return true;
        }
        match self.document.as_ref().map(|document| document.desired.clone()) {
            Some(Desired::Stop { grace }) => self.stop(grace.millis, floor, env),
            Some(Desired::Run { .. }) => {
                self.phase = BridgePhase::Active;
                let ran =
                    self.wanted().is_some_and(|(group, activate)| self.run(group, activate, floor, env));
                ran || self.go_on_alone(floor, env)
            }
            None => false,
        }
    }

    fn run(&mut self, wanted: GroupSpec, activate: bool, floor: &mut Floor, env: &mut Env<'_>) -> bool {
        let number = wanted.number;
        if self.next.is_some_and(|next| next != number) {
            self.abandon_next(floor, env);
            return true;
        }
        if self.current == Some(number) {
            return false;
        }
        if let Entry::Vacant(unknown) = self.groups.entry(number) {
            env.say(|| format!("bridge: group {number} is being prepared ({:?})", wanted.prepare));
            unknown.insert(Group::new(wanted, env.now));
            self.next = Some(number);
            self.preparing = Some(Preparing::Begun);
            return true;
        }
        let prepared = self.groups.get(&number).is_some_and(|group| group.phase == GroupPhase::Prepared);
        if self.next == Some(number) && prepared && activate {
            self.switch(number, floor, env);
            return true;
        }
        false
    }

    fn stop(&mut self, grace: Ms, floor: &mut Floor, env: &mut Env<'_>) -> bool {
        if self.next.is_some() {
            self.abandon_next(floor, env);
            return true;
        }
        if let Some(number) = self.current {
            self.begin_halt(number, grace, Then::Watch, env);
            return true;
        }
        if !self.copying.is_empty() {
            return false;
        }
        self.close_slots(&BTreeSet::new(), floor, env);
        let idle = self.phase == BridgePhase::Idle;
        self.phase = BridgePhase::Idle;
        !idle
    }

    /// Gives back the slots that nobody wants, and forgets old history.
    fn trim(&mut self, floor: &mut Floor, env: &mut Env<'_>) {
        let Some(document) = &self.document else { return };
        let groups = [self.current, self.next].into_iter().flatten();
        let mut wanted: BTreeSet<SlotId> = groups
            .filter_map(|number| self.groups.get(&number))
            .flat_map(|group| group.slots.clone())
            .collect();
        if self.current.is_none() || self.next.is_some() {
            wanted.extend(document.slots.keys().cloned());
        }
        let keep = document.checkpoint_keep.max(2) as usize;
        self.close_slots(&wanted, floor, env);
        while self.groups.len() > KEEP_GROUPS {
            self.groups.pop_first();
        }
        for (kind, keep) in [(BlobKind::Checkpoint, keep), (BlobKind::Artifacts, KEEP_ARTIFACTS)] {
            let surplus = self.blobs.iter().filter(|blob| blob.kind == kind).count().saturating_sub(keep);
            for _ in 0..surplus {
                if let Some(oldest) = self.blobs.iter().position(|blob| blob.kind == kind) {
                    self.blobs.remove(oldest);
                }
            }
        }
    }

    fn close_slots(&mut self, keep: &BTreeSet<SlotId>, floor: &mut Floor, env: &mut Env<'_>) {
        let leaving: Vec<SlotId> = self.slots.keys().filter(|id| !keep.contains(id)).cloned().collect();
        for id in leaving {
            let Some(slot) = self.slots.remove(&id) else { continue };
            if floor.reaches(slot.actor) || slot.state == Known::Pending {
                floor.end(slot.actor, env);
            } else {
                floor.leave_alone(slot.actor, env); // It ends with its lease.
            }
        }
    }

    /// Has the running group save when its interval is over.
    fn save_sometimes(&mut self, env: &mut Env<'_>) {
        let interval = self.document.as_ref().map_or(0, |document| document.checkpoint_interval.millis);
        let Some(group) = self.current.and_then(|number| self.groups.get_mut(&number)) else { return };
        let Some(training) = group.training.filter(|training| env.now >= training.first_step) else { return };
        let released = group.times.get("released").copied().unwrap_or(0);
        let due = group.save_asked.max(released).max(training.first_step) + interval;
        if interval == 0 {
            return;
        }
        let number = group.number();
        if env.now < due {
            if self.save_at != due {
                self.save_at = due;
                self.wake(due, env);
            }
            return;
        }
        group.save_asked = env.now;
        let event = GroupEvent::Saved { leaving: false };
        env.within(100, 2_000, RayEvent::Group(self.id.clone(), number, event));
        self.save_at = env.now + interval;
        self.wake(env.now + interval, env);
    }

    fn note(&mut self, kind: EventType, reason: &str, message: String) {
        let number = self.notes.last().map_or(1, |note| note.number + 1);
        self.notes.push(NoteReport { number, kind, reason: reason.to_owned(), message });
        let surplus = self.notes.len().saturating_sub(50);
        self.notes.drain(..surplus);
    }
}
