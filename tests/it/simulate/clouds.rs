//! The part of a history that is on EC2: a cluster, and what goes wrong there alone.

use fastrand::Rng;
use rayconcile::api::cluster::{NodeTemplate, Provider, RayClusterSpec};
use rayconcile::api::money::Money;
use rayconcile::api::object::Kind;
use rayconcile::api::wire::NoticeKind;
use rayconcile::simulate::{Fault, Faults, Simulation, UserAction};
use serde_json::json;

use super::chance::{CLOUD, spec};
use super::key;

const MINUTE: u64 = 60_000;
/// The share of histories with a cluster on EC2.
const SHARE: f64 = 0.25;
/// The instance types that there are.
const TYPES: [&str; 3] = ["c.small", "c.large", "c.huge"];

/// The chance of a history's cluster on EC2, if it has one: a stream of its own, so that histories without one are what
/// they always were.
pub(super) fn over(seed: u64) -> Option<Rng> {
    let mut random = Rng::with_seed(seed.wrapping_mul(0x9E37_79B9).wrapping_add(18));
    (random.f64() < SHARE).then_some(random)
}

pub(super) fn template(random: &mut Rng) -> NodeTemplate {
    let first = random.usize(0..TYPES.len());
    let types: Vec<&str> = TYPES.iter().cycle().skip(first).take(random.usize(1..=2)).copied().collect();
    serde_json::from_value(json!({"instance": {"types": types, "image": {"id": "ami-1"}}})).unwrap()
}

pub(super) fn cluster(random: &mut Rng) -> RayClusterSpec {
    let price = |on_demand: &str, spot: &str| json!({"onDemand": on_demand, "spot": spot});
    let groups: Vec<_> = ["a", "b"][..random.usize(1..=2)]
        .iter()
        .map(|name| {
            let min_nodes = random.u32(0..=1);
            let market = match random.u32(0..4) {
                0 => json!({"onDemand": {}}),
                1 => json!({"spot": {}}),
                _ => json!({"spot": {"onDemandFallback": true}}),
            };
            json!({
                "name": name, "minNodes": min_nodes, "maxNodes": random.u32(min_nodes.max(1)..=3),
                "updateStrategy": {"maxUnavailable": random.u32(0..=1), "maxSurge": 1},
                "idleTimeout": format!("{}s", random.u64(20..=200)),
                "market": market, "template": template(random),
            })
        })
        .collect();
    let mut spec = spec(json!({
        "provider": {"aws": {
            "region": "us-west-2", "subnets": ["subnet-a", "subnet-b"], "joinTimeout": "2m",
            "orphanTimeout": "10m",
            "prices": {
                "c.small": price("0.10", "0.03"), "c.large": price("0.20", "0.06"), "c.huge": price("0.40", "0.12"),
            },
        }},
        "head": {"instance": {"types": ["c.small"], "image": {"id": "ami-1"}}},
        "workerGroups": groups,
    }));
    if random.f64() < 0.3 {
        spec.max_hourly_cost = Some(budget(random));
    }
    spec
}

/// Has people change their minds about a cluster on EC2.
pub(super) fn edit(random: &mut Rng, world: &mut Simulation, end: u64, spec: &mut RayClusterSpec) {
    for _ in 0..random.u32(0..=4) {
        let at = random.u64(0..end);
        let count = spec.worker_groups.len();
        let group = &mut spec.worker_groups[random.usize(..count)];
        match random.u32(0..8) {
            0 | 1 => spec.suspend = !spec.suspend,
            2 => {
                world.act_at(at, UserAction::Delete(Kind::RayCluster, key(CLOUD)));
                continue;
            }
            3 => group.max_nodes = random.u32(group.min_nodes.max(1)..=3),
            4 => group.min_nodes = random.u32(0..=group.max_nodes),
            5 => group.template = template(random),
            6 => spec.max_hourly_cost = random.bool().then(|| budget(random)),
            // User data is another, and with it what launches ask for.
            _ => {
                let Provider::Aws(aws) = &mut spec.provider else { continue };
                aws.tags.insert("team".to_owned(), random.u32(..).to_string());
            }
        }
        world.act_at(at, UserAction::Apply(super::cluster(CLOUD, spec.clone())));
    }
}

fn budget(random: &mut Rng) -> Money {
    format!("{:.2}", 0.2 + random.f64()).parse().unwrap()
}

/// Puts what goes wrong on EC2 into a world.
pub(super) fn gather(random: &mut Rng, world: &mut Simulation, faults: &mut Faults, end: u64) {
    // Somebody else's are marked like a cluster of this world, nearly, or not at all.
    world.somebody_launches("C0000001");
    world.somebody_launches("");
    for _ in 0..random.u32(0..=8) {
        let at = random.u64(0..end);
        let fault = match random.u32(0..14) {
            0 => Fault::ControllerDies(random.u64(5..=25) * MINUTE),
            1 | 2 => Fault::CredentialsExpire(random.u64(10_000..=10 * MINUTE)),
            3..=5 => Fault::NoCapacity(random.u64(1..=20) * MINUTE),
            6 | 7 => Fault::StrayInstance,
            8 | 9 => Fault::NodeDies,
            10 => Fault::RayletDies,
            11 => Fault::HeadDies,
            _ => Fault::NodeNotice(NoticeKind::SpotInterruption),
        };
        world.strike_at(at, fault);
    }
    let mut share = |most: f64| if random.bool() { random.f64() * most } else { 0.0 };
    faults.throttled = share(0.2);
    faults.partial = share(0.1);
}
