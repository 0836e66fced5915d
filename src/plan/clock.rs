//! A wall clock that was set back. What is said to have been later than now was before that, nobody knows how long: it
//! is taken for now, or else everything that waits for it would wait as long as the clock was set back.

use jiff::{SignedDuration, Timestamp};

use super::draft::Draft;
use super::offers;
use crate::api::record::{LastOutput, NodeRecord, NodeState, Trouble};
use crate::api::units::Span;

/// Longer than anybody waits after a failure.
const LONGEST_TROUBLE: Span = Span::from_secs(300);

/// Takes what lies ahead, and cannot, for now.
pub(super) fn set_back(draft: &mut Draft<'_>) {
    let now = draft.now;
    let record = &mut draft.record;
    let is_ahead = |node: &NodeRecord| {
        let moments = [node.idle_since, node.missing_since, node.ended, Some(node.state.since())];
        moments.into_iter().flatten().any(|since| since > now)
    };
    for node in record.nodes.values_mut().filter(|node| is_ahead(node)) {
        let node: &mut NodeRecord = node;
        let (NodeState::Launching { since }
        | NodeState::Ready { since }
        | NodeState::Draining { since, .. }
        | NodeState::Terminating { since, .. }) = &mut node.state;
        not_after(since, now);
        let moments = [&mut node.idle_since, &mut node.missing_since, &mut node.ended];
        moments.into_iter().flatten().for_each(|since| not_after(since, now));
    }
    record.orphans.values_mut().for_each(|since| not_after(since, now));
    record.unavailable.iter_mut().for_each(|it| not_after(&mut it.until, now + offers::LONGEST_SPREAD_REST));
    record
        .failing_groups
        .values_mut()
        .for_each(|failing| not_after(&mut failing.trouble.until, now + super::instances::PAUSED_GROUP));
    record.agent.iter_mut().for_each(|agent| not_after(&mut agent.since, now));
    record.unused_since.iter_mut().for_each(|since| not_after(since, now));
    if let Some(costs) = &mut record.costs {
        costs.spent.not_after(now);
        costs.saved.not_after(now);
    }
    forgive(&mut record.trouble, now);
    let fence = now + super::absorb::fence(draft.snapshot);
    for job in &mut draft.jobs {
        let record = &mut job.record;
        record.sent.iter_mut().for_each(|(_, at)| not_after(at, now));
        record.started.iter_mut().for_each(|at| not_after(at, now));
        record.wanting_since.iter_mut().for_each(|since| not_after(since, now));
        record.costs.iter_mut().for_each(|costs| costs.spent.not_after(now));
        record.outcome.iter_mut().for_each(|outcome| not_after(&mut outcome.at, now));
        if let Some(LastOutput::Awaited(since)) = &mut record.last_output {
            not_after(since, now);
        }
        // Here caution is to wait for all of it.
        record.fence_until.iter_mut().for_each(|until| not_after(until, fence));
        forgive(&mut record.trouble, now);
    }
    draft.wait_less();
}

fn not_after(at: &mut Timestamp, latest: Timestamp) {
    *at = latest.min(*at);
}

/// Ends a wait that is longer than any that was begun.
fn forgive(trouble: &mut Option<Trouble>, now: Timestamp) {
    let longest: SignedDuration = LONGEST_TROUBLE.signed();
    trouble
        .iter_mut()
        .filter(|trouble| trouble.until > now + longest)
        .for_each(|trouble| trouble.until = now);
}
