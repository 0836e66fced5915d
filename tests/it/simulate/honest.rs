//! What statuses claim, held against what was observed.

use rayconcile::api::condition::Truth;
use rayconcile::api::status::{ClusterPhase, JobPhase, WorkerStatus};
use rayconcile::api::wire::{BridgeReport, GroupPhase};
use rayconcile::controller::status::{cluster_status, job_status};
use rayconcile::plan::snapshot::JobView;
use rayconcile::plan::{Plan, Snapshot};
use rayconcile::simulate::Probe;

/// Derives every status, and believes nothing.
pub(super) struct Sceptic;

impl Probe for Sceptic {
    fn planned(&mut self, snapshot: &Snapshot, plan: &Plan) -> Result<(), String> {
        snapshot.jobs.iter().try_for_each(|view| doubt_job(snapshot, plan, view))?;
        doubt_cluster(snapshot, plan)
    }
}

fn doubt_job(snapshot: &Snapshot, plan: &Plan, view: &JobView) -> Result<(), String> {
    let uid = &view.job.metadata.uid;
    let (Some(record), Some(report)) = (plan.jobs.get(uid), plan.report.jobs.get(uid)) else {
        return Err(format!("the plan says nothing of {uid}"));
    };
    if record.binding.as_ref().is_some_and(|binding| binding.cluster != snapshot.key) {
        return Ok(()); // It is told of by the cluster that it still is on.
    }
    let status = job_status(snapshot, &view.job, record, report);
    let fail = |claim: &str| {
        Err(format!("{} claims {claim}, {}: {}", view.job.metadata.name, status.phase, status.message))
    };
    let heard = snapshot.seen.agent.fresh().and_then(|(_, agent)| agent.jobs.get(uid));
    let training = |bridge: &BridgeReport| {
        let groups = bridge
            .groups
            .iter()
            .filter(|group| matches!(group.phase, GroupPhase::Running) && Some(group.number) == status.group);
        groups.count() == 1
    };
    if status.phase == JobPhase::Running && !heard.is_some_and(training) {
        return fail("to run");
    }
    let at_work = |bridge: &BridgeReport| {
        let ranks = bridge.groups.iter().flat_map(|group| &group.ranks);
        ranks.filter(|rank| rank.pid.is_some() && rank.exit.is_none()).count()
    };
    if status.replicas as usize > heard.map_or(0, at_work) {
        return fail("workers that nobody has seen");
    }
    let is = |kind: &str| status.conditions.iter().any(|it| it.kind == kind && it.status == Truth::True);
    let trains = |worker: &WorkerStatus| worker.state == "Training";
    if is("WorkersReady") && (status.replicas == 0 || !status.workers.iter().all(trains)) {
        return fail("that its workers are ready");
    }
    // One that is not to run is as wanted as soon as it does not; what it says that it waits for is a person.
    let rests = (view.job.spec.suspend || record.outcome.is_some()) && record.binding.is_none();
    if is("Converged") && !report.waiting.is_empty() && !rests {
        return fail("to be as wanted");
    }
    if status.checkpoint.is_some() == record.checkpoints.is_empty() {
        return fail("a checkpoint");
    }
    let final_claim = status.phase == JobPhase::Succeeded || status.phase == JobPhase::Failed;
    if final_claim && (record.outcome.is_none() || record.binding.is_some()) {
        return fail("to have finished");
    }
    Ok(())
}

fn doubt_cluster(snapshot: &Snapshot, plan: &Plan) -> Result<(), String> {
    let Some(cluster) = &snapshot.cluster else { return Ok(()) };
    let status = cluster_status(snapshot, cluster, &plan.record, &plan.report.cluster);
    let agent = snapshot.seen.agent.fresh();
    if status.phase == ClusterPhase::Ready && agent.is_none() {
        return Err(format!("{} claims to be ready", snapshot.key));
    }
    Ok(())
}
