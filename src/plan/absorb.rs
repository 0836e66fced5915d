//! What was observed goes into the records. Nothing is decided here, and nothing is taken for gone that was only
//! not seen.

mod outcomes;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::adopt::{adopt, leave_out_numbers};
use super::draft::{Draft, JobDraft, more_trouble};
use super::guards::Guard;
use super::instances;
use super::nodes;
use super::notices;
use super::offers;
use super::snapshot::Snapshot;
use crate::action::Target;
use crate::api::event::{EventType, NewEvent};
use crate::api::ids::{CheckpointId, GroupNumber, NodeName};
use crate::api::object::Kind;
use crate::api::observed::Processes;
use crate::api::record::{
    Binding, CheckpointRequest, GroupOutcome, GroupRecord, HintsRecord, NodeRecord, NodeState,
};
use crate::api::units::Span;
use crate::api::wire::{BlobKind, BridgeReport, GroupReport, Outcome, RayNode};
use crate::goodput::Hints;
use outcomes::{announce, message, name};

/// The longest wait between two groups that failed through no fault of the program.
const LONGEST_TROUBLE: Span = Span::from_secs(300);
/// How many groups are remembered.
const KEPT_GROUPS: usize = 50;
/// Beyond the lease, until a dead bridge's workers are taken for dead.
const FENCE_MARGIN: SignedDuration = SignedDuration::from_secs(3);

/// Takes in what was observed.
pub(super) fn absorb(draft: &mut Draft<'_>) {
    absorb_agent(draft);
    absorb_nodes(draft);
    draft.name_nodes();
    notices::absorb(draft);
    for index in 0..draft.jobs.len() {
        absorb_job(draft, index);
    }
    // What slots follow from may be another now.
    draft.held.take();
}

fn absorb_agent(draft: &mut Draft<'_>) {
    if draft.agent().is_some()
        && let Some(agent) = &mut draft.record.agent
    {
        agent.answered = true;
    }
}

// --- Nodes -------------------------------------------------------------------------------------------------------

/// What is known of a node at this moment.
struct NodeFacts<'a> {
    /// Ray's node of this launch.
    ray: Option<&'a RayNode>,
    /// Whether Ray knows nothing of a node that had joined: its control service has begun anew.
    forgotten: bool,
    /// Whether all its processes are known to be gone, and what they wrote last.
    gone: Option<String>,
}

fn absorb_nodes(draft: &mut Draft<'_>) {
    let nodes = draft.record.nodes.iter().filter(|(_, record)| !is_as_it_was(draft, record));
    let names: Vec<NodeName> = nodes.map(|(name, _)| name.clone()).collect();
    for name in names {
        instances::absorb(draft, &name);
        let Some(facts) = draft.record.nodes.get(&name).and_then(|record| facts(draft, record)) else {
            continue;
        };
        let Some(record) = draft.record.nodes.get_mut(&name) else { continue };
        let joined = facts.ray.is_some_and(|node| node.alive);
        if let Some(node) = facts.ray {
            record.ray = Some(node.id.clone());
        }
        let taken_back = facts.gone.as_deref().is_some_and(offers::is_taken_back);
        let head = record.group.is_none();
        let ended = record.ended.is_some() && facts.gone.is_some();
        let left = facts.ray.is_some_and(|node| !node.alive);
        let (now, cause) = (draft.now, facts.gone);
        match &record.state {
            NodeState::Terminating { .. } if ended => nodes::forget(draft, &name),
            NodeState::Launching { .. } if joined => {
                record.state = NodeState::Ready { since: now };
                let group = record.group.clone().unwrap_or_default();
                draft.record.failing_groups.remove(&group);
                if draft.record.trouble.as_ref().is_some_and(|trouble| trouble.reason == "CannotLaunch") {
                    draft.record.trouble = None;
                }
                draft.cluster_event(EventType::Normal, "NodeReady", format!("node {name} has joined"));
            }
            NodeState::Launching { .. } if cause.is_none() => {
                let since = instances::expected_since(record, draft.record.agent.as_ref());
                let timeout = instances::join_timeout(draft);
                let limit = since + timeout.signed();
                instances::wake_when_late(draft, &name, limit);
                // A controller that has just started has not asked yet.
                let asked = draft.agent().is_some() || (head && cannot_be_asked(draft));
                if asked && draft.is_due(limit) {
                    let words = instances::last_words(draft, &name);
                    let cause = format!("it did not join within {timeout}{words}");
                    lose(draft, &name, head, "NodeNotJoined", cause);
                }
            }
            NodeState::Launching { .. } | NodeState::Ready { .. } if taken_back => {
                offers::taken_back(draft, &name);
                lose(draft, &name, head, "NodeLost", cause.unwrap_or_default());
            }
            NodeState::Launching { .. } => {
                let cause = match cause.as_deref().map_or("", str::trim) {
                    "" => "it ended before it had joined".to_owned(),
                    output => format!("it ended before it had joined: {output}"),
                };
                lose(draft, &name, head, "NodeNotStarted", cause);
            }
            NodeState::Ready { .. } if cause.is_some() => {
                let why = record
                    .offering
                    .as_ref()
                    .and(cause)
                    .unwrap_or_else(|| "its processes are gone".to_owned());
                lose(draft, &name, head, "NodeLost", why);
            }
            NodeState::Ready { .. } if left || facts.forgotten => {
                lose(draft, &name, head, "NodeLost", "Ray has lost it".to_owned());
            }
            // Ray ends a node that is drained when nothing is on it any more.
            NodeState::Draining { cause: why, .. } if left || cause.is_some() => {
                record.state = NodeState::Terminating { since: now, cause: why.clone() };
            }
            _ => {}
        }
    }
}

/// Whether the agent was looked for, and does not answer or cannot even be submitted.
fn cannot_be_asked(draft: &Draft<'_>) -> bool {
    let submission = draft.pending(&Target::Agent);
    draft.snapshot.seen.agent.error.is_some() || submission.is_some_and(|intent| intent.last_error.is_some())
}

/// Whether a node is ready, and nothing that is seen of it says anything new: so it is with most of thousands.
fn is_as_it_was(draft: &Draft<'_>, record: &NodeRecord) -> bool {
    matches!(record.state, NodeState::Ready { .. })
        && instances::is_as_it_was(draft, record)
        && facts(draft, record).is_some_and(|facts| {
            let ray = facts.ray.filter(|ray| ray.alive).map(|ray| &ray.id);
            facts.gone.is_none() && ray.is_some() && ray == record.ray.as_ref()
        })
}

/// What is known of a node; `None` while it is not known what came of its launch.
fn facts<'a>(draft: &Draft<'a>, record: &NodeRecord) -> Option<NodeFacts<'a>> {
    // An instance starts Ray again when it has ended. But of what was on it nobody knows whether that has ended, too: a
    // node is what joined first, or nothing.
    let joined = record.ray.as_ref().filter(|_| record.offering.is_some());
    let ray = match joined {
        Some(joined) => draft.index.node(joined),
        None => draft.index.launched(&record.launch),
    };
    let unsettled = draft.launch_is_unsettled(&record.launch) && draft.guarded(Guard::LaunchIsSettled);
    if unsettled && ray.is_none() {
        return None;
    }
    let forgotten = record.offering.is_some() && ray.is_none() && instances::is_forgotten(draft, record);
    Some(NodeFacts { ray, forgotten, gone: gone(draft, record) })
}

/// Whether a node's processes are known to be gone, and what they wrote last. Only an observation that saw
/// everything, after the launch, can tell.
fn gone(draft: &Draft<'_>, record: &NodeRecord) -> Option<String> {
    if record.offering.is_some() {
        return instances::gone(draft, record);
    }
    let processes = &draft.snapshot.seen.processes;
    let nothing = Processes::new();
    let (at, seen) = match processes.fresh() {
        Some(seen) => seen,
        None if draft.guarded(Guard::AbsenceIsSeen) || processes.error.is_none() => return None,
        None => (draft.now, &nothing),
    };
    if at < record.state.since() && draft.guarded(Guard::AbsenceIsRecent) {
        return None;
    }
    let Some(node) = seen.get(&record.launch) else { return Some(String::new()) };
    // Until it has joined its daemons may not have been started; after that it is none without them.
    let joined = matches!(record.state, NodeState::Ready { .. } | NodeState::Draining { .. });
    let complete = node.raylet && (node.gcs || record.group.is_some());
    let alive = node.leader.is_some() && (complete || !joined);
    (!alive).then(|| node.output.clone())
}

/// A node that cannot be used any more: what is left of it is ended. Without a head nothing can be used.
fn lose(draft: &mut Draft<'_>, name: &NodeName, head: bool, reason: &str, cause: String) {
    draft.cluster_event(EventType::Warning, reason, format!("node {name} is lost: {}", cause.trim()));
    if reason != "NodeLost" {
        let message = format!("node {name}: {}", cause.trim());
        match instances::failing_group(draft, name) {
            Some((group, template)) => instances::fail_group(draft, group, template, message),
            None => {
                let before = draft.record.trouble.as_ref();
                draft.record.trouble =
                    Some(more_trouble(before, draft.now, LONGEST_TROUBLE, "CannotLaunch", message));
            }
        }
    }
    draft.record.ending |= head;
    let now = draft.now;
    let end = |record: &mut NodeRecord, cause: &str| {
        if !matches!(record.state, NodeState::Terminating { .. }) {
            record.state = NodeState::Terminating { since: now, cause: cause.to_owned() };
        }
    };
    if let Some(record) = draft.record.nodes.get_mut(name) {
        end(record, &cause);
    }
    if head {
        draft.record.nodes.values_mut().for_each(|record| end(record, "the head is lost"));
    }
}

/// How long after the death of a bridge its workers may live.
pub(super) fn fence(snapshot: &Snapshot) -> SignedDuration {
    snapshot.settings.lease.signed() + FENCE_MARGIN
}

// --- Jobs --------------------------------------------------------------------------------------------------------

fn absorb_job(draft: &mut Draft<'_>, index: usize) {
    let (key, now) = (draft.snapshot.key.clone(), draft.now);
    let incarnation = draft.record.incarnation.as_ref().map(|incarnation| incarnation.id.clone());
    let fence = fence(draft.snapshot);
    let fenced = draft.guarded(Guard::DeadBridgeIsFenced);
    let heard = draft.agent().is_some();
    let removing = draft.removal_of(draft.jobs[index].uid()).is_some();
    let job = &mut draft.jobs[index];
    let Some(binding) = job.record.binding.clone().filter(|binding| binding.cluster == key) else {
        job.bridge = None;
        return;
    };
    if incarnation.as_ref() != Some(&binding.incarnation) {
        // Every process of that incarnation is known to be gone, or it would still be the present one.
        leave_out_numbers(job, &binding, now);
        end_groups(job, now, "Lost", "the cluster is gone");
        job.record.binding = None;
        job.record.document = None;
        job.bridge = None;
        return;
    }
    let known = binding.bridge.as_ref().map(|(known, _)| known.as_str());
    let living = job.living_bridge();
    // A bridge that was seen, and is now another, dead or absent, has died, unless we are just removing it. So has
    // one that is only heard of when it is dead already.
    let vanished = known.is_some() && living.map(|bridge| bridge.bridge.as_str()) != known;
    if heard && !removing && (vanished || job.is_dead()) {
        let message = job.bridge.and_then(|bridge| bridge.message.clone());
        leave_out_numbers(job, &binding, now);
        end_groups(job, now, "Lost", message.as_deref().unwrap_or("its bridge died"));
        job.record.fence_until = fenced.then_some(now + fence);
        job.record.binding = Some(Binding { bridge: None, ..binding.clone() });
        // What it was told is not for another, which must first be told of the fence.
        job.record.document = None;
    }
    let Some(bridge) = living else { return };
    let moment = job.heard_at - SignedDuration::from_millis(bridge.age_ms.clamp(0.0, 1e9) as i64);
    job.record.binding = Some(Binding { bridge: Some((bridge.bridge.clone(), moment)), ..binding });
    if !removing {
        adopt(draft, index, bridge);
    }
    let job = &mut draft.jobs[index];
    let mut events = absorb_groups(job, bridge, moment);
    events.extend(absorb_hints(job, bridge, now));
    events.extend(absorb_notes(job, bridge));
    absorb_save_request(job, bridge);
    for (event_type, reason, message) in events {
        let (object, uid) = (job.job.metadata.key(), job.uid().clone());
        let kind = Kind::AdaptDLJob.into();
        draft.events.push(NewEvent { kind, object, uid, event_type, reason, message });
    }
}

type Said = (EventType, String, String);

/// Closes the books of the groups of a bridge that is gone.
fn end_groups(job: &mut JobDraft<'_>, now: Timestamp, kind: &str, message: &str) {
    for group in job.record.groups.iter_mut().filter(|group| group.outcome.is_none()) {
        group.outcome = Some(GroupOutcome { kind: kind.to_owned(), message: message.to_owned() });
        group.timeline.insert("ended".to_owned(), now);
    }
}

fn absorb_groups(job: &mut JobDraft<'_>, bridge: &BridgeReport, heard: Timestamp) -> Vec<Said> {
    let mut said = Vec::new();
    let durable = job.record.checkpoints.iter().map(|checkpoint| (checkpoint.id, checkpoint.steps));
    let known = Known { bridge, durable: durable.collect() };
    for report in &bridge.groups {
        let before = bridge.groups.iter().filter(|other| other.number < report.number && other.steps > 0);
        let before = before.max_by_key(|other| other.number);
        let Some(group) = job.record.groups.iter_mut().find(|group| group.number == report.number) else {
            continue;
        };
        absorb_group(group, report, before, &known, heard);
        let ended = group.outcome.is_some();
        if let (false, Some(outcome)) = (ended, &report.outcome) {
            let kind = GroupOutcome { kind: name(outcome).to_owned(), message: message(outcome) };
            let trained = report.times.contains_key("released");
            said.extend(announce(job, report.number, &kind, trained));
            note_outcome(job, report.number, outcome, kind, heard);
        }
    }
    let surplus = job.record.groups.len().saturating_sub(KEPT_GROUPS);
    job.record.groups.drain(..surplus);
    said
}

/// The checkpoints that are known.
struct Known<'r> {
    /// The bridge with those on the head.
    bridge: &'r BridgeReport,
    /// The steps in those that are durable.
    durable: BTreeMap<CheckpointId, u64>,
}

/// What a report says of a group, in our time.
fn absorb_group(
    group: &mut GroupRecord,
    report: &GroupReport,
    before: Option<&GroupReport>,
    known: &Known<'_>,
    heard: Timestamp,
) {
    let moment = |age_ms: f64| heard - SignedDuration::from_millis(age_ms.clamp(0.0, 1e12) as i64);
    let first_step = report.first_step.map(|age| ("firstStep".to_owned(), age));
    for (event, age) in report.times.iter().map(|(event, age)| (event.clone(), *age)).chain(first_step) {
        group.timeline.entry(event).or_insert_with(|| moment(age));
    }
    group.steps = report.steps;
    group.last_step = report.last_step.map(moment).or(group.last_step);
    group.restored = report.restored;
    group.spoke_adaptdl |= report.ranks.iter().any(|rank| rank.arrived || rank.joined);
    // Both ages are of one clock, so their difference is exact.
    if let (Some(first), Some(last)) = (report.first_step, before.and_then(|before| before.last_step)) {
        group.downtime_ms.get_or_insert((last - first).max(0.0) as u64);
    }
    if let (Some(before), None, true) = (before, group.lost_steps, report.times.contains_key("released")) {
        group.lost_steps =
            kept_steps(group.restored, before, known).map(|kept| before.steps.saturating_sub(kept));
    }
}

/// How many steps of the group before are in the checkpoint that a group began from; `None` while that is not known:
/// a checkpoint that was handed over directly reaches the head a little later.
fn kept_steps(restored: Option<CheckpointId>, before: &GroupReport, known: &Known<'_>) -> Option<u64> {
    let Some(id) = restored.filter(|id| id.group == before.number) else { return Some(0) };
    let blobs = known.bridge.blobs.iter().filter(|blob| blob.kind == BlobKind::Checkpoint);
    let on_head = blobs.map(|blob| (blob.id, blob.steps)).find(|(other, _)| *other == id);
    on_head.map(|(_, steps)| steps).or_else(|| known.durable.get(&id).copied())
}

fn note_outcome(
    job: &mut JobDraft<'_>,
    number: GroupNumber,
    outcome: &Outcome,
    kind: GroupOutcome,
    heard: Timestamp,
) {
    let trouble = job.record.trouble.take();
    let group = job.record.groups.iter_mut().find(|group| group.number == number);
    let trained = group.as_ref().is_some_and(|group| group.steps > 0);
    if let Some(group) = group {
        group.outcome = Some(kind.clone());
    }
    // A group that made steps ends a row of failures.
    let before = trouble.filter(|_| !trained);
    job.record.trouble = match outcome {
        Outcome::Succeeded | Outcome::Stopped { .. } | Outcome::Superseded => before,
        // Nobody's fault, and it got on: it is tried again at once. One that never does is not tried in a hot loop.
        Outcome::Killed { .. } | Outcome::Hung { .. } | Outcome::Terminated { .. } | Outcome::Lost { .. }
            if trained =>
        {
            None
        }
        _ => Some(more_trouble(before.as_ref(), heard, LONGEST_TROUBLE, name(outcome), kind.message)),
    };
    if matches!(outcome, Outcome::Failed { .. }) {
        job.record.failures += 1;
    }
}

/// Takes in new hints, if they pass every check; says so if they do not.
fn absorb_hints(job: &mut JobDraft<'_>, bridge: &BridgeReport, now: Timestamp) -> Option<Said> {
    let group =
        bridge.groups.iter().filter(|group| group.hints.is_some()).max_by_key(|group| group.number)?;
    let seen = Some((group.number, group.hints_number));
    if job.record.hints_seen >= seen {
        return None;
    }
    job.record.hints_seen = seen;
    let text = group.hints.as_deref().unwrap_or_default();
    let finite = !text.contains("NaN") && !text.contains("Infinity");
    let checked = serde_json::from_str::<Value>(text)
        .map_err(|error| match finite {
            true => format!("they are not JSON: {error}"),
            false => "a number in them is not finite: training may have diverged".to_owned(),
        })
        .and_then(|value| Hints::from_json(&value).map_err(|error| error.to_string()));
    match checked {
        Ok(hints) => {
            let hints = serde_json::to_value(hints).unwrap_or_default();
            job.record.hints =
                Some(HintsRecord { group: group.number, number: group.hints_number, at: now, hints });
            None
        }
        Err(error) => {
            let message = format!("hints of group {} are ignored: {error}", group.number);
            Some((EventType::Warning, "BadHints".to_owned(), message))
        }
    }
}

/// The bridge's notes become events, once.
fn absorb_notes(job: &mut JobDraft<'_>, bridge: &BridgeReport) -> Vec<Said> {
    let seen = match &job.record.noted {
        Some((noted, number)) if *noted == bridge.bridge => *number,
        _ => 0,
    };
    let new: Vec<_> = bridge.notes.iter().filter(|note| note.number > seen).collect();
    if let Some(newest) = new.last() {
        job.record.noted = Some((bridge.bridge.clone(), newest.number));
    }
    new.into_iter().map(|note| (note.kind, note.reason.clone(), note.message.clone())).collect()
}

/// Takes in what has become of the wish to have the job saved. What was granted once stays so: another bridge does not
/// know of it.
fn absorb_save_request(job: &mut JobDraft<'_>, bridge: &BridgeReport) {
    let Some(report) = &bridge.save_request else { return };
    let granted = job.record.granted(&report.id).or(report.checkpoint);
    job.record.checkpoint_request = Some(CheckpointRequest { id: report.id.clone(), checkpoint: granted });
}
