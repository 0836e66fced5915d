//! Plans in words: what is decided, what is done, and what is waited for.

use crate::action::{Effect, Intent};
use crate::api::document::Desired;
use crate::api::event::EventType;
use crate::plan::report::{Report, Waiting};
use crate::plan::{Plan, Snapshot};

/// What a plan decides and why, as far as that is news.
pub(super) fn tell(snapshot: &Snapshot, plan: &Plan, before: Option<&Report>) -> Vec<String> {
    let mut lines = Vec::new();
    for event in &plan.events {
        let mark = if event.event_type == EventType::Warning { "!" } else { "*" };
        lines.push(format!("{mark} {} {}: {}", event.object.name, event.reason, event.message));
    }
    let waiting = |waiting: &[Waiting]| -> Vec<String> {
        waiting
            .iter()
            .map(|waiting| {
                let blocked = if waiting.blocked { " (blocked)" } else { "" };
                format!("{}{blocked}: {}", waiting.reason, waiting.message)
            })
            .collect()
    };
    let name = &snapshot.key.name;
    let new = waiting(&plan.report.cluster.waiting);
    if before.map(|report| waiting(&report.cluster.waiting)).unwrap_or_default() != new {
        lines.push(format!("  cluster {name} {}", said(&new)));
    }
    for view in &snapshot.jobs {
        let uid = &view.job.metadata.uid;
        let Some(report) = plan.report.jobs.get(uid) else { continue };
        let old = before.and_then(|before| before.jobs.get(uid));
        let name = &view.job.metadata.name;
        let new = waiting(&report.waiting);
        if old.map(|report| waiting(&report.waiting)).unwrap_or_default() != new {
            lines.push(format!("  job {name} {}", said(&new)));
        }
        if let Some(scaling) = &report.scaling
            && old.and_then(|old| old.scaling.as_ref()) != Some(scaling)
        {
            lines.push(format!(
                "  job {name} should have {} ({}): {}",
                scaling.replicas, scaling.reason, scaling.message
            ));
        }
    }
    let known = |intent: &&Intent| snapshot.intents.iter().any(|other| other.id == intent.id);
    for intent in plan.intents.iter().filter(|intent| !known(intent)) {
        lines.push(format!("  -> {}", told(&intent.effect, snapshot, plan)));
    }
    let kept = |intent: &&Intent| plan.intents.iter().any(|other| other.id == intent.id);
    let pending = |intent: &&Intent| intent.state == crate::action::IntentState::Pending;
    for intent in snapshot.intents.iter().filter(|intent| pending(intent) && !kept(intent)) {
        lines.push(format!("  given up: {}", effect(&intent.effect)));
    }
    lines
}

fn said(waiting: &[String]) -> String {
    if waiting.is_empty() { "is as wanted".to_owned() } else { format!("waits: {}", waiting.join("; ")) }
}

/// An effect, with what a document says.
fn told(what: &Effect, snapshot: &Snapshot, plan: &Plan) -> String {
    let Effect::SendDocument { job, .. } = what else { return effect(what) };
    let document = plan.jobs.get(job).and_then(|record| record.document.as_ref());
    let name = snapshot.jobs.iter().find(|view| view.job.metadata.uid == *job);
    let name = name.map_or(job.0.as_str(), |view| view.job.metadata.name.as_str());
    let Some(document) = document else { return effect(what) };
    let wish = match &document.desired {
        Desired::Stop { grace } => format!("stop within {grace}"),
        Desired::Run { group, activate } => {
            let nodes: Vec<&str> = group
                .ranks
                .iter()
                .filter_map(|slot| document.slots.get(slot))
                .map(|slot| slot.node.0.as_str())
                .collect();
            format!(
                "run group {} on {} ({:?}{}{})",
                group.number,
                nodes.join(", "),
                group.prepare,
                if *activate { ", switch" } else { "" },
                group.restore.map(|id| format!(", from {id} or newer")).unwrap_or_default()
            )
        }
    };
    format!("tell the bridge of {name}, revision {}: {wish}", document.revision)
}

/// An effect, in a few words.
pub(super) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::OpenCluster { .. } => "open the cluster".to_owned(),
        Effect::CloseCluster { .. } => "close the cluster".to_owned(),
        Effect::LaunchNode { node, .. } => format!("launch node {node}"),
        Effect::DrainNode { node, .. } => format!("drain node {node}"),
        Effect::TerminateNode { node, .. } => format!("end node {node}"),
        Effect::TerminateInstance { instance } => format!("end instance {instance}"),
        Effect::SubmitAgent { .. } => "submit the agent".to_owned(),
        Effect::StopAgent { .. } => "stop the agent".to_owned(),
        Effect::RequestResources { bundles } => {
            let workers: u32 = bundles.iter().map(|bundle| bundle.count).sum();
            format!("ask the autoscaler for room for {workers} workers")
        }
        Effect::SendDocument { job, revision } => format!("tell the bridge of {job}, revision {revision}"),
        Effect::SendCheckpoint { job, id } => format!("bring checkpoint {id} of {job} to the cluster"),
        Effect::RemoveBridge { job, keep } => {
            let kept = if *keep { ", but keep its checkpoints" } else { "" };
            format!("remove the bridge of {job}{kept}")
        }
        Effect::FetchCheckpoint { job, checkpoint } => format!("fetch checkpoint {} of {job}", checkpoint.id),
        Effect::FetchArtifacts { job, group, .. } => format!("fetch the artifacts of group {group} of {job}"),
        Effect::DeliverArtifacts { job } => format!("deliver the artifacts of {job}"),
        Effect::DropCheckpoint { job, id } => format!("drop checkpoint {id} of {job}"),
    }
}
