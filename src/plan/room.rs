//! Room that jobs have and others wait for.

use std::collections::BTreeSet;

use super::documents::stop;
use super::draft::Draft;
use super::report::Waiting;
use super::workers::wait;
use crate::api::units::Span;
use crate::api::wire::GroupPhase;

/// A job that has to wait and has nothing that runs gives back its slots: others may be waiting for them.
pub(super) fn make_room(draft: &mut Draft<'_>, index: usize) {
    let job = &draft.jobs[index];
    let active = job.living_bridge().is_some_and(|bridge| {
        bridge.groups.iter().any(|group| matches!(group.phase, GroupPhase::Running | GroupPhase::Stopping))
    });
    if !active && job.record.target().is_some() {
        stop(draft, index, Span::from_secs(0));
    }
}

/// Jobs that wait for each other's room would wait for ever: the one that is served last gives its own up.
pub(super) fn stand_aside(draft: &mut Draft<'_>) {
    let in_circle = (0..draft.jobs.len()).filter(|index| waits_for_itself(draft, *index));
    let last = in_circle.max_by_key(|index| {
        let job = &draft.jobs[*index];
        (job.job.spec.preemptible, job.turn())
    });
    if let Some(index) = last {
        let grace = draft.jobs[index].job.spec.checkpoint.timeout;
        stop(draft, index, grace);
        let message = "others that it waits for wait for its room: its workers save and end";
        wait(draft, index, Waiting::going_on("StandingAside", message));
    }
}

fn waits_for_itself(draft: &Draft<'_>, index: usize) -> bool {
    let mut reached = BTreeSet::new();
    let mut open = draft.jobs[index].waits_for.clone();
    while let Some(job) = open.pop() {
        if reached.insert(job) {
            open.extend(&draft.jobs[job].waits_for);
        }
    }
    reached.contains(&index)
}
