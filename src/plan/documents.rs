//! What bridges are told: new groups in slots, switches, stops. A document is a whole; a new revision replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::allocation::JobAllocation;
use super::capacity::Capacity;
use super::draft::{Draft, JobDraft};
use super::guards::Guard;
use crate::action::Effect;
use crate::api::document::{Desired, Document, GroupSpec, Prepare, Program, SlotKind, SlotSpec};
use crate::api::event::EventType;
use crate::api::ids::{Digest, GroupNumber, NodeName, RayNodeId, SlotId};
use crate::api::job::AdaptDLJobSpec;
use crate::api::meta::CHECKPOINT_NOW;
use crate::api::record::{GroupReason, GroupRecord, digest_of};
use crate::api::shared::Shared;
use crate::api::units::Span;
use crate::api::wire::GroupPhase;
use crate::api::words::count;

/// Where a new group shall be, and why.
pub(super) struct NewGroup<'p> {
    pub(super) nodes: &'p [NodeName],
    pub(super) reason: GroupReason,
    pub(super) message: String,
}

/// Why a new group cannot be had now.
pub(super) enum NoRoom {
    /// Other jobs, these, still have slots where this one shall be.
    TakenBy(Vec<usize>),
    /// A node has gone in the meantime.
    NodeGone(NodeName),
}

/// What a job's workers run, as the manifest has it.
pub(super) fn program(spec: &AdaptDLJobSpec) -> Program {
    Program {
        entrypoint: spec.entrypoint.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        env: spec.env.clone(),
        share_path: spec.share_path.clone(),
    }
}

/// What its slots must be.
pub(super) fn slot_kind(spec: &AdaptDLJobSpec) -> SlotKind {
    SlotKind {
        resources: spec.resources.clone(),
        runtime_env: spec.runtime_env.clone(),
        package: spec.working_dir_digest.clone(),
    }
}

/// What a group must have been started with not to be outdated.
pub(super) fn program_digest(spec: &AdaptDLJobSpec) -> Digest {
    digest_of(&(program(spec), slot_kind(spec)))
}

impl JobDraft<'_> {
    /// The group that trains, as far as is known.
    pub(super) fn running_group(&self) -> Option<&GroupRecord> {
        let training =
            |group: &&GroupRecord| group.outcome.is_none() && group.timeline.contains_key("released");
        self.record.groups.iter().rev().map(|group| &**group).find(training)
    }

    /// Whether the bridge was allowed to switch to a group, and is not known to have ended it.
    fn is_switching(&self) -> bool {
        let desired = self.record.document.as_ref().map(|document| &document.desired);
        let allowed = matches!(desired, Some(Desired::Run { activate: true, .. }));
        allowed && self.record.target().is_some_and(|group| group.outcome.is_none())
    }

    /// The slots that there are, or that were asked for, with the nodes they are on: each once, by node.
    pub(super) fn slots<'d>(&'d self, draft: &'d Draft<'_>) -> Vec<(&'d str, &'d SlotId)> {
        let mut slots = Vec::new();
        if self.record.binding.as_ref().is_none_or(|binding| binding.cluster != draft.snapshot.key) {
            return slots;
        }
        slots.extend(self.told_slots().map(|(id, slot)| (slot.node.as_ref(), id)));
        for slot in self.living_bridge().iter().flat_map(|bridge| &bridge.slots) {
            if matches!(slot.state.as_str(), "Pending" | "Ready")
                && let Some(node) = draft.node_of(&slot.node)
            {
                slots.push((node, &slot.id));
            }
        }
        slots.sort_unstable();
        slots.dedup();
        slots
    }
}

impl JobDraft<'_> {
    /// The slots that the bridge was told of and may have: the wanted group's and the running one's.
    fn told_slots(&self) -> impl Iterator<Item = (&SlotId, &SlotSpec)> {
        let wanted = self.record.document.iter().flat_map(|document| &document.slots);
        wanted.chain(self.running_group().into_iter().flat_map(|group| &group.slots))
    }
}

impl Draft<'_> {
    /// Nodes on which slots of a job were, and of which the provider says that nothing on them is alive.
    fn fenced(&self, job: &JobDraft<'_>) -> BTreeSet<RayNodeId> {
        let ours = self.cluster().is_some_and(|cluster| cluster.spec.is_ours());
        let known = |ray: &RayNodeId| self.own_name(ray).is_some();
        let slots = job.living_bridge().into_iter().flat_map(|bridge| &bridge.slots);
        slots.map(|slot| &slot.node).filter(|ray| ours && !known(ray)).cloned().collect()
    }
}

/// Wants a new group. It takes over the slots of the running group that fit it.
pub(super) fn want_group(
    draft: &mut Draft<'_>,
    index: usize,
    wanted: NewGroup<'_>,
) -> Result<GroupNumber, NoRoom> {
    let job = &draft.jobs[index];
    let spec = &job.job.spec;
    let active = job.living_bridge().and_then(|bridge| {
        bridge.groups.iter().find(|group| matches!(group.phase, GroupPhase::Running | GroupPhase::Stopping))
    });
    let from_replicas = active.map_or(0, |group| group.ranks.len() as u32);
    // A group that may be switched to at any moment is as good as running.
    let beside_another = active.is_some() || job.is_switching();
    // Whether another program than a script waits for its release, too, is for the bridge to see (`group.py`).
    let waits = job.running_group().is_some_and(|group| group.spoke_adaptdl);
    let kind = Shared::from(slot_kind(spec));
    let kept = reusable_slots(job, &kind);
    let needed = needed(wanted.nodes, &kept);
    let beside = room_for(draft, index, &needed)?;
    let prepare = match (beside, beside_another) {
        (false, _) => Prepare::Nothing,
        (true, false) => Prepare::Full,
        // Workers are held before they use a GPU, and the bridge waits for the old ones' end there.
        (true, true) if spec.rescale.overlap && waits => Prepare::Full,
        (true, true) => Prepare::Slots,
    };
    let (ranks, slots) = assign(draft, wanted.nodes, kept, &kind)?;
    let slots = Shared::from(slots);
    let job = &draft.jobs[index];
    let reported =
        job.living_bridge().and_then(|bridge| bridge.groups.iter().map(|group| group.number).max());
    let number = job.record.next_group().max(reported.map_or(GroupNumber(0), GroupNumber::next));
    let group = GroupSpec {
        number,
        ranks,
        program: program(spec),
        prepare,
        fork: spec.rescale.overlap && spec.rescale.fork_server,
        restore: job.record.checkpoints.last().map(|checkpoint| checkpoint.id),
    };
    let desired = Desired::Run { group: group.into(), activate: active.is_none() };
    let now = draft.now;
    let why = (wanted.reason, wanted.message.clone());
    let (program, nodes) = (program_digest(spec), wanted.nodes.to_vec());
    let record = GroupRecord::new(number, now, why, program, nodes, slots.clone(), from_replicas);
    let job = &mut draft.jobs[index];
    job.record.groups.push(record.into());
    job.record.started.get_or_insert(now);
    job.record.wanting_since = None;
    let message = format!(
        "group {number}: {from_replicas} → {} ({:?}): {}",
        count(wanted.nodes.len(), "worker"),
        wanted.reason,
        wanted.message
    );
    let object = job.job;
    draft.job_event(object, EventType::Normal, "GroupWanted", message);
    tell(draft, index, desired, slots);
    Ok(number)
}

/// Makes a document the newest one, and has it sent.
pub(super) fn tell(
    draft: &mut Draft<'_>,
    index: usize,
    desired: Desired,
    slots: Shared<BTreeMap<SlotId, SlotSpec>>,
) {
    let revision = draft.jobs[index].record.revision + 1;
    let document = document(draft, index, revision, desired, slots);
    let job = &mut draft.jobs[index];
    job.record.revision = revision;
    job.record.document = Some(document);
    let effect = Effect::SendDocument { job: job.uid().clone(), revision: job.record.revision };
    draft.intend(effect);
}

/// A document that says what the manifest and the cluster now say beside the wanted group.
fn document(
    draft: &Draft<'_>,
    index: usize,
    revision: u64,
    desired: Desired,
    slots: Shared<BTreeMap<SlotId, SlotSpec>>,
) -> Document {
    let job = &draft.jobs[index];
    let spec = &job.job.spec;
    Document {
        revision,
        desired,
        slots,
        checkpoint_timeout: spec.checkpoint.timeout,
        checkpoint_interval: spec.checkpoint.interval,
        checkpoint_keep: spec.checkpoint.keep,
        checkpoint_path: spec.checkpoint.storage.path.clone(),
        artifacts: spec.artifacts.paths.clone(),
        fenced: draft.fenced(job),
        fence_until: job.record.fence_until,
        progress_deadline: spec.progress_deadline,
        save_request: open_request(job),
        metadata_endpoint: draft
            .cluster()
            .and_then(|cluster| cluster.spec.metadata_endpoint())
            .map(str::to_owned),
        min_replicas: spec.min_replicas,
    }
}

/// The wish to have the job saved, unless it was granted already: another bridge would save once more.
fn open_request(job: &JobDraft<'_>) -> Option<String> {
    let wish = job.job.metadata.annotations.get(CHECKPOINT_NOW)?;
    job.record.granted(wish).is_none().then(|| wish.clone())
}

/// Says again what was said, if anything beside the wanted group has changed: intervals, fences and the like.
pub(super) fn refresh(draft: &mut Draft<'_>, index: usize) {
    let Some(mut told) = draft.jobs[index].record.document.take() else { return };
    // The wanted group stays what it is, and is by far the largest part.
    let nothing = Desired::Stop { grace: Span::default() };
    let (desired, slots) = (mem::replace(&mut told.desired, nothing.clone()), mem::take(&mut told.slots));
    let mut now = document(draft, index, told.revision, nothing, Shared::default());
    // A node that was fenced once stays so; a bridge looks at its own fence only when it begins.
    if now.fenced.is_subset(&told.fenced) {
        now.fenced.clone_from(&told.fenced);
    }
    now.fence_until = told.fence_until;
    // That a wish was granted, or taken back, is no news to the bridge.
    now.save_request = now.save_request.or_else(|| told.save_request.clone());
    if now != told {
        return tell(draft, index, desired, slots);
    }
    draft.jobs[index].record.document = Some(Document { desired, slots, ..told });
}

/// Allows the switch to the group that is prepared.
pub(super) fn activate(draft: &mut Draft<'_>, index: usize) {
    let Some(document) = draft.jobs[index].record.document.clone() else { return };
    if let Desired::Run { group, activate: false } = document.desired {
        tell(draft, index, Desired::Run { group, activate: true }, document.slots);
    }
}

/// Has everything of a job stopped.
pub(super) fn stop(draft: &mut Draft<'_>, index: usize, grace: Span) {
    tell(draft, index, Desired::Stop { grace }, Shared::default());
}

/// The slots of the running group that a new one can take over, by node.
fn reusable_slots(job: &JobDraft<'_>, kind: &SlotKind) -> BTreeMap<NodeName, Vec<(SlotId, SlotSpec)>> {
    let mut kept: BTreeMap<NodeName, Vec<(SlotId, SlotSpec)>> = BTreeMap::new();
    let Some(bridge) = job.living_bridge() else { return kept };
    let ready = |id: &SlotId| bridge.slots.iter().any(|slot| slot.id == *id && slot.state == "Ready");
    let told: BTreeMap<&SlotId, &SlotSpec> = job.told_slots().collect();
    for (id, slot) in told {
        if slot.kind == *kind && ready(id) {
            kept.entry(slot.node.clone()).or_default().push((id.clone(), slot.clone()));
        }
    }
    kept
}

/// How many slots a group needs on a node, and how many of them are not there yet.
#[derive(Default)]
struct Needed {
    all: u32,
    new: u32,
}

fn needed(
    nodes: &[NodeName],
    kept: &BTreeMap<NodeName, Vec<(SlotId, SlotSpec)>>,
) -> BTreeMap<NodeName, Needed> {
    let mut needed: BTreeMap<NodeName, Needed> = BTreeMap::new();
    for node in nodes {
        let needed = needed.entry(node.clone()).or_default();
        needed.all += 1;
        needed.new = needed.all.saturating_sub(kept.get(node).map_or(0, |slots| slots.len() as u32));
    }
    needed
}

/// Whether there is room for new slots beside all that are there; if only the job's own are in the way, no.
fn room_for(draft: &Draft<'_>, index: usize, needed: &BTreeMap<NodeName, Needed>) -> Result<bool, NoRoom> {
    if !draft.guarded(Guard::RoomIsFree) {
        return Ok(true);
    }
    let mut beside = true;
    let (nodes, held) = (draft.nodes(), draft.held());
    for (name, needed) in needed.iter().filter(|(_, needed)| needed.new > 0) {
        let Some(node) = nodes.get(name) else {
            return Err(NoRoom::NodeGone(name.clone()));
        };
        let mut free = node.capacity.clone();
        let mut others = Vec::new();
        for (other, count) in held.on(name).filter(|(other, _)| *other != index) {
            free.take(&draft.jobs[other].need(), count);
            others.push(other);
        }
        let job = &draft.jobs[index];
        let need = job.need();
        if free.fits(&need) < needed.all {
            return Err(NoRoom::TakenBy(others));
        }
        // Those that it was not told to keep are being given back: what is to come can wait for that, and the running
        // group trains meanwhile.
        let kept: BTreeMap<&SlotId, &SlotSpec> =
            job.told_slots().filter(|(_, slot)| slot.node == *name).collect();
        kept.values().for_each(|slot| free.take(&Capacity::of_worker(&slot.kind.resources), 1));
        beside &= free.fits(&need) >= needed.new;
    }
    Ok(beside)
}

type Assignment = (Vec<SlotId>, BTreeMap<SlotId, SlotSpec>);

/// Slots for the ranks: kept ones where there are any, else new ones.
fn assign(
    draft: &mut Draft<'_>,
    nodes: &[NodeName],
    mut kept: BTreeMap<NodeName, Vec<(SlotId, SlotSpec)>>,
    kind: &Shared<SlotKind>,
) -> Result<Assignment, NoRoom> {
    let views = draft.nodes();
    let (mut ranks, mut slots) = (Vec::new(), BTreeMap::new());
    for node in nodes {
        let old = kept.get_mut(node).and_then(|slots| (!slots.is_empty()).then(|| slots.remove(0)));
        let (id, slot) = match old {
            Some(old) => old,
            None => {
                let ray = views.get(node).and_then(|view| view.ray.clone());
                let ray = ray.ok_or_else(|| NoRoom::NodeGone(node.clone()))?;
                (draft.slot_id(), SlotSpec { node: node.clone(), ray, kind: kind.clone() })
            }
        };
        ranks.push(id.clone());
        slots.insert(id, slot);
    }
    Ok((ranks, slots))
}

/// Whether two groups are on the same nodes with as many ranks on each.
pub(super) fn same_nodes(one: &[NodeName], other: &[NodeName]) -> bool {
    fn sorted(nodes: &[NodeName]) -> Vec<&NodeName> {
        let mut nodes: Vec<&NodeName> = nodes.iter().collect();
        nodes.sort();
        nodes
    }
    one == other || sorted(one) == sorted(other)
}

/// Why the number of workers or their nodes change, for a group that trained before.
pub(super) fn why_moved(
    draft: &Draft<'_>,
    index: usize,
    allocation: &JobAllocation,
    nodes: &[NodeName],
) -> (GroupReason, String) {
    let job = &draft.jobs[index];
    let spec = &job.job.spec;
    let left = job.running_group().into_iter().flat_map(|group| &group.nodes);
    let left: Vec<&NodeName> = left.filter(|name| !nodes.contains(name)).collect();
    if let Some((name, notice)) = left.iter().find_map(|name| Some((name, draft.notice_of(name)?))) {
        return (GroupReason::NodeLeaving, super::notices::why(name, notice));
    }
    if let Some(name) = left.iter().find(|name| draft.is_replaced(name)) {
        return (GroupReason::NodeLeaving, format!("node {name} is replaced: {}", super::rollout::CAUSE));
    }
    let views = draft.nodes();
    if let Some(name) = left.iter().find(|name| !views.get(name).is_some_and(|view| view.ready)) {
        return (GroupReason::NodeLost, format!("node {name} is lost"));
    }
    let (from, to) = (job.running_group().map_or(0, |group| group.nodes.len()), nodes.len());
    let allowed = spec.min_replicas as usize..=spec.max_replicas as usize;
    let message = match allocation.complete {
        true => allocation.decision.message.clone(),
        false => format!("{} (not all of the nodes that it needs are there)", allocation.decision.message),
    };
    if from != to && (!allowed.contains(&from) || allocation.decision.reason == "Fixed") {
        let bounds =
            format!("the manifest allows {} to {}", spec.min_replicas, count(spec.max_replicas, "worker"));
        return (GroupReason::ReplicasChanged, format!("{bounds}; {message}"));
    }
    if from == to {
        return (GroupReason::Scaled, "its workers are moved to other nodes".to_owned());
    }
    (GroupReason::Scaled, message)
}
