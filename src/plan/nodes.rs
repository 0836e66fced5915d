//! Nodes: as many as the workers need, within each group's limits; given back when idle; never one with workers.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use rustc_hash::FxHashMap;

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
    let (groups, of_none) = look(draft, cluster, &workers);
    for (group, found) in groups {
        let wanted = found.kept + allocation.new_nodes(&group.name);
        let wanted = wanted.clamp(group.min_nodes, group.max_nodes);
        draft.report.cluster.desired_nodes += wanted;
        let launched = launch_missing(draft, cluster, group, wanted, &found);
        give_back_idle(draft, group, wanted, found.of_use + launched, &found, &workers);
    }
    for name in of_none {
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
    let nodes: Vec<(NodeName, Shared<NodeRecord>, u32)> =
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
                } else if let Some(ray) = node.ray.clone().filter(|_| !drained) {
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

/// The nodes of a group.
#[derive(Default)]
struct Found {
    /// How many count as ones that the group should have.
    of_use: u32,
    /// How many of these are kept: those with workers, and those that are not idle for long enough.
    kept: u32,
    /// How many there are within the group's most.
    counted: u32,
    /// Launches of which nobody knows yet what came of them.
    asked: u32,
    /// How many are there with those that are being replaced, but for what is drained or ended for that.
    up: u32,
    ready: u32,
    /// Those that are wanted and have, or had, no workers: most of thousands are at work, and were.
    idle: Vec<NodeName>,
}

/// Looks at all nodes once, however many groups there are; beside what it finds for each group, the wanted nodes of
/// groups that are gone.
fn look<'c>(
    draft: &Draft<'_>,
    cluster: &'c RayCluster,
    workers: &FxHashMap<NodeName, u32>,
) -> (Vec<(&'c WorkerGroup, Found)>, Vec<NodeName>) {
    let groups = &cluster.spec.worker_groups;
    let mut found: BTreeMap<&str, (&WorkerGroup, Found)> =
        groups.iter().map(|group| (group.name.as_str(), (group, Found::default()))).collect();
    let mut of_none = Vec::new();
    let every = draft.guarded(Guard::EveryNodeCounts);
    for (name, node) in &draft.record.nodes {
        let Some(group) = &node.group else { continue };
        let wanted = node.state.is_wanted();
        let Some((group, found)) = found.get_mut(group.as_str()) else {
            of_none.extend(wanted.then(|| name.clone()));
            continue;
        };
        let at_work = workers.contains_key(name);
        let outdated = draft.rollout.is_outdated(name);
        // One of an outdated template, or one that will be taken away, counts while it has workers.
        let is_of_use = wanted && ((!outdated && node.notice.is_none()) || at_work);
        let limit = draft.now - group.idle_timeout.signed();
        let kept = is_of_use && (at_work || node.idle_since.is_none_or(|since| since > limit));
        found.of_use += u32::from(is_of_use);
        found.kept += u32::from(kept);
        found.counted += u32::from(every || is_of_use);
        found.asked += u32::from(node.offering.is_some() && draft.launch_is_unsettled(&node.launch));
        found.up += u32::from(is_of_use || outdated);
        found.ready += u32::from(matches!(node.state, NodeState::Ready { .. }));
        if wanted && (node.idle_since.is_some() || !at_work) {
            found.idle.push(name.clone());
        }
    }
    (groups.iter().filter_map(|group| found.remove(group.name.as_str())).collect(), of_none)
}

/// Launches what a group lacks; says how many.
fn launch_missing(
    draft: &mut Draft<'_>,
    cluster: &RayCluster,
    group: &WorkerGroup,
    wanted: u32,
    found: &Found,
) -> u32 {
    let mut launched = 0;
    // The head's control service must be there; the agent is submitted through it.
    if draft.record.agent.is_none() {
        return launched;
    }
    let Found { of_use, counted, asked, .. } = *found;
    let up = found.up + draft.rollout.going(&group.name);
    let most = wanted.saturating_add(group.update_strategy.max_surge);
    let replacing = draft.rollout.is_replacing(&group.name);
    if of_use < wanted && is_failing(draft, group) {
        return launched;
    }
    let on_ec2 = cluster.spec.aws().is_some();
    let may_be_more = |launched: u32| {
        of_use + launched < wanted
            && counted + launched < group.max_nodes
            && (up + launched < most || !replacing)
            && (asked + if on_ec2 { launched } else { 0 }) < LAUNCHES_AT_ONCE
    };
    while may_be_more(launched) {
        if let Some(trouble) = draft.record.trouble.clone()
            && !draft.is_due(trouble.until)
        {
            draft.report.cluster.waiting.push(Waiting::blocked("CannotLaunch", trouble.message));
            break;
        }
        let name =
            NodeName::from(format!("{}-{}-{}", cluster.metadata.name, group.name, draft.record.launched + 1));
        if !launch(draft, cluster, name, Some(group.name.clone()), &group.template) {
            break;
        }
        launched += 1;
    }
    launched
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
    draft.record.nodes.insert(name, record.into());
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
    of_use: u32,
    found: &Found,
    workers: &FxHashMap<NodeName, u32>,
) {
    let mut idle = Vec::new();
    let mut spare = (found.ready + group.update_strategy.max_unavailable).saturating_sub(wanted);
    for name in &found.idle {
        let now = draft.now;
        let Some(node) = draft.record.nodes.get_mut(name) else { continue };
        let ready = matches!(node.state, NodeState::Ready { .. });
        if workers.contains_key(name) || !ready {
            if node.idle_since.is_some() {
                node.idle_since = None;
            }
            continue;
        }
        let since = node.idle_since.unwrap_or(now);
        if node.idle_since.is_none() {
            node.idle_since = Some(now);
        }
        if draft.rollout.is_outdated(name) {
            if spare > 0 {
                spare -= 1;
                drain(draft, name, rollout::CAUSE);
            }
        } else if let Some(notice) = &node.notice {
            let cause = notice.kind.words();
            drain(draft, name, cause);
        } else if draft.is_due(since + group.idle_timeout.signed()) {
            idle.push((since, name));
        }
    }
    idle.sort();
    for (_, name) in idle.into_iter().take(of_use.saturating_sub(wanted) as usize) {
        drain(draft, name, "it was idle");
    }
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
