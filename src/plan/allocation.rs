//! Which workers go where: a decision over all jobs of a cluster, from real nodes and from those that could be
//! had. Jobs are served by priority, then by age; every job's minimum comes before anybody's more.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use rustc_hash::FxHashMap;

use super::autoscaler;
use super::capacity::Capacity;
use super::cluster::is_leaving;
use super::draft::{Draft, JobDraft};
use super::floor::{Floor, Place, Room, Site, Spots};
use super::offers;
use super::scaling::{Decision, Question, decide};
use super::views::Views;
use crate::api::cluster::WorkerGroup;
use crate::api::ids::{NodeName, Uid};
use crate::api::object::RayCluster;
use crate::goodput::Hints;

/// What was decided for one job.
#[derive(Clone, Debug)]
pub(super) struct JobAllocation {
    /// The places of its ranks.
    pub(super) places: Vec<Place>,
    /// The nodes of its ranks, if all are ready; else what can be had of it now, maybe nothing.
    pub(super) ready: Vec<NodeName>,
    /// Whether `ready` is all that is wanted.
    pub(super) complete: bool,
    /// How many workers, and why.
    pub(super) decision: Decision,
}

/// What was decided for all jobs.
#[derive(Clone, Debug, Default)]
pub(super) struct Allocation {
    pub(super) jobs: BTreeMap<Uid, JobAllocation>,
}

impl Allocation {
    /// How many new nodes a group must launch.
    pub(super) fn new_nodes(&self, group: &str) -> u32 {
        let places = self.jobs.values().flat_map(|job| &job.places);
        let new = places.filter_map(|place| match place {
            Place::New(of, number) if of == group => Some(number + 1),
            _ => None,
        });
        new.max().unwrap_or(0)
    }

    /// How many workers are, or shall be, on each node.
    pub(super) fn workers_by_node(&self, draft: &Draft<'_>) -> FxHashMap<NodeName, u32> {
        let mut workers = draft.held().by_node();
        let mut wanted: FxHashMap<&NodeName, u32> = FxHashMap::default();
        for place in self.jobs.values().flat_map(|job| &job.places) {
            if let Place::Node(name) = place {
                *wanted.entry(name).or_default() += 1;
            }
        }
        for (name, count) in wanted {
            let held = workers.entry(name.clone()).or_default();
            *held = count.max(*held);
        }
        workers
    }
}

/// Decides for all jobs.
pub(super) fn allocate(draft: &Draft<'_>) -> Allocation {
    let Some(cluster) = draft.cluster().filter(|cluster| !is_leaving(cluster)) else {
        return Allocation::default();
    };
    let views = draft.nodes();
    let mut floor = rooms(draft, cluster, &views);
    let order: Vec<&JobDraft<'_>> = draft.jobs.iter().filter(|job| job.is_to_run()).collect();
    let mut guaranteed: BTreeMap<&Uid, Spots> = BTreeMap::new();
    for job in &order {
        let current = job.current_nodes();
        let pinned = !job.job.spec.preemptible && !current.is_empty();
        let least = if pinned { count(current.len()) } else { job.job.spec.min_replicas };
        let least = least.min(job.job.spec.max_replicas);
        let kept = floor.standing(&job.kept_nodes());
        let spots = floor.place(&kept, &job.need(), least).unwrap_or_default();
        floor.take(&spots, &job.need());
        guaranteed.insert(job.uid(), spots);
    }
    let mut allocation = Allocation::default();
    for job in order {
        floor.give(guaranteed.get(job.uid()).map_or(&[], Vec::as_slice), &job.need());
        let (decided, spots) = allocate_job(draft, job, &floor);
        floor.take(&spots, &job.need());
        allocation.jobs.insert(job.uid().clone(), decided);
    }
    allocation
}

fn allocate_job(draft: &Draft<'_>, job: &JobDraft<'_>, floor: &Floor<'_>) -> (JobAllocation, Spots) {
    let (current, need) = (job.current_nodes(), job.need());
    let kept = floor.standing(&job.kept_nodes());
    let preparing = job.preparing_nodes().map(|nodes| (count(nodes.len()), floor.standing(&nodes)));
    let hints: Option<Hints> =
        job.record.hints.as_ref().and_then(|record| serde_json::from_value(record.hints.clone()).ok());
    let place_of = |replicas: u32| {
        let anchor = preparing.as_ref().filter(|(number, _)| *number == replicas);
        floor.place(anchor.map_or(&kept, |(_, nodes)| nodes), &need, replicas)
    };
    let nodes_for = |replicas: u32| Some(count(place_of(replicas)?.len()));
    let mut decision = decide(&Question {
        spec: &job.job.spec,
        hints: hints.as_ref(),
        current: count(current.len()),
        changed: job.changed_at(),
        downtime: job.last_downtime(),
        now: draft.now,
        nodes: &nodes_for,
    });
    // Of a cluster without any nodes more can be said than that there is no room.
    if decision.replicas == 0 && draft.nodes().is_empty() {
        let first = draft.report.cluster.waiting.first().map(|waiting| waiting.message.as_str());
        if let Some(why) = draft.cluster_trouble().or(first) {
            decision.reason = "WaitingForCluster";
            decision.message = format!("it waits for cluster {}: {why}", draft.snapshot.key);
        }
    }
    let spots = place_of(decision.replicas).unwrap_or_default();
    let complete = floor.are_ready(&spots);
    let places = floor.places(&spots);
    let ready = match complete {
        true => places.clone(),
        false => floor.places(&floor.place_ready(&kept, &need, decision.replicas)),
    };
    let name = |place: Place| match place {
        Place::Node(name) => Some(name),
        Place::New(..) => None,
    };
    let ready = ready.into_iter().filter_map(name).collect();
    (JobAllocation { places, ready, complete, decision }, spots)
}

/// All places that there are or could be, by name.
fn rooms<'v>(draft: &Draft<'_>, cluster: &'v RayCluster, views: &'v Views) -> Floor<'v> {
    let mut floor = Floor::default();
    for node in views.iter().filter(|node| node.usable) {
        floor.add(Room {
            site: Site::Node(&node.name),
            ready: node.ready,
            leaving: node.leaving,
            closed: node.closed,
            free: node.capacity.clone(),
        });
    }
    let mut add = |group: &'v str, number: u32, free: Capacity| {
        let site = Site::New(group, number);
        floor.add(Room { site, ready: false, leaving: false, closed: false, free });
    };
    if cluster.spec.is_ours() && !draft.record.ending {
        let offered = |group: &&WorkerGroup| offers::is_offered(draft, cluster, group);
        // A group that can have no node now is of use only where no other can.
        let any = cluster.spec.worker_groups.iter().any(|group| offered(&group));
        for group in cluster.spec.worker_groups.iter().filter(|group| !any || offered(group)) {
            let existing =
                draft.record.nodes.values().filter(|node| node.group.as_ref() == Some(&group.name));
            let new = match draft.rollout.is_crowded(&group.name) {
                true => 0,
                false => group.max_nodes.saturating_sub(count(existing.count())),
            };
            let free = Capacity::of_template(&group.template);
            (0..new).for_each(|number| add(&group.name, number, free.clone()));
        }
    } else if autoscaler::scales(cluster) {
        for (number, free) in (0..).zip(autoscaler::prospects(draft)) {
            add(autoscaler::GROUP, number, free);
        }
    }
    floor
}

impl JobDraft<'_> {
    /// Whether the job should have workers.
    pub(super) fn is_to_run(&self) -> bool {
        self.record.outcome.is_none() && !self.job.metadata.is_deleting() && !self.job.spec.suspend
    }

    /// What one worker needs.
    pub(super) fn need(&self) -> Capacity {
        Capacity::of_worker(&self.job.spec.resources)
    }

    /// The nodes of the ranks that train now, or, if none do, of those that are about to.
    pub(super) fn current_nodes(&self) -> Vec<NodeName> {
        let running = self.running_group().map(|group| group.nodes.clone());
        running.or_else(|| self.preparing_nodes()).unwrap_or_default()
    }

    /// The nodes that it has, to train on or to try again: it is not moved without need.
    fn kept_nodes(&self) -> Vec<NodeName> {
        let current = self.current_nodes();
        if !current.is_empty() {
            return current;
        }
        self.record.target().map(|group| group.nodes.clone()).unwrap_or_default()
    }

    /// The nodes of the group that is being prepared. A plan is not changed while it is carried out unless it must
    /// be.
    fn preparing_nodes(&self) -> Option<Vec<NodeName>> {
        let target = self.record.target().filter(|group| group.outcome.is_none())?;
        (!target.timeline.contains_key("released")).then(|| target.nodes.clone())
    }

    /// When the present group began to train, if another did before it.
    fn changed_at(&self) -> Option<jiff::Timestamp> {
        let group = self.running_group().filter(|group| group.from_replicas > 0)?;
        group.timeline.get("released").copied()
    }

    fn last_downtime(&self) -> Option<SignedDuration> {
        let millis = self.record.groups.iter().rev().find_map(|group| group.downtime_ms)?;
        Some(SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX)))
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
