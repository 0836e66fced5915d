//! What a bridge does while the controller is away: it begins the wanted group again on the slots that are left.

use super::end::Then;
use super::group::{Group, Known};
use super::{Bridge, Preparing};
use crate::api::document::{Desired, GroupSpec, MOST_ALONE};
use crate::api::ids::SlotId;
use crate::api::wire::{Alone, NoticeKind, Outcome};
use crate::simulate::clock::Ms;
use crate::simulate::env::Env;
use crate::simulate::floor::Floor;

/// How long the controller must have been silent.
const SILENCE_MS: Ms = 15_000;
/// How long a group may take to leave a node that will be taken away.
const LEAVE_MS: Ms = 60_000;

impl Bridge {
    /// What it repeats: the group that it began alone last, or the one that it was told to run.
    pub(super) fn wanted(&self) -> Option<(GroupSpec, bool)> {
        match (&self.document.as_ref()?.desired, &self.alone) {
            (Desired::Stop { .. }, _) => None,
            (Desired::Run { .. }, Some(alone)) => Some((alone.clone(), true)),
            (Desired::Run { group, activate }, None) => Some(((**group).clone(), *activate)),
        }
    }

    /// Does what must be done, if nobody is there to say what; whether there was anything.
    pub(super) fn go_on_alone(&mut self, floor: &Floor, env: &mut Env<'_>) -> bool {
        let Some((wanted, _)) = self.wanted().filter(|_| self.next.is_none()) else { return false };
        let Some(why) = self.reason_to_act(&wanted, floor) else { return false };
        if env.away < SILENCE_MS {
            if self.alone_at <= env.now {
                self.alone_at = env.now + SILENCE_MS;
                self.wake(self.alone_at, env);
            }
            return false;
        }
        if let Some(current) = self.current {
            self.has_left = true;
            self.begin_halt(current, LEAVE_MS, Then::Watch, env);
            return true;
        }
        let lasting = |id: &SlotId| {
            let slot = self.slots.get(id).filter(|slot| slot.state == Known::Ready);
            slot.is_some_and(|slot| floor.node(&slot.spec.ray).is_some_and(|node| node.notice.is_none()))
        };
        let ranks: Vec<SlotId> = wanted.ranks.iter().filter(|id| lasting(id)).cloned().collect();
        let least = self.document.as_ref().map_or(1, |document| document.min_replicas.max(1));
        let Some(newest) = self.groups.keys().next_back().filter(|_| ranks.len() >= least as usize) else {
            return false;
        };
        let told = self.document.as_ref().map(|document| &document.desired);
        if let Some(Desired::Run { group, .. }) = told
            && newest.0 >= group.number.0.saturating_add(MOST_ALONE)
        {
            return false;
        }
        let spec = GroupSpec { number: newest.next(), ranks, ..wanted };
        let number = spec.number;
        env.say(|| format!("bridge: group {number} is begun while the controller is away ({why:?})"));
        let mut group = Group::new(spec.clone(), env.now);
        group.alone = Some(why);
        self.groups.insert(number, group);
        (self.next, self.preparing) = (Some(number), Some(Preparing::Begun));
        (self.alone, self.has_left) = (Some(spec), false);
        true
    }

    fn reason_to_act(&self, wanted: &GroupSpec, floor: &Floor) -> Option<Alone> {
        let group = self.groups.get(&wanted.number)?;
        if let Some(current) = self.current {
            let ends = |id: &SlotId| {
                let node = self.slots.get(id).and_then(|slot| floor.node(&slot.spec.ray));
                node.and_then(|node| node.notice)
                    .is_some_and(|(kind, _)| kind == NoticeKind::SpotInterruption)
            };
            let leaves = current == wanted.number && group.slots.iter().any(ends);
            return leaves.then_some(Alone::Notice);
        }
        match group.outcome.as_ref()? {
            Outcome::Killed { .. } => Some(Alone::WorkerKilled),
            Outcome::Lost { .. } => Some(Alone::NodeLost),
            Outcome::Stopped { .. } if self.has_left => Some(Alone::Notice),
            _ => None,
        }
    }
}
