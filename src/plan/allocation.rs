//! Which workers go where: a decision over all jobs of a cluster, from real nodes and from those that could be
//! had. Jobs are served by priority, then by age; every job's minimum comes before anybody's more.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use super::autoscaler;
use super::capacity::Capacity;
use super::cluster::is_leaving;
use super::draft::{Draft, JobDraft};
use super::notices;
use super::offers;
use super::scaling::{Decision, Question, decide};
use crate::api::cluster::{NodeTemplate, WorkerGroup};
use crate::api::ids::{NodeName, Uid};
use crate::api::object::RayCluster;
use crate::api::record::{NodeState, Notice};
use crate::goodput::Hints;

/// A place for workers: a node that is there, or one that could be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A node that is there or being launched.
    Node(NodeName),
    /// The how-many-eth node that a worker group could still launch.
    New(String, u32),
}

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

#[derive(Clone)]
struct Room {
    place: Place,
    ready: bool,
    /// It will be taken away, though not at once: workers that are there stay if they have nowhere else to go.
    leaving: bool,
    free: Capacity,
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
    pub(super) fn workers_by_node(&self, draft: &Draft<'_>) -> BTreeMap<NodeName, u32> {
        let mut workers = held_slots(draft);
        let mut wanted: BTreeMap<NodeName, u32> = BTreeMap::new();
        for place in self.jobs.values().flat_map(|job| &job.places) {
            if let Place::Node(name) = place {
                *wanted.entry(name.clone()).or_default() += 1;
            }
        }
        for (name, count) in wanted {
            let held = workers.entry(name).or_default();
            *held = count.max(*held);
        }
        workers
    }
}

/// How many slots there are, or were asked for, on each node.
pub(super) fn held_slots(draft: &Draft<'_>) -> BTreeMap<NodeName, u32> {
    let mut held = BTreeMap::new();
    for job in &draft.jobs {
        for (node, _) in job.slots(draft) {
            *held.entry(node).or_default() += 1;
        }
    }
    held
}

/// Decides for all jobs.
pub(super) fn allocate(draft: &Draft<'_>) -> Allocation {
    let Some(cluster) = draft.cluster().filter(|cluster| !is_leaving(cluster)) else {
        return Allocation::default();
    };
    let mut rooms = rooms(draft, cluster);
    let order: Vec<&JobDraft<'_>> = draft.jobs.iter().filter(|job| job.is_to_run()).collect();
    let mut guaranteed: BTreeMap<&Uid, Vec<Place>> = BTreeMap::new();
    for job in &order {
        let current = job.current_nodes();
        let pinned = !job.job.spec.preemptible && !current.is_empty();
        let least = if pinned { count(current.len()) } else { job.job.spec.min_replicas };
        let least = least.min(job.job.spec.max_replicas);
        let places = place(&rooms, &job.kept_nodes(), &job.need(), least).unwrap_or_default();
        occupy(&mut rooms, &places, &job.need(), true);
        guaranteed.insert(job.uid(), places);
    }
    let mut allocation = Allocation::default();
    for job in order {
        occupy(&mut rooms, guaranteed.get(job.uid()).map_or(&[], Vec::as_slice), &job.need(), false);
        let decided = allocate_job(draft, job, &rooms);
        occupy(&mut rooms, &decided.places, &job.need(), true);
        allocation.jobs.insert(job.uid().clone(), decided);
    }
    allocation
}

fn allocate_job(draft: &Draft<'_>, job: &JobDraft<'_>, rooms: &[Room]) -> JobAllocation {
    let (current, need) = (job.current_nodes(), job.need());
    let kept = job.kept_nodes();
    let anchor = |replicas: u32| job.preparing_nodes().filter(|nodes| count(nodes.len()) == replicas);
    let hints: Option<Hints> =
        job.record.hints.as_ref().and_then(|record| serde_json::from_value(record.hints.clone()).ok());
    let place_of = |replicas: u32| {
        let kept = anchor(replicas).unwrap_or_else(|| kept.clone());
        place(rooms, &kept, &need, replicas)
    };
    let nodes_for = |replicas: u32| {
        let mut places = place_of(replicas)?;
        places.dedup();
        Some(count(places.len()))
    };
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
    let places = place_of(decision.replicas).unwrap_or_default();
    let is_ready = |place: &Place| rooms.iter().any(|room| room.place == *place && room.ready);
    let complete = places.iter().all(is_ready);
    let ready = if complete { places.clone() } else { place_ready(rooms, &kept, &need, decision.replicas) };
    let name = |place: Place| match place {
        Place::Node(name) => Some(name),
        Place::New(..) => None,
    };
    JobAllocation { places, ready: ready.into_iter().filter_map(name).collect(), complete, decision }
}

/// As many workers as fit on the nodes that are ready, up to a number.
fn place_ready(rooms: &[Room], current: &[NodeName], need: &Capacity, replicas: u32) -> Vec<Place> {
    let ready: Vec<Room> = rooms.iter().filter(|room| room.ready).cloned().collect();
    (1..=replicas).rev().find_map(|replicas| place(&ready, current, need, replicas)).unwrap_or_default()
}

/// Places for so many workers, or `None` if there is no room: away from nodes that will be taken away, or else, for
/// those that are there, also on these.
fn place(rooms: &[Room], current: &[NodeName], need: &Capacity, replicas: u32) -> Option<Vec<Place>> {
    if !rooms.iter().any(|room| room.leaving) {
        return fit(rooms, current, need, replicas);
    }
    let lasting: Vec<Room> = rooms.iter().filter(|room| !room.leaving).cloned().collect();
    fit(&lasting, current, need, replicas).or_else(|| fit(rooms, current, need, replicas))
}

/// Places for so many workers, ranks of one node side by side, or `None` if there is no room. A job keeps the
/// nodes it has, those of rank 0 and of most workers first; beyond that it takes the nodes with the most room, so
/// that it is spread over few.
fn fit(rooms: &[Room], current: &[NodeName], need: &Capacity, replicas: u32) -> Option<Vec<Place>> {
    let mut left = replicas;
    let mut places = Vec::new();
    let mut kept: Vec<(usize, usize)> = Vec::new();
    for (index, room) in rooms.iter().enumerate() {
        let has = current.iter().filter(|name| room.place == Place::Node((*name).clone())).count();
        if has > 0 {
            kept.push((index, has));
        }
    }
    let first = current.first();
    kept.sort_by_key(|(index, has)| {
        let rank_0 = first.is_some_and(|name| rooms[*index].place == Place::Node(name.clone()));
        (!rank_0, std::cmp::Reverse(*has), *index)
    });
    let mut order: Vec<usize> = (0..rooms.len()).collect();
    // Ready before launching before new, as they come; then those with the most room.
    order.sort_by_key(|index| {
        let room = &rooms[*index];
        let rank = (!room.ready, matches!(room.place, Place::New(..)));
        (rank, std::cmp::Reverse(room.free.fits(need).min(replicas)), *index)
    });
    let mut taken = vec![0; rooms.len()];
    for (index, has) in kept {
        let take = left.min(count(has)).min(rooms[index].free.fits(need));
        taken[index] += take;
        left -= take;
    }
    order.retain(|index| !rooms[*index].leaving);
    for index in order.iter().copied().filter(|index| taken[*index] > 0).collect::<Vec<_>>() {
        let take = left.min(rooms[index].free.fits(need).saturating_sub(taken[index]));
        taken[index] += take;
        left -= take;
    }
    for index in &order {
        let take = left.min(rooms[*index].free.fits(need).saturating_sub(taken[*index]));
        taken[*index] += take;
        left -= take;
    }
    if left > 0 {
        return None;
    }
    // Rank 0 stays where it is, for its node has the newest checkpoint; then by place.
    let mut used: Vec<usize> = (0..rooms.len()).filter(|index| taken[*index] > 0).collect();
    used.sort_by_key(|index| first.is_none_or(|name| rooms[*index].place != Place::Node(name.clone())));
    for index in used {
        places.extend(std::iter::repeat_n(rooms[index].place.clone(), taken[index] as usize));
    }
    Some(places)
}

fn occupy(rooms: &mut [Room], places: &[Place], need: &Capacity, take: bool) {
    for place in places {
        if let Some(room) = rooms.iter_mut().find(|room| room.place == *place) {
            if take { room.free.take(need, 1) } else { room.free.give(need, 1) }
        }
    }
}

/// All places that there are or could be, by name.
fn rooms(draft: &Draft<'_>, cluster: &RayCluster) -> Vec<Room> {
    let mut rooms: Vec<Room> = draft
        .nodes()
        .into_iter()
        .filter(|node| node.usable)
        .map(|node| {
            let (ready, leaving) = (node.ready, node.leaving);
            Room { place: Place::Node(node.name), ready, leaving, free: node.capacity }
        })
        .collect();
    if cluster.spec.is_ours() && !draft.record.ending {
        let offered = |group: &&WorkerGroup| offers::is_offered(draft, cluster, group);
        // A group that can have no node now is of use only where no other can.
        let any = cluster.spec.worker_groups.iter().any(|group| offered(&group));
        for group in cluster.spec.worker_groups.iter().filter(|group| !any || offered(group)) {
            let existing =
                draft.record.nodes.values().filter(|node| node.group.as_ref() == Some(&group.name));
            let new = group.max_nodes.saturating_sub(count(existing.count()));
            for number in 0..new {
                let place = Place::New(group.name.clone(), number);
                let free = Capacity::of_template(&group.template);
                rooms.push(Room { place, ready: false, leaving: false, free });
            }
        }
    } else if autoscaler::scales(cluster) {
        for (number, free) in (0..).zip(autoscaler::prospects(draft)) {
            let place = Place::New(autoscaler::GROUP.to_owned(), number);
            rooms.push(Room { place, ready: false, leaving: false, free });
        }
    }
    rooms
}

/// A node as placement sees it.
pub(super) struct NodeView {
    pub(super) name: NodeName,
    pub(super) ray: Option<crate::api::ids::RayNodeId>,
    pub(super) capacity: Capacity,
    /// Whether workers may be placed on it, now or when it is ready.
    pub(super) usable: bool,
    pub(super) ready: bool,
    /// Whether it will be taken away, though not at once.
    pub(super) leaving: bool,
}

impl Draft<'_> {
    /// The cluster's nodes: those we launched, or, on somebody else's cluster, those Ray has.
    pub(super) fn nodes(&self) -> Vec<NodeView> {
        match self.cluster() {
            Some(cluster) if cluster.spec.is_ours() => self.own_nodes(cluster),
            Some(_) => self.foreign_nodes(),
            None => Vec::new(),
        }
    }

    fn own_nodes(&self, cluster: &RayCluster) -> Vec<NodeView> {
        let known = |template: &NodeTemplate, group: &Option<String>| match group {
            None => true,
            Some(group) => cluster
                .spec
                .worker_groups
                .iter()
                .any(|known| known.name == *group && known.template == *template),
        };
        let surplus = self.surplus(cluster);
        let is_urgent = |notice: &Option<Notice>| {
            notice.as_ref().is_some_and(|notice| notices::is_urgent(notice, self.now))
        };
        let nodes = self.record.nodes.iter().map(|(name, node)| NodeView {
            name: name.clone(),
            ray: node.ray.clone(),
            capacity: Capacity::of_template(&node.template),
            // A node of an outdated template keeps the workers it has, but is given no more: see `place`.
            usable: node.state.is_wanted()
                && (known(&node.template, &node.group) || self.has_slots(name))
                && !surplus.contains(name)
                && !is_urgent(&node.notice),
            leaving: node.notice.is_some(),
            ready: matches!(node.state, NodeState::Ready { .. }) && node.ray.is_some(),
        });
        nodes.collect()
    }

    /// The nodes beyond what their groups may have since somebody lowered that. Those with workers go last, the
    /// newest first.
    fn surplus(&self, cluster: &RayCluster) -> BTreeSet<NodeName> {
        let mut surplus = BTreeSet::new();
        for group in &cluster.spec.worker_groups {
            let nodes = self.record.nodes.iter();
            let mut nodes: Vec<_> = nodes
                .filter(|(_, node)| node.group.as_ref() == Some(&group.name) && node.state.is_wanted())
                .collect();
            let most = group.max_nodes as usize;
            if nodes.len() > most {
                nodes.sort_by_key(|(name, node)| (!self.has_slots(name), node.index));
                surplus.extend(nodes.split_off(most).into_iter().map(|(name, _)| name.clone()));
            }
        }
        surplus
    }

    fn foreign_nodes(&self) -> Vec<NodeView> {
        let Some((_, agent)) = self.agent() else { return Vec::new() };
        let alive = agent.nodes.iter().filter(|node| node.alive);
        let nodes = alive.map(|node| NodeView {
            name: NodeName(node.address.clone()),
            ray: Some(node.id.clone()),
            capacity: Capacity::of_ray(node),
            usable: !node.draining
                && !self.record.notices.get(&node.id).is_some_and(|it| notices::is_urgent(it, self.now)),
            ready: true,
            leaving: self.record.notices.contains_key(&node.id),
        });
        nodes.collect()
    }

    fn has_slots(&self, name: &NodeName) -> bool {
        self.jobs.iter().any(|job| job.slots(self).iter().any(|(node, _)| node == name))
    }
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
