//! The end of a job's output, where all of it goes to object storage: waited for, but not for ever.

use super::draft::Draft;
use super::report::Waiting;
use crate::api::bucket::BucketAddress;
use crate::api::event::EventType;
use crate::api::meta::FORCE_DELETE;
use crate::api::record::LastOutput;
use crate::api::units::{Bytes, Span};

/// How long the end of the output is waited for: long enough for a server that was away for a moment.
const PATIENCE: Span = Span::from_secs(120);

/// Takes note of how far the output of a job has come that has finished or was deleted, and has left its cluster.
pub(super) fn await_last(draft: &mut Draft<'_>, index: usize) {
    let job = draft.jobs[index].job;
    let record = &draft.jobs[index].record;
    let over = record.outcome.is_some() || job.metadata.is_deleting();
    let Some(place) = job.spec.logs_place(&job.metadata).filter(|_| over && record.binding.is_none()) else {
        return;
    };
    let since = match record.last_output {
        Some(LastOutput::Kept | LastOutput::GivenUp) => return,
        Some(LastOutput::Awaited(since)) => since,
        None => draft.now,
    };
    let archiving = draft.snapshot.seen.archives.get(&job.metadata.uid);
    if archiving.is_some_and(|archiving| archiving.behind == 0) {
        draft.jobs[index].record.last_output = Some(LastOutput::Kept);
        return;
    }
    let forced = job.metadata.is_deleting() && job.metadata.annotations.contains_key(FORCE_DELETE);
    if forced || draft.is_due(since + PATIENCE.signed()) {
        draft.jobs[index].record.last_output = Some(LastOutput::GivenUp);
        return give_up(draft, index, &place);
    }
    draft.jobs[index].record.last_output = Some(LastOutput::Awaited(since));
    let message = format!("the rest of its workers' output is being brought to {place}");
    let waiting = match archiving.and_then(|archiving| archiving.error.as_ref()) {
        Some(error) => Waiting::blocked("CannotKeepLogs", error.clone()),
        None => Waiting::going_on("KeepingLogs", message),
    };
    draft.jobs[index].wait_first(waiting);
}

/// Whether the end of a job's output is still waited for.
pub(super) fn is_awaited(draft: &Draft<'_>, index: usize) -> bool {
    matches!(draft.jobs[index].record.last_output, Some(LastOutput::Awaited(_)))
}

fn give_up(draft: &mut Draft<'_>, index: usize, place: &BucketAddress) {
    let job = draft.jobs[index].job;
    let archiving = draft.snapshot.seen.archives.get(&job.metadata.uid);
    let (rest, why) = match archiving {
        Some(archiving) => {
            let why = archiving.error.as_ref().map(|error| format!(": {error}"));
            (Bytes(archiving.behind).rounded(), why.unwrap_or_default())
        }
        None => ("what there is".to_owned(), String::new()),
    };
    let message =
        format!("{rest} of its workers' output is not in {place} but only in the state directory{why}");
    draft.job_event(job, EventType::Warning, "LogsIncomplete", message);
}
