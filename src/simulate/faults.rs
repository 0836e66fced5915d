//! What goes wrong.

use super::clock::Ms;
use super::floor::Link;
use super::instances::TAKEN_BACK;
use super::ray::Ray;
use super::world::World;
use crate::api::ids::{IntentId, RayNodeId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::wire::NoticeKind;

/// How long before its end a spot instance is told of it.
const NOTICE_MS: Ms = 120_000;
/// What EC2 says of an instance that broke.
const BROKEN: &str = "Server.InternalError: Internal error";

/// How often small things go wrong, as shares of all cases, and until when.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Until when, in milliseconds from the beginning.
    pub until_ms: u64,
    /// Effects that are done, but of which no reply comes.
    pub lost_replies: f64,
    /// Effects that never get there.
    pub lost_calls: f64,
    /// Calls that are given up, and take place later.
    pub late_calls: f64,
    /// Effects that take long.
    pub slow_calls: f64,
    /// States of the agent that arrive late.
    pub slow_news: f64,
    /// Looks at processes that fail.
    pub blind: f64,
    /// Looks at processes that show what was before.
    pub stale: f64,
    /// Launches that are refused.
    pub rejected_launches: f64,
    /// Machines that never join.
    pub bad_machines: f64,
    /// Calls that EC2 does not look at, for there are too many.
    pub throttled: f64,
    /// Listings of instances in which one is missing.
    pub partial: f64,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The controller dies, and is down for so many milliseconds.
    ControllerDies(u64),
    /// A whole node dies at once.
    NodeDies,
    /// A node's raylet dies, and its main process soon after.
    RayletDies,
    /// A node cannot be reached from the head for so many milliseconds.
    NodeCut(u64),
    /// The head dies.
    HeadDies,
    /// The controller cannot reach a cluster for so many milliseconds.
    ClusterCut(u64),
    /// The agent runs, but does not answer for so many milliseconds.
    AgentHangs(u64),
    /// The agent dies.
    AgentDies,
    /// A bridge dies.
    BridgeDies,
    /// A slot dies.
    SlotDies,
    /// A worker is killed.
    WorkerKilled,
    /// Somebody else tells a job's workers to end.
    WorkersTerminated,
    /// It is announced that a node will be taken away; a spot instance is.
    NodeNotice(NoticeKind),
    /// The newest checkpoint on a head becomes unreadable.
    HeadDiskSpoils,
    /// The newest durable checkpoint becomes unreadable.
    FileSpoils,
    /// The newest durable checkpoint is not there any more.
    FileGone,
    /// Nobody's credentials for EC2 are good for so many milliseconds.
    CredentialsExpire(u64),
    /// EC2 has none of some type, in some zone and on some market, for so many milliseconds.
    NoCapacity(u64),
    /// An instance is there that carries a cluster's mark and is no node of it.
    StrayInstance,
}

impl World {
    /// Whether something goes wrong that does in this share of cases.
    pub(super) fn faulty(&mut self, share: f64) -> bool {
        self.now < self.faults.until_ms && self.random.chance(share)
    }

    /// Something goes wrong, if there is anything that can.
    pub(super) fn strike(&mut self, fault: Fault) {
        self.transcript.say(self.now, || format!("FAULT {fault:?}"));
        match fault {
            Fault::ControllerDies(down) => self.crash(down),
            Fault::NodeDies => {
                if let Some((key, launch)) = self.some_machine(false) {
                    self.end_machine_because(&key, &launch, BROKEN);
                } else {
                    self.some_foreign_node_dies();
                }
            }
            Fault::RayletDies => {
                if let Some((key, launch)) = self.some_machine(false) {
                    self.end_raylet(&key, &launch);
                    let at = self.now + self.random.between(100, 3_000);
                    // An instance starts Ray again.
                    let next = match self.site(&key).is_instance(&launch) {
                        true => super::world::Event::Joins(key.clone(), launch),
                        false => super::world::Event::LeaderEnds(key.clone(), launch),
                    };
                    self.queue.push(at, next);
                    self.glance(&key);
                }
            }
            Fault::HeadDies => {
                if let Some((key, launch)) = self.some_machine(true) {
                    self.end_machine_because(&key, &launch, BROKEN);
                } else {
                    self.foreign_restarts();
                }
            }
            Fault::NodeCut(duration) => self.cut_node(duration),
            Fault::ClusterCut(duration) => {
                if let Some(key) = self.some_site() {
                    self.site(&key).cut_until = self.now + duration;
                    self.news(&key);
                }
            }
            Fault::AgentHangs(duration) => {
                if let Some(key) = self.some_site() {
                    self.site(&key).agent_hangs_until = self.now + duration;
                    self.news(&key);
                }
            }
            Fault::AgentDies => {
                if let Some((key, session)) = self.some_ray() {
                    self.in_ray(&key, &session, |ray, _| ray.kill_agent("it was killed"));
                }
            }
            Fault::BridgeDies | Fault::SlotDies | Fault::WorkerKilled | Fault::WorkersTerminated => {
                self.strike_job(fault);
            }
            Fault::NodeNotice(kind) => self.announce(kind),
            Fault::HeadDiskSpoils => {
                if let Some((key, session, job)) = self.some_bridge() {
                    self.in_ray(&key, &session, |ray, _| {
                        ray.bridges.get_mut(&job).is_some_and(super::bridge::Bridge::spoil_newest)
                    });
                }
            }
            Fault::FileSpoils | Fault::FileGone => self.spoil_file(fault == Fault::FileGone),
            Fault::CredentialsExpire(duration) => self.region.refuses_until = self.now + duration,
            Fault::NoCapacity(duration) => self.run_out(duration),
            Fault::StrayInstance => self.stray_comes(),
        }
    }

    fn strike_job(&mut self, fault: Fault) {
        let Some((key, session, job)) = self.some_bridge() else { return };
        self.in_ray(&key, &session, |ray, env| match fault {
            Fault::BridgeDies => ray.kill_bridge(&job, env),
            Fault::SlotDies => ray.kill_slot(&job, env),
            Fault::WorkerKilled => ray.kill_worker(&job, env),
            _ => ray.terminate_workers(&job, env),
        });
    }

    fn cut_node(&mut self, duration: Ms) {
        let Some((key, session)) = self.some_ray() else { return };
        self.in_ray(&key, &session, |ray, env| {
            if let Some(node) = env.random.pick(&workers_in_reach(ray)).copied() {
                ray.floor.cut(node, duration, env);
            }
        });
    }

    fn some_foreign_node_dies(&mut self) {
        let Some((key, session)) = self.some_ray() else { return };
        if !self.site(&key).is_foreign() {
            return;
        }
        self.in_ray(&key, &session, |ray, env| {
            if let Some(node) = env.random.pick(&workers_in_reach(ray)).copied() {
                ray.lose_node(node, env);
            }
        });
        self.replace_foreign(&key, &session);
    }

    /// The owner of a cluster replaces a node of it.
    fn replace_foreign(&mut self, key: &ObjectKey, session: &str) {
        let node = self.site(key).foreign_node(false, 4);
        self.in_ray(key, session, |ray, _| ray.join(node));
    }

    fn announce(&mut self, kind: NoticeKind) {
        let Some((key, session)) = self.some_ray() else { return };
        let deadline = (kind == NoticeKind::SpotInterruption).then_some(self.now + NOTICE_MS);
        let node = self.in_ray(&key, &session, |ray, env| {
            // Only slots learn it.
            let in_reach = workers_in_reach(ray);
            let hosts = |node: &usize| ray.floor.slots.values().any(|slot| slot.node == *node);
            let hosts: Vec<usize> = in_reach.iter().copied().filter(hosts).collect();
            let index = env.random.pick(if hosts.is_empty() { &in_reach } else { &hosts }).copied()?;
            let node = &mut ray.floor.nodes[index];
            if node.notice.is_some() {
                return None;
            }
            node.notice = Some((kind, deadline));
            let id = node.id.clone();
            ray.tell_all(env);
            Some(id)
        });
        if let (Some(Some(node)), Some(at)) = (node, deadline) {
            self.queue.push(at, super::world::Event::NodeTaken(key, session, node));
        }
    }

    /// A node is taken away, as was announced.
    pub(super) fn take_node(&mut self, key: &ObjectKey, session: &str, node: &RayNodeId) {
        let machines = &self.site(key).machines;
        let own = machines.iter().find(|(_, machine)| machine.node.as_ref() == Some(node));
        if let Some(launch) = own.map(|(launch, _)| launch.clone()) {
            return self.end_machine_because(key, &launch, TAKEN_BACK);
        }
        let there = self.in_ray(key, session, |ray, env| {
            let index = ray.floor.index(node);
            index.into_iter().for_each(|index| ray.lose_node(index, env));
        });
        if there.is_some() && self.site(key).is_foreign() {
            self.replace_foreign(key, session);
        }
    }

    fn foreign_restarts(&mut self) {
        let keys: Vec<ObjectKey> =
            self.sites.iter().filter(|(_, site)| site.is_foreign()).map(|(key, _)| key.clone()).collect();
        if let Some(key) = self.random.pick(&keys).cloned() {
            self.site(&key).start_foreign(2, 4);
            self.news(&key);
        }
    }

    /// The newest durable checkpoint of a job that has another one becomes unreadable.
    fn spoil_file(&mut self, gone: bool) {
        let jobs: Vec<Uid> = self.store.jobs.keys().cloned().collect();
        let Some(job) = self.random.pick(&jobs).cloned() else { return };
        let checkpoints = self.store.jobs.get(&job).map_or(&[][..], |row| &row.record.checkpoints);
        if checkpoints.len() < 2 || !self.ledger.may_spoil(&job) {
            return;
        }
        let Some(path) = checkpoints.last().map(|checkpoint| checkpoint.path.clone()) else { return };
        if gone {
            self.files.remove(&path);
        } else if let Some(file) = self.files.get_mut(&path) {
            file.good = false;
        }
    }

    // --- Whom it strikes -----------------------------------------------------------------------------------------

    fn some_site(&mut self) -> Option<ObjectKey> {
        let keys: Vec<ObjectKey> = self.sites.keys().cloned().collect();
        self.random.pick(&keys).cloned()
    }

    fn some_machine(&mut self, head: bool) -> Option<(ObjectKey, IntentId)> {
        let machines = self.sites.iter().flat_map(|(key, site)| {
            let living =
                site.machines.iter().filter(|(_, machine)| site.lives(machine) && machine.head == head);
            living.map(move |(launch, _)| (key.clone(), launch.clone()))
        });
        let machines: Vec<_> = machines.collect();
        self.random.pick(&machines).cloned()
    }

    fn some_ray(&mut self) -> Option<(ObjectKey, String)> {
        let rays = self.sites.iter().flat_map(|(key, site)| {
            let living = site.rays.iter().filter(|(_, ray)| ray.up);
            living.map(move |(session, _)| (key.clone(), session.clone()))
        });
        let rays: Vec<_> = rays.collect();
        self.random.pick(&rays).cloned()
    }

    fn some_bridge(&mut self) -> Option<(ObjectKey, String, Uid)> {
        let bridges = self.sites.iter().flat_map(|(key, site)| {
            site.rays.iter().flat_map(move |(session, ray)| {
                ray.bridges.keys().map(move |job| (key.clone(), session.clone(), job.clone()))
            })
        });
        let bridges: Vec<_> = bridges.collect();
        self.random.pick(&bridges).cloned()
    }
}

/// The nodes, but for the head, that can be reached.
fn workers_in_reach(ray: &Ray) -> Vec<usize> {
    let nodes = ray.floor.nodes.iter().enumerate();
    nodes.filter(|(_, node)| !node.head && node.link == Link::Up).map(|(index, _)| index).collect()
}
