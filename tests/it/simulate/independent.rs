//! What is wrong with one object does not keep another from becoming as wanted.

use rayconcile::api::job::AdaptDLJobSpec;
use rayconcile::api::object::Kind;
use rayconcile::simulate::{BROKEN_ENVIRONMENT, Simulation};
use serde_json::{Value, json};

use super::histories::{PATIENCE_MS, patience_ms};
use super::{chance, cluster, job, key, options};

const HISTORIES: u64 = 60;

/// One of the clusters of a history has no nodes to give, from its beginning to its end.
#[test]
fn of_a_cluster_without_capacity() {
    for seed in 0..HISTORIES {
        let mut world = Simulation::new(options(seed));
        world.exhaust(&key("spot"), true);
        let end = chance::plot(seed, &mut world);
        world.run_until(end + 1);
        world.converge(patience_ms(seed));
        assert_eq!(world.violation(), None, "seed {seed}");
    }
}

/// A cluster cannot be reached any more, and all that is on it shall go; a job cannot even be started.
#[test]
fn of_what_cannot_be_reached_or_started() {
    for seed in 0..HISTORIES {
        let mut world = Simulation::new(options(seed));
        for name in ["gpu", "spot"] {
            world.apply(cluster(name, serde_json::from_value(three_nodes()).unwrap()));
        }
        world.apply(job("ada", fixed("gpu", 1)));
        world.apply(job("bob", fixed("spot", 1)));
        let mut broken = fixed("gpu", 1);
        broken.runtime_env.insert(BROKEN_ENVIRONMENT.to_owned(), json!(true));
        world.apply(job("cy", broken));
        world.run_until(60_000);
        world.cut_off(&key("spot"));
        world.delete(Kind::AdaptDLJob, &key("bob"));
        world.delete(Kind::RayCluster, &key("spot"));
        world.run_until(120_000);
        world.apply(job("ada", fixed("gpu", 2)));
        world.converge(PATIENCE_MS);
        assert_eq!(world.violation(), None, "seed {seed}");
        assert_eq!(world.training(&key("ada")).len(), 2, "seed {seed}");
        assert!(world.job(&key("bob")).is_some(), "what cannot be ended is not forgotten");
    }
}

fn three_nodes() -> Value {
    json!({
        "provider": {"local": {}},
        "workerGroups": [{"name": "a", "maxNodes": 3, "template": {"resources": {"cpu": 1}}}],
    })
}

fn fixed(cluster: &str, replicas: u32) -> AdaptDLJobSpec {
    let spec = json!({
        "clusterRef": {"name": cluster}, "entrypoint": "main.py",
        "scaling": {"policy": "Fixed", "replicas": replicas},
    });
    serde_json::from_value(spec).unwrap()
}
