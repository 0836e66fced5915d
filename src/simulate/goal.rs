//! Whether what is there is what is wanted, judged by what truly is there.

use super::clock::Ms;
use super::floor::{Link, SlotState};
use super::invariants::{Invariant, Violation};
use super::program::can_be_built;
use super::store::{JobRow, cluster_of};
use super::world::World;
use crate::action::Effect;
use crate::api::cluster::Provider;
use crate::api::ids::{GroupNumber, IntentId, NodeName, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::RayCluster;
use crate::api::record::{ClusterRecord, NodeState};
use crate::plan::report::JobReport;
use crate::plan::{Capacity, Plan, Snapshot, plan};

/// How often it is looked whether everything is as wanted.
const LOOK_MS: Ms = 10_000;
/// For how long everything must have stayed as wanted: hints, cooldowns and idle nodes have had their say by then.
const CALM_MS: Ms = 150_000;

impl World {
    /// Lets time pass until everything is as wanted and has stayed so for a while.
    pub(super) fn converge(&mut self, within: Ms) {
        let limit = self.now + within;
        let mut since = None;
        loop {
            let until = self.now + LOOK_MS;
            while self.step(until) {}
            self.now = self.now.max(until);
            if self.violation.is_some() {
                return;
            }
            let missing = self.missing();
            let now = self.now;
            if missing.is_empty() {
                let calm = now - *since.get_or_insert(now) >= CALM_MS;
                if calm && self.store.intents.is_empty() && self.check_quiet() {
                    return;
                }
            } else {
                since = None;
            }
            if now > limit {
                let message = format!("after {} s: {}", within / 1000, missing.join("; "));
                return self.violate(Violation { invariant: Invariant::Converges, message });
            }
        }
    }

    /// Planning what is as wanted gives nothing to do, and planning it again the same. Says whether that could be
    /// seen: not if a checkpoint has come just now.
    fn check_quiet(&mut self) -> bool {
        for key in self.store.domains() {
            let in_flight = self.controller.in_flight.clone();
            let mut snapshot = self.snapshot(&key, in_flight);
            let first = plan(&snapshot);
            if !first.intents.is_empty()
                && first.intents.iter().all(|intent| comes_with_training(&intent.effect))
            {
                return false;
            }
            if let Some(message) = what_it_does(&first) {
                self.violate(Violation { invariant: Invariant::Quiet, message });
            }
            take_over(&mut snapshot, &first);
            let second = plan(&snapshot);
            let same = second.record == first.record
                && second.jobs == first.jobs
                && second.report == first.report
                && second.wake_at == first.wake_at;
            if let Some(message) = what_it_does(&second) {
                self.violate(Violation { invariant: Invariant::Quiet, message });
            } else if !same {
                let message = format!("planning {key} again gives another plan");
                self.violate(Violation { invariant: Invariant::Quiet, message });
            }
        }
        true
    }

    /// What is not as wanted.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.controller.runs {
            missing.push("the controller does not run".to_owned());
        }
        for row in self.store.jobs.values().filter(|row| !self.is_sick(&cluster_of(&row.job))) {
            let name = &row.job.metadata.name;
            missing.extend(self.missing_of_job(row).map(|what| format!("job {name}: {what}")));
        }
        for (key, cluster) in self.store.clusters.iter().filter(|(key, _)| !self.is_sick(key)) {
            missing.extend(
                self.missing_of_cluster(key, cluster).map(|what| format!("cluster {}: {what}", key.name)),
            );
        }
        for (key, cluster) in self.store.clusters.iter().filter(|(key, _)| !self.is_sick(key)) {
            missing.extend(self.stray_on_ec2(key, cluster).map(|what| format!("at {}: {what}", key.name)));
        }
        for key in self.sites.keys().filter(|key| !self.is_sick(key)) {
            missing.extend(self.stray(key).map(|what| format!("at {}: {what}", key.name)));
        }
        for intent in self.store.intents.values().filter(|intent| !self.is_sick(&intent.cluster)) {
            if !comes_with_training(&intent.effect) {
                missing.push(format!("{} is not done", super::tell::effect(&intent.effect)));
            }
        }
        missing
    }

    /// Whether nothing can be expected of a cluster.
    fn is_sick(&self, key: &ObjectKey) -> bool {
        self.sites.get(key).is_some_and(|site| site.hopeless || site.cut_until == Ms::MAX)
    }

    // --- Jobs ----------------------------------------------------------------------------------------------------

    fn missing_of_job(&self, row: &JobRow) -> Option<String> {
        let (spec, uid) = (&row.job.spec, &row.job.metadata.uid);
        if row.job.metadata.is_deleting() {
            return Some("it is still there".to_owned());
        }
        let key = cluster_of(&row.job);
        let report = self.controller.reports.get(&key).and_then(|report| report.jobs.get(uid));
        let Some(report) = report else { return Some("it has not been planned".to_owned()) };
        let cluster = self.store.clusters.get(&key);
        let leaving = cluster.is_none_or(|cluster| cluster.metadata.is_deleting() || cluster.spec.suspend);
        if row.record.outcome.is_some() || spec.suspend || leaving {
            return self.missing_of_stopped(row);
        }
        let first = report.waiting.first();
        let reason = first.map(|waiting| waiting.reason);
        if reason == Some("NoRoom") && !self.has_room(&key, row, spec.min_replicas.max(1)) {
            return self.missing_of_stopped(row);
        }
        let sound = !spec.runtime_env.contains_key(super::BROKEN_ENVIRONMENT);
        if !sound && reason == Some("BackingOff") {
            return None;
        }
        // What a cluster may cost decides what its jobs can have.
        let is_capped = cluster.is_some_and(|cluster| cluster.spec.max_hourly_cost.is_some());
        if let Some(waiting) = first.filter(|_| !is_capped) {
            return Some(format!("it waits: {}: {}", waiting.reason, waiting.message));
        }
        if first.is_some() { None } else { self.missing_of_running(row, report) }
    }

    fn missing_of_stopped(&self, row: &JobRow) -> Option<String> {
        if row.record.binding.is_some() {
            return Some("it still has a bridge".to_owned());
        }
        let left = self.slots_of(&row.job.metadata.uid);
        (left > 0).then(|| format!("{left} of its slots are left"))
    }

    fn missing_of_running(&self, row: &JobRow, report: &JobReport) -> Option<String> {
        let uid = &row.job.metadata.uid;
        let Some(scaling) = &report.scaling else { return Some("nothing was decided for it".to_owned()) };
        let Some(target) = row.record.target() else { return Some("no group of it is wanted".to_owned()) };
        let training = self.training_of(uid);
        let whole = training.len() == scaling.replicas as usize;
        if !whole || training.iter().any(|(_, _, group)| *group != target.number) {
            let count = training.len();
            return Some(format!(
                "{} workers should train in group {}, {count} do",
                scaling.replicas, target.number
            ));
        }
        let digest = target.slots.values().all(|slot| can_be_built(&slot.kind));
        let slots = self.slots_of(uid);
        (!digest || slots != target.slots.len()).then(|| format!("it has {slots} slots"))
    }

    /// Whether there is room for so many workers more than are there.
    fn has_room(&self, key: &ObjectKey, row: &JobRow, workers: u32) -> bool {
        let need = Capacity::of_worker(&row.job.spec.resources);
        let Some((site, cluster)) = self.sites.get(key).zip(self.store.clusters.get(key)) else {
            return false;
        };
        let mut room = 0u32;
        for ray in site.rays.values().filter(|ray| ray.up) {
            for (index, node) in ray.floor.nodes.iter().enumerate() {
                if node.link == Link::Up && node.alive && !node.draining && node.notice.is_none() {
                    room = room.saturating_add(ray.floor.free(index).fits(&need));
                }
            }
        }
        for group in &cluster.spec.worker_groups {
            let living = site
                .machines
                .values()
                .filter(|machine| machine.group.as_ref() == Some(&group.name) && site.lives(machine));
            let new = group.max_nodes.saturating_sub(u32::try_from(living.count()).unwrap_or(u32::MAX));
            let each = Capacity::of_template(&group.template).fits(&need);
            room = room.saturating_add(new.saturating_mul(each));
        }
        room >= workers
    }

    /// How many slots of a job there are, anywhere.
    fn slots_of(&self, job: &Uid) -> usize {
        let slots =
            self.sites.values().flat_map(|site| site.rays.values()).flat_map(|ray| ray.floor.slots.values());
        let there = |state| matches!(state, SlotState::Waiting | SlotState::Opening | SlotState::Open);
        slots.filter(|slot| slot.job == *job && there(slot.state)).count()
    }

    /// A job's workers that train: rank, node, group.
    fn training_of(&self, job: &Uid) -> Vec<(u32, NodeName, GroupNumber)> {
        let mut found = Vec::new();
        for ray in self.sites.values().flat_map(|site| site.rays.values()) {
            for (slot, worker) in ray.floor.training().filter(|(slot, _)| slot.job == *job) {
                let node = &ray.floor.nodes[slot.node];
                let name = node
                    .launch
                    .as_ref()
                    .map_or_else(|| NodeName::from(node.address.clone()), |(name, _)| name.clone());
                found.push((worker.rank, name, worker.group));
            }
        }
        found.sort();
        found
    }

    /// The nodes on which a job's workers train, by rank.
    pub(super) fn training(&self, job: &ObjectKey) -> Vec<NodeName> {
        let training = self.store.job(job).map(|row| self.training_of(&row.job.metadata.uid));
        training.unwrap_or_default().into_iter().map(|(_, node, _)| node).collect()
    }

    // --- Clusters ------------------------------------------------------------------------------------------------

    fn missing_of_cluster(&self, key: &ObjectKey, cluster: &RayCluster) -> Option<String> {
        if cluster.metadata.is_deleting() {
            return Some("it is still there".to_owned());
        }
        let nothing = ClusterRecord::default();
        let record = self.store.records.get(key).unwrap_or(&nothing);
        if cluster.spec.suspend {
            let left = record.nodes.len() + usize::from(record.incarnation.is_some());
            return (left > 0).then(|| "it is not given back".to_owned());
        }
        let report = self.controller.reports.get(key)?;
        let waiting = &report.cluster.waiting;
        // For what a cluster may cost there may be no more to be had, in the place of outdated nodes neither.
        let is_capped = waiting.iter().any(|it| it.reason == "MaxHourlyCost");
        // Workers that fit on no node of the new template keep the node that they have.
        let stays = |reason| match reason {
            "Outdated" => true,
            "MaxHourlyCost" | "Replacing" => is_capped,
            _ => false,
        };
        if let Some(waiting) = waiting.iter().find(|it| !stays(it.reason)) {
            return Some(format!("it waits: {}: {}", waiting.reason, waiting.message));
        }
        let incarnation = record.incarnation.as_ref()?;
        let site = self.sites.get(key)?;
        if !site.ray(&incarnation.id).is_some_and(|ray| ray.up && ray.serving().is_some()) {
            return Some("no agent serves".to_owned());
        }
        if matches!(cluster.spec.provider, Provider::Existing(_)) {
            return None;
        }
        let unready = record.nodes.iter().find(|(_, node)| !matches!(node.state, NodeState::Ready { .. }));
        if let Some((name, node)) = unready {
            return Some(format!("node {name} is {}", node.state.name()));
        }
        let nodes = site.machines.values().filter(|machine| site.lives(machine));
        let living = nodes.clone().filter(|machine| machine.leader).count();
        if living != record.nodes.len() {
            return Some(format!("{living} nodes live, {} are known", record.nodes.len()));
        }
        for group in &cluster.spec.worker_groups {
            let count = nodes.clone().filter(|machine| machine.group.as_ref() == Some(&group.name)).count();
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let least = if cluster.spec.max_hourly_cost.is_some() { 0 } else { group.min_nodes };
            if !(least..=group.max_nodes).contains(&count) {
                return Some(format!("group {} has {count} nodes", group.name));
            }
        }
        None
    }

    /// Something that runs, and that no record knows.
    fn stray(&self, key: &ObjectKey) -> Option<String> {
        let site = self.sites.get(key)?;
        let record = self.store.records.get(key);
        let known = |launch: &IntentId| {
            record.is_some_and(|record| record.nodes.values().any(|node| node.launch == *launch))
        };
        let stray = site.machines.iter().find(|(launch, machine)| site.lives(machine) && !known(launch));
        stray.map(|(_, machine)| format!("node {} runs, and nobody knows it", machine.name))
    }
}

/// Training goes on, and with it checkpoints come.
fn comes_with_training(effect: &Effect) -> bool {
    matches!(effect, Effect::FetchCheckpoint { .. } | Effect::DropCheckpoint { .. })
}

/// What a plan does beside keeping things as they are.
fn what_it_does(plan: &Plan) -> Option<String> {
    if let Some(intent) = plan.intents.first() {
        return Some(format!(
            "when all is as wanted, a plan wants to {}",
            super::tell::effect(&intent.effect)
        ));
    }
    if let Some(event) = plan.events.first() {
        return Some(format!("when all is as wanted, a plan says {}", event.message));
    }
    let objects = plan.creations.len() + plan.deletions.len() + plan.removals.len();
    (objects > 0).then(|| "when all is as wanted, a plan makes or removes objects".to_owned())
}

/// What a plan was made from, once it was kept.
fn take_over(snapshot: &mut Snapshot, plan: &Plan) {
    snapshot.record.clone_from(&plan.record);
    snapshot.intents.clone_from(&plan.intents);
    for view in &mut snapshot.jobs {
        if let Some(record) = plan.jobs.get(&view.job.metadata.uid) {
            view.record.clone_from(record);
        }
    }
}
