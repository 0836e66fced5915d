//! What happens to groups, and what becomes of their saves.

use super::super::env::{Env, Exit, Fact, GroupEvent, RayEvent};
use super::super::floor::{Actor, Floor};
use super::group::{self, Known, Seen};
use super::{Blob, Bridge};
use crate::api::ids::GroupNumber;
use crate::api::wire::{BlobKind, GroupPhase};

impl Bridge {
    pub(super) fn seen(&self, number: GroupNumber) -> Option<Seen<'_>> {
        let group = self.groups.get(&number)?;
        Some(Seen { group, slots: &self.slots, fenced: &self.fenced })
    }

    /// The actors of a group's ranks.
    pub(super) fn actors(&self, number: GroupNumber) -> Vec<Actor> {
        let slots = self.groups.get(&number).into_iter().flat_map(|group| &group.slots);
        slots.filter_map(|id| self.slots.get(id)).map(|slot| slot.actor).collect()
    }

    /// Whether all of a group's workers can still agree on anything.
    pub(super) fn is_whole(&self, number: GroupNumber, floor: &Floor) -> bool {
        let alive = |actor: &Actor| {
            floor.reaches(*actor) && floor.worker(*actor, number).is_some_and(|worker| worker.exit.is_none())
        };
        self.actors(number).iter().all(alive)
    }

    /// Somebody else tells the running group's workers to end: they save and do.
    pub(in crate::simulate) fn terminate(&mut self, floor: &mut Floor, env: &mut Env<'_>) {
        let Some(number) = self.current.filter(|number| self.is_whole(*number, floor)) else { return };
        let actors = self.actors(number);
        let Some(group) = self.groups.get_mut(&number) else { return };
        let trains = group.training.is_some_and(|training| env.now >= training.first_step);
        if group.phase == GroupPhase::Running && trains {
            group.save(env.now);
            for actor in actors {
                floor.exit(actor, number, Exit::Code(group::SIGTERM_EXIT), env.now);
            }
            self.advance(floor, env);
        }
    }

    /// The group whose workers train now, to be hurt.
    pub(in crate::simulate) fn victims(&self) -> Option<(GroupNumber, Vec<Actor>)> {
        self.current.map(|number| (number, self.actors(number)))
    }

    pub(in crate::simulate) fn happens(
        &mut self,
        number: GroupNumber,
        event: GroupEvent,
        floor: &mut Floor,
        env: &mut Env<'_>,
    ) {
        if self.current != Some(number) {
            return;
        }
        let whole = self.is_whole(number, floor);
        let actors = self.actors(number);
        let job = self.job().clone();
        let Some(group) = self.groups.get_mut(&number) else { return };
        let stopping = group.phase == GroupPhase::Stopping;
        match event {
            GroupEvent::FirstStep => {}
            GroupEvent::Hints if whole && !stopping => {
                let workload = env.workload(&job);
                let count = group.hints.as_ref().map_or(0, |(_, count)| *count) + 1;
                let profiled = u32::try_from(actors.len()).unwrap_or(1);
                group.hints = workload.report(profiled).map(|hints| (hints, count));
                if count < 3 {
                    env.within(20_000, 60_000, RayEvent::Group(self.id.clone(), number, event));
                }
            }
            GroupEvent::Saved { leaving } if whole && leaving == stopping => {
                group.save(env.now);
                if leaving {
                    group.stall(env.now);
                    for actor in actors {
                        floor.exit(actor, number, Exit::Code(group::SIGTERM_EXIT), env.now);
                    }
                } else {
                    self.pack(number, floor, env);
                }
            }
            GroupEvent::Done if whole && !stopping => {
                env.say(|| format!("workers: group {number} has done its work"));
                env.facts.push(Fact::Succeeded(job));
                group.stall(env.now);
                let mut actors = actors.into_iter();
                if let Some(master) = actors.next() {
                    floor.exit(master, number, Exit::Code(0), env.now);
                }
                for actor in actors {
                    env.within(0, 2_000, RayEvent::Exits(actor, number, Exit::Code(0)));
                }
            }
            GroupEvent::Hints | GroupEvent::Saved { .. } | GroupEvent::Done => {}
        }
        self.advance(floor, env);
    }

    /// Takes in what rank 0 saved last; says whether there was anything to take in.
    pub(super) fn pack(&mut self, number: GroupNumber, floor: &Floor, env: &mut Env<'_>) -> bool {
        let Some(blob) = self.take_save(number, floor, env) else { return false };
        self.store(blob, env);
        true
    }

    /// Begins to bring to the head what rank 0 saved last, which the next group can begin from at once.
    pub(super) fn copy_save(&mut self, number: GroupNumber, floor: &Floor, env: &mut Env<'_>) -> bool {
        let Some(blob) = self.take_save(number, floor, env) else { return false };
        let until = env.now + env.random.between(50, 3_000);
        self.wake(until, env);
        self.copying.push((until, blob));
        true
    }

    pub(super) fn take_save(
        &mut self,
        number: GroupNumber,
        floor: &Floor,
        env: &mut Env<'_>,
    ) -> Option<Blob> {
        let group = self.groups.get_mut(&number)?;
        let master = group.slots.first().and_then(|id| self.slots.get(id))?;
        if master.state != Known::Ready || !floor.reaches(master.actor) {
            return None;
        }
        let save = group.unpacked.take()?;
        let digest = env.saves.add(save.total);
        let (kind, id, steps) = (BlobKind::Checkpoint, save.id, save.steps);
        Some(Blob { kind, id, digest, steps, at: env.now, good: true })
    }

    pub(super) fn finish_copies(&mut self, env: &mut Env<'_>) {
        let now = env.now;
        let done: Vec<_> = self.copying.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, blob) in done {
            self.store(blob, env);
        }
    }

    pub(super) fn store(&mut self, blob: Blob, env: &mut Env<'_>) {
        let total = env.saves.total(&blob.digest);
        env.say(|| format!("bridge: checkpoint {} is on the head ({total} steps in all)", blob.id));
        self.add_blob(blob);
    }
}
