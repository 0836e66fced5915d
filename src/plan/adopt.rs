//! Groups that a bridge began alone while the controller was away: they become what is wanted, or what nobody will
//! ever know of.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::documents::{slot_kind, tell};
use super::draft::{Draft, JobDraft};
use crate::api::document::{Desired, SlotSpec};
use crate::api::event::EventType;
use crate::api::ids::{NodeName, SlotId};
use crate::api::record::{Binding, GroupReason, GroupRecord};
use crate::api::wire::{Alone, BridgeReport, GroupReport};
use crate::api::words::count;

/// A bridge that was heard this long ago has not begun anything alone: it waits for 15 seconds (`alone.py`).
const BESIDE_IT: SignedDuration = SignedDuration::from_secs(10);

/// Takes over what a bridge has begun without being told, and wants its newest group to go on. What was wanted
/// instead, under the same number, was never begun: the bridge refuses it.
pub(super) fn adopt(draft: &mut Draft<'_>, index: usize, bridge: &BridgeReport) {
    let unknown: Vec<(&GroupReport, Alone)> = bridge
        .groups
        .iter()
        .filter_map(|group| Some((group, group.alone?)))
        .filter(|(group, _)| !is_known(draft, index, group))
        .collect();
    for (group, alone) in &unknown {
        record(draft, index, group, *alone);
    }
    let Some((newest, _)) = unknown.into_iter().max_by_key(|(group, _)| group.number) else { return };
    let job = &draft.jobs[index].record;
    let Some(Desired::Run { group: mut wanted, .. }) = job.document.as_ref().map(|told| told.desired.clone())
    else {
        return; // It is to stop, whichever group it runs.
    };
    // One that is wanted under a higher number comes after it.
    if wanted.number > newest.number {
        return;
    }
    let slots = job.group(newest.number).map(|group| group.slots.clone()).unwrap_or_default();
    let ranks = newest.ranks.iter().map(|rank| rank.slot.clone()).collect();
    (wanted.number, wanted.ranks) = (newest.number, ranks);
    tell(draft, index, Desired::Run { group: wanted, activate: true }, slots);
}

/// A bridge that is lost may have begun groups of which it could tell nobody: no other may have their numbers.
pub(super) fn leave_out_numbers(job: &mut JobDraft<'_>, binding: &Binding, now: Timestamp) {
    let silence = match &binding.bridge {
        Some((_, heard)) => Some(now.duration_since(*heard)),
        // One that was told nothing begins nothing.
        None if job.record.document.is_none() => return,
        None => None,
    };
    let beside_it = silence.is_some_and(|silence| (SignedDuration::ZERO..BESIDE_IT).contains(&silence));
    if !beside_it {
        job.record.leave_out_what_was_begun_alone();
    }
}

/// Whether a group is known as what it is.
fn is_known(draft: &Draft<'_>, index: usize, report: &GroupReport) -> bool {
    let known = draft.jobs[index].record.group(report.number);
    known.is_some_and(|group| {
        report.ranks.len() == group.slots.len()
            && report.ranks.iter().all(|rank| group.slots.contains_key(&rank.slot))
    })
}

fn record(draft: &mut Draft<'_>, index: usize, report: &GroupReport, alone: Alone) {
    let number = report.number;
    let (reason, why) = match alone {
        Alone::WorkerKilled => (GroupReason::WorkerKilled, "a worker was killed"),
        Alone::NodeLost => (GroupReason::NodeLost, "a node was lost"),
        Alone::Notice => (GroupReason::NodeLeaving, "a node will be taken away"),
    };
    let message = format!("{why}; the bridge began it while the controller was away");
    let slots = slots(draft, index, report);
    let nodes: Vec<NodeName> =
        report.ranks.iter().filter_map(|rank| slots.get(&rank.slot)).map(|slot| slot.node.clone()).collect();
    let job = &mut draft.jobs[index];
    job.record.groups.retain(|group| group.number != number);
    let before = job.record.groups.iter().rev().find(|group| group.number < number);
    let program =
        before.map_or_else(|| super::documents::program_digest(&job.job.spec), |it| it.program.clone());
    let from_replicas = before.map_or(0, |group| u32::try_from(group.nodes.len()).unwrap_or(u32::MAX));
    let said =
        format!("group {number}: {from_replicas} → {} ({reason:?}): {message}", count(nodes.len(), "worker"));
    let created = job.heard_at;
    let group =
        GroupRecord::new(number, created, (reason, message), program, nodes, slots.into(), from_replicas);
    job.record.groups.push(group.into());
    job.record.groups.sort_by_key(|group| group.number);
    let object = job.job;
    draft.job_event(object, EventType::Warning, "GroupAdopted", said);
}

/// The slots of a group's ranks: those of the groups before it, of which it uses some.
fn slots(draft: &Draft<'_>, index: usize, report: &GroupReport) -> BTreeMap<SlotId, SlotSpec> {
    let job = &draft.jobs[index];
    let told = job.record.document.iter().flat_map(|document| &document.slots);
    let known: BTreeMap<&SlotId, &SlotSpec> =
        told.chain(job.record.groups.iter().flat_map(|group| &group.slots)).collect();
    let slots = report.ranks.iter().map(|rank| {
        let slot = known.get(&rank.slot).map(|slot| (*slot).clone());
        let unheard_of = || SlotSpec {
            node: draft.node_of(&rank.node).unwrap_or(rank.node.as_ref()).into(),
            ray: rank.node.clone(),
            kind: slot_kind(&job.job.spec).into(),
        };
        (rank.slot.clone(), slot.unwrap_or_else(unheard_of))
    });
    slots.collect()
}
