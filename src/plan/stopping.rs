//! Jobs that are to have no workers: why, and how they are stopped, one step at a time.

use jiff::Timestamp;

use super::allocation::JobAllocation;
use super::cluster::is_leaving;
use super::documents::stop;
use super::draft::Draft;
use super::guards::Guard;
use super::notices;
use super::report::Waiting;
use super::workers::wait;
use crate::action::Effect;
use crate::api::document::Desired;
use crate::api::event::EventType;
use crate::api::ids::NodeName;
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey, SOURCE_DIGEST};
use crate::api::record::JobOutcome;
use crate::api::status::JobPhase;
use crate::api::units::Span;
use crate::api::wire::{BlobKind, BridgePhase, BridgeReport, GroupPhase};
use crate::api::words::count;

/// How long to wait for the rest of the output of a job that has stopped.
const LOGS_PATIENCE: Span = Span::from_secs(30);

/// Why a job's workers are to be stopped, and how long they may take.
pub(super) struct StopWish {
    pub(super) grace: Span,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Whether it goes on here as soon as there is a place for it.
    pub(super) goes_on: bool,
}

/// Whether a job is to have no workers, and why.
pub(super) fn stop_wish(
    draft: &Draft<'_>,
    index: usize,
    allocated: Option<&JobAllocation>,
) -> Option<StopWish> {
    let (job, record) = (draft.jobs[index].job, &draft.jobs[index].record);
    let spec = &job.spec;
    let wish = |grace, reason, message: &str| {
        Some(StopWish { grace, reason, message: message.to_owned(), goes_on: false })
    };
    if job.metadata.is_deleting() {
        return wish(spec.termination_grace_period, "Deleting", "it is being deleted");
    }
    if let Some(outcome) = &record.outcome {
        return wish(Span::from_secs(0), "Finished", &outcome.message);
    }
    if spec.suspend {
        return wish(spec.checkpoint.timeout, "Suspended", "its manifest suspends it");
    }
    let reference = spec.cluster_ref.as_ref();
    let key = reference.map_or_else(
        || ObjectKey::new(DEFAULT_NAMESPACE, super::cluster::LOCAL_CLUSTER),
        |reference| ObjectKey::new(&job.metadata.namespace, &reference.name),
    );
    if key != draft.snapshot.key {
        return wish(spec.checkpoint.timeout, "Moving", &format!("it is being moved to cluster {key}"));
    }
    let Some(cluster) = draft.cluster() else {
        return wish(spec.checkpoint.timeout, "ClusterNotFound", &format!("there is no RayCluster {key}"));
    };
    if is_leaving(cluster) {
        let state = if cluster.metadata.is_deleting() { "being deleted" } else { "suspended" };
        return wish(spec.checkpoint.timeout, "ClusterLeaving", &format!("cluster {key} is {state}"));
    }
    let allocated = allocated.filter(|allocated| allocated.decision.replicas == 0)?;
    Some(match draft.leaving(index) {
        Some((name, notice)) => StopWish {
            grace: notices::grace(notice, spec.checkpoint.timeout, draft.now),
            reason: "NodeLeaving",
            message: format!("{}; {}", notices::why(name, notice), allocated.decision.message),
            goes_on: true,
        },
        None => StopWish {
            grace: spec.checkpoint.timeout,
            reason: allocated.decision.reason,
            message: allocated.decision.message.clone(),
            goes_on: true,
        },
    })
}

/// Notices that a job has finished, one way or the other.
pub(super) fn judge(draft: &mut Draft<'_>, index: usize) {
    let job = &draft.jobs[index];
    if job.record.outcome.is_some() {
        return;
    }
    let (spec, now) = (&job.job.spec, draft.now);
    let last = job.record.groups.last();
    let succeeded = job
        .record
        .groups
        .iter()
        .rev()
        .find(|group| group.outcome.as_ref().is_some_and(|outcome| outcome.kind == "Succeeded"));
    let outcome = |phase, reason: &str, message: String| JobOutcome {
        phase,
        reason: reason.to_owned(),
        message,
        at: now,
        source: job.job.metadata.annotations.get(SOURCE_DIGEST).cloned(),
    };
    let deadline = spec.active_deadline.zip(job.record.started).map(|(limit, since)| since + limit.signed());
    let found = if let Some(group) = succeeded {
        Some(outcome(
            JobPhase::Succeeded,
            "Succeeded",
            format!("its program has done its work in group {}", group.number),
        ))
    } else if job.record.failures > spec.backoff_limit {
        let message =
            last.and_then(|group| group.outcome.as_ref()).map_or("", |outcome| outcome.message.as_str());
        let times = count(job.record.failures, "time");
        Some(outcome(
            JobPhase::Failed,
            "BackoffLimitExceeded",
            format!("its program failed {times}: {message}"),
        ))
    } else {
        let limit = spec.active_deadline.unwrap_or_default();
        let over = deadline.is_some_and(|deadline| draft.is_due(deadline));
        over.then(|| outcome(JobPhase::Failed, "DeadlineExceeded", format!("it took longer than {limit}")))
    };
    if let Some(outcome) = found {
        let event_type =
            if outcome.phase == JobPhase::Succeeded { EventType::Normal } else { EventType::Warning };
        let (reason, message) = (outcome.reason.clone(), outcome.message.clone());
        draft.jobs[index].record.outcome = Some(outcome);
        let job = draft.jobs[index].job;
        draft.job_event(job, event_type, &reason, message);
    }
}

/// Stops a group that is on a node which will be taken away, if there is no other place for it, or none so soon that
/// it could be waited for; says whether it did.
pub(super) fn leave(draft: &mut Draft<'_>, index: usize, bridge: &BridgeReport, nodes: &[NodeName]) -> bool {
    let trains = bridge.groups.iter().any(|group| group.phase == GroupPhase::Running);
    let Some((name, notice)) = draft.leaving(index).filter(|_| trains) else { return false };
    let (name, notice) = (name.clone(), notice.clone());
    let spec = &draft.jobs[index].job.spec;
    let timeout = spec.checkpoint.timeout;
    let nowhere = nodes.len() < spec.min_replicas.max(1) as usize;
    let last_call = notices::last_call(&notice, timeout);
    if !nowhere && !last_call.is_some_and(|at| draft.is_due(at)) {
        return false;
    }
    let grace = notices::grace(&notice, timeout, draft.now);
    stop(draft, index, grace);
    let message = format!("{}; its workers save and end", notices::why(&name, &notice));
    wait(draft, index, Waiting::going_on("NodeLeaving", message));
    true
}

/// Stops a job, brings away what only its cluster has, and ends its bridge.
pub(super) fn stop_step(draft: &mut Draft<'_>, index: usize, bridge: Option<&BridgeReport>, wish: StopWish) {
    let uid = draft.jobs[index].uid().clone();
    let document = &draft.jobs[index].record.document;
    let stopping = document.as_ref().is_some_and(|document| matches!(document.desired, Desired::Stop { .. }));
    if !stopping && document.is_some() {
        stop(draft, index, wish.grace);
        return wait(
            draft,
            index,
            Waiting::going_on("Stopping", format!("{}; its workers save and end", wish.message)),
        );
    }
    // Without a document the bridge, if there is one, was given nothing but a checkpoint.
    let idle = document.is_none() || bridge.is_some_and(|bridge| bridge.phase == BridgePhase::Idle);
    if !idle {
        return wait(
            draft,
            index,
            Waiting::going_on("Stopping", format!("{}; its workers save and end", wish.message)),
        );
    }
    if draft.guarded(Guard::BridgeIsEmptied)
        && let Some(what) = bridge.and_then(|bridge| left_on_cluster(draft, index, bridge))
    {
        return wait(draft, index, Waiting::going_on("Fetching", format!("{}; {what}", wish.message)));
    }
    draft.intend(Effect::RemoveBridge { job: uid, keep: false });
    wait(draft, index, Waiting::going_on("Stopping", format!("{}; its bridge is being ended", wish.message)));
}

/// What of a job is still only on its cluster.
fn left_on_cluster(draft: &mut Draft<'_>, index: usize, bridge: &BridgeReport) -> Option<String> {
    let record = &draft.jobs[index].record;
    let durable = record.checkpoints.last().map(|checkpoint| checkpoint.id);
    let newest = draft.jobs[index].checkpoints_of(bridge).map(|blob| blob.id).max();
    let finished = record.outcome.as_ref().is_some_and(|outcome| outcome.phase == JobPhase::Succeeded);
    if newest > durable && !finished {
        return newest.map(|id| format!("checkpoint {id} is being fetched"));
    }
    let fetched = |group| record.artifacts.iter().any(|artifacts| artifacts.group == group);
    let artifacts = bridge.blobs.iter().filter(|blob| blob.kind == BlobKind::Artifacts);
    if artifacts.clone().any(|blob| !fetched(blob.id.group)) {
        return Some("its artifacts are being fetched".to_owned());
    }
    let behind = draft.jobs[index].logs_behind;
    let stopped: Option<Timestamp> =
        draft.jobs[index].record.groups.last().and_then(|group| group.timeline.get("ended").copied());
    // If the clock was set back nobody knows how long ago that was.
    let stopped = stopped.filter(|at| *at <= draft.now);
    let patient = stopped.is_some_and(|at| !draft.is_due(at + LOGS_PATIENCE.signed()));
    (behind > 0 && patient).then(|| "the rest of its output is being fetched".to_owned())
}
