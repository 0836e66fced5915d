//! Nodes: as many as the workers need, within each group's limits; given back when idle; never one with workers.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::allocation::Allocation;
use super::draft::Draft;
use super::guards::Guard;
use super::offers;
use super::report::Waiting;
use super::rollout;
use crate::action::Effect;
use crate::api::cluster::{NodeTemplate, WorkerGroup};
use crate::api::event::EventType;
use crate::api::ids::{IntentId, NodeName};
use crate::api::object::RayCluster;
use crate::api::record::{NodeRecord, NodeState, digest_of};
use crate::api::shared::Shared;
use crate::api::words::count_are;

/// How many launches of a group on EC2 may be under way of which nobody knows yet what came of them: a few seconds' worth
/// of what EC2 is asked for. A refusal of one is told to the others, which then ask for something else.
const LAUNCHES_AT_ONCE: u32 = 10;
/// How long an instance may take to end before it is told so again: EC2 gives its system some minutes.
const INSTANCE_END: SignedDuration = SignedDuration::from_mins(10);

/// Launches the head if there is none; says whether there is one that is not being ended.
pub(super) fn ensure_head(draft: &mut Draft<'_>, cluster: &RayCluster) -> bool {
    let head = draft.record.nodes.values().find(|node| node.group.is_none());
    match head.map(|head| (head.state.clone(), head.launch.clone())) {
        Some((NodeState::Launching { .. }, launch)) => {
            claim_launch(draft, &launch);
            let message = format!("the head is being started{}", draft.failure_of(&launch));
            draft.report.cluster.waiting.push(Waiting::going_on("StartingHead", message));
            // The agent is submitted while the head starts: only through the agent is it known to have joined.
            true
        }
        Some((state, _)) => state.is_wanted(),
        None => {
            if let Some(trouble) = draft.record.trouble.clone()
                && !draft.is_due(trouble.until)
            {
                draft.report.cluster.waiting.push(Waiting::blocked("CannotLaunch", trouble.message));
                return false;
            }
            let name = NodeName::from(format!("{}-head", cluster.metadata.name));
            if launch(draft, cluster, name, None, &cluster.spec.head) {
                let message = "the head is being started";
                draft.report.cluster.waiting.push(Waiting::going_on("StartingHead", message));
            }
            false
        }
    }
}

/// Brings the worker nodes to what the allocation needs.
pub(super) fn plan(draft: &mut Draft<'_>, cluster: &RayCluster, allocation: &Allocation) {
    let workers = allocation.workers_by_node(draft);
    for group in &cluster.spec.worker_groups {
        let wanted = wanted_nodes(draft, group, &workers) + allocation.new_nodes(&group.name);
        let wanted = wanted.clamp(group.min_nodes, group.max_nodes);
        draft.report.cluster.desired_nodes += wanted;
        launch_missing(draft, cluster, group, wanted, &workers);
        give_back_idle(draft, group, wanted, &workers);
    }
    for name in nodes_of_no_group(draft, cluster) {
        drain(draft, &name, "its worker group is gone");
    }
    draft.report.cluster.workers = workers;
    wait_for_launches(draft);
}

/// Goes on with nodes that are being drained or ended, whatever else is planned.
pub(super) fn finish_leaving(draft: &mut Draft<'_>) {
    let ready = |node: &NodeRecord| matches!(node.state, NodeState::Ready { .. });
    let held = draft.held();
    let nodes = draft.record.nodes.iter().filter(|(_, node)| !ready(node));
    let nodes: Vec<(NodeName, NodeRecord, u32)> =
        nodes.map(|(name, node)| (name.clone(), node.clone(), held.count(name))).collect();
    drop(held);
    for (name, node, workers) in nodes {
        match node.state.clone() {
            NodeState::Draining { cause, .. } => {
                let drained = is_drained(draft, &node.ray);
                if workers == 0 && drained {
                    let state = NodeState::Terminating { since: draft.now, cause };
                    if let Some(record) = draft.record.nodes.get_mut(&name) {
                        record.state = state;
                    }
                    end(draft, &name, &node);
                } else if let Some(ray) = node.ray.filter(|_| !drained) {
                    draft.intend(Effect::DrainNode { node: name, ray });
                }
            }
            NodeState::Terminating { .. } => end(draft, &name, &node),
            NodeState::Launching { .. } => claim_launch(draft, &node.launch),
            NodeState::Ready { .. } => {}
        }
    }
}

/// Ends every worker node, and then the head.
pub(super) fn end_all(draft: &mut Draft<'_>, cause: &str) {
    let workers = draft.record.nodes.values().filter(|node| node.group.is_some()).count();
    for node in draft.record.nodes.values_mut() {
        let ending = matches!(node.state, NodeState::Terminating { .. });
        if !ending && (node.group.is_some() || workers == 0) {
            // Without its head a cluster is over, even if it is wanted again before all of it has ended.
            draft.record.ending |= node.group.is_none();
            node.state = NodeState::Terminating { since: draft.now, cause: cause.to_owned() };
        }
    }
    if !draft.record.nodes.is_empty() {
        let message = format!("{} being ended", count_are(draft.record.nodes.len(), "node"));
        draft.report.cluster.waiting.push(Waiting::going_on("EndingNodes", message));
    }
}

/// How many nodes of a group are kept: those with workers, and those that are not idle for long enough.
fn wanted_nodes(draft: &Draft<'_>, group: &WorkerGroup, workers: &BTreeMap<NodeName, u32>) -> u32 {
    let limit = draft.now - group.idle_timeout.signed();
    let nodes = draft.record.nodes.iter().filter(|(name, node)| is_of_use(draft, group, workers, name, node));
    let kept = nodes.filter(|(name, node)| {
        workers.contains_key(*name) || node.idle_since.is_none_or(|since| since > limit)
    });
    u32::try_from(kept.count()).unwrap_or(u32::MAX)
}

/// Whether a node counts as one that a group should have: one of an outdated template, or one that will be taken away,
/// does while it has workers.
fn is_of_use(
    draft: &Draft<'_>,
    group: &WorkerGroup,
    workers: &BTreeMap<NodeName, u32>,
    name: &NodeName,
    node: &NodeRecord,
) -> bool {
    node.group.as_ref() == Some(&group.name)
        && node.state.is_wanted()
        && ((!draft.rollout.is_outdated(name) && node.notice.is_none()) || workers.contains_key(name))
}

fn launch_missing(
    draft: &mut Draft<'_>,
    cluster: &RayCluster,
    group: &WorkerGroup,
    wanted: u32,
    workers: &BTreeMap<NodeName, u32>,
) {
    // The head's control service must be there; the agent is submitted through it.
    if draft.record.agent.is_none() {
        return;
    }
    let every = draft.guarded(Guard::EveryNodeCounts);
    let (mut of_use, mut counted, mut asked) = (0, 0, 0);
    let mut up = draft.rollout.going(&group.name);
    for (name, node) in draft.record.nodes.iter().filter(|(_, node)| node.group.as_ref() == Some(&group.name))
    {
        let is_of_use = is_of_use(draft, group, workers, name, node);
        of_use += u32::from(is_of_use);
        counted += u32::from(every || is_of_use);
        asked += u32::from(node.offering.is_some() && draft.launch_is_unsettled(&node.launch));
        up += u32::from(is_of_use || draft.rollout.is_outdated(name));
    }
    let most = wanted.saturating_add(group.update_strategy.max_surge);
    let replacing = draft.rollout.is_replacing(&group.name);
    if of_use < wanted && is_failing(draft, group) {
        return;
    }
    let may_surge = |up: u32| up < most || !replacing;
    while of_use < wanted && counted < group.max_nodes && may_surge(up) && asked < LAUNCHES_AT_ONCE {
        if let Some(trouble) = draft.record.trouble.clone()
            && !draft.is_due(trouble.until)
        {
            draft.report.cluster.waiting.push(Waiting::blocked("CannotLaunch", trouble.message));
            return;
        }
        let name =
            NodeName::from(format!("{}-{}-{}", cluster.metadata.name, group.name, draft.record.launched + 1));
        if !launch(draft, cluster, name, Some(group.name.clone()), &group.template) {
            return;
        }
        of_use += 1;
        counted += 1;
        asked += u32::from(cluster.spec.aws().is_some());
        up += 1;
    }
}

/// Whether a group's nodes did not come to be, again and again, and are not tried again yet.
fn is_failing(draft: &mut Draft<'_>, group: &WorkerGroup) -> bool {
    let Some(failing) = draft.record.failing_groups.get(&group.name).cloned() else { return false };
    if failing.template != digest_of(&group.template) {
        draft.record.failing_groups.remove(&group.name);
        return false;
    }
    if !draft.is_due(failing.trouble.until) {
        let message = format!("group {}: {}", group.name, failing.trouble.message);
        draft.report.cluster.waiting.push(Waiting::blocked("GroupFailing", message));
        return true;
    }
    // One more is tried; the others wait for what comes of it.
    draft.record.nodes.values().any(|node| {
        node.group.as_ref() == Some(&group.name) && matches!(node.state, NodeState::Launching { .. })
    })
}

/// A new node, and the intent that starts it; says whether there is anything to be asked for.
fn launch(
    draft: &mut Draft<'_>,
    cluster: &RayCluster,
    name: NodeName,
    group: Option<String>,
    template: &NodeTemplate,
) -> bool {
    let offering = match offers::choose(draft, cluster, group.as_deref(), template) {
        Ok(offering) => offering,
        Err(none) => {
            if let Some(until) = none.until {
                draft.wake(until);
            }
            draft.report.cluster.waiting.push(Waiting::blocked(none.reason, none.message));
            return false;
        }
    };
    draft.record.launched += 1;
    let index = draft.record.launched;
    let launch = IntentId::from(draft.id("n"));
    let effect = Effect::LaunchNode {
        node: name.clone(),
        group: group.clone(),
        index,
        template: Box::new(template.clone()),
        offering: offering.clone(),
    };
    let record = NodeRecord {
        group,
        index,
        launch: launch.clone(),
        template: template.clone().into(),
        offering: offering.map(Shared::from),
        instance: None,
        missing_since: None,
        ended: None,
        state: NodeState::Launching { since: draft.now },
        ray: None,
        idle_since: None,
        notice: None,
    };
    draft.cluster_event(EventType::Normal, "NodeLaunched", format!("node {name} is launched"));
    draft.record.nodes.insert(name, record);
    draft.views_changed();
    draft.start(launch, effect);
    true
}

/// A launch that is not settled stays wanted.
fn claim_launch(draft: &mut Draft<'_>, launch: &IntentId) {
    if let Some(effect) = draft.effect_of(launch) {
        draft.intend(effect);
    }
}

/// Gives back what is idle beyond what is wanted, the longest idle first; nodes of an outdated template as soon as
/// enough others are ready.
fn give_back_idle(
    draft: &mut Draft<'_>,
    group: &WorkerGroup,
    wanted: u32,
    workers: &BTreeMap<NodeName, u32>,
) {
    let mut idle = Vec::new();
    let mut kept = 0u32;
    let is_ready = |node: &&NodeRecord| {
        node.group.as_ref() == Some(&group.name) && matches!(node.state, NodeState::Ready { .. })
    };
    let ready = u32::try_from(draft.record.nodes.values().filter(is_ready).count()).unwrap_or(u32::MAX);
    let mut spare = (ready + group.update_strategy.max_unavailable).saturating_sub(wanted);
    let mut changing = Vec::new();
    let of_group = |node: &NodeRecord| node.group.as_ref() == Some(&group.name) && node.state.is_wanted();
    for (name, node) in draft.record.nodes.iter().filter(|(_, node)| of_group(node)) {
        kept += u32::from(is_of_use(draft, group, workers, name, node));
        // Most of thousands are at work, and were.
        if node.idle_since.is_some() || !workers.contains_key(name) {
            changing.push(name.clone());
        }
    }
    for name in changing {
        let now = draft.now;
        let Some(node) = draft.record.nodes.get_mut(&name) else { continue };
        let ready = matches!(node.state, NodeState::Ready { .. });
        if workers.contains_key(&name) || !ready {
            node.idle_since = None;
            continue;
        }
        let since = *node.idle_since.get_or_insert(now);
        if draft.rollout.is_outdated(&name) {
            if spare > 0 {
                spare -= 1;
                drain(draft, &name, rollout::CAUSE);
            }
        } else if let Some(notice) = &node.notice {
            let cause = notice.kind.words();
            drain(draft, &name, cause);
        } else if draft.is_due(since + group.idle_timeout.signed()) {
            idle.push((since, name));
        }
    }
    idle.sort();
    for (_, name) in idle.into_iter().take(kept.saturating_sub(wanted) as usize) {
        drain(draft, &name, "it was idle");
    }
}

fn nodes_of_no_group(draft: &Draft<'_>, cluster: &RayCluster) -> Vec<NodeName> {
    let known = |group: &String| cluster.spec.worker_groups.iter().any(|known| known.name == *group);
    let nodes = draft.record.nodes.iter();
    nodes
        .filter(|(_, node)| node.state.is_wanted() && node.group.as_ref().is_some_and(|group| !known(group)))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Has a node ended once nothing is on it.
pub(super) fn drain(draft: &mut Draft<'_>, name: &NodeName, cause: &str) {
    let now = draft.now;
    draft.views_changed();
    if let Some(node) = draft.record.nodes.get_mut(name) {
        node.state = match node.state {
            NodeState::Launching { .. } => NodeState::Terminating { since: now, cause: cause.to_owned() },
            _ => NodeState::Draining { since: now, cause: cause.to_owned() },
        };
        draft.cluster_event(EventType::Normal, "NodeDrained", format!("node {name} is given back: {cause}"));
    }
}

fn end(draft: &mut Draft<'_>, name: &NodeName, node: &NodeRecord) {
    // EC2 was told; that its instance has ended is for it to say.
    if node.ended.is_some_and(|ended| !draft.is_due(ended + INSTANCE_END)) {
        return;
    }
    draft.intend(Effect::TerminateNode {
        node: name.clone(),
        launch: node.launch.clone(),
        index: node.index,
        since: node.state.since(),
    });
}

/// A node of which nothing is left.
pub(super) fn forget(draft: &mut Draft<'_>, name: &NodeName) {
    draft.record.nodes.remove(name);
    draft.cluster_event(EventType::Normal, "NodeTerminated", format!("node {name} is gone"));
}

/// Whether Ray has let go of a node, or says that it starts nothing more on it.
fn is_drained(draft: &Draft<'_>, ray: &Option<crate::api::ids::RayNodeId>) -> bool {
    let Some(ray) = ray else { return true };
    draft.agent().is_some() && draft.index.node(ray).is_none_or(|node| node.draining || !node.alive)
}

fn wait_for_launches(draft: &mut Draft<'_>) {
    let launching =
        draft.record.nodes.values().filter(|node| matches!(node.state, NodeState::Launching { .. }));
    let launches: Vec<&IntentId> =
        launching.filter(|node| node.group.is_some()).map(|node| &node.launch).collect();
    if !launches.is_empty() {
        let mut failures = launches.iter().map(|launch| draft.failure_of(launch));
        let failure = failures.find(|failure| !failure.is_empty()).unwrap_or_default();
        let message = format!("{} being started{failure}", count_are(launches.len(), "node"));
        draft.report.cluster.waiting.push(Waiting::going_on("StartingNodes", message));
    }
}
