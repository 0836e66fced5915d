//! What must hold in every history, whatever goes wrong: section 12 of the design.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::clock::{Ms, moment};
use super::env::Fact;
use super::floor::Link;
use super::world::World;
use crate::api::ids::{CheckpointId, GroupNumber, IntentId, Uid};
use crate::api::job::AdaptDLJobSpec;
use crate::api::meta::{FORCE_DELETE, ObjectKey};
use crate::api::money::Money;
use crate::api::object::RayCluster;
use crate::api::record::NodeState;
use crate::api::status::JobPhase;
use crate::api::units::Span;
use crate::plan::{Plan, Snapshot};

/// Something that must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// Planning a converged snapshot again changes nothing, and no plan wants to be made again at once.
    Quiet,
    /// Once nothing goes wrong any more, what is there becomes what is wanted.
    Converges,
    /// At most one group of a job trains; group numbers only grow.
    OneGroup,
    /// Workers stay within `minReplicas` and `maxReplicas`, nodes within `maxNodes`, costs within
    /// `maxHourlyCost`.
    WithinLimits,
    /// Nothing runs that no record knows; nothing that is sound and used is ended, and nothing that is not ours.
    NothingStray,
    /// Training begins from the newest good checkpoint; that of an unfinished job is never lost.
    CheckpointsLast,
    /// Status claims nothing that was not observed.
    Honest,
}

/// An invariant that does not hold, and how that shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant.
    pub invariant: Invariant,
    /// What was found.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.message)
    }
}

fn broken(invariant: Invariant, message: String) -> Result<(), Violation> {
    Err(Violation { invariant, message })
}

/// How long a node of a cluster may take to join.
fn join_timeout(cluster: Option<&RayCluster>, usual: Span) -> Span {
    cluster.and_then(|cluster| cluster.spec.aws()).map_or(usual, |aws| aws.join_timeout)
}

/// The most nodes of each worker group.
type Limits = BTreeMap<String, u32>;

/// What is remembered to judge by.
#[derive(Default)]
pub(super) struct Ledger {
    /// The bounds of replicas that were in force, and since when.
    jobs: BTreeMap<Uid, Vec<(Ms, u32, u32)>>,
    /// The most nodes of each worker group that were allowed, and since when.
    clusters: BTreeMap<ObjectKey, Vec<(Ms, Limits)>>,
    /// What each cluster was allowed to cost, and since when.
    costs: BTreeMap<ObjectKey, Vec<(Ms, Option<Money>)>>,
    /// When each group was decided on.
    decided: BTreeMap<(Uid, GroupNumber), Ms>,
    /// The newest group of each job that began.
    begun: BTreeMap<Uid, GroupNumber>,
    /// The heads that were given up, sound or not: they were not heard in time, or not wanted for a moment.
    given_up: BTreeSet<IntentId>,
    /// The jobs of which a durable checkpoint was spoilt: one is enough, for two are kept.
    spoilt: BTreeSet<Uid>,
    /// The jobs whose programs have done their work.
    pub(super) succeeded: BTreeSet<Uid>,
}

impl Ledger {
    pub(super) fn note_job(&mut self, uid: &Uid, spec: &AdaptDLJobSpec, now: Ms) {
        let known = self.jobs.entry(uid.clone()).or_default();
        let bounds = (spec.min_replicas, spec.max_replicas);
        if known.last().is_none_or(|(_, min, max)| (*min, *max) != bounds) {
            known.push((now, bounds.0, bounds.1));
        }
    }

    pub(super) fn note_cluster(&mut self, key: &ObjectKey, cluster: &RayCluster, now: Ms) {
        let groups = cluster.spec.worker_groups.iter();
        let limits: Limits = groups.map(|group| (group.name.clone(), group.max_nodes)).collect();
        let known = self.clusters.entry(key.clone()).or_default();
        if known.last().is_none_or(|(_, old)| *old != limits) {
            known.push((now, limits));
        }
        let (known, most) = (self.costs.entry(key.clone()).or_default(), cluster.spec.max_hourly_cost);
        if known.last().is_none_or(|(_, old)| *old != most) {
            known.push((now, most));
        }
    }

    pub(super) fn note_plan(&mut self, snapshot: &Snapshot, plan: &Plan) {
        for (uid, record) in &plan.jobs {
            if let Some(group) = record.groups.last() {
                let at = (uid.clone(), group.number);
                self.decided.entry(at).or_insert_with(|| moment(snapshot.now));
            }
        }
        for node in plan.record.nodes.values().filter(|node| node.group.is_none()) {
            let before = snapshot.record.nodes.values().find(|before| before.launch == node.launch);
            let since = before.filter(|before| matches!(before.state, NodeState::Launching { .. }));
            let timeout = join_timeout(snapshot.cluster.as_ref(), snapshot.settings.join_timeout);
            let limit = since.map(|before| before.state.since() + timeout.signed());
            let leaving = snapshot
                .cluster
                .as_ref()
                .is_none_or(|cluster| cluster.metadata.is_deleting() || cluster.spec.suspend);
            if matches!(node.state, NodeState::Terminating { .. })
                && (leaving || limit.is_some_and(|at| at <= snapshot.now))
            {
                self.given_up.insert(node.launch.clone());
            }
        }
    }

    pub(super) fn may_spoil(&mut self, job: &Uid) -> bool {
        self.spoilt.insert(job.clone())
    }

    /// The bounds of replicas that were in force at any time since a group was decided on.
    fn bounds(&self, job: &Uid, group: GroupNumber) -> Option<(u32, u32)> {
        let since = *self.decided.get(&(job.clone(), group))?;
        let known = self.jobs.get(job)?;
        let first = known.iter().rposition(|(at, ..)| *at <= since).unwrap_or(0);
        let min = known[first..].iter().map(|(_, min, _)| *min).min()?;
        Some((min, known[first..].iter().map(|(.., max)| *max).max()?))
    }

    /// The most that a cluster was allowed to cost at any time since a moment, if that was limited.
    pub(super) fn most(&self, key: &ObjectKey, since: Ms) -> Option<Money> {
        let known = self.costs.get(key)?;
        let first = known.iter().rposition(|(at, _)| *at <= since).unwrap_or(0);
        known[first..].iter().map(|(_, most)| *most).collect::<Option<Vec<Money>>>()?.into_iter().max()
    }

    /// The most nodes of a group that were allowed at any time since a moment.
    fn limit(&self, key: &ObjectKey, group: &str, since: Ms) -> Option<u32> {
        let known = self.clusters.get(key)?;
        let first = known.iter().rposition(|(at, _)| *at <= since).unwrap_or(0);
        known[first..].iter().filter_map(|(_, limits)| limits.get(group)).max().copied()
    }
}

impl World {
    /// Judges what has just happened.
    pub(super) fn check(&mut self, fact: Fact) -> Result<(), Violation> {
        match fact {
            Fact::Succeeded(job) => {
                self.ledger.succeeded.insert(job);
                Ok(())
            }
            Fact::Began { job, group, workers, from, on_head } => {
                self.check_alone(&job, group)?;
                self.check_workers(&job, group, workers)?;
                self.check_beginning(&job, group, from, on_head)
            }
            Fact::Removed { job, training, newest } => self.check_removal(&job, training, newest),
        }
    }

    fn check_alone(&mut self, job: &Uid, group: GroupNumber) -> Result<(), Violation> {
        if let Some(before) = self.ledger.begun.insert(job.clone(), group).filter(|before| *before >= group) {
            return broken(Invariant::OneGroup, format!("group {group} begins after group {before}"));
        }
        for site in self.sites.values() {
            for ray in site.rays.values() {
                let others =
                    ray.floor.training().filter(|(slot, worker)| slot.job == *job && worker.group != group);
                if let Some((slot, worker)) = others.into_iter().next() {
                    let message = format!(
                        "group {group} of {job} begins while rank {} of group {} still trains in slot {}",
                        worker.rank, worker.group, slot.id
                    );
                    return broken(Invariant::OneGroup, message);
                }
            }
        }
        Ok(())
    }

    fn check_workers(&self, job: &Uid, group: GroupNumber, workers: usize) -> Result<(), Violation> {
        let Some((min, max)) = self.ledger.bounds(job, group) else { return Ok(()) };
        if workers < min as usize || workers > max as usize {
            let message =
                format!("group {group} of {job} has {workers} workers, {min} to {max} were allowed");
            return broken(Invariant::WithinLimits, message);
        }
        Ok(())
    }

    fn check_beginning(
        &self,
        job: &Uid,
        group: GroupNumber,
        from: Option<CheckpointId>,
        on_head: Option<CheckpointId>,
    ) -> Result<(), Violation> {
        let checkpoints = self.store.jobs.get(job).map_or(&[][..], |row| &row.record.checkpoints);
        let good = |path: &String| self.files.get(path).is_some_and(|file| file.good);
        let durable = checkpoints.iter().rev().find(|checkpoint| good(&checkpoint.path));
        let best = durable.map(|checkpoint| checkpoint.id).max(on_head);
        if from < best {
            let name = |id: Option<CheckpointId>| id.map_or("nothing".to_owned(), |id| id.to_string());
            let message =
                format!("group {group} of {job} begins from {}, there is {}", name(from), name(best));
            return broken(Invariant::CheckpointsLast, message);
        }
        Ok(())
    }

    fn check_removal(
        &self,
        job: &Uid,
        training: Option<GroupNumber>,
        newest: Option<CheckpointId>,
    ) -> Result<(), Violation> {
        let Some(row) = self.store.jobs.get(job) else { return Ok(()) };
        if row.job.metadata.annotations.contains_key(FORCE_DELETE) {
            return Ok(());
        }
        if let Some(group) = training {
            let message = format!("the bridge of {job} is removed while its group {group} trains");
            return broken(Invariant::CheckpointsLast, message);
        }
        let done = row.record.outcome.as_ref().is_some_and(|outcome| outcome.phase == JobPhase::Succeeded);
        let durable = row.record.checkpoints.last().map(|checkpoint| checkpoint.id);
        if newest > durable && !done {
            let message = format!("the bridge of {job} is removed with its newest checkpoint");
            return broken(Invariant::CheckpointsLast, message);
        }
        Ok(())
    }

    pub(super) fn check_drop(&mut self, job: &Uid, id: CheckpointId) {
        let Some(row) = self.store.jobs.get(job) else { return };
        let newer = row.record.checkpoints.iter().any(|checkpoint| checkpoint.id > id);
        if !newer && row.record.outcome.is_none() {
            let message = format!("the newest durable checkpoint {id} of {job} is dropped");
            self.violate(Violation { invariant: Invariant::CheckpointsLast, message });
        }
    }

    /// Judges the nodes of a group after one more was launched.
    pub(super) fn check_nodes(&mut self, key: &ObjectKey, launch: &IntentId) {
        let Some(site) = self.sites.get(key) else { return };
        let Some(group) = site.machines.get(launch).and_then(|machine| machine.group.clone()) else { return };
        let created = self.store.intents.get(launch).map_or(self.now, |intent| moment(intent.created));
        let Some(limit) = self.ledger.limit(key, &group, created) else { return };
        let living = site.machines.values().filter(|machine| machine.group.as_ref() == Some(&group));
        let living = living.filter(|machine| site.lives(machine)).count();
        if living > limit as usize {
            let message = format!("group {group} of {key} has {living} nodes, {limit} are allowed");
            self.violate(Violation { invariant: Invariant::WithinLimits, message });
        }
    }

    /// A cluster with what follows from the types of its instances, as nodes are launched from it.
    fn resolved(&self, key: &ObjectKey, cluster: &RayCluster) -> RayCluster {
        let mut cluster = cluster.clone();
        let record = self.store.records.get(key);
        let network = record.and_then(|record| record.incarnation.as_ref()?.aws.as_ref());
        if let Some(network) = network {
            network.resolve(&mut cluster.spec.head);
            cluster.spec.worker_groups.iter_mut().for_each(|group| network.resolve(&mut group.template));
        }
        cluster
    }

    /// Judges whether a node may be ended: none that is sound and used, and none that is only just starting.
    pub(super) fn check_termination(&mut self, key: &ObjectKey, launch: &IntentId) {
        let Some(site) = self.sites.get(key) else { return };
        let Some(machine) = site.machines.get(launch).filter(|machine| site.lives(machine)) else { return };
        let given_up = |head: &IntentId| {
            site.machines.get(head).is_some_and(|head| head.incarnation == machine.incarnation)
        };
        if self.ledger.given_up.iter().any(given_up) {
            return;
        }
        let cluster = self.store.clusters.get(key);
        let wanted = cluster.is_some_and(|cluster| !cluster.metadata.is_deleting() && !cluster.spec.suspend);
        let cluster = cluster.map(|cluster| self.resolved(key, cluster));
        let unchanged = cluster.as_ref().is_some_and(|cluster| match &machine.group {
            None => cluster.spec.head == machine.template,
            Some(name) => cluster
                .spec
                .worker_groups
                .iter()
                .any(|group| group.name == *name && group.template == machine.template),
        });
        let counted_on = wanted && !self.region.has_refused(launch);
        let ray_up = site.rays.get(&machine.incarnation).is_some_and(|ray| ray.up);
        let age = self.now - machine.launched;
        let timeout = join_timeout(cluster.as_ref(), self.options.settings.join_timeout);
        let joins_in_time = age < timeout.millis;
        let message = match site.node_of(machine) {
            None if machine.sound && machine.leader && joins_in_time && counted_on && unchanged => {
                let head_lives = machine.head || ray_up;
                head_lives.then(|| format!("node {} is ended while it starts", machine.name))
            }
            Some((ray, node)) if node.link == Link::Up && node.alive && machine.leader && ray.up => {
                let owned =
                    |owner: &(Uid, u64)| ray.bridges.get(&owner.0).is_some_and(|bridge| bridge.id == *owner);
                let trains = ray
                    .floor
                    .training()
                    .find(|(slot, _)| ray.floor.nodes[slot.node].id == node.id && owned(&slot.owner));
                let forced = |job: &Uid| !self.store.jobs.contains_key(job);
                match trains {
                    Some((slot, worker)) if !forced(&slot.job) => Some(format!(
                        "node {} is ended while group {} of {} trains on it",
                        machine.name, worker.group, slot.job
                    )),
                    _ if machine.head && counted_on => {
                        Some("the head is ended though it is sound".to_owned())
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        if let Some(message) = message {
            self.violate(Violation { invariant: Invariant::NothingStray, message });
        }
    }
}
