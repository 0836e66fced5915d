//! A cluster's life: when it is opened, when its head and its agent are started, and when it is given back.

use jiff::SignedDuration;

use super::autoscaler;
use super::draft::{Draft, JobDraft, more_trouble};
use super::nodes;
use super::offers;
use super::orphans;
use super::report::Waiting;
use super::snapshot::Removal;
use crate::action::{Effect, Target};
use crate::api::cluster::{
    LocalProvider, NodeResources, NodeTemplate, Provider, RayClusterSpec, node_failure_timeout,
};
use crate::api::event::EventType;
use crate::api::meta::{BUILT_IN, DEFAULT_NAMESPACE, ObjectMeta};
use crate::api::object::{AnyObject, Kind, Object, RayCluster};
use crate::api::record::Incarnation;
use crate::api::status::RayClusterStatus;
use crate::api::units::{MilliCpu, Span};
use crate::api::words::count_are;

/// The name of the cluster that jobs without `clusterRef` use.
pub const LOCAL_CLUSTER: &str = "local";

/// After an agent died, the longest wait until another is submitted.
const LONGEST_TROUBLE: Span = Span::from_secs(60);

/// How long a head that lets in the controller's address alone may be out of reach before that address is looked up
/// again.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_mins(1);

/// Whether the cluster may go, or must: its jobs are stopped and its nodes ended.
pub(super) fn is_leaving(cluster: &RayCluster) -> bool {
    cluster.metadata.is_deleting() || cluster.spec.suspend
}

/// Plans the cluster's life, up to where workers can be placed.
pub(super) fn plan(draft: &mut Draft<'_>) {
    let Some(cluster) = draft.cluster() else {
        return provide(draft);
    };
    if is_leaving(cluster) {
        return leave(draft, cluster);
    }
    if give_back_unused(draft, cluster) {
        return;
    }
    if draft.record.ending {
        draft
            .report
            .cluster
            .waiting
            .push(Waiting::going_on("Rebuilding", "it has no head any more; the rest is being ended"));
        return close_when_empty(draft);
    }
    match draft.record.incarnation.clone() {
        None => open(draft),
        Some(incarnation) => {
            if let Some(network) = &incarnation.aws
                && !(offers::is_known(&cluster.spec, network)
                    && offers::is_published(draft.snapshot, network))
            {
                // The manifest names what was not looked up yet, or is another than was published. What runs goes on.
                refresh(draft, &incarnation);
            }
            if cluster.spec.is_ours() && !nodes::ensure_head(draft, cluster) {
                return;
            }
            ensure_agent(draft, &incarnation);
        }
    }
}

/// There is no cluster of this name: the built-in one is made, any other is waited for.
fn provide(draft: &mut Draft<'_>) {
    let key = draft.snapshot.key.clone();
    let needed = draft.jobs.iter().any(JobDraft::is_to_run);
    if key.namespace == DEFAULT_NAMESPACE && key.name == LOCAL_CLUSTER && needed {
        draft.creations.push(AnyObject::Cluster(Box::new(built_in(draft))));
    }
}

/// One node with everything this machine has.
fn built_in(draft: &Draft<'_>) -> RayCluster {
    let machine = draft.snapshot.settings.machine;
    let mut metadata = ObjectMeta::named(DEFAULT_NAMESPACE, LOCAL_CLUSTER);
    metadata.labels.insert(BUILT_IN.to_owned(), "true".to_owned());
    let resources = NodeResources {
        cpu: Some(MilliCpu(u64::from(machine.cpus) * 1000)),
        gpu: Some(machine.gpus),
        memory: Some(machine.memory),
        ..NodeResources::default()
    };
    let spec = RayClusterSpec {
        provider: Provider::Local(LocalProvider::default()),
        auth: Default::default(),
        head: NodeTemplate { resources, ..NodeTemplate::default() },
        worker_groups: Vec::new(),
        max_hourly_cost: None,
        node_failure_timeout: node_failure_timeout(),
        metadata_endpoint: None,
        suspend: false,
    };
    Object { metadata, spec, status: RayClusterStatus::default() }
}

/// Asks the built-in cluster to go when no job has needed it for a while.
fn give_back_unused(draft: &mut Draft<'_>, cluster: &RayCluster) -> bool {
    if !cluster.metadata.labels.contains_key(BUILT_IN) {
        return false;
    }
    if draft.jobs.iter().any(|job| job.record.binding.is_some() || job.is_to_run()) {
        draft.record.unused_since = None;
        return false;
    }
    let since = *draft.record.unused_since.get_or_insert(draft.now);
    let limit = since + draft.snapshot.settings.built_in_idle.signed();
    let unused = draft.is_due(limit);
    if unused {
        draft.deletions.push((Kind::RayCluster, draft.snapshot.key.clone()));
    }
    unused
}

fn leave(draft: &mut Draft<'_>, cluster: &RayCluster) {
    let jobs = draft.jobs.iter().filter(|job| job.record.binding.is_some()).count();
    if jobs > 0 {
        let message = format!("{} being stopped", count_are(jobs, "job"));
        draft.report.cluster.waiting.push(Waiting::going_on("StoppingJobs", message));
        // Only through the agent can they be stopped; with the head they have ended.
        match draft.record.incarnation.clone() {
            _ if draft.record.ending => close_when_empty(draft),
            Some(incarnation) => ensure_agent(draft, &incarnation),
            None => {}
        }
        return;
    }
    if let (false, Some(agent)) = (cluster.spec.is_ours(), draft.record.agent.clone()) {
        if autoscaler::scales(cluster) && !autoscaler::release(draft, cluster) {
            let message = "what was asked of Ray's autoscaler is being taken back";
            draft.report.cluster.waiting.push(Waiting::going_on("ReleasingNodes", message));
            // Only through the agent can it be.
            if let Some(incarnation) = draft.record.incarnation.clone() {
                ensure_agent(draft, &incarnation);
            }
            return;
        }
        draft.intend(Effect::StopAgent { submission: agent.submission });
        draft.report.cluster.waiting.push(Waiting::going_on("StoppingAgent", "the agent is being stopped"));
        return;
    }
    nodes::end_all(
        draft,
        if cluster.spec.suspend { "the cluster is suspended" } else { "the cluster is deleted" },
    );
    close_when_empty(draft);
    let record = &draft.record;
    let empty = record.incarnation.is_none() && record.opening.is_none() && record.nodes.is_empty();
    if empty && draft.pending(&Target::Cluster).is_none() && cluster.metadata.is_deleting() {
        draft.removals.push(Removal { uid: cluster.metadata.uid.clone(), retire: None });
    }
}

fn close_when_empty(draft: &mut Draft<'_>) {
    if !draft.record.nodes.is_empty() {
        return;
    }
    let incarnation = match (&draft.record.incarnation, &draft.record.opening) {
        (Some(open), _) => open.id.clone(),
        // It never came to nodes, but to some of what they were to share.
        (None, Some(opening)) => return close(draft, opening.clone()),
        (None, None) => return,
    };
    match orphans::obstacle(draft) {
        Some(obstacle) => draft.report.cluster.waiting.push(Waiting::going_on("EndingInstances", obstacle)),
        None => close(draft, incarnation),
    }
}

fn close(draft: &mut Draft<'_>, incarnation: String) {
    let error = draft.pending(&Target::Cluster).and_then(|intent| intent.last_error.clone());
    if let Some(error) = error {
        draft.report.cluster.waiting.push(Waiting::blocked("CannotClose", error));
    } else {
        let message = "what its nodes shared is being removed";
        draft.report.cluster.waiting.push(Waiting::going_on("Closing", message));
    }
    draft.intend(Effect::CloseCluster { incarnation });
}

fn open(draft: &mut Draft<'_>) {
    if let Some(trouble) = draft.record.trouble.clone()
        && !draft.is_due(trouble.until)
    {
        draft.report.cluster.waiting.push(Waiting::blocked("CannotOpen", trouble.message));
        return;
    }
    let incarnation = match &draft.record.opening {
        Some(opening) => opening.clone(),
        None => {
            let id = draft.id("r");
            draft.record.opening = Some(id.clone());
            id
        }
    };
    draft.intend(Effect::OpenCluster { incarnation });
    draft.report.cluster.waiting.push(Waiting::going_on("Opening", "finding what the cluster needs"));
}

/// Opens a cluster on EC2 that is open once more: what is there is found by its tags, and put right.
fn refresh(draft: &mut Draft<'_>, incarnation: &Incarnation) {
    let error = draft.pending(&Target::Cluster).and_then(|intent| intent.last_error.clone());
    draft.intend(Effect::OpenCluster { incarnation: incarnation.id.clone() });
    draft.report.cluster.waiting.push(match error {
        Some(error) => Waiting::blocked("CannotOpen", error),
        None => Waiting::going_on("Opening", "finding what the cluster needs"),
    });
}

fn ensure_agent(draft: &mut Draft<'_>, incarnation: &Incarnation) {
    let Some(agent) = draft.record.agent.clone() else {
        return submit_agent(draft);
    };
    if draft.agent().is_some() {
        if draft.record.trouble.as_ref().is_some_and(|trouble| trouble.reason == "AgentEnded") {
            draft.record.trouble = None;
        }
        return;
    }
    let ended = draft.snapshot.seen.agent_ended.fresh().filter(|(at, _)| *at > agent.since);
    if let Some((at, Some(message))) = ended {
        let message = format!("the agent has ended: {}", message.trim());
        let trouble =
            more_trouble(draft.record.trouble.as_ref(), at, LONGEST_TROUBLE, "AgentEnded", &message);
        draft.record.trouble = Some(trouble);
        draft.record.agent = None;
        draft.cluster_event(EventType::Warning, "AgentEnded", message);
        return submit_agent(draft);
    }
    let error =
        draft.snapshot.seen.agent.error.as_ref().map_or("it was not asked yet", |(_, error)| error.as_str());
    let message = format!("the agent at {} does not answer: {error}", incarnation.agent);
    look_again(draft, incarnation);
    let waiting = if agent.answered { Waiting::blocked } else { Waiting::going_on };
    let reason = if agent.answered { "Unreachable" } else { "StartingAgent" };
    draft.report.cluster.waiting.push(waiting(reason, message));
}

/// A controller whose own address lets it in may have another one now.
fn look_again(draft: &mut Draft<'_>, incarnation: &Incarnation) {
    let Some(aws) = draft.cluster().and_then(|cluster| cluster.spec.aws()) else { return };
    let Some(at) = incarnation.aws.as_ref().map(|network| network.at) else { return };
    let since = draft.snapshot.seen.agent.error.as_ref().map(|(since, _)| *since);
    if aws.access.controller_cidr.as_deref() == Some("auto")
        && since.is_some_and(|since| draft.is_due(since.max(at) + LOOK_AGAIN))
    {
        refresh(draft, incarnation);
    }
}

fn submit_agent(draft: &mut Draft<'_>) {
    if let Some(trouble) = draft.record.trouble.clone()
        && trouble.reason == "AgentEnded"
        && !draft.is_due(trouble.until)
    {
        draft.report.cluster.waiting.push(Waiting::blocked("AgentEnded", trouble.message));
        return;
    }
    let pending = draft.pending(&Target::Agent).cloned();
    let submission = match pending.as_ref().map(|intent| &intent.effect) {
        Some(Effect::SubmitAgent { submission }) => submission.clone(),
        _ => draft.id("rayconcile-agent-"),
    };
    draft.intend(Effect::SubmitAgent { submission });
    let error = pending.and_then(|intent| intent.last_error);
    let message = error.map_or_else(String::new, |error| format!(": {error}"));
    draft
        .report
        .cluster
        .waiting
        .push(Waiting::going_on("StartingAgent", format!("the agent is being started{message}")));
}
