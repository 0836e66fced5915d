//! How a bridge sees a group out: one that it stops, and one that ended by itself.

use std::collections::BTreeSet;

use super::begin::SETTLE_MS;
use super::{Blob, Bridge, Doing};
use crate::api::ids::{CheckpointId, GroupNumber};
use crate::api::wire::{BlobKind, GroupPhase, Outcome};
use crate::simulate::clock::Ms;
use crate::simulate::env::{Env, Exit, GroupEvent, RayEvent};
use crate::simulate::floor::Floor;
use crate::simulate::program::Conduct;

/// After rank 0 has finished or saved, how long the others may take to leave.
const LEAVE_MS: Ms = 30_000;

/// A group that is being seen out.
pub(super) struct Ending {
    number: GroupNumber,
    why: Why,
    stage: Stage,
    /// The ranks that lived when we killed them.
    killed: BTreeSet<usize>,
    then: Then,
}

#[derive(Clone, Copy)]
enum Why {
    /// We stop it: after so long it is killed.
    Halt(Ms),
    /// It ended by itself.
    Itself,
}

enum Stage {
    /// Until rank 0 has left.
    Saving { until: Ms },
    /// Until all have left.
    Leaving { until: Ms },
    /// Until no worker can be alive.
    Killing,
    /// Until what it saved is on the head.
    Packing { until: Ms },
}

/// What comes after a group's end.
#[derive(Clone, Copy)]
pub(super) enum Then {
    Watch,
    Switch(GroupNumber),
}

impl Bridge {
    /// A group has ended by itself, or lost a worker.
    pub(super) fn conclude(&mut self, number: GroupNumber, env: &mut Env<'_>) {
        let finished = self.seen(number).is_some_and(|seen| seen.finished());
        let until = env.now + if finished { LEAVE_MS } else { SETTLE_MS };
        self.wake(until, env);
        let stage = Stage::Leaving { until };
        let (why, killed, then) = (Why::Itself, BTreeSet::new(), Then::Watch);
        self.doing = Doing::Ending(Ending { number, why, stage, killed, then });
    }

    /// Has a group save and leave.
    pub(super) fn begin_halt(&mut self, number: GroupNumber, grace: Ms, then: Then, env: &mut Env<'_>) {
        let until = env.now + grace;
        self.wake(until, env);
        let stage = Stage::Saving { until };
        let why = Why::Halt(grace);
        let first_step = self.groups.get(&number).and_then(|group| group.training).map(|it| it.first_step);
        let Some(group) = self.groups.get_mut(&number) else { return };
        env.say(|| format!("bridge: group {number} is told to save and leave"));
        group.phase = GroupPhase::Stopping;
        group.times.insert("signalled", env.now);
        if Conduct::of(&group.spec.program).speaks_adaptdl {
            // It is noticed after a step, when all have agreed. A few take longer than they may.
            let slow = if env.random.chance(0.05) { grace } else { 0 };
            let wait = first_step.unwrap_or(env.now).saturating_sub(env.now) + slow;
            let event = RayEvent::Group(self.id.clone(), number, GroupEvent::Saved { leaving: true });
            env.within(wait + 50, wait + 3_000, event);
        } else {
            for actor in self.actors(number) {
                env.after(100, RayEvent::Exits(actor, number, Exit::Signal("SIGTERM")));
            }
        }
        self.doing = Doing::Ending(Ending { number, why, stage, killed: BTreeSet::new(), then });
    }

    /// One step of a group's end; whether there was anything to do.
    pub(super) fn go_on_ending(&mut self, mut ending: Ending, floor: &mut Floor, env: &mut Env<'_>) -> bool {
        let number = ending.number;
        let Some(seen) = self.seen(number) else { return true };
        let (alive, over_at) = (seen.alive(), seen.over_at(floor, env.lease));
        let over = over_at.is_some_and(|at| at <= env.now);
        let stage = match ending.stage {
            Stage::Saving { until } if !over && alive.contains(&0) && env.now < until => None,
            Stage::Saving { .. } => {
                let grace = match ending.why {
                    Why::Halt(grace) if !alive.contains(&0) => grace,
                    _ => 0,
                };
                let until = env.now + grace.min(LEAVE_MS);
                self.wake(until, env);
                Some(Stage::Leaving { until })
            }
            Stage::Leaving { until } if !over && env.now < until => None,
            Stage::Leaving { .. } => {
                ending.killed = alive;
                for actor in self.actors(number) {
                    if floor.reaches(actor) {
                        floor.exit(actor, number, Exit::Signal("SIGKILL"), env.now);
                    }
                }
                if let Some(group) = self.groups.get_mut(&number) {
                    group.stall(env.now);
                }
                Some(Stage::Killing)
            }
            Stage::Killing if !over => {
                if let Some(at) = over_at {
                    self.wake(at, env);
                }
                None
            }
            Stage::Killing => {
                // What the next group waits for is handed to it directly.
                let saved = matches!(ending.then, Then::Watch)
                    && self.groups.get(&number).is_some_and(|group| group.unpacked.is_some());
                let until = env.now + if saved { env.random.between(50, 1_500) } else { 0 };
                self.wake(until, env);
                Some(Stage::Packing { until })
            }
            Stage::Packing { until } if env.now < until => None,
            Stage::Packing { .. } => {
                self.bury(&ending, floor, env);
                return true;
            }
        };
        let progress = stage.is_some();
        if let Some(stage) = stage {
            ending.stage = stage;
        }
        self.doing = Doing::Ending(ending);
        progress
    }

    /// Keeps what a group left behind, and removes it from its nodes.
    fn bury(&mut self, ending: &Ending, floor: &mut Floor, env: &mut Env<'_>) {
        let number = ending.number;
        let saved = match ending.then {
            Then::Watch => self.pack(number, floor, env),
            Then::Switch(_) => self.copy_save(number, floor, env),
        };
        let Some(seen) = self.seen(number) else { return };
        let outcome = match ending.why {
            Why::Itself => seen.judge(&ending.killed),
            Why::Halt(_) if seen.finished() => Outcome::Succeeded,
            Why::Halt(_) => Outcome::Stopped { saved },
        };
        let ranks = seen.describe_ranks();
        env.say(|| format!("bridge: group {number} has ended: {outcome:?}"));
        self.take_artifacts(number, floor, env);
        self.current = None;
        let succeeded = outcome == Outcome::Succeeded;
        if let Some(group) = self.groups.get_mut(&number) {
            group.end(outcome, ranks, env);
        }
        self.forget(number, floor);
        match ending.then {
            Then::Switch(_) if succeeded => self.abandon_next(floor, env),
            Then::Switch(next) => self.switch_now(next, floor, env),
            Then::Watch => {}
        }
    }

    fn take_artifacts(&mut self, number: GroupNumber, floor: &Floor, env: &mut Env<'_>) {
        let wanted = self.document.as_ref().is_some_and(|document| !document.artifacts.is_empty());
        let master = self.actors(number).first().copied();
        if wanted && master.is_some_and(|actor| floor.reaches(actor)) {
            let id = CheckpointId { group: number, number: 0 };
            let digest = env.saves.add(0);
            self.add_blob(Blob { kind: BlobKind::Artifacts, id, digest, steps: 0, at: env.now, good: true });
        }
    }
}
