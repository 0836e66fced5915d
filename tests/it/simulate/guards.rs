//! Each guard of the planner is needed: without it, some history breaks an invariant. That none does with all of
//! them is what `histories` shows.

use rayconcile::api::cluster::RayClusterSpec;
use rayconcile::api::object::{AnyObject, Kind};
use rayconcile::api::units::Span;
use rayconcile::api::wire::NoticeKind;
use rayconcile::plan::guards::{Guard, Guards};
use rayconcile::simulate::{Fault, Faults, Invariant, Options, Simulation, Violation};
use serde_json::json;

use super::histories::broken;
use super::{clouds, cluster, job, key, options};

/// Within so many histories something must break. Most guards are missed within ten.
const SEARCHED: u64 = 400;

#[test]
fn each_is_needed() {
    for guard in Guard::ALL {
        let without = |seed| match guard {
            Guard::DeadBridgeIsFenced => orphans(seed, Guards::without(guard)),
            Guard::EveryNodeCounts => crowds(seed, Guards::without(guard)),
            Guard::RefusalIsDoubted => latecomers(seed, Guards::without(guard)),
            _ if is_about_ec2(guard) && clouds::over(seed).is_none() => None,
            _ => broken(seed, Guards::without(guard)),
        };
        assert!((0..SEARCHED).any(|seed| without(seed).is_some()), "nothing breaks without {guard:?}");
    }
}

/// Whether it takes a cluster on EC2 to miss a guard.
fn is_about_ec2(guard: Guard) -> bool {
    matches!(
        guard,
        Guard::AbsenceLasts
            | Guard::EndIsSeen
            | Guard::LaunchIsRepeated
            | Guard::StraysAreEnded
            | Guard::NothingIsLeft
            | Guard::EveryLaunchCosts
    )
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

/// A cluster on EC2 is deleted while launches of which no reply came are still on their way, and others are refused.
fn latecomers(seed: u64, guards: Guards) -> Option<Violation> {
    let mut world = Simulation::new(Options { guards, ..options(seed) });
    let until_ms = 150_000;
    world.suffer(Faults {
        until_ms,
        late_calls: 0.5,
        rejected_launches: 0.5,
        stale: 1.0,
        ..Faults::default()
    });
    world.apply(cluster("cloud", one_instance(seed % 3)));
    world.run_until(20_000 + seed * 997 % 90_000);
    world.delete(Kind::RayCluster, &key("cloud"));
    world.converge(1_800_000);
    world.violation().cloned()
}

#[test]
fn a_late_launch_is_not_forgotten() {
    for seed in 0..100 {
        assert_eq!(latecomers(seed, Guards::default()), None, "seed {seed}");
    }
}

/// A job trains on EC2, and for a while nobody may ask which instances there are.
fn blindness(guards: Guards) -> Option<Violation> {
    let mut world = Simulation::new(Options { guards, steady: true, ..options(0) });
    world.apply(cluster("cloud", one_instance(1)));
    let spec = json!({"clusterRef": {"name": "cloud"}, "entrypoint": "main.py"});
    world.apply(job("ada", serde_json::from_value(spec).unwrap()));
    world.run_until(300_000);
    assert_eq!(world.training(&key("ada")).len(), 1);
    world.strike(Fault::CredentialsExpire(300_000));
    world.converge(1_800_000);
    world.violation().cloned()
}

#[test]
fn an_instance_that_cannot_be_seen_is_not_gone() {
    assert_eq!(blindness(Guards::default()), None);
    let without = blindness(Guards::without(Guard::AbsenceIsSeen)).unwrap();
    assert_eq!(without.invariant, Invariant::NothingStray, "{without}");
}

fn one_instance(nodes: u64) -> RayClusterSpec {
    let instance = json!({"instance": {"types": ["c.small"], "image": {"id": "ami-1"}}});
    let spec = json!({
        "provider": {"aws": {"region": "us-west-2", "subnets": ["subnet-a", "subnet-b"], "joinTimeout": "2m"}},
        "head": instance,
        "workerGroups": [{"name": "a", "minNodes": nodes, "maxNodes": nodes.max(1), "template": instance}],
    });
    let mut spec: RayClusterSpec = serde_json::from_value(spec).unwrap();
    spec.fill_defaults();
    spec
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
