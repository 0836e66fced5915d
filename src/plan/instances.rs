//! Nodes that are instances of EC2: what its listing says of them, and groups whose instances come to nothing.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::draft::{Draft, more_trouble};
use super::guards::Guard;
use crate::api::ids::{Digest, IntentId, NodeName};
use crate::api::observed::InstancePhase;
use crate::api::record::{
    AgentRecord, ClusterRecord, FailingGroup, NodeRecord, NodeState, Trouble, digest_of,
};
use crate::api::units::Span;

/// The longest wait between two launches that were refused.
const LONGEST_TROUBLE: Span = Span::from_secs(300);
/// How long EC2 may not list an instance that it has.
const UNLISTED: SignedDuration = SignedDuration::from_secs(60);
/// How long before its time is over an instance is late: long enough for a listing, or two.
const LATE: SignedDuration = SignedDuration::from_secs(15);
/// After an instance that did not join, the wait for the next of its group; it grows with each one.
const FAILED_LAUNCH: SignedDuration = SignedDuration::from_secs(30);
/// So many in a row, and the group is paused: each of them costs money.
const FAILURES_IN_A_ROW: u32 = 3;
/// How long it is paused, unless its template changes.
pub(super) const PAUSED_GROUP: SignedDuration = SignedDuration::from_hours(1);

/// Whether EC2 lists a node's instance as it did before, if it is one and EC2 can be asked.
pub(super) fn is_as_it_was(draft: &Draft<'_>, record: &NodeRecord) -> bool {
    let listed = draft.index.instance(&record.launch).map(|(id, _)| id);
    record.offering.is_none()
        || draft.snapshot.seen.instances.fresh().is_none()
        || (listed.is_some() && listed == record.instance.as_ref() && record.missing_since.is_none())
}

/// Which instance a node is, and since when EC2 does not list it.
pub(super) fn absorb(draft: &mut Draft<'_>, name: &NodeName) {
    let Some((at, _)) = draft.snapshot.seen.instances.fresh() else { return };
    let launch = draft.record.nodes.get(name).map(|record| record.launch.clone());
    let unsettled = launch.is_some_and(|launch| draft.launch_is_unsettled(&launch));
    let Some(record) = draft.record.nodes.get_mut(name).filter(|record| record.offering.is_some()) else {
        return;
    };
    match draft.index.instance(&record.launch) {
        Some((id, _)) => {
            record.instance = Some(id.clone());
            record.missing_since = None;
        }
        None if at >= record.state.since() && !unsettled => {
            let since = *record.missing_since.get_or_insert(at);
            draft.is_due(since + UNLISTED);
        }
        None => record.missing_since = None,
    }
}

/// Whether a node's instance is known to have ended, or to be as good as that, and why. That EC2 does not list it once
/// says nothing.
pub(super) fn gone(draft: &Draft<'_>, record: &NodeRecord) -> Option<String> {
    let instances = &draft.snapshot.seen.instances;
    let at = match instances.fresh() {
        Some((at, _)) => at,
        None if draft.guarded(Guard::AbsenceIsSeen) || instances.error.is_none() => return None,
        None => return Some("EC2 lists no instance".to_owned()),
    };
    if at < record.state.since() && draft.guarded(Guard::AbsenceIsRecent) {
        return None;
    }
    let Some((_, instance)) = draft.index.instance(&record.launch) else {
        let since = record.missing_since?;
        let lasts = at >= since + UNLISTED || !draft.guarded(Guard::AbsenceLasts);
        return lasts.then(|| "EC2 does not know its instance".to_owned());
    };
    // What is wanted gone is gone when nothing on it can be alive; what is wanted is lost when it leaves.
    let gone = match record.state {
        NodeState::Terminating { .. } => instance.phase == InstancePhase::Terminated,
        _ => !instance.phase.is_up(),
    };
    let why = if instance.reason.is_empty() { "its instance has ended" } else { &instance.reason };
    gone.then(|| why.to_owned())
}

/// Whether Ray's control service, asked after a node had joined, does not know it.
pub(super) fn is_forgotten(draft: &Draft<'_>, record: &NodeRecord) -> bool {
    let asked = draft.agent().is_some_and(|(at, _)| at > record.state.since());
    record.ray.is_some() && asked
}

/// How long a node may take to join.
pub(super) fn join_timeout(draft: &Draft<'_>) -> Span {
    let aws = draft.cluster().and_then(|cluster| cluster.spec.aws());
    aws.map_or(draft.snapshot.settings.join_timeout, |aws| aws.join_timeout)
}

/// Since when a node has been expected to join. Only through the agent is a head known to have joined: it cannot be
/// before that was submitted.
pub(super) fn expected_since(node: &NodeRecord, agent: Option<&AgentRecord>) -> Timestamp {
    let since = node.state.since();
    let submitted = agent.filter(|_| node.group.is_none()).map(|agent| agent.since);
    submitted.map_or(since, |submitted| submitted.max(since))
}

/// The launches whose instances will soon be ended if they do not join: what they printed is asked for before.
pub fn late_launches(record: &ClusterRecord, timeout: Span, now: Timestamp) -> BTreeSet<IntentId> {
    let agent = record.agent.as_ref();
    let late = record.nodes.values().filter(|node| {
        matches!(node.state, NodeState::Launching { .. })
            && node.offering.is_some()
            && now >= expected_since(node, agent) + timeout.signed() - LATE
    });
    late.map(|node| node.launch.clone()).collect()
}

/// Plans again when a node on EC2 becomes late.
pub(super) fn wake_when_late(draft: &mut Draft<'_>, name: &NodeName, limit: Timestamp) {
    if draft.record.nodes.get(name).is_some_and(|node| node.offering.is_some()) {
        draft.is_due(limit - LATE);
    }
}

/// What a node's instance that runs has printed last, if that was asked for: the rest of a sentence.
pub(super) fn last_words(draft: &Draft<'_>, name: &NodeName) -> String {
    let node = draft.record.nodes.get(name);
    let found = node.and_then(|node| draft.index.instance(&node.launch)).map(|(_, instance)| instance);
    let words = found.filter(|instance| instance.phase.is_up() && !instance.reason.is_empty());
    words.map(|instance| format!("; {}", instance.reason)).unwrap_or_default()
}

/// The group on EC2 of a node that has not come to be, and what it was to be.
pub(super) fn failing_group(draft: &Draft<'_>, name: &NodeName) -> Option<(String, Digest)> {
    let record = draft.record.nodes.get(name).filter(|record| record.offering.is_some())?;
    Some((record.group.clone()?, digest_of(&record.template)))
}

/// One more instance of a group that was paid for and was of no use. Other groups are not concerned.
pub(super) fn fail_group(draft: &mut Draft<'_>, group: String, template: Digest, message: String) {
    let before = draft.record.failing_groups.get(&group).filter(|failing| failing.template == template);
    let count = before.map_or(0, |failing| failing.trouble.count) + 1;
    let wait = if count < FAILURES_IN_A_ROW { FAILED_LAUNCH * count as i32 } else { PAUSED_GROUP };
    let message = match count {
        FAILURES_IN_A_ROW.. => {
            format!("paused after {count} nodes in a row that did not come to be; {message}")
        }
        _ => message,
    };
    let trouble = Trouble { count, until: draft.now + wait, reason: "GroupFailing".to_owned(), message };
    draft.record.failing_groups.insert(group, FailingGroup { template, trouble });
}

/// A launch for a group was refused, which costs nothing but calls.
pub(super) fn refuse_group(
    draft: &mut Draft<'_>,
    group: String,
    template: Digest,
    at: Timestamp,
    message: String,
) {
    let before = draft.record.failing_groups.get(&group).filter(|failing| failing.template == template);
    // Launches that were under way together are one refusal.
    if before.is_some_and(|failing| failing.trouble.until > at) {
        return;
    }
    let before = before.map(|failing| &failing.trouble);
    let trouble = more_trouble(before, at, LONGEST_TROUBLE, "GroupFailing", message);
    draft.record.failing_groups.insert(group, FailingGroup { template, trouble });
}
