//! What was observed, by what a plan looks it up by: a cluster may have thousands of nodes.

use rustc_hash::FxHashMap;

use super::draft::Draft;
use super::snapshot::Seen;
use crate::api::ids::{InstanceId, IntentId, NodeName, RayNodeId};
use crate::api::observed::{CloudInstance, LAUNCH_LABEL};
use crate::api::wire::RayNode;

/// What was observed, by what it is looked up by.
pub(super) struct Index<'a> {
    instances: FxHashMap<&'a IntentId, (&'a InstanceId, &'a CloudInstance)>,
    launched: FxHashMap<&'a str, &'a RayNode>,
    nodes: FxHashMap<&'a RayNodeId, &'a RayNode>,
    names: FxHashMap<RayNodeId, NodeName>,
}

impl<'a> Index<'a> {
    pub(super) fn new(seen: &'a Seen) -> Self {
        let mut index = Self {
            instances: FxHashMap::default(),
            launched: FxHashMap::default(),
            nodes: FxHashMap::default(),
            names: FxHashMap::default(),
        };
        for (id, instance) in seen.instances.fresh().into_iter().flat_map(|(_, instances)| instances) {
            if let Some(launch) = &instance.launch {
                index.instances.entry(launch).or_insert((id, instance));
            }
        }
        for node in seen.agent.fresh().into_iter().flat_map(|(_, agent)| &agent.nodes) {
            index.nodes.entry(&node.id).or_insert(node);
            let Some(launch) = node.labels.get(LAUNCH_LABEL) else { continue };
            // An instance starts Ray again when it has ended: the life that goes on counts, or else the last one.
            let known = index.launched.entry(launch).or_insert(node);
            if !known.alive {
                *known = node;
            }
        }
        index
    }

    /// The instance that a launch made.
    pub(super) fn instance(&self, launch: &IntentId) -> Option<(&'a InstanceId, &'a CloudInstance)> {
        self.instances.get(launch).copied()
    }

    /// Ray's node of a launch.
    pub(super) fn launched(&self, launch: &IntentId) -> Option<&'a RayNode> {
        self.launched.get(launch.0.as_str()).copied()
    }

    /// A node that Ray has or had.
    pub(super) fn node(&self, ray: &RayNodeId) -> Option<&'a RayNode> {
        self.nodes.get(ray).copied()
    }
}

impl Draft<'_> {
    /// Notes which nodes of ours Ray's are, once that was taken in: later a plan only adds nodes that Ray has not.
    pub(super) fn name_nodes(&mut self) {
        let nodes = self.record.nodes.iter();
        self.index.names = nodes.filter_map(|(name, node)| Some((node.ray.clone()?, name.clone()))).collect();
    }

    /// The name of a node of ours that Ray has.
    pub(super) fn own_name(&self, ray: &RayNodeId) -> Option<&NodeName> {
        self.index.names.get(ray)
    }

    /// The name of a node that Ray has.
    pub(super) fn node_of(&self, ray: &RayNodeId) -> Option<&str> {
        let foreign = || self.index.node(ray).map(|node| node.address.as_str());
        self.own_name(ray).map(NodeName::as_ref).or_else(foreign)
    }
}
