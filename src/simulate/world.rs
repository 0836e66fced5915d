//! The world: everything there is, and what happens next.

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{Call, CallId};
use super::clock::{Ms, Queue, Random};
use super::controller::Controller;
use super::env::{Env, Fact, RayEvent, Saves};
use super::faults::{Fault, Faults};
use super::instances::ENDED_ITSELF;
use super::invariants::{Ledger, Violation};
use super::program::Workload;
use super::ray::Ray;
use super::region::Region;
use super::site::Site;
use super::store::Store;
use super::transcript::Transcript;
use super::watch::News;
use super::{Options, Probe};
use crate::action::IntentState;
use crate::api::ids::{InstanceId, IntentId, RayNodeId, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
use crate::api::observed::Instances;
use crate::plan::{Plan, Snapshot};

/// Something that will happen.
pub(super) enum Event {
    /// In a Ray cluster, by itself.
    Ray(ObjectKey, String, RayEvent),
    /// A machine that was launched joins.
    Joins(ObjectKey, IntentId),
    /// An instance that was told to end has ended.
    InstanceEnds(InstanceId),
    /// An instance looks whether anybody needs it.
    LooksAround(ObjectKey, IntentId),
    /// EC2 is asked which instances there are.
    Lists(ObjectKey, u64),
    /// It answers what it was asked then, or does not.
    Listed(ObjectKey, u64, Ms, Option<Instances>),
    /// A node that this was announced for is taken away.
    NodeTaken(ObjectKey, String, RayNodeId),
    /// A machine's main process ends.
    LeaderEnds(ObjectKey, IntentId),
    /// A plan is due, unless it was made before.
    Plan(ObjectKey),
    /// What a plan is made from is read; the effects that were under way before that.
    Read(u32, ObjectKey, BTreeSet<IntentId>),
    /// A plan is written down.
    Keep(u32, Box<(Snapshot, Plan)>),
    /// Everything is planned.
    Resync(u32),
    /// An effect takes place.
    Lands(CallId),
    /// Its result is known.
    Replies(u32, CallId, IntentState),
    /// An agent has something new to say.
    Asks(ObjectKey, u64),
    /// What it said arrives.
    Hears(ObjectKey, u64, Box<News>),
    /// The controller starts.
    Starts,
    /// Something goes wrong.
    Fault(Fault),
    /// Somebody does something.
    User(UserAction),
}

/// What somebody does.
#[derive(Clone, Debug)]
pub enum UserAction {
    /// Makes an object what this says, or changes it.
    Apply(AnyObject),
    /// Asks an object to go.
    Delete(Kind, ObjectKey),
}

/// A file in durable storage.
pub(super) struct File {
    /// Whether it still is what its digest says.
    pub(super) good: bool,
}

/// Everything there is.
pub(super) struct World {
    pub(super) now: Ms,
    pub(super) options: Options,
    pub(super) random: Random,
    pub(super) queue: Queue<Event>,
    pub(super) transcript: Transcript,
    pub(super) store: Store,
    pub(super) controller: Controller,
    pub(super) calls: BTreeMap<CallId, Call>,
    pub(super) sites: BTreeMap<ObjectKey, Site>,
    pub(super) region: Region,
    pub(super) files: BTreeMap<String, File>,
    pub(super) saves: Saves,
    pub(super) workloads: BTreeMap<ObjectKey, Workload>,
    /// The same by uid, for those who know jobs by that.
    pub(super) loads: BTreeMap<Uid, Workload>,
    pub(super) faults: Faults,
    pub(super) ledger: Ledger,
    pub(super) violation: Option<Violation>,
    pub(super) probe: Option<Box<dyn Probe>>,
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        let mut world = Self {
            now: 0,
            random: Random::new(options.seed, options.steady),
            queue: Queue::new(),
            transcript: Transcript::new(options.transcript),
            store: Store::default(),
            controller: Controller::default(),
            calls: BTreeMap::new(),
            sites: BTreeMap::new(),
            region: Region::default(),
            files: BTreeMap::new(),
            saves: Saves::default(),
            workloads: BTreeMap::new(),
            loads: BTreeMap::new(),
            faults: Faults::default(),
            ledger: Ledger::default(),
            violation: None,
            probe: None,
            options,
        };
        world.start_controller();
        world
    }

    /// What happens next, unless it is after `limit` or an invariant is broken; whether there was anything.
    pub(super) fn step(&mut self, limit: Ms) -> bool {
        if self.violation.is_some() {
            return false;
        }
        let Some((at, event)) = self.queue.pop(limit) else { return false };
        self.now = self.now.max(at);
        self.happens(event);
        true
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Ray(key, session, event) => {
                self.in_ray(&key, &session, |ray, env| ray.happens(event, env));
            }
            Event::Joins(key, launch) => self.join(&key, &launch),
            Event::NodeTaken(key, session, node) => self.take_node(&key, &session, &node),
            Event::LeaderEnds(key, launch) => {
                if self.site(&key).is_instance(&launch) {
                    return self.end_machine_because(&key, &launch, ENDED_ITSELF);
                }
                if let Some(machine) = self.site(&key).machines.get_mut(&launch) {
                    machine.leader = false;
                }
                self.glance(&key);
            }
            Event::InstanceEnds(id) => self.instance_ends(&id),
            Event::LooksAround(key, launch) => self.look_around(&key, &launch),
            Event::Lists(key, watch) => self.list(&key, watch),
            Event::Listed(key, watch, asked, listed) => self.listed(&key, watch, asked, listed),
            Event::Plan(key) => self.plan_if_due(key),
            Event::Read(epoch, key, in_flight) => self.read_and_plan(epoch, key, in_flight),
            Event::Keep(epoch, made) => self.keep(epoch, &made.0, &made.1),
            Event::Resync(epoch) => self.resync(epoch),
            Event::Lands(call) => self.land(call),
            Event::Replies(epoch, call, state) => self.reply(epoch, call, state),
            Event::Asks(key, watch) => self.ask(&key, watch),
            Event::Hears(key, watch, news) => self.hear(&key, watch, *news),
            Event::Starts => self.start_controller(),
            Event::Fault(fault) => self.strike(fault),
            Event::User(action) => self.act(action),
        }
    }

    pub(super) fn act(&mut self, action: UserAction) {
        let woken = match action {
            UserAction::Apply(object) => {
                let (kind, key) = (object.kind(), object.key());
                self.transcript.say(self.now, || format!("user: applies {kind} {key}: {}", changed(&object)));
                self.store.apply(object, self.now)
            }
            UserAction::Delete(kind, key) => {
                self.transcript.say(self.now, || format!("user: deletes {kind} {key}"));
                self.store.delete(kind, &key, self.now)
            }
        };
        self.note_specs();
        woken.into_iter().for_each(|key| self.wake(key, 0));
    }

    fn note_specs(&mut self) {
        for row in self.store.jobs.values() {
            let uid = &row.job.metadata.uid;
            self.ledger.note_job(uid, &row.job.spec, self.now);
            if let Some(workload) = self.workloads.get(&row.job.metadata.key()) {
                self.loads.entry(uid.clone()).or_insert_with(|| workload.clone());
            }
        }
        for (key, cluster) in &self.store.clusters {
            self.ledger.note_cluster(key, cluster, self.now);
        }
    }

    // --- What there is -------------------------------------------------------------------------------------------

    pub(super) fn site(&mut self, key: &ObjectKey) -> &mut Site {
        self.sites.entry(key.clone()).or_default()
    }

    /// Does something in a Ray cluster, with all that comes of it. Without that cluster nothing is done.
    pub(super) fn in_ray<R>(
        &mut self,
        key: &ObjectKey,
        session: &str,
        work: impl FnOnce(&mut Ray, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let (mut timers, mut facts) = (Vec::new(), Vec::new());
        let listens = self.controller.listens(key);
        let site = self.sites.get_mut(key)?;
        let heard = listens && self.now >= site.cut_until.max(site.agent_hangs_until);
        let away = site.hear(heard, self.now);
        let ray = site.rays.get_mut(session)?;
        let mut env = Env {
            now: self.now,
            lease: self.options.settings.lease.millis,
            away,
            random: &mut self.random,
            timers: &mut timers,
            facts: &mut facts,
            transcript: &mut self.transcript,
            workloads: &self.loads,
            saves: &mut self.saves,
        };
        let result = work(ray, &mut env);
        for (at, event) in timers {
            self.queue.push(at, Event::Ray(key.clone(), session.to_owned(), event));
        }
        for fact in facts {
            self.judge(fact);
        }
        self.news(key);
        Some(result)
    }

    /// Ends every process of a machine at once.
    pub(super) fn end_machine(&mut self, key: &ObjectKey, launch: &IntentId) {
        if let Some(machine) = self.site(key).machines.get_mut(launch) {
            machine.leader = false;
        }
        self.end_raylet(key, launch);
        if !self.site(key).is_instance(launch) {
            self.glance(key); // Instances are listed.
        }
    }

    /// The same, and what EC2 says of that if it is an instance.
    pub(super) fn end_machine_because(&mut self, key: &ObjectKey, launch: &IntentId, why: &str) {
        self.end_machine(key, launch);
        self.note_end(launch, why);
    }

    /// Ends a machine's raylet and what runs under it.
    pub(super) fn end_raylet(&mut self, key: &ObjectKey, launch: &IntentId) {
        let Some(machine) = self.site(key).machines.get(launch) else { return };
        let (incarnation, node) = (machine.incarnation.clone(), machine.node.clone());
        self.in_ray(key, &incarnation, |ray, env| {
            if let Some(index) = node.and_then(|id| ray.floor.index(&id)) {
                ray.lose_node(index, env);
            }
        });
    }

    fn judge(&mut self, fact: Fact) {
        if let Err(violation) = self.check(fact) {
            self.violate(violation);
        }
    }

    /// Notes the first invariant that is broken.
    pub(super) fn violate(&mut self, violation: Violation) {
        self.transcript.say(self.now, || format!("VIOLATION {violation}"));
        self.violation.get_or_insert(violation);
    }

    fn join(&mut self, key: &ObjectKey, launch: &IntentId) {
        let joined = self.site(key).join(launch);
        if joined {
            self.transcript.say(self.now, || format!("world: the node of launch {launch} has joined"));
        }
        self.has_joined(key, launch, joined);
        self.news(key);
        self.glance(key);
    }

    /// Something has happened to processes that the controller glances at.
    pub(super) fn glance(&mut self, key: &ObjectKey) {
        if self.controller.listens(key) {
            let delay = self.random.between(100, 1_000);
            self.wake(key.clone(), delay);
        }
    }
}

/// What of an object somebody might have changed.
fn changed(object: &AnyObject) -> String {
    match object {
        AnyObject::Cluster(cluster) => {
            let groups = cluster.spec.worker_groups.iter();
            let groups: Vec<String> = groups
                .map(|group| format!("{} {}..{}", group.name, group.min_nodes, group.max_nodes))
                .collect();
            format!("suspend {}, groups [{}]", cluster.spec.suspend, groups.join(", "))
        }
        AnyObject::Job(job) => {
            let spec = &job.spec;
            let cluster = spec.cluster_ref.as_ref().map_or("local", |reference| reference.name.as_str());
            format!(
                "on {cluster}, replicas {}..{}, priority {}, suspend {}, args {:?}, command {:?}",
                spec.min_replicas, spec.max_replicas, spec.priority, spec.suspend, spec.args, spec.command
            )
        }
    }
}
