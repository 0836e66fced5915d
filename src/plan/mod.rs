//! The planner: from a snapshot to a plan, as a pure function.
//!
//! It reads no clock, no randomness and no file. Everything it needs is in the snapshot, everything it decides is
//! in the plan, and a plan leaves no choice to whoever carries it out. Planning a converged snapshot again gives
//! the same records and no effects.

mod absorb;
mod adopt;
mod allocation;
mod autoscaler;
mod capacity;
mod clock;
mod cluster;
mod costs;
mod documents;
mod draft;
mod floor;
pub mod guards;
mod held;
mod index;
mod instances;
mod nodes;
mod notices;
mod offers;
mod orphans;
pub mod outlook;
mod output;
pub mod report;
pub mod review;
mod rollout;
mod room;
pub mod scaling;
mod settle;
pub mod snapshot;
mod stopping;
mod transfers;
mod views;
mod workers;

pub use capacity::Capacity;
pub use cluster::LOCAL_CLUSTER;
use draft::Draft;
pub use instances::late_launches;
pub use snapshot::{Plan, Snapshot};

/// Decides what is to be kept and done.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let resolved = offers::resolved(snapshot);
    let mut draft = Draft::new(snapshot, resolved.as_ref().or(snapshot.cluster.as_ref()));
    settle::settle(&mut draft);
    clock::set_back(&mut draft);
    absorb::absorb(&mut draft);
    costs::absorb(&mut draft);
    cluster::plan(&mut draft);
    let ours = draft.cluster().filter(|cluster| cluster.spec.is_ours() && !cluster::is_leaving(cluster));
    let ours = ours.filter(|_| !draft.record.ending);
    if let Some(cluster) = ours {
        rollout::begin(&mut draft, cluster);
    }
    let allocation = allocation::allocate(&draft);
    if let Some(cluster) = ours {
        nodes::plan(&mut draft, cluster, &allocation);
    }
    if let Some(cluster) =
        draft.cluster().filter(|cluster| !cluster.spec.is_ours() && !cluster::is_leaving(cluster))
    {
        autoscaler::plan(&mut draft, cluster, &allocation);
    }
    workers::plan(&mut draft, &allocation);
    if let Some(cluster) = ours {
        rollout::report(&mut draft, cluster, &allocation);
    }
    transfers::plan(&mut draft);
    notices::drain_foreign(&mut draft);
    nodes::finish_leaving(&mut draft);
    orphans::plan(&mut draft);
    costs::count(&mut draft);
    draft.finish()
}
