//! Nodes of somebody else's cluster, asked of Ray's own autoscaler. It is told the room that all workers need that
//! are wanted, those that run included, and decides by itself which nodes to start, and which to end when less is
//! asked for.

use super::allocation::Allocation;
use super::capacity::Capacity;
use super::draft::{Draft, JobDraft};
use super::floor::Place;
use super::report::Waiting;
use crate::action::Effect;
use crate::api::cluster::Provider;
use crate::api::job::WorkerResources;
use crate::api::object::RayCluster;
use crate::api::wire::ResourceBundles;
use crate::api::words::count;

/// What stands for a worker group in the places that the autoscaler may make.
pub(super) const GROUP: &str = "autoscaler";

/// As many nodes as the largest worker group may have.
const MOST_NODES: usize = 1000;

/// Whether a cluster's nodes are asked of Ray's autoscaler.
pub(super) fn scales(cluster: &RayCluster) -> bool {
    matches!(&cluster.spec.provider, Provider::Existing(existing) if existing.autoscaler)
}

/// What might be had beyond the nodes that are there: which nodes there could be is not known, so each is taken to have
/// room for one worker of any job, and is a node of its own to the model of a job's goodput.
pub(super) fn prospects(draft: &Draft<'_>) -> Vec<Capacity> {
    let mut size = Capacity { memory: Some(0), ..Capacity::default() };
    let mut number = 0;
    for job in draft.jobs.iter().filter(|job| job.is_to_run()) {
        size.reach(&job.need());
        number += job.job.spec.max_replicas as usize;
    }
    vec![size; number.min(MOST_NODES)]
}

/// Asks for what the allocation wants, if that is not what was asked for last.
pub(super) fn plan(draft: &mut Draft<'_>, cluster: &RayCluster, allocation: &Allocation) {
    let mut bundles: Vec<ResourceBundles> = Vec::new();
    if scales(cluster) {
        for job in &draft.jobs {
            let wanted = allocation.jobs.get(job.uid()).map_or(0, |allocated| allocated.places.len());
            // Those that save and leave need their nodes until they have left.
            let workers = wanted.max(job.running_group().map_or(0, |group| group.nodes.len()));
            add(&mut bundles, job, u32::try_from(workers).unwrap_or(u32::MAX));
        }
        bundles.sort_by(|one, other| {
            one.resources.partial_cmp(&other.resources).unwrap_or(std::cmp::Ordering::Equal)
        });
    }
    let places = allocation.jobs.values().flat_map(|allocated| &allocated.places);
    let missing = places.filter(|place| matches!(place, Place::New(..))).count();
    if missing > 0 && draft.agent().is_some() {
        let room = count(missing, "more worker");
        let message = format!("Ray's autoscaler is asked for room for {room}");
        draft.report.cluster.waiting.push(Waiting::going_on("StartingNodes", message));
    }
    ask(draft, scales(cluster), bundles);
}

/// Takes back what was asked for; says whether that is done.
pub(super) fn release(draft: &mut Draft<'_>, cluster: &RayCluster) -> bool {
    ask(draft, scales(cluster), Vec::new())
}

/// Says whether it was asked for already. An agent that has begun anew does not know what was asked for before.
fn ask(draft: &mut Draft<'_>, scales: bool, bundles: Vec<ResourceBundles>) -> bool {
    let Some((_, agent)) = draft.agent() else { return false };
    let asked = match &agent.requested {
        Some(requested) => *requested == bundles,
        None => !scales,
    };
    if !asked {
        draft.intend(Effect::RequestResources { bundles });
    }
    asked
}

/// Adds a job's workers.
fn add(bundles: &mut Vec<ResourceBundles>, job: &JobDraft<'_>, workers: u32) {
    let WorkerResources { cpu, gpu, memory, custom } = &job.job.spec.resources;
    let mut resources = custom.clone();
    resources.insert("CPU".to_owned(), cpu.cpus());
    resources.insert("GPU".to_owned(), f64::from(*gpu));
    resources.insert("memory".to_owned(), memory.map_or(0.0, |bytes| bytes.0 as f64));
    resources.retain(|_, amount| *amount > 0.0);
    if workers == 0 || resources.is_empty() {
        return;
    }
    match bundles.iter_mut().find(|bundle| bundle.resources == resources) {
        Some(bundle) => bundle.count += workers,
        None => bundles.push(ResourceBundles { resources, count: workers }),
    }
}
