//! What there is of one cluster in the world: machines that were launched, and Ray on them.

use std::collections::BTreeMap;

use super::clock::Ms;
use super::env::Env;
use super::floor::{Link, Node};
use super::ray::Ray;
use crate::api::cluster::NodeTemplate;
use crate::api::ids::{IntentId, NodeName, RayNodeId};
use crate::api::observed::{LocalNode, Processes};
use crate::plan::Capacity;

/// The name of the one Ray cluster of a site that is not ours.
pub(super) const FOREIGN: &str = "foreign";

/// One cluster, as it really is.
#[derive(Default)]
pub(super) struct Site {
    pub(super) machines: BTreeMap<IntentId, Machine>,
    /// By incarnation.
    pub(super) rays: BTreeMap<String, Ray>,
    /// Until when nothing there can be reached by the controller.
    pub(super) cut_until: Ms,
    /// Until when the agent does not answer, though it runs.
    pub(super) agent_hangs_until: Ms,
    /// Whether no node can ever be launched.
    pub(super) hopeless: bool,
    made: u64,
}

/// Processes that were launched as one node.
pub(super) struct Machine {
    pub(super) name: NodeName,
    pub(super) incarnation: String,
    pub(super) head: bool,
    pub(super) group: Option<String>,
    pub(super) template: NodeTemplate,
    pub(super) launched: Ms,
    /// Whether it will join, or has.
    pub(super) sound: bool,
    /// Whether its main process lives.
    pub(super) leader: bool,
    /// Its node, once it has joined.
    pub(super) node: Option<RayNodeId>,
}

impl Site {
    /// A Ray cluster that somebody else runs, with so many nodes of so many CPUs beside a head without any.
    pub(super) fn foreign(nodes: u32, cpus: u32) -> Self {
        let mut site = Self::default();
        site.start_foreign(nodes, cpus);
        site
    }

    /// Somebody else starts their cluster, maybe anew.
    pub(super) fn start_foreign(&mut self, nodes: u32, cpus: u32) {
        let head = self.foreign_node(true, 0);
        let mut ray = Ray::new(head);
        for _ in 0..nodes {
            let node = self.foreign_node(false, cpus);
            ray.join(node);
        }
        self.rays.insert(FOREIGN.to_owned(), ray);
    }

    pub(super) fn foreign_node(&mut self, head: bool, cpus: u32) -> Node {
        let id = self.ray_id();
        let resources: BTreeMap<String, f64> = [("CPU".to_owned(), f64::from(cpus)), ("memory".to_owned(), 64e9)].into();
        let total = Capacity { cpu: u64::from(cpus) * 1000, memory: Some(64_000_000_000), ..Capacity::default() };
        Node {
            address: format!("10.0.0.{}", self.made),
            id,
            launch: None,
            head,
            total,
            resources,
            alive: true,
            draining: false,
            link: Link::Up,
        }
    }

    fn ray_id(&mut self) -> RayNodeId {
        self.made += 1;
        RayNodeId(format!("ray{:04}", self.made))
    }

    /// The Ray cluster of an incarnation.
    pub(super) fn ray(&mut self, incarnation: &str) -> Option<&mut Ray> {
        let name = if self.rays.contains_key(FOREIGN) { FOREIGN } else { incarnation };
        self.rays.get_mut(name)
    }

    // --- Machines ------------------------------------------------------------------------------------------------

    /// A machine's Ray joins the others; that of a head begins a cluster.
    pub(super) fn join(&mut self, launch: &IntentId) -> bool {
        let id = self.ray_id();
        let address = format!("127.0.0.{}", self.made + 10);
        let Some(machine) = self.machines.get_mut(launch).filter(|machine| machine.leader && machine.sound)
        else {
            return false;
        };
        let node = Node {
            id: id.clone(),
            address,
            launch: Some((machine.name.clone(), launch.clone())),
            head: machine.head,
            total: Capacity::of_template(&machine.template),
            resources: BTreeMap::new(),
            alive: true,
            draining: false,
            link: Link::Up,
        };
        if machine.head {
            self.rays.insert(machine.incarnation.clone(), Ray::new(node));
        } else if let Some(ray) = self.rays.get_mut(&machine.incarnation).filter(|ray| ray.up) {
            ray.join(node);
        } else {
            machine.leader = false; // It finds no head.
            return false;
        }
        machine.node = Some(id);
        true
    }

    /// The node of a machine, if it has joined.
    pub(super) fn node_of(&self, machine: &Machine) -> Option<(&Ray, &Node)> {
        let ray = self.rays.get(&machine.incarnation)?;
        Some((ray, ray.floor.node(machine.node.as_ref()?)?))
    }

    /// Whether anything of a machine lives.
    pub(super) fn lives(&self, machine: &Machine) -> bool {
        machine.leader || self.node_of(machine).is_some_and(|(_, node)| node.link != Link::Gone)
    }

    /// Ends every process of a machine.
    pub(super) fn end_machine(&mut self, launch: &IntentId, env: &mut Env<'_>) {
        let Some(machine) = self.machines.get_mut(launch) else { return };
        machine.leader = false;
        self.end_node(launch, env);
    }

    /// Ends a machine's raylet and what runs under it.
    pub(super) fn end_node(&mut self, launch: &IntentId, env: &mut Env<'_>) {
        let Some(machine) = self.machines.get(launch) else { return };
        let Some(ray) = self.rays.get_mut(&machine.incarnation) else { return };
        if let Some(index) = machine.node.as_ref().and_then(|id| ray.floor.index(id)) {
            ray.lose_node(index, env);
        }
    }

    /// What the processes of this machine show of some launches.
    pub(super) fn processes<'a>(&self, launches: impl Iterator<Item = &'a IntentId>) -> Processes {
        let seen = launches.map(|launch| {
            let node = self.machines.get(launch).map_or_else(LocalNode::default, |machine| {
                let raylet = self.node_of(machine).is_some_and(|(_, node)| node.link != Link::Gone);
                LocalNode {
                    leader: machine.leader.then_some((1, 1)),
                    raylet,
                    gcs: raylet && machine.head,
                    daemons: Vec::new(),
                    processes: u32::from(machine.leader) + u32::from(raylet),
                    output: if machine.leader { String::new() } else { "it cannot start".to_owned() },
                }
            });
            (launch.clone(), node)
        });
        seen.collect()
    }
}
