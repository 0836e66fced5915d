//! The controller: when it plans, what it reads for it, what it keeps, and what it begins. After `controller/`.

use std::collections::{BTreeMap, BTreeSet};

use super::clock::{Ms, moment, timestamp};
use super::invariants::{Invariant, Violation};
use super::watch::Watch;
use super::world::{Event, World};
use crate::action::{Intent, IntentState};
use crate::api::ids::IntentId;
use crate::api::meta::ObjectKey;
use crate::api::observed::{Observed, Processes};
use crate::plan::report::Report;
use crate::plan::snapshot::{JobView, Seen};
use crate::plan::{Plan, Snapshot, plan};

/// How often everything is planned even if nothing happens.
const RESYNC_MS: Ms = 60_000;
/// A job's output is behind for so long after it has stopped, now and then.
const LOGS_BEHIND: f64 = 0.02;

/// What the controller has in memory: all of it is gone after a crash.
#[derive(Default)]
pub(super) struct Controller {
    /// Which life it is in.
    pub(super) epoch: u32,
    pub(super) runs: bool,
    pub(super) in_flight: BTreeSet<IntentId>,
    pub(super) watches: BTreeMap<ObjectKey, Watch>,
    due: BTreeMap<ObjectKey, Ms>,
    planning: BTreeSet<ObjectKey>,
    /// What was seen of processes before, to be seen again when it is stale.
    processes: BTreeMap<ObjectKey, (Ms, Processes)>,
    /// What the newest plan of each cluster said.
    pub(super) reports: BTreeMap<ObjectKey, Report>,
    /// How many plans were made.
    pub(super) plans: u64,
}

impl Controller {
    pub(super) fn listens(&self, key: &ObjectKey) -> bool {
        self.runs && self.watches.contains_key(key)
    }
}

impl World {
    pub(super) fn start_controller(&mut self) {
        self.controller.runs = true;
        self.transcript.say(self.now, || "controller: it starts".to_owned());
        for key in self.store.domains() {
            self.wake(key, 0);
        }
        self.queue.push(self.now + RESYNC_MS, Event::Resync(self.controller.epoch));
    }

    /// The controller dies: what it has only in memory is lost.
    pub(super) fn crash(&mut self, down: Ms) {
        if !self.controller.runs {
            return;
        }
        self.transcript.say(self.now, || "controller: KILLED".to_owned());
        self.controller = Controller {
            epoch: self.controller.epoch + 1,
            plans: self.controller.plans,
            ..Controller::default()
        };
        self.orphan_calls();
        self.queue.push(self.now + down, Event::Starts);
    }

    pub(super) fn resync(&mut self, epoch: u32) {
        if epoch == self.controller.epoch && self.controller.runs {
            for key in self.store.domains() {
                self.wake(key, 0);
            }
            self.queue.push(self.now + RESYNC_MS, Event::Resync(epoch));
        }
    }

    /// Has a cluster, with its jobs, planned in a while, if not before.
    pub(super) fn wake(&mut self, key: ObjectKey, delay: Ms) {
        let at = self.now + delay;
        if self.controller.runs && self.controller.due.get(&key).is_none_or(|due| at < *due) {
            self.controller.due.insert(key.clone(), at);
            self.queue.push(at, Event::Plan(key));
        }
    }

    pub(super) fn plan_if_due(&mut self, key: ObjectKey) {
        let due = self.controller.due.get(&key).is_some_and(|due| *due <= self.now);
        if !due || self.controller.planning.contains(&key) {
            return; // A plan that is being made looks for what came due meanwhile when it is kept.
        }
        self.controller.due.remove(&key);
        self.controller.planning.insert(key.clone());
        let in_flight = self.controller.in_flight.clone();
        if self.random.chance(0.2) {
            let at = self.now + self.random.between(1, 20);
            self.queue.push(at, Event::Read(self.controller.epoch, key, in_flight));
        } else {
            self.read_and_plan(self.controller.epoch, key, in_flight);
        }
    }

    pub(super) fn read_and_plan(&mut self, epoch: u32, key: ObjectKey, in_flight: BTreeSet<IntentId>) {
        if epoch != self.controller.epoch {
            return;
        }
        let snapshot = self.snapshot(&key, in_flight);
        let made = plan(&snapshot);
        self.controller.plans += 1;
        if let Some(probe) = &mut self.probe
            && let Err(message) = probe.planned(&snapshot, &made)
        {
            self.violate(Violation { invariant: Invariant::Honest, message });
        }
        if let Some(at) = made.wake_at.filter(|at| *at <= snapshot.now) {
            let message = format!("a plan of {key} wants to be made again at once ({at})");
            self.violate(Violation { invariant: Invariant::Quiet, message });
        }
        if self.random.chance(0.3) {
            let at = self.now + self.random.between(1, 30);
            self.queue.push(at, Event::Keep(epoch, Box::new((snapshot, made))));
        } else {
            self.keep(epoch, &snapshot, &made);
        }
    }

    /// Everything a plan is made from, as it is read now.
    pub(super) fn snapshot(&mut self, key: &ObjectKey, in_flight: BTreeSet<IntentId>) -> Snapshot {
        let seen = self.seen(key);
        let seed = self.random.seed();
        let behind = self.random.chance(LOGS_BEHIND);
        let jobs = self.store.jobs_of(key).into_iter();
        Snapshot {
            now: timestamp(self.now),
            seed,
            key: key.clone(),
            cluster: self.store.clusters.get(key).cloned(),
            record: self.store.records.get(key).cloned().unwrap_or_default(),
            jobs: jobs
                .map(|row| JobView {
                    job: row.job.clone(),
                    record: row.record.clone(),
                    logs_behind: u64::from(behind),
                })
                .collect(),
            intents: self.store.intents_of(key).cloned().collect(),
            in_flight,
            seen,
            settings: self.options.settings,
            guards: self.options.guards,
        }
    }

    fn seen(&mut self, key: &ObjectKey) -> Seen {
        let mut seen = Seen::default();
        let foreign = self.sites.get(key).is_some_and(|site| site.is_foreign());
        if self.store.clusters.contains_key(key) && !foreign && !self.is_on_ec2(key) {
            seen.processes = self.look_at_processes(key);
        }
        if let Some(watch) = self.controller.watches.get(key) {
            seen.agent.clone_from(&watch.agent);
            seen.agent_ended.clone_from(&watch.ended);
            seen.instances.clone_from(&watch.instances);
        }
        seen
    }

    fn look_at_processes(&mut self, key: &ObjectKey) -> Observed<Processes> {
        let mut observed = Observed::default();
        if self.faulty(self.faults.blind) {
            observed.fail(timestamp(self.now), "cannot list processes".to_owned());
            return observed;
        }
        if self.faulty(self.faults.stale)
            && let Some((at, processes)) = self.controller.processes.get(key)
        {
            return Observed::seen(timestamp(*at), processes.clone());
        }
        let record = self.store.records.get(key);
        let launches = record.into_iter().flat_map(|record| record.nodes.values().map(|node| &node.launch));
        let processes = self.sites.get(key).map_or_else(Processes::new, |site| site.processes(launches));
        self.controller.processes.insert(key.clone(), (self.now, processes.clone()));
        Observed::seen(timestamp(self.now), processes)
    }

    /// Writes a plan down, and begins what is due.
    pub(super) fn keep(&mut self, epoch: u32, snapshot: &Snapshot, plan: &Plan) {
        if epoch != self.controller.epoch {
            return;
        }
        let key = &snapshot.key;
        self.controller.planning.remove(key);
        if !self.store.is_current(snapshot, plan) {
            // Another cluster's plan has changed a job in the meantime.
            return self.wake(key.clone(), 5);
        }
        self.tell_plan(snapshot, plan);
        self.ledger.note_plan(snapshot, plan);
        let touched = self.store.keep(snapshot, plan, self.now);
        self.check_removals(plan);
        self.controller.reports.insert(key.clone(), plan.report.clone());
        self.listen(key);
        self.dispatch(key);
        touched.into_iter().for_each(|key| self.wake(key, 0));
        let next = plan.wake_at.map_or(RESYNC_MS, |at| moment(at).saturating_sub(self.now).min(RESYNC_MS));
        if plan.wake_at.is_some() {
            self.wake(key.clone(), next);
        }
        if self.controller.due.get(key).is_some_and(|due| *due <= self.now) {
            self.queue.push(self.now, Event::Plan(key.clone()));
        }
    }

    /// Begins every effect that is due and not under way.
    fn dispatch(&mut self, key: &ObjectKey) {
        let now = timestamp(self.now);
        let due = |intent: &&Intent| intent.state == IntentState::Pending && intent.not_before <= now;
        let due: Vec<Intent> = self.store.intents_of(key).filter(due).cloned().collect();
        for intent in due {
            if self.controller.in_flight.insert(intent.id.clone()) {
                self.begin(key, intent);
            }
        }
    }

    /// Says what a plan changes, for people.
    fn tell_plan(&mut self, snapshot: &Snapshot, plan: &Plan) {
        if self.transcript.is_kept() {
            let before = self.controller.reports.get(&snapshot.key);
            for line in super::tell::tell(snapshot, plan, before) {
                self.transcript.say(self.now, || format!("plan: {line}"));
            }
        }
    }
}
