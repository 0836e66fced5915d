//! On somebody else's cluster with an autoscaler, nodes come for the workers that are wanted, and go when they are not.

use crate::machines::Machines;
use crate::support::{World, job, phase, replicas};

#[test]
fn rays_autoscaler_is_asked_for_what_jobs_need() {
    let world = World::with_controller(&[]);
    let token = world.write("token", &"0123456789abcdef".repeat(4));
    let machines = Machines::start("scaled.py", &token, &world.path("machines.log"));
    let cluster = format!(
        "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: c}}\nspec:\n  \
         provider: {{existing: {{address: 'http://127.0.0.1:{}', agentPort: {}, autoscaler: true}}}}\n  \
         auth: {{mode: token, tokenFrom: {{file: {}}}}}\n",
        machines.dashboard,
        machines.agent,
        token.display()
    );
    world.write("cluster.yaml", &cluster);
    world.ok(&["apply", "-f", "cluster.yaml"]);
    let nodes = |count: usize| {
        let nodes = world.get("cluster", "c")["status"]["nodes"].as_array().cloned().unwrap_or_default();
        let workers =
            nodes.iter().filter(|node| node["group"] == "existing" && node["state"] == "Ready").count();
        (workers == count).then_some(())
    };
    let apply = |wanted: u32| {
        let rest = format!("maxReplicas: 2\n  scaling: {{policy: Fixed, replicas: {wanted}}}");
        world.write("job.yaml", &job("grow", "c", "", &rest));
        world.ok(&["apply", "-f", "job.yaml"]);
    };

    apply(2);
    world.wait_job("grow", "it trains on nodes that were made for it", |job| {
        phase(job) == "Running" && replicas(job) == 2
    });
    nodes(2).unwrap();
    apply(1);
    world.wait("the other node is given back", || nodes(1));
    let job = world.job("grow");
    assert_eq!((phase(&job), replicas(&job)), ("Running", 1), "{job:#}");
    world.ok(&["delete", "job", "grow"]);
    world.wait("no node is left", || nodes(0));
    let directory = machines.directory.clone();
    world.finish();
    drop(machines);
    assert!(!directory.exists(), "{} was left behind", directory.display());
}
