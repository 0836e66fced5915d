//! Jobs that are to have no workers: why, and how they are stopped, one step at a time.

use jiff::Timestamp;

use super::allocation::JobAllocation;
use super::cluster::is_leaving;
use super::documents::stop;
use super::draft::Draft;
use super::guards::Guard;
use super::report::Waiting;
use super::workers::wait;
use crate::action::Effect;
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey};
use crate::api::record::Desired;
use crate::api::status::JobPhase;
use crate::api::units::Span;
use crate::api::wire::{BlobKind, BridgePhase, BridgeReport};

/// How long to wait for the rest of the output of a job that has stopped.
const LOGS_PATIENCE: Span = Span::from_secs(30);

/// Why a job's workers are to be stopped, and how long they may take.
pub(super) struct StopWish {
    pub(super) grace: Span,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Whether a job is to have no workers, and why.
pub(super) fn stop_wish(
    draft: &Draft<'_>,
    index: usize,
    allocated: Option<&JobAllocation>,
) -> Option<StopWish> {
    let (job, record) = (draft.jobs[index].job, &draft.jobs[index].record);
    let spec = &job.spec;
    let wish = |grace, reason, message: &str| Some(StopWish { grace, reason, message: message.to_owned() });
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
    match allocated {
        Some(allocated) if allocated.decision.replicas == 0 => {
            wish(spec.checkpoint.timeout, allocated.decision.reason, &allocated.decision.message)
        }
        _ => None,
    }
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
    draft.intend(Effect::RemoveBridge { job: uid });
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
