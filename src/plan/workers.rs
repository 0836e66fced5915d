//! Jobs' workers: from what is wanted and what the bridge reports to the next document, one step at a time.

use super::allocation::{Allocation, JobAllocation};
use super::documents::{
    NewGroup, NoRoom, activate, program_digest, refresh, same_nodes, tell, want_group, why_moved,
};
use super::draft::Draft;
use super::guards::Guard;
use super::notices;
use super::report::Waiting;
use super::room::{make_room, stand_aside};
use super::stopping::{judge, leave, stop_step, stop_wish};
use crate::action::{Effect, Target};
use crate::api::condition::Finding;
use crate::api::document::Desired;
use crate::api::ids::{CheckpointId, GroupNumber, NodeName};
use crate::api::record::{Binding, GroupReason};
use crate::api::status::ScalingStatus;
use crate::api::units::Span;
use crate::api::wire::{BlobKind, BridgeReport, GroupPhase, GroupReport};
use crate::api::words::count;

/// Plans each job's next step.
pub(super) fn plan(draft: &mut Draft<'_>, allocation: &Allocation) {
    for index in 0..draft.jobs.len() {
        let uid = draft.jobs[index].uid().clone();
        let allocated = allocation.jobs.get(&uid);
        note_decision(draft, index, allocated);
        judge(draft, index);
        plan_job(draft, index, allocated);
    }
    stand_aside(draft);
}

fn plan_job(draft: &mut Draft<'_>, index: usize, allocated: Option<&JobAllocation>) {
    let uid = draft.jobs[index].uid();
    // A removal that was begun is finished, for nobody knows how far it is; unless all of the cluster is over.
    let lives = draft.record.incarnation.is_some() && !draft.record.ending;
    if let Some(removal) = draft.removal_of(uid).filter(|_| lives) {
        draft.intend(removal);
        return wait(draft, index, Waiting::going_on("Stopping", "its bridge is being ended"));
    }
    let wish = stop_wish(draft, index, allocated);
    let here = draft.snapshot.key.clone();
    let binding = draft.jobs[index].record.binding.clone();
    match (binding, wish) {
        (None, Some(wish)) => wait(draft, index, Waiting::blocked(wish.reason, wish.message)),
        (None, None) => bind(draft, index, allocated),
        (Some(binding), _) if binding.cluster != here => {
            let message = format!("it is being moved here from cluster {}", binding.cluster);
            wait(draft, index, Waiting::going_on("Moving", message));
        }
        (Some(_), wish) => {
            let goes_on = wish.as_ref().is_none_or(|wish| wish.goes_on);
            let Some(bridge) = hear(draft, index, goes_on) else { return };
            match wish {
                Some(wish) => stop_step(draft, index, bridge, wish),
                None => run_step(draft, index, bridge, allocated),
            }
        }
    }
}

pub(super) fn wait(draft: &mut Draft<'_>, index: usize, waiting: Waiting) {
    draft.jobs[index].wait(waiting);
}

fn note_decision(draft: &mut Draft<'_>, index: usize, allocated: Option<&JobAllocation>) {
    let Some(allocated) = allocated else { return };
    let decision = &allocated.decision;
    if let Some(until) = decision.until {
        draft.wake(until);
    }
    let job = &mut draft.jobs[index];
    job.report.scaling = Some(ScalingStatus {
        replicas: decision.replicas,
        reason: decision.reason.to_owned(),
        message: decision.message.clone(),
    });
    job.report.scheduled = match (decision.replicas, allocated.complete) {
        (0, _) => Some(Finding::new("Scheduled", false, decision.reason, decision.message.clone())),
        (_, false) => {
            let message =
                format!("{} of {} have a node", allocated.ready.len(), count(decision.replicas, "worker"));
            Some(Finding::new("Scheduled", false, "WaitingForNodes", message))
        }
        (_, true) => None,
    };
}

/// What the bridge says, once it has been heard and has taken what it was told. Of one that died everything is removed,
/// unless the job goes on.
fn hear<'a>(draft: &mut Draft<'a>, index: usize, goes_on: bool) -> Option<Option<&'a BridgeReport>> {
    let job = &draft.jobs[index];
    let uid = job.uid().clone();
    if draft.agent().is_none() {
        let error = draft.snapshot.seen.agent.error.as_ref().map(|(_, error)| error.clone());
        let message = error.unwrap_or_else(|| "the cluster has not been heard yet".to_owned());
        wait(draft, index, Waiting::blocked("Unreachable", message));
        return None;
    }
    if job.is_dead() {
        draft.intend(Effect::RemoveBridge { job: uid, keep: goes_on });
        wait(draft, index, Waiting::going_on("BridgeDied", "its bridge died; another is being made"));
        return None;
    }
    let bridge = job.living_bridge();
    let told = job.record.document.as_ref().map(|document| document.revision);
    let taken = bridge.and_then(|bridge| bridge.revision);
    if told.is_some() && taken < told && draft.guarded(Guard::DocumentIsTaken) {
        let revision = job.record.revision;
        // What was heard before it was sent does not tell whether it has arrived.
        let heard = job.record.sent.is_none_or(|(sent, at)| sent != revision || job.heard_at > at);
        if heard || draft.pending(&Target::Bridge(uid.clone())).is_some() {
            draft.intend(Effect::SendDocument { job: uid, revision });
        }
        wait(draft, index, Waiting::going_on("Telling", "the bridge is being told what is wanted"));
        return None;
    }
    Some(bridge)
}

/// A job without a bridge gets one when it can be heard and there is a place for its workers.
fn bind(draft: &mut Draft<'_>, index: usize, allocated: Option<&JobAllocation>) {
    let Some(incarnation) = draft.record.incarnation.clone().filter(|_| !draft.record.ending) else {
        let waiting = waiting_for_cluster(draft);
        return wait(draft, index, waiting);
    };
    if draft.agent().is_none() {
        return wait(draft, index, Waiting::going_on("WaitingForCluster", "its cluster cannot be heard yet"));
    }
    // What is left of an earlier bridge, or was not yet seen to be gone, must not be taken for the new one.
    let uid = draft.jobs[index].uid().clone();
    let seen = draft.agent().is_some_and(|(_, agent)| agent.jobs.contains_key(&uid));
    if seen {
        draft.intend(Effect::RemoveBridge { job: uid, keep: true });
        return wait(draft, index, Waiting::going_on("Stopping", "its old bridge is being ended"));
    }
    if let Some(waiting) = trouble(draft, index) {
        return wait(draft, index, waiting);
    }
    if allocated.is_none_or(|allocated| wanted_nodes(draft, index, allocated).is_empty()) {
        let waiting = waiting_for_nodes(draft, index);
        return wait(draft, index, waiting);
    }
    let binding = Binding { cluster: draft.snapshot.key.clone(), incarnation: incarnation.id, bridge: None };
    draft.jobs[index].record.binding = Some(binding);
    draft.jobs[index].record.document = None;
    run_step(draft, index, None, allocated);
}

fn waiting_for_cluster(draft: &Draft<'_>) -> Waiting {
    const REASON: &str = "WaitingForCluster";
    match draft.cluster_trouble() {
        Some(why) => Waiting::blocked(REASON, format!("it waits for cluster {}: {why}", draft.snapshot.key)),
        None => Waiting::going_on(REASON, "its cluster is being started"),
    }
}

fn waiting_for_nodes(draft: &Draft<'_>, index: usize) -> Waiting {
    const REASON: &str = "WaitingForNodes";
    if let Some((name, notice)) = draft.leaving(index) {
        let message = format!("{}; it goes on when there is another", notices::why(name, notice));
        return Waiting::going_on("NodeLeaving", message);
    }
    match draft.cluster_trouble() {
        Some(why) => Waiting::blocked(REASON, format!("the nodes for its workers cannot be started: {why}")),
        None => Waiting::going_on(REASON, "the nodes for its workers are being started"),
    }
}

/// The time until the next try, after something failed.
fn trouble(draft: &mut Draft<'_>, index: usize) -> Option<Waiting> {
    let trouble = draft.jobs[index].record.trouble.clone()?;
    if draft.is_due(trouble.until) {
        return None;
    }
    let left =
        Span { millis: u64::try_from(trouble.until.duration_since(draft.now).as_millis()).unwrap_or(0) };
    let left = Span::from_secs(left.millis.div_ceil(1000));
    Some(Waiting::blocked("BackingOff", format!("tried again in {left}: {}", trouble.message)))
}

/// The nodes on which the job's workers should be now: those it wants, once they are all there or waiting for them
/// has taken too long; until then those it has.
fn wanted_nodes(draft: &mut Draft<'_>, index: usize, allocated: &JobAllocation) -> Vec<NodeName> {
    if allocated.complete {
        draft.jobs[index].record.wanting_since = None;
        return allocated.ready.clone();
    }
    let now = draft.now;
    let views = draft.nodes();
    let job = &mut draft.jobs[index];
    let least = job.job.spec.min_replicas.max(1) as usize;
    let mut running = job.running_group().map(|group| group.nodes.clone()).unwrap_or_default();
    // What the manifest does not allow any more is not waited with.
    running.truncate(job.job.spec.max_replicas as usize);
    let intact = !running.is_empty() && running.iter().all(|node| views.is_usable(node));
    let since = *job.record.wanting_since.get_or_insert(now);
    let patience = since + job.job.spec.rescale.timeout.signed();
    if intact && (!draft.is_due(patience) || allocated.ready.len() <= running.len()) {
        return running;
    }
    if allocated.ready.len() < least { Vec::new() } else { allocated.ready.clone() }
}

// --- Running -----------------------------------------------------------------------------------------------------

fn run_step(
    draft: &mut Draft<'_>,
    index: usize,
    bridge: Option<&BridgeReport>,
    allocated: Option<&JobAllocation>,
) {
    let Some(allocated) = allocated else { return };
    let nodes = wanted_nodes(draft, index, allocated);
    let document = draft.jobs[index].record.document.as_ref();
    let running = document.and_then(|document| match &document.desired {
        Desired::Run { group, activate } => Some((group.number, *activate)),
        Desired::Stop { .. } => None,
    });
    let Some((number, active)) = running else {
        let leaving = draft.leaving(index).map(|(name, notice)| notices::why(name, notice));
        let (reason, message) = match draft.jobs[index].record.groups.last() {
            None => (GroupReason::Started, "it begins".to_owned()),
            Some(_) if let Some(why) = leaving => (GroupReason::NodeLeaving, why),
            Some(last) => after(last.outcome.as_ref().map_or("", |outcome| outcome.kind.as_str())),
        };
        return begin(draft, index, bridge, &nodes, reason, message);
    };
    if bridge.is_some_and(|bridge| leave(draft, index, bridge, &nodes)) {
        return;
    }
    let report = bridge.and_then(|bridge| bridge.groups.iter().find(|group| group.number == number));
    let Some((bridge, report)) = bridge.zip(report) else {
        return wait(
            draft,
            index,
            Waiting::going_on("Preparing", format!("group {number} is being prepared")),
        );
    };
    match report.phase {
        GroupPhase::Ended => ended(draft, index, bridge, number, &nodes),
        GroupPhase::Stopping => {
            wait(draft, index, Waiting::going_on("Stopping", format!("group {number} is ending")));
        }
        GroupPhase::Running => running_step(draft, index, allocated, &nodes),
        GroupPhase::Reserving | GroupPhase::Starting | GroupPhase::Prepared => {
            preparing_step(draft, index, bridge, report, active, allocated, &nodes);
        }
    }
}

/// Wants a job's first group, or the first after it had none, where its newest checkpoint is.
fn begin(
    draft: &mut Draft<'_>,
    index: usize,
    bridge: Option<&BridgeReport>,
    nodes: &[NodeName],
    reason: GroupReason,
    message: String,
) {
    if let Some(waiting) = trouble(draft, index) {
        return wait(draft, index, waiting);
    }
    if nodes.is_empty() {
        make_room(draft, index);
        let waiting = waiting_for_nodes(draft, index);
        return wait(draft, index, waiting);
    }
    // It is newer than what is known to be durable, and may be so already.
    if let Some(id) = draft.fetching(draft.jobs[index].uid()) {
        return wait(
            draft,
            index,
            Waiting::going_on("Fetching", format!("checkpoint {id} is being fetched")),
        );
    }
    if let Some(id) = missing_checkpoint(draft, index, bridge)
        && draft.guarded(Guard::CheckpointIsThere)
    {
        let job = draft.jobs[index].uid().clone();
        draft.intend(Effect::SendCheckpoint { job, id });
        return wait(
            draft,
            index,
            Waiting::going_on("Restoring", format!("checkpoint {id} is brought to the cluster")),
        );
    }
    want(draft, index, nodes, reason, message);
}

/// Wants a group on these nodes, if they are enough for one.
fn want(draft: &mut Draft<'_>, index: usize, nodes: &[NodeName], reason: GroupReason, message: String) {
    if nodes.len() < draft.jobs[index].job.spec.min_replicas.max(1) as usize {
        make_room(draft, index);
        let waiting = waiting_for_nodes(draft, index);
        return wait(draft, index, waiting);
    }
    let waiting = match want_group(draft, index, NewGroup { nodes, reason, message }) {
        Ok(number) => Waiting::going_on("Preparing", format!("group {number} is wanted")),
        Err(NoRoom::TakenBy(jobs)) => {
            make_room(draft, index);
            let names: Vec<String> =
                jobs.iter().map(|job| draft.jobs[*job].job.metadata.key().to_string()).collect();
            draft.jobs[index].waits_for = jobs;
            let have = if names.len() == 1 { "has" } else { "have" };
            Waiting::going_on("WaitingForRoom", format!("{} still {have} its room", names.join(", ")))
        }
        Err(NoRoom::NodeGone(node)) => {
            make_room(draft, index);
            Waiting::going_on("WaitingForNodes", format!("node {node} is not there yet"))
        }
    };
    wait(draft, index, waiting);
}

/// The newest durable checkpoint, if the bridge has none as new.
fn missing_checkpoint(
    draft: &Draft<'_>,
    index: usize,
    bridge: Option<&BridgeReport>,
) -> Option<CheckpointId> {
    let newest = draft.jobs[index].record.checkpoints.last()?.id;
    let has = bridge.is_some_and(|bridge| {
        bridge.blobs.iter().any(|blob| blob.kind == BlobKind::Checkpoint && blob.id >= newest)
    });
    (!has).then_some(newest)
}

/// Why there is a group after one that ended like this.
fn after(kind: &str) -> (GroupReason, String) {
    let (reason, message) = match kind {
        "Stopped" => (GroupReason::Resumed, "it goes on from its checkpoint"),
        "Failed" => (GroupReason::ProgramFailed, "its program failed and is tried again"),
        "Killed" | "Terminated" => (GroupReason::WorkerKilled, "a worker was killed"),
        "Hung" => (GroupReason::WorkerKilled, "the group made no step for too long"),
        "Lost" => (GroupReason::NodeLost, "a node, slot or bridge was lost"),
        _ => (GroupReason::Retried, "the group before could not be had"),
    };
    (reason, message.to_owned())
}

/// The wanted group has ended: another follows, unless one before it still trains and is good enough.
fn ended(
    draft: &mut Draft<'_>,
    index: usize,
    bridge: &BridgeReport,
    number: GroupNumber,
    nodes: &[NodeName],
) {
    let kind = draft.jobs[index].record.group(number).and_then(|group| group.outcome.clone());
    let Some(kind) = kind.map(|outcome| outcome.kind) else { return };
    let training = bridge.groups.iter().find(|group| group.phase == GroupPhase::Running);
    match training {
        None => {
            let (reason, message) = after(&kind);
            begin(draft, index, Some(bridge), nodes, reason, message);
        }
        Some(training) if is_as_wanted(draft, index, training.number, nodes) => keep(draft, index, training),
        Some(_) => {
            let message = "the group before could not be had".to_owned();
            replace(draft, index, nodes, GroupReason::Retried, message);
        }
    }
}

/// Whether a group runs what is wanted where it is wanted.
fn is_as_wanted(draft: &Draft<'_>, index: usize, number: GroupNumber, nodes: &[NodeName]) -> bool {
    let job = &draft.jobs[index];
    let group = job.record.group(number);
    group.is_some_and(|group| {
        group.program == program_digest(&job.job.spec) && same_nodes(&group.nodes, nodes)
    })
}

/// Wants the group that trains to go on, after another was wanted for a while.
fn keep(draft: &mut Draft<'_>, index: usize, training: &GroupReport) {
    let record = &draft.jobs[index].record;
    let Some(slots) = record.group(training.number).map(|group| group.slots.clone()) else { return };
    let Some(Desired::Run { mut group, .. }) =
        record.document.as_ref().map(|document| document.desired.clone())
    else {
        return;
    };
    // The bridge knows the group by its number; the rest of its specification is not looked at again.
    let ranks = training.ranks.iter().map(|rank| rank.slot.clone()).collect();
    (group.number, group.ranks) = (training.number, ranks);
    tell(draft, index, Desired::Run { group, activate: true }, slots);
}

fn running_step(draft: &mut Draft<'_>, index: usize, allocated: &JobAllocation, nodes: &[NodeName]) {
    let job = &draft.jobs[index];
    let Some(group) = job.record.target() else { return };
    if group.program != program_digest(&job.job.spec) {
        let message = "the manifest wants another program, environment or resources".to_owned();
        return replace(draft, index, nodes, GroupReason::SpecChanged, message);
    }
    if !same_nodes(&group.nodes, nodes) {
        let (reason, message) = why_moved(draft, index, allocated, nodes);
        return replace(draft, index, nodes, reason, message);
    }
    if !allocated.complete {
        let message =
            format!("more nodes are being started for {}", count(allocated.decision.replicas, "worker"));
        wait(draft, index, Waiting::going_on("WaitingForNodes", message));
    }
    refresh(draft, index);
}

/// Wants another group in the place of the one that trains, as soon as there is any sense in trying.
fn replace(draft: &mut Draft<'_>, index: usize, nodes: &[NodeName], reason: GroupReason, message: String) {
    match trouble(draft, index) {
        Some(waiting) => wait(draft, index, waiting),
        None => want(draft, index, nodes, reason, message),
    }
}

fn preparing_step(
    draft: &mut Draft<'_>,
    index: usize,
    bridge: &BridgeReport,
    report: &GroupReport,
    active: bool,
    allocated: &JobAllocation,
    nodes: &[NodeName],
) {
    let number = report.number;
    if !nodes.is_empty() && !is_as_wanted(draft, index, number, nodes) {
        let training = bridge.groups.iter().find(|group| group.phase == GroupPhase::Running);
        return match training {
            Some(training) if is_as_wanted(draft, index, training.number, nodes) => {
                keep(draft, index, training)
            }
            _ => {
                let (reason, message) = why_moved(draft, index, allocated, nodes);
                want(draft, index, nodes, reason, message);
            }
        };
    }
    if report.phase == GroupPhase::Prepared && !active {
        activate(draft, index);
        return wait(
            draft,
            index,
            Waiting::going_on("Switching", format!("the switch to group {number} begins")),
        );
    }
    let message = match report.phase {
        GroupPhase::Reserving => format!("slots for group {number} are being reserved"),
        GroupPhase::Starting => format!("the workers of group {number} are starting"),
        _ => format!("group {number} is prepared and takes over"),
    };
    wait(draft, index, Waiting::going_on("Preparing", message));
    refresh(draft, index);
}
