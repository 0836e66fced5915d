//! The controller is killed at every point where it matters, with the real store and the real world, one after the
//! other, in one life of a cluster and its job. Each time the next controller goes on as if nothing had happened.

use std::time::Duration;

use crate::support::{World, cluster, job, phase, replicas};

/// How long a controller may live that is to die at a point; one that is not reached in this time is not reached.
const LIFE: Duration = Duration::from_secs(60);

/// Runs controllers that die at these points of these effects, one after the other. The first is asked for what makes
/// the effects come: one that does not die could be done with them before it is killed.
fn die_at(world: &mut World, points: &[&str], effects: &[&str], asked: &[&str]) {
    let mut asked = Some(asked).filter(|asked| !asked.is_empty());
    for effect in effects {
        for point in points {
            let at = format!("{point}:{effect}");
            world.start(&[], &[("RAYCONCILE_CRASH_AT", &at)]);
            if let Some(asked) = asked.take() {
                let _ = world.run(asked); // It may die before it answers.
            }
            assert!(world.controller_dies(LIFE), "{at} is not reached\n{}", world.log());
        }
    }
}

#[test]
fn killed_before_and_after_every_effect_it_goes_on() {
    life(&["before", "after"]);
}

/// In a life of its own: an effect that was seen to have happened is not done again, so that this point of it would
/// not be reached.
#[test]
fn killed_when_an_effect_is_settled_it_goes_on() {
    life(&["settled"]);
}

fn life(points: &[&str]) {
    let mut world = World::new();
    let enough = world.path("enough");
    let manifest = |replicas: u32| {
        let rest = format!(
            "scaling: {{policy: Fixed, replicas: {replicas}}}\n  checkpoint: {{interval: 0s}}\n  \
             artifacts: {{paths: [model.pt], destination: out}}"
        );
        cluster("c", 2) + "---\n" + &job("hardy", "c", &format!("--until, {}", enough.display()), &rest)
    };
    world.write("job.yaml", &manifest(1));
    world.start(&[], &[]);
    world.ok(&["apply", "-f", "job.yaml"]);
    world.kill_controller();

    world.start(&[], &[("RAYCONCILE_CRASH_AT", "kept")]);
    assert!(world.controller_dies(LIFE));
    die_at(&mut world, points, &["OpenCluster", "LaunchNode", "SubmitAgent", "SendDocument"], &[]);
    world.start(&[], &[]);
    let running = world.wait_job("hardy", "it trains", |job| replicas(job) == 1);
    assert_eq!(running["status"]["history"].as_array().unwrap().len(), 1, "one group, whatever was repeated");
    let nodes = world.get("cluster", "c")["status"]["nodes"].as_array().unwrap().len();
    assert_eq!(nodes, 3, "a head and two nodes, whatever was repeated");

    // A suspended job's state is brought away, and brought back.
    world.kill_controller();
    die_at(&mut world, points, &["FetchCheckpoint", "RemoveBridge"], &["suspend", "hardy"]);
    world.start(&[], &[]);
    world.wait_job("hardy", "it is suspended", |job| phase(job) == "Suspended");
    world.kill_controller();
    die_at(&mut world, points, &["SendCheckpoint"], &["resume", "hardy"]);
    world.start(&[], &[]);
    let again = world.wait_job("hardy", "it trains again", |job| replicas(job) == 1);
    assert_eq!(again["status"]["history"][1]["restored"]["group"], 0);

    // Its success is brought home.
    world.kill_controller();
    world.write("enough", "");
    die_at(&mut world, points, &["FetchArtifacts", "DeliverArtifacts"], &[]);
    world.start(&[], &[]);
    world.wait_job("hardy", "it has succeeded", |job| phase(job) == "Succeeded");
    assert!(world.path("out/model.pt").exists());
    let history = world.job("hardy")["status"]["history"].as_array().unwrap().len();
    assert_eq!(history, 2);

    // A smaller cluster is a drained node; no cluster is none.
    world.write("cluster.yaml", &cluster("c", 1).replace("maxNodes: 1", "maxNodes: 2, idleTimeout: 1s"));
    world.kill_controller();
    die_at(&mut world, points, &["DrainNode", "TerminateNode"], &["apply", "-f", "cluster.yaml"]);
    world.start(&[], &[]);
    world.wait("one node is left", || {
        (world.get("cluster", "c")["status"]["nodes"].as_array()?.len() == 2).then_some(())
    });
    world.kill_controller();
    die_at(&mut world, points, &["CloseCluster"], &["delete", "cluster", "c", "--no-wait"]);
    world.start(&[], &[]);
    world.wait("the cluster is gone", || world.get("cluster", "c").is_null().then_some(()));
    world.finish();
}
