//! What there is of one cluster in the world: machines that were launched, and Ray on them.

use std::collections::BTreeMap;

use super::clock::Ms;
use super::floor::{Link, Node};
use super::instances::Life;
use super::ray::Ray;
use crate::api::cluster::NodeTemplate;
use crate::api::ids::{IntentId, NodeName, RayNodeId};
use crate::api::observed::{LocalNode, Processes};
use crate::api::wire::ResourceBundles;
use crate::plan::Capacity;

/// One cluster, as it really is.
#[derive(Default)]
pub(super) struct Site {
    pub(super) machines: BTreeMap<IntentId, Machine>,
    /// By incarnation; those that are not ours by how often somebody started them.
    pub(super) rays: BTreeMap<String, Ray>,
    /// The one that runs now, if it is not ours.
    foreign: Option<String>,
    /// Until when nothing there can be reached by the controller.
    pub(super) cut_until: Ms,
    /// Until when the agent does not answer, though it runs.
    pub(super) agent_hangs_until: Ms,
    /// Since when the controller has not been heard there.
    away_since: Option<Ms>,
    /// Whether no node can ever be launched.
    pub(super) hopeless: bool,
    /// How many CPUs a node has that Ray's autoscaler starts, if there is one.
    pub(super) autoscales: u32,
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
    /// What it knows of those who need it, if it is an instance of EC2.
    pub(super) life: Option<Life>,
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
        let session = format!("foreign-{}", self.made);
        self.rays.clear();
        self.rays.insert(session.clone(), ray);
        self.foreign = Some(session);
    }

    /// The autoscaler starts what is missing, if it is one that can.
    pub(super) fn autoscale(&mut self, session: &str, bundles: &[ResourceBundles]) {
        let cpus = |bundle: &ResourceBundles| {
            bundle.resources.get("CPU").copied().unwrap_or(0.0) * f64::from(bundle.count)
        };
        let wanted: f64 = bundles.iter().map(cpus).sum();
        while self.autoscales > 0 {
            let Some(ray) = self.rays.get(session) else { return };
            let there: u64 =
                ray.floor.nodes.iter().filter(|node| node.alive).map(|node| node.total.cpu).sum();
            if there as f64 >= wanted * 1000.0 {
                return;
            }
            let node = self.foreign_node(false, self.autoscales);
            if let Some(ray) = self.rays.get_mut(session) {
                ray.join(node);
            }
        }
    }

    pub(super) fn foreign_node(&mut self, head: bool, cpus: u32) -> Node {
        let id = self.ray_id();
        let resources: BTreeMap<String, f64> =
            [("CPU".to_owned(), f64::from(cpus)), ("memory".to_owned(), 64e9)].into();
        let total =
            Capacity { cpu: u64::from(cpus) * 1000, memory: Some(64_000_000_000), ..Capacity::default() };
        Node {
            address: format!("10.0.0.{}", self.made),
            id,
            launch: None,
            head,
            total,
            resources,
            alive: true,
            draining: false,
            notice: None,
            link: Link::Up,
        }
    }

    fn ray_id(&mut self) -> RayNodeId {
        self.made += 1;
        RayNodeId::from(format!("ray{:04}", self.made))
    }

    /// Notes whether the controller is heard there; for how long it has not been.
    pub(super) fn hear(&mut self, heard: bool, now: Ms) -> Ms {
        self.away_since = self.away_since.or(Some(now)).filter(|_| !heard);
        self.away_since.map_or(0, |since| now - since)
    }

    /// The Ray cluster that is found where that of an incarnation is or was.
    pub(super) fn session<'a>(&'a self, incarnation: &'a str) -> &'a str {
        self.foreign.as_deref().unwrap_or(incarnation)
    }

    pub(super) fn ray(&self, incarnation: &str) -> Option<&Ray> {
        self.rays.get(self.session(incarnation))
    }

    pub(super) fn is_foreign(&self) -> bool {
        self.foreign.is_some()
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
            notice: None,
            link: Link::Up,
        };
        if machine.head {
            self.rays.insert(machine.incarnation.clone(), Ray::new(node));
        } else if let Some(ray) = self.rays.get_mut(&machine.incarnation).filter(|ray| ray.up) {
            ray.join(node);
        } else {
            machine.leader = machine.life.is_some(); // It finds no head. An instance goes on looking.
            return false;
        }
        machine.node = Some(id);
        true
    }

    /// Whether a machine is an instance of EC2.
    pub(super) fn is_instance(&self, launch: &IntentId) -> bool {
        self.machines.get(launch).is_some_and(|machine| machine.life.is_some())
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
