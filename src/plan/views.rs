//! Nodes as placement sees them. They are looked at once the world was taken in, and again when nodes were launched or
//! given back: what else a plan decides does not change them.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::capacity::Capacity;
use super::draft::Draft;
use super::notices;
use crate::api::ids::NodeName;
use crate::api::object::RayCluster;
use crate::api::record::{NodeState, Notice};

/// A node as placement sees it.
pub(super) struct NodeView {
    pub(super) name: NodeName,
    pub(super) ray: Option<crate::api::ids::RayNodeId>,
    pub(super) capacity: Capacity,
    /// Whether workers may be placed on it, now or when it is ready.
    pub(super) usable: bool,
    pub(super) ready: bool,
    /// Whether it will be taken away, though not at once.
    pub(super) leaving: bool,
    /// Whether it keeps the workers that it has, but is given no more.
    pub(super) closed: bool,
}

/// All nodes of a cluster.
pub(super) struct Views {
    nodes: Vec<NodeView>,
    /// Their numbers, in the order of their names.
    by_name: Vec<usize>,
}

impl Views {
    fn new(nodes: Vec<NodeView>) -> Self {
        let mut by_name: Vec<usize> = (0..nodes.len()).collect();
        by_name.sort_by_key(|number| &nodes[*number].name);
        Self { nodes, by_name }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node, if it is there.
    pub(super) fn get(&self, name: &NodeName) -> Option<&NodeView> {
        // Of two with one name the first: the sort kept their order.
        let place = self.by_name.partition_point(|number| self.nodes[*number].name < *name);
        self.by_name.get(place).map(|number| &self.nodes[*number]).filter(|node| node.name == *name)
    }

    /// Whether a node is there, and workers may be placed on it.
    pub(super) fn is_usable(&self, name: &NodeName) -> bool {
        self.get(name).is_some_and(|node| node.usable)
    }
}

impl Draft<'_> {
    /// The cluster's nodes: those we launched, or, on somebody else's cluster, those Ray has.
    pub(super) fn nodes(&self) -> Rc<Views> {
        let mut views = self.views.borrow_mut();
        let made = views.get_or_insert_with(|| {
            Rc::new(Views::new(match self.cluster() {
                Some(cluster) if cluster.spec.is_ours() => self.own_nodes(cluster),
                Some(_) => self.foreign_nodes(),
                None => Vec::new(),
            }))
        });
        Rc::clone(made)
    }

    /// Nodes were launched or given back: they are looked at anew.
    pub(super) fn views_changed(&mut self) {
        self.views.take();
    }

    fn own_nodes(&self, cluster: &RayCluster) -> Vec<NodeView> {
        let known = |name: &NodeName, group: &Option<String>| match group {
            None => true,
            Some(group) => {
                !self.rollout.is_outdated(name)
                    && cluster.spec.worker_groups.iter().any(|known| known.name == *group)
            }
        };
        let surplus = self.surplus(cluster);
        let held = self.held();
        let is_urgent = |notice: &Option<Notice>| {
            notice.as_ref().is_some_and(|notice| notices::is_urgent(notice, self.now))
        };
        let nodes = self.record.nodes.iter().map(|(name, node)| NodeView {
            name: name.clone(),
            ray: node.ray.clone(),
            capacity: Capacity::of_template(&node.template),
            usable: node.state.is_wanted()
                && (known(name, &node.group) || held.on(name).next().is_some())
                && !surplus.contains(name)
                && !is_urgent(&node.notice),
            leaving: node.notice.is_some() || self.rollout.is_leaving(name),
            closed: self.rollout.is_outdated(name),
            ready: matches!(node.state, NodeState::Ready { .. }) && node.ray.is_some(),
        });
        nodes.collect()
    }

    /// The nodes beyond what their groups may have since somebody lowered that. Those with workers go last, the
    /// newest first.
    fn surplus(&self, cluster: &RayCluster) -> BTreeSet<NodeName> {
        let mut surplus = BTreeSet::new();
        let held = self.held();
        for group in &cluster.spec.worker_groups {
            let nodes = self.record.nodes.iter();
            let mut nodes: Vec<_> = nodes
                .filter(|(_, node)| node.group.as_ref() == Some(&group.name) && node.state.is_wanted())
                .collect();
            let most = group.max_nodes as usize;
            if nodes.len() > most {
                nodes.sort_by_key(|(name, node)| (held.on(name).next().is_none(), node.index));
                surplus.extend(nodes.split_off(most).into_iter().map(|(name, _)| name.clone()));
            }
        }
        surplus
    }

    fn foreign_nodes(&self) -> Vec<NodeView> {
        let Some((_, agent)) = self.agent() else { return Vec::new() };
        let alive = agent.nodes.iter().filter(|node| node.alive);
        let nodes = alive.map(|node| NodeView {
            name: NodeName::from(node.address.clone()),
            ray: Some(node.id.clone()),
            capacity: Capacity::of_ray(node),
            usable: !node.draining
                && !self.record.notices.get(&node.id).is_some_and(|it| notices::is_urgent(it, self.now)),
            ready: true,
            leaving: self.record.notices.contains_key(&node.id),
            closed: false,
        });
        nodes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_by_name_and_of_two_with_one_name_the_first() {
        let node = |name: &str, cpu| NodeView {
            name: name.into(),
            ray: None,
            capacity: Capacity { cpu, ..Capacity::default() },
            usable: cpu > 1,
            ready: true,
            leaving: false,
            closed: false,
        };
        let views = Views::new(vec![node("c", 1), node("a", 2), node("c", 3), node("b", 4)]);
        let cpu = |name: &str| views.get(&name.into()).map(|view| view.capacity.cpu);
        assert_eq!(["a", "b", "c", "bb", "d"].map(cpu), [Some(2), Some(4), Some(1), None, None]);
        assert!(views.is_usable(&"b".into()) && !views.is_usable(&"c".into()));
    }
}
