//! A walk through a rescale: at each of its steps the controller, the bridge or the fork servers are killed. The job
//! goes on each time, and no step of it is lost, made twice, or made by two groups at once.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::record::{assert_unbroken, last, recorded};
use crate::support::{World, cluster, job, phase, replicas};

/// The steps of a rescale at which a bridge has something killed, in their order.
const POINTS: [&str; 7] =
    ["started", "prepared", "signalled", "saved", "handedOver", "releasing", "released"];

/// What is killed there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Controller,
    Bridge,
    ForkServers,
}

fn group_of(job: &Value) -> u64 {
    job["status"]["group"].as_u64().unwrap_or(0)
}

#[test]
fn whatever_is_killed_at_whatever_step_of_a_rescale_no_step_is_lost() {
    let mut world = World::new();
    let (points, record) = (world.path("points"), world.path("record"));
    fs::create_dir(&points).unwrap();
    let environment = [("RAYCONCILE_CRASH_POINTS", points.to_str().unwrap().to_owned())];
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let manifest = |replicas: u64| {
        let rest = format!(
            "maxReplicas: 2\n  scaling: {{policy: Fixed, replicas: {replicas}}}\n  checkpoint: {{interval: 0s}}"
        );
        let arguments = format!("--steps, '1000000', --work, '0.0003', --record, {}", record.display());
        cluster("c", 2) + "---\n" + &job("walker", "c", &arguments, &rest)
    };
    world.start(&[], &environment);
    let mut wanted = 1;
    world.write("job.yaml", &manifest(wanted));
    world.ok(&["apply", "-f", "job.yaml"]);
    world.wait_job("walker", "it trains", |job| replicas(job) == 1 && phase(job) == "Running");

    for victim in [Victim::ForkServers, Victim::Controller, Victim::Bridge] {
        for point in POINTS {
            let before = group_of(&world.job("walker"));
            let victims = match victim {
                Victim::Bridge => "self".to_owned(),
                Victim::Controller => world.controller_pid().to_string(),
                Victim::ForkServers => {
                    let processes = world.processes().into_iter();
                    let servers = processes.filter(|(_, command)| command.starts_with("[forkserver]"));
                    let servers: Vec<String> = servers.map(|(pid, _)| pid.to_string()).collect();
                    assert!(!servers.is_empty(), "nothing is forked");
                    servers.join(" ")
                }
            };
            fs::write(points.join(point), victims).unwrap();
            wanted = 3 - wanted;
            world.write("job.yaml", &manifest(wanted));
            world.ok(&["apply", "-f", "job.yaml"]);
            if victim == Victim::Controller {
                assert!(
                    world.controller_dies(Duration::from_secs(120)),
                    "{point} is not reached\n{}",
                    world.log()
                );
                world.start(&[], &environment);
            }
            let what = format!("it goes on after {victim:?} was killed at {point}");
            world.wait_job("walker", &what, |job| {
                replicas(job) == wanted && phase(job) == "Running" && group_of(job) > before
            });
            assert!(!points.join(point).exists(), "{point} was not reached");
            let made = last(&record).step;
            world.wait("it makes steps", || (last(&record).step > made).then_some(()));
        }
    }
    assert_unbroken(&recorded(&record), 0);
    world.finish();
}
