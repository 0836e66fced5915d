//! Each guard of the planner is needed: without it, some history breaks an invariant. That none does with all of
//! them is what `histories` shows.

use rayconcile::api::cluster::RayClusterSpec;
use rayconcile::api::object::AnyObject;
use rayconcile::api::units::Span;
use rayconcile::api::wire::NoticeKind;
use rayconcile::plan::guards::{Guard, Guards};
use rayconcile::simulate::{Fault, Options, Simulation, Violation};
use serde_json::json;

use super::histories::broken;
use super::{cluster, job, options};

/// Within so many histories something must break. Most guards are missed within ten.
const SEARCHED: u64 = 400;

#[test]
fn each_is_needed() {
    for guard in Guard::ALL {
        let without = |seed| match guard {
            Guard::DeadBridgeIsFenced => orphans(seed, Guards::without(guard)),
            Guard::EveryNodeCounts => crowds(seed, Guards::without(guard)),
            _ => broken(seed, Guards::without(guard)),
        };
        assert!((0..SEARCHED).any(|seed| without(seed).is_some()), "nothing breaks without {guard:?}");
    }
}

/// A node cannot be reached, and while the worker on it still trains its bridge dies. It is removed with everything that
/// tells of it, for the job is suspended for a moment.
fn orphans(seed: u64, guards: Guards) -> Option<Violation> {
    let mut options = Options { guards, ..options(seed) };
    options.settings.lease = Span::from_secs(60);
    let mut world = Simulation::new(options);
    world.apply(two_nodes());
    world.apply(two_workers(false));
    world.run_until(60_000);
    world.strike(Fault::NodeCut(30_000));
    world.strike(Fault::BridgeDies);
    world.apply(two_workers(true));
    world.run_until(64_000);
    world.apply(two_workers(false));
    world.run_until(90_000);
    world.converge(600_000);
    world.violation().cloned()
}

/// A group may have one node and must have one, and that is drained because it will be taken away.
fn crowds(seed: u64, guards: Guards) -> Option<Violation> {
    let mut world = Simulation::new(Options { guards, steady: true, ..options(seed) });
    let spec = json!({
        "provider": {"local": {}},
        "workerGroups": [{"name": "a", "minNodes": 1, "maxNodes": 1, "template": {"resources": {"cpu": 1}}}],
    });
    let mut spec: RayClusterSpec = serde_json::from_value(spec).unwrap();
    spec.fill_defaults();
    world.apply(cluster("gpu", spec));
    let spec = json!({"clusterRef": {"name": "gpu"}, "entrypoint": "main.py"});
    world.apply(job("ada", serde_json::from_value(spec).unwrap()));
    world.run_until(60_000);
    world.strike(Fault::NodeNotice(NoticeKind::SpotInterruption));
    world.converge(1_800_000);
    world.violation().cloned()
}

#[test]
fn a_full_group_stays_within_its_limit() {
    for seed in 0..20 {
        assert_eq!(crowds(seed, Guards::default()), None, "seed {seed}");
    }
}

#[test]
fn what_a_dead_bridge_left_is_outlived() {
    for seed in 0..40 {
        assert_eq!(orphans(seed, Guards::default()), None, "seed {seed}");
    }
}

fn two_nodes() -> AnyObject {
    let spec = json!({
        "provider": {"local": {}},
        "head": {"resources": {"cpu": 2}},
        "workerGroups": [{"name": "a", "maxNodes": 1, "template": {"resources": {"cpu": 1}}}],
    });
    cluster("gpu", serde_json::from_value(spec).unwrap())
}

fn two_workers(suspend: bool) -> AnyObject {
    let spec = json!({
        "clusterRef": {"name": "gpu"}, "entrypoint": "main.py", "minReplicas": 1, "maxReplicas": 3,
        "scaling": {"policy": "Fixed", "replicas": 3},
    });
    let mut spec: rayconcile::api::job::AdaptDLJobSpec = serde_json::from_value(spec).unwrap();
    spec.rescale.timeout = Span::from_secs(0);
    spec.suspend = suspend;
    job("ada", spec)
}
