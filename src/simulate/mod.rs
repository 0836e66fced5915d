//! A virtual world for the planner: clusters here, on EC2 and elsewhere, agents, bridges, workers and people, under a
//! virtual clock.
//!
//! The planner in it is the real one, everything around it a model of what is around it in truth: `controller/`,
//! `provider/aws/`, `agent.py`, `bridge.py`, `slot.py` and `boot.sh`. The same seed gives the same history. Whatever
//! goes wrong, the invariants of `invariants` are checked at every step by somebody who sees everything.

mod bridge;
mod calls;
mod clock;
mod cloud;
mod controller;
mod env;
mod faults;
mod floor;
mod goal;
mod instances;
mod invariants;
mod leaks;
mod program;
mod ray;
mod region;
mod site;
mod store;
mod tell;
mod transcript;
mod watch;
mod world;

pub use faults::{Fault, Faults};
pub use invariants::{Invariant, Violation};
pub use program::{BROKEN_ENVIRONMENT, FAIL_AT_START, FAIL_IN_TRAINING, Workload};
pub use world::UserAction;

use std::collections::BTreeSet;

use crate::api::ids::NodeName;
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
use crate::api::record::{ClusterRecord, JobRecord};
use crate::plan::guards::Guards;
use crate::plan::report::Report;
use crate::plan::snapshot::Settings;
use crate::plan::{Plan, Snapshot};
use site::Site;
use world::{Event, World};

/// How a simulation is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// Whether nothing is left to chance: everything takes its usual time, and nothing fails by itself.
    pub steady: bool,
    /// The controller's settings.
    pub settings: Settings,
    /// The guards that are on.
    pub guards: Guards,
    /// How many lines of what happened are kept.
    pub transcript: usize,
}

/// Somebody who looks at every plan.
pub trait Probe {
    /// Judges a plan and what it was made from.
    ///
    /// # Errors
    /// If something in it is not as it should be.
    fn planned(&mut self, snapshot: &Snapshot, plan: &Plan) -> Result<(), String>;
}

/// A world, from its beginning on.
pub struct Simulation {
    world: World,
}

impl Simulation {
    /// A world with a controller, and nothing else.
    pub fn new(options: Options) -> Self {
        Self { world: World::new(options) }
    }

    // --- Before, or while, it runs -------------------------------------------------------------------------------

    /// Somebody runs a Ray cluster where this object will look for it: so many nodes of so many CPUs.
    pub fn somebody_runs(&mut self, cluster: &ObjectKey, nodes: u32, cpus: u32) {
        self.world.sites.insert(cluster.clone(), Site::foreign(nodes, cpus));
    }

    /// Somebody else's cluster has an autoscaler, which starts nodes with so many CPUs.
    pub fn autoscales(&mut self, cluster: &ObjectKey, cpus: u32) {
        self.world.site(cluster).autoscales = cpus;
    }

    /// No node of a cluster, beside its head, can be launched from now on, or they can again.
    pub fn exhaust(&mut self, cluster: &ObjectKey, hopeless: bool) {
        self.world.site(cluster).hopeless = hopeless;
    }

    /// Somebody else has an instance in the same account on EC2, with the mark of a cluster that has this uid.
    pub fn somebody_launches(&mut self, uid: &str) {
        self.world.somebody_launches(uid);
    }

    /// Nothing in a cluster can be reached from now on, ever.
    pub fn cut_off(&mut self, cluster: &ObjectKey) {
        self.world.site(cluster).cut_until = u64::MAX;
        self.world.news(cluster);
    }

    /// What the program of a job of this name does.
    pub fn program(&mut self, job: &ObjectKey, workload: Workload) {
        self.world.workloads.insert(job.clone(), workload);
    }

    /// Small things go wrong from now on, by chance.
    pub fn suffer(&mut self, faults: Faults) {
        self.world.faults = faults;
    }

    /// Has every plan looked at.
    pub fn watch(&mut self, probe: impl Probe + 'static) {
        self.world.probe = Some(Box::new(probe));
    }

    /// Somebody makes or changes an object.
    pub fn apply(&mut self, object: AnyObject) {
        self.world.act(UserAction::Apply(object));
    }

    /// Somebody asks an object to go.
    pub fn delete(&mut self, kind: Kind, key: &ObjectKey) {
        self.world.act(UserAction::Delete(kind, key.clone()));
    }

    /// Something goes wrong.
    pub fn strike(&mut self, fault: Fault) {
        self.world.strike(fault);
    }

    /// Somebody will do something, at a moment in milliseconds from the beginning.
    pub fn act_at(&mut self, at: u64, action: UserAction) {
        self.world.queue.push(at, Event::User(action));
    }

    /// Something will go wrong, at a moment in milliseconds from the beginning.
    pub fn strike_at(&mut self, at: u64, fault: Fault) {
        self.world.queue.push(at, Event::Fault(fault));
    }

    /// Adds a line to the transcript.
    pub fn say(&mut self, line: &str) {
        let now = self.world.now;
        self.world.transcript.say(now, || line.to_owned());
    }

    // --- Time ----------------------------------------------------------------------------------------------------

    /// Milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.world.now
    }

    /// Lets time pass until a moment, or until an invariant is broken.
    pub fn run_until(&mut self, at: u64) {
        while self.world.step(at) {}
        self.world.now = self.world.now.max(at);
    }

    /// Lets time pass until something is so, which is looked at whenever something happens; whether it ever was
    /// within so many milliseconds.
    pub fn run_while(&mut self, within: u64, mut pending: impl FnMut(&Self) -> bool) -> bool {
        let limit = self.world.now + within;
        while pending(self) {
            if !self.world.step(limit) {
                self.world.now = self.world.now.max(limit);
                return false;
            }
        }
        true
    }

    /// Lets time pass until everything is as wanted and stays so; it is a violation if that takes longer than so
    /// many milliseconds. What is planned then must be what was planned before.
    pub fn converge(&mut self, within: u64) {
        self.world.converge(within);
    }

    /// What is not as wanted, if anything.
    pub fn missing(&self) -> Vec<String> {
        self.world.missing()
    }

    // --- What has come of it -------------------------------------------------------------------------------------

    /// The first invariant that was broken.
    pub fn violation(&self) -> Option<&Violation> {
        self.world.violation.as_ref()
    }

    /// What happened, one line each.
    pub fn transcript(&self) -> String {
        self.world.transcript.text()
    }

    /// How many plans were made.
    pub fn plans(&self) -> u64 {
        self.world.controller.plans
    }

    /// What the newest plan of a cluster said.
    pub fn report(&self, cluster: &ObjectKey) -> Option<&Report> {
        self.world.controller.reports.get(cluster)
    }

    /// What was decided for a job.
    pub fn job(&self, key: &ObjectKey) -> Option<&JobRecord> {
        self.world.store.job(key).map(|row| &row.record)
    }

    /// What was decided for a cluster.
    pub fn cluster(&self, key: &ObjectKey) -> Option<&ClusterRecord> {
        self.world.store.records.get(key)
    }

    /// The nodes on which workers of a job truly train, by rank.
    pub fn training(&self, job: &ObjectKey) -> Vec<NodeName> {
        self.world.training(job)
    }

    /// The clusters that there is anything to plan for.
    pub fn domains(&self) -> BTreeSet<ObjectKey> {
        self.world.store.domains()
    }

    /// What a plan of a cluster would be made from at this moment.
    pub fn snapshot(&mut self, cluster: &ObjectKey) -> Snapshot {
        let in_flight = self.world.controller.in_flight.clone();
        self.world.snapshot(cluster, in_flight)
    }
}
