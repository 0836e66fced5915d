//! Rolling replacement: nodes whose template has changed are left and drained, as many at a time as their group's
//! strategy allows, while others are launched in their place. Those that wait for their turn keep the workers that they
//! have, and get no more.

use std::collections::{BTreeMap, BTreeSet};

use super::allocation::Allocation;
use super::draft::Draft;
use super::floor::Place;
use super::nodes::drain;
use super::offers;
use super::report::Waiting;
use crate::api::cluster::WorkerGroup;
use crate::api::ids::NodeName;
use crate::api::object::RayCluster;
use crate::api::record::{NodeState, digest_of};
use crate::api::words::count;

/// Why an outdated node is drained.
pub(super) const CAUSE: &str = "its template has changed";

/// How far the replacement of outdated nodes is.
#[derive(Default)]
pub(super) struct Rollout {
    /// The nodes whose template is another now, and which are not drained yet.
    outdated: BTreeSet<NodeName>,
    /// Those of them that workers leave as soon as there are others.
    leaving: BTreeSet<NodeName>,
    /// For each group that has any, how many nodes are there because others are being replaced.
    groups: BTreeMap<String, Motion>,
}

/// What is under way in a group.
#[derive(Clone, Copy, Default)]
struct Motion {
    /// Outdated nodes that are drained or ended.
    going: u32,
    /// Whether workers are on any of these, and must leave before there is another node.
    crowded: bool,
    /// Whether no new node of the group comes to be.
    halted: bool,
}

impl Rollout {
    /// Whether a node's template is another now.
    pub(super) fn is_outdated(&self, name: &NodeName) -> bool {
        self.outdated.contains(name)
    }

    /// Whether workers leave a node as soon as there are others.
    pub(super) fn is_leaving(&self, name: &NodeName) -> bool {
        self.leaving.contains(name)
    }

    /// Whether a group has outdated nodes.
    pub(super) fn is_replacing(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// How many outdated nodes of a group are on their way out.
    pub(super) fn going(&self, group: &str) -> u32 {
        self.groups.get(group).map_or(0, |motion| motion.going)
    }

    /// Whether workers must leave a node of a group before another is launched for them.
    pub(super) fn is_crowded(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|motion| motion.crowded)
    }
}

impl Draft<'_> {
    /// Whether a node is left because its template has changed.
    pub(super) fn is_replaced(&self, name: &NodeName) -> bool {
        let state = self.record.nodes.get(name).map(|node| &node.state);
        self.rollout.is_outdated(name)
            || matches!(state, Some(NodeState::Draining { cause, .. }) if cause == CAUSE)
    }
}

/// Finds what is outdated, and begins to drain as much of it as may be missing.
pub(super) fn begin(draft: &mut Draft<'_>, cluster: &RayCluster) {
    let network = draft.record.incarnation.as_ref().and_then(|incarnation| incarnation.aws.as_ref());
    // What an instance type offers is a part of its template, and is looked up first.
    if network.is_some_and(|network| !offers::is_known(&cluster.spec, network)) {
        return;
    }
    for (group, found) in look(draft, cluster) {
        begin_group(draft, group, found);
    }
}

/// What a group's nodes are, seen from its template.
#[derive(Default)]
struct Found {
    /// All of them.
    all: usize,
    /// Outdated ones that are ready: how many workers each has, its index and its name.
    old: Vec<(u32, u64, NodeName)>,
    /// Outdated ones that have not joined.
    unborn: Vec<NodeName>,
    /// How many others have not.
    coming: u32,
    motion: Motion,
}

/// Looks at all nodes once, however many groups there are.
fn look<'c>(draft: &Draft<'_>, cluster: &'c RayCluster) -> Vec<(&'c WorkerGroup, Found)> {
    let groups = &cluster.spec.worker_groups;
    let mut found: BTreeMap<&str, (&WorkerGroup, Found)> =
        groups.iter().map(|group| (group.name.as_str(), (group, Found::default()))).collect();
    let held = draft.held();
    for (name, node) in &draft.record.nodes {
        let Some((group, found)) = node.group.as_deref().and_then(|group| found.get_mut(group)) else {
            continue;
        };
        let is_old = || node.template != group.template;
        found.all += 1;
        match &node.state {
            NodeState::Ready { .. } if is_old() => {
                found.old.push((held.count(name), node.index, name.clone()));
            }
            NodeState::Launching { .. } if is_old() => found.unborn.push(name.clone()),
            NodeState::Launching { .. } => found.coming += 1,
            NodeState::Draining { cause, .. } | NodeState::Terminating { cause, .. } if cause == CAUSE => {
                found.motion.going += 1;
                found.motion.crowded |= held.count(name) > 0;
            }
            _ => {}
        }
    }
    groups.iter().filter_map(|group| found.remove(group.name.as_str())).collect()
}

fn begin_group(draft: &mut Draft<'_>, group: &WorkerGroup, found: Found) {
    let Found { all, mut old, unborn, coming, mut motion } = found;
    motion.halted = is_halted(draft, group);
    // Nothing is on it yet.
    for name in unborn {
        motion.going += 1;
        drain(draft, &name, CAUSE);
    }
    old.sort();
    let (forced, left) = pace(group, all, motion, coming);
    for (workers, _, name) in old.iter().take(forced) {
        motion.going += 1;
        motion.crowded |= *workers > 0;
        drain(draft, name, CAUSE);
    }
    let rest = || old.iter().skip(forced).map(|(_, _, name)| name.clone());
    draft.rollout.leaving.extend(rest().take(left));
    draft.rollout.outdated.extend(rest());
    if motion.going > 0 || !old.is_empty() {
        draft.rollout.groups.insert(group.name.clone(), motion);
    }
}

/// How many nodes are drained now, and how many are left once there are others.
fn pace(group: &WorkerGroup, all: usize, motion: Motion, coming: u32) -> (usize, usize) {
    if motion.halted {
        return (0, 0);
    }
    let strategy = group.update_strategy;
    let under_way = motion.going + coming;
    let full = all >= group.max_nodes as usize;
    let may_be_missing = if full { strategy.max_unavailable.max(1) } else { strategy.max_unavailable };
    let forced = may_be_missing.saturating_sub(under_way);
    let most = strategy.max_unavailable.saturating_add(strategy.max_surge);
    let room = (group.max_nodes as usize).saturating_sub(all);
    (forced as usize, (most.saturating_sub(under_way + forced) as usize).min(room))
}

/// Whether new nodes of a group do not come to be: then the old ones stay.
fn is_halted(draft: &Draft<'_>, group: &WorkerGroup) -> bool {
    let failing = draft.record.failing_groups.get(&group.name);
    let trouble = draft.record.trouble.as_ref();
    trouble.is_some_and(|trouble| trouble.reason == "CannotLaunch")
        || failing.is_some_and(|failing| failing.template == digest_of(&group.template))
}

/// Says what is outdated, and what becomes of it.
pub(super) fn report(draft: &mut Draft<'_>, cluster: &RayCluster, allocation: &Allocation) {
    // Mostly nothing is replaced, and there may be thousands of places.
    let jobs = (!draft.rollout.groups.is_empty()).then_some(&allocation.jobs);
    let kept: BTreeSet<&NodeName> = jobs
        .into_iter()
        .flat_map(BTreeMap::values)
        .flat_map(|job| &job.places)
        .filter_map(|place| match place {
            Place::Node(name) => Some(name),
            Place::New(..) => None,
        })
        .collect();
    let mut said = Vec::new();
    for (group, motion) in &draft.rollout.groups {
        let nodes = draft.record.nodes.iter().filter(|(_, node)| node.group.as_ref() == Some(group));
        let coming = nodes.clone().any(|(_, node)| matches!(node.state, NodeState::Launching { .. }));
        let old: Vec<&NodeName> =
            nodes.map(|(name, _)| name).filter(|name| draft.rollout.is_outdated(name)).collect();
        let number = old.len() + motion.going as usize;
        let what = format!("group {group}: {} of an outdated template", count(number, "node"));
        let one = number == 1;
        let mut leaving = old.iter().filter(|name| draft.rollout.is_leaving(name)).peekable();
        let stuck = leaving.peek().is_some() && leaving.all(|name| kept.contains(*name));
        said.push(match () {
            () if motion.halted => {
                let stay = if one { "stays" } else { "stay" };
                Waiting::blocked("Outdated", format!("{what} {stay} while no new one comes to be"))
            }
            () if stuck && motion.going == 0 && !coming => {
                let stay = if one { "stays: its" } else { "stay: their" };
                Waiting::blocked("Outdated", format!("{what} {stay} workers fit nowhere else"))
            }
            () => {
                let are = if one { "is" } else { "are" };
                Waiting::going_on("Replacing", format!("{what} {are} being replaced"))
            }
        });
    }
    let head = draft.record.nodes.values().find(|node| node.group.is_none() && node.state.is_wanted());
    if head.is_some_and(|head| head.template != cluster.spec.head) {
        let message = "the head is outdated: it is replaced when the cluster is suspended or deleted";
        said.push(Waiting::blocked("HeadOutdated", message));
    }
    draft.report.cluster.waiting.extend(said);
}
