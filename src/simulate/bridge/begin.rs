//! How a bridge gets a group ready, and switches to it.

use super::end::Then;
use super::group::{Known, Reservation, Training};
use super::{Blob, Bridge, Doing, Seen};
use crate::api::document::Prepare;
use crate::api::event::EventType;
use crate::api::ids::{CheckpointId, Digest, GroupNumber};
use crate::api::wire::{BlobKind, GroupPhase, Outcome};
use crate::simulate::clock::Ms;
use crate::simulate::env::{Env, Fact, GroupEvent, RayEvent};
use crate::simulate::floor::Floor;
use crate::simulate::program::{Conduct, can_be_built};

/// How long workers that are started beside a running group may take to come where AdaptDL has them wait.
const PREPARE_MS: Ms = 300_000;
/// After a rank has ended, how long to wait for the others.
pub(super) const SETTLE_MS: Ms = 2_000;

/// How far the preparation of the next group is.
pub(super) enum Preparing {
    Begun,
    Probing { until: Ms },
    Reserving,
    Arriving { until: Ms },
    Settling { until: Ms },
}

/// How far the switch to a group is.
pub(super) struct Switching {
    number: GroupNumber,
    stage: Stage,
}

enum Stage {
    Reserving,
    Restoring { until: Ms },
}

impl Bridge {
    // --- Preparing -----------------------------------------------------------------------------------------------

    /// One step of the preparation; whether there was anything to do.
    pub(super) fn prepare(&mut self, floor: &mut Floor, env: &mut Env<'_>) -> bool {
        let (Some(number), Some(preparing)) = (self.next, self.preparing.take()) else { return false };
        let goes_on = match preparing {
            Preparing::Begun => Ok(Some(self.begin_preparing(number, floor, env))),
            Preparing::Probing { until } if env.now < until => Err(Preparing::Probing { until }),
            Preparing::Probing { .. } => Ok(self.probed(number, floor, env)),
            Preparing::Reserving => match self.reserved(number) {
                None => Err(Preparing::Reserving),
                Some(Err(outcome)) => {
                    self.give_up(number, outcome, floor, env);
                    return true;
                }
                Some(Ok(())) => Ok(self.start_beside(number, floor, env)),
            },
            Preparing::Arriving { until } => self.arriving(number, until, floor, env),
            Preparing::Settling { until } => {
                let alive = self.seen(number).map(|seen| seen.alive()).unwrap_or_default();
                if !alive.is_empty() && env.now < until {
                    Err(Preparing::Settling { until })
                } else {
                    let outcome = self.seen(number).map(|seen| seen.judge(&alive));
                    self.give_up(number, outcome.unwrap_or(Outcome::Superseded), floor, env);
                    return true;
                }
            }
        };
        match goes_on {
            Err(same) => {
                self.preparing = Some(same);
                false
            }
            Ok(Some(next)) => {
                self.preparing = Some(next);
                true
            }
            Ok(None) => {
                if let Some(group) = self.groups.get_mut(&number).filter(|_| self.next == Some(number)) {
                    group.phase = GroupPhase::Prepared;
                    group.times.insert("prepared", env.now);
                }
                true
            }
        }
    }

    fn begin_preparing(&mut self, number: GroupNumber, floor: &mut Floor, env: &mut Env<'_>) -> Preparing {
        let prepare = self.groups.get(&number).map(|group| group.spec.prepare);
        if prepare == Some(Prepare::Nothing) && self.current.is_some() {
            let until = env.now + env.random.between(200, 3_000);
            self.wake(until, env);
            return Preparing::Probing { until };
        }
        self.reserve(number, floor, env);
        Preparing::Reserving
    }

    /// The new slots' runtime environment has been built on a probe, or cannot be.
    fn probed(&mut self, number: GroupNumber, floor: &mut Floor, env: &mut Env<'_>) -> Option<Preparing> {
        let slots = self.document.iter().flat_map(|document| document.slots.values());
        if let Some(broken) = slots.into_iter().find(|slot| !can_be_built(&slot.kind)) {
            let message = format!("probe on node {}: the runtime environment cannot be built", broken.node);
            self.give_up(number, Outcome::RuntimeEnvFailed { message }, floor, env);
        }
        None
    }

    /// Makes the slots that a group has not got yet; whether all of them are known.
    fn reserve(&mut self, number: GroupNumber, floor: &mut Floor, env: &mut Env<'_>) -> bool {
        let Some(document) = &self.document else { return false };
        let Some(group) = self.groups.get_mut(&number) else { return false };
        for id in &group.spec.ranks {
            if self.slots.contains_key(id) {
                continue;
            }
            let Some(spec) = document.slots.get(id) else { return false };
            let actor = floor.make(env, id, spec, &self.id).unwrap_or_default();
            let mut reservation = Reservation::new(actor, spec.clone(), env.now);
            if actor == 0 {
                reservation.state = Known::Failed("SlotFailed"); // Ray knows no such node.
            }
            self.slots.insert(id.clone(), reservation);
        }
        group.slots.clone_from(&group.spec.ranks);
        true
    }

    /// Whether all slots of a group can be used, or why they cannot; `None` while that is not known.
    fn reserved(&self, number: GroupNumber) -> Option<Result<(), Outcome>> {
        let group = self.groups.get(&number)?;
        let slots = || group.slots.iter().filter_map(|id| self.slots.get(id));
        if slots().any(|slot| slot.state == Known::Pending) {
            return None;
        }
        let failed = slots().find(|slot| slot.state != Known::Ready);
        Some(failed.map_or(Ok(()), |slot| {
            let message = format!("slot on {}: {}", slot.spec.node, slot.describe().1.unwrap_or_default());
            Err(match slot.state {
                Known::Failed("RuntimeEnvFailed") => Outcome::RuntimeEnvFailed { message },
                Known::Lost if group.phase >= GroupPhase::Prepared => Outcome::Lost { message },
                _ => Outcome::SlotFailed { message },
            })
        }))
    }

    fn start_beside(
        &mut self,
        number: GroupNumber,
        floor: &mut Floor,
        env: &mut Env<'_>,
    ) -> Option<Preparing> {
        let group = self.groups.get(&number)?;
        // A program that does not speak AdaptDL's protocol cannot be held: it begins when it is started.
        let held = Conduct::of(&group.spec.program).speaks_adaptdl;
        if !held || (group.spec.prepare != Prepare::Full && self.current.is_some()) {
            return None;
        }
        if self.current.is_some() && env.random.chance(0.05) {
            let message = format!("group {number} starts when the running one is gone: no memory");
            self.note(EventType::Normal, "NoOverlap", message);
            return None;
        }
        self.start(number, floor, env);
        let until = env.now + PREPARE_MS;
        self.wake(until, env);
        Some(Preparing::Arriving { until })
    }

    fn start(&mut self, number: GroupNumber, floor: &mut Floor, env: &mut Env<'_>) {
        let actors = self.actors(number);
        let Some(group) = self.groups.get_mut(&number) else { return };
        for (rank, actor) in actors.into_iter().enumerate() {
            floor.start(env, actor, &group.spec, u32::try_from(rank).unwrap_or(0));
        }
        group.started = true;
        group.phase = GroupPhase::Starting;
        group.times.insert("started", env.now);
        for id in &group.slots {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.listen(floor, env.now);
            }
        }
    }

    /// Waits until the workers have come where they must wait, if that is needed.
    fn arriving(
        &mut self,
        number: GroupNumber,
        until: Ms,
        floor: &mut Floor,
        env: &mut Env<'_>,
    ) -> Result<Option<Preparing>, Preparing> {
        let alone = self.current.is_none();
        let Some(seen) = self.seen(number) else { return Ok(None) };
        let (arrived, ending, finished) = (seen.arrived(), seen.ending(), seen.finished());
        if !(alone || arrived || ending) && env.now < until {
            return Err(Preparing::Arriving { until });
        }
        if ending && !finished {
            let until = env.now + SETTLE_MS;
            self.wake(until, env);
            return Ok(Some(Preparing::Settling { until }));
        }
        if !alone && (finished || !arrived) {
            self.forget(number, floor);
            if let Some(group) = self.groups.get_mut(&number) {
                group.started = false;
            }
            let message = format!("the workers of group {number} did not come to where they can wait");
            self.note(EventType::Warning, "NoOverlap", message);
        }
        Ok(None)
    }

    pub(super) fn forget(&mut self, number: GroupNumber, floor: &mut Floor) {
        let Some(group) = self.groups.get(&number) else { return };
        for id in &group.slots {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.forget(number, floor);
            }
        }
    }

    /// Ends a group that never trained.
    pub(super) fn give_up(
        &mut self,
        number: GroupNumber,
        outcome: Outcome,
        floor: &mut Floor,
        env: &mut Env<'_>,
    ) {
        env.say(|| format!("bridge: group {number} is given up: {outcome:?}"));
        (self.next, self.preparing) = (None, None);
        let ranks = self.seen(number).map(|seen: Seen<'_>| seen.describe_ranks()).unwrap_or_default();
        self.forget(number, floor);
        if let Some(group) = self.groups.get_mut(&number) {
            group.end(outcome, ranks, env);
        }
    }

    pub(super) fn abandon_next(&mut self, floor: &mut Floor, env: &mut Env<'_>) {
        if let Some(number) = self.next {
            self.give_up(number, Outcome::Superseded, floor, env);
        }
    }

    // --- Switching -----------------------------------------------------------------------------------------------

    /// From the running group, if any, to a prepared one.
    pub(super) fn switch(&mut self, number: GroupNumber, floor: &mut Floor, env: &mut Env<'_>) {
        let grace = self.document.as_ref().map_or(0, |document| document.checkpoint_timeout.millis);
        match self.current {
            Some(old) => self.begin_halt(old, grace, Then::Switch(number), env),
            None => self.switch_now(number, floor, env),
        }
    }

    /// The group before has ended.
    pub(super) fn switch_now(&mut self, number: GroupNumber, floor: &mut Floor, env: &mut Env<'_>) {
        self.doing = Doing::Watching;
        if self.next != Some(number) {
            return;
        }
        let has_slots = self.groups.get(&number).is_some_and(|group| !group.slots.is_empty());
        if !has_slots {
            let ranks = self.groups.get(&number).map(|group| group.spec.ranks.clone()).unwrap_or_default();
            self.close_slots(&ranks.into_iter().collect(), floor, env);
            if !self.reserve(number, floor, env) {
                // Another document has come in between, without these slots.
                return self.note(EventType::Warning, "BridgeError", "KeyError".to_owned());
            }
        }
        self.doing = Doing::Switching(Switching { number, stage: Stage::Reserving });
    }

    /// One step of a switch; whether there was anything to do.
    pub(super) fn go_on_switching(
        &mut self,
        switching: Switching,
        floor: &mut Floor,
        env: &mut Env<'_>,
    ) -> bool {
        let Switching { number, stage } = switching;
        let wait = |bridge: &mut Self, stage| {
            bridge.doing = Doing::Switching(Switching { number, stage });
            false
        };
        match self.reserved(number) {
            None => return wait(self, stage),
            Some(Err(_)) if self.may_train(number) => {
                (self.current, self.next, self.preparing) = (Some(number), None, None);
                return true;
            }
            Some(Err(outcome)) => {
                self.give_up(number, outcome, floor, env);
                return true;
            }
            Some(Ok(())) => {}
        }
        // A call to a node that cannot be reached is answered when the node is back, or dead.
        if !self.actors(number).iter().all(|actor| floor.reaches(*actor)) {
            return wait(self, stage);
        }
        match stage {
            Stage::Reserving => {
                if self.groups.get(&number).is_some_and(|group| !group.started) {
                    self.start(number, floor, env);
                }
                let until = env.now + env.random.between(50, 1_500);
                self.wake(until, env);
                wait(self, Stage::Restoring { until });
                true
            }
            Stage::Restoring { until } if env.now < until => wait(self, Stage::Restoring { until }),
            Stage::Restoring { .. } => {
                match self.restore(number) {
                    Ok(from) => self.release(number, from, floor, env),
                    Err(outcome) => self.give_up(number, outcome, floor, env),
                }
                true
            }
        }
    }

    /// Whether a group that was not released trains all the same: it is seen out as one that was.
    fn may_train(&self, number: GroupNumber) -> bool {
        let group = self.groups.get(&number);
        group.is_some_and(|group| group.started && !Conduct::of(&group.spec.program).speaks_adaptdl)
    }

    /// The newest good checkpoint for a group.
    fn restore(&mut self, number: GroupNumber) -> Result<Option<(CheckpointId, Digest)>, Outcome> {
        let least = self.groups.get(&number).and_then(|group| group.spec.restore);
        let newest = |blob: &Blob| blob.kind == BlobKind::Checkpoint && Some(blob.id) >= least;
        if let Some((_, handed)) = self.copying.iter().rfind(|(_, blob)| newest(blob)) {
            return Ok(Some((handed.id, handed.digest.clone())));
        }
        while let Some(index) = self.blobs.iter().rposition(newest) {
            if self.blobs[index].good {
                return Ok(Some((self.blobs[index].id, self.blobs[index].digest.clone())));
            }
            let blob = self.blobs.remove(index);
            let message = format!("the checkpoint of group {} does not match its digest", blob.id.group);
            self.note(EventType::Warning, "CheckpointUnreadable", message);
        }
        match least {
            Some(least) => {
                let message = format!("no good checkpoint from {least} on is left on the cluster");
                Err(Outcome::NoCheckpoint { message })
            }
            None => Ok(None),
        }
    }

    /// Lets a group's workers train.
    fn release(
        &mut self,
        number: GroupNumber,
        from: Option<(CheckpointId, Digest)>,
        floor: &mut Floor,
        env: &mut Env<'_>,
    ) {
        let actors = self.actors(number);
        for actor in &actors {
            floor.release(*actor, number);
        }
        let mut nodes: Vec<usize> =
            actors.iter().filter_map(|actor| Some(floor.slots.get(actor)?.node)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let workload = env.workload(self.job());
        let replicas = u32::try_from(actors.len()).unwrap_or(1);
        let rate = workload.speed(u32::try_from(nodes.len()).unwrap_or(1), replicas);
        let base = from.as_ref().map_or(0, |(_, digest)| env.saves.total(digest));
        let arrived = self.seen(number).is_some_and(|seen| seen.arrived());
        let first_step = env.now + env.random.between(200, if arrived { 1_500 } else { 8_000 });
        env.say(|| format!("workers: group {number} trains with {replicas} from {base} steps on"));
        env.facts.push(Fact::Began {
            job: self.job().clone(),
            group: number,
            workers: actors.len(),
            from: from.as_ref().map(|(id, _)| *id),
            on_head: self.newest_good(),
        });
        let event = |event| RayEvent::Group(self.id.clone(), number, event);
        let to_first = first_step - env.now;
        env.after(to_first, event(GroupEvent::FirstStep));
        if workload.hints.is_some() {
            env.within(to_first + 3_000, to_first + 15_000, event(GroupEvent::Hints));
        }
        if let Some(left) = workload.steps.map(|steps| steps.saturating_sub(base)) {
            let duration = (left as f64 / rate * 1000.0) as Ms;
            env.after(to_first + duration, event(GroupEvent::Done));
        }
        let Some(group) = self.groups.get_mut(&number) else { return };
        if Conduct::of(&group.spec.program).fails_in_training
            && let Some(actor) = env.random.pick(&actors).copied()
        {
            let exit = crate::simulate::env::Exit::Code(1);
            env.within(to_first, to_first + 20_000, RayEvent::Exits(actor, number, exit));
        }
        if from.is_some() {
            group.times.insert("handedOver", env.now);
        }
        group.restored = from;
        group.training = Some(Training { base, first_step, rate, stopped: None });
        group.phase = GroupPhase::Running;
        group.times.insert("released", env.now);
        (self.current, self.next, self.preparing) = (Some(number), None, None);
    }
}
