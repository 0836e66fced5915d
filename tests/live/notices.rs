//! Notices that a node will be taken away: with another node, with none, and with no controller.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::metadata::Metadata;
use crate::record::{assert_unbroken, last, recorded};
use crate::support::{PATIENCE, World, cluster, job, phase, replicas, signal, within};

/// How long after its notice a node would be taken away.
const NOTICE: Duration = Duration::from_secs(120);

/// One worker makes a step in 0.02 s or more: these are more than it makes from one save to the next, a second later.
const STEPS_OF_AN_INTERVAL: u64 = 150;

/// A world with a cluster that asks this service, and a job that trains in it.
fn training(metadata: &Metadata, nodes: u32, rest: &str) -> World {
    let world = World::with_controller(&[]);
    let asking = format!("{}  metadataEndpoint: {}\n", cluster("c", nodes), metadata.endpoint());
    let arguments =
        format!("--steps, '1000000', --work, '0.0003', --record, {}", world.path("record").display());
    world.write("job.yaml", &(asking + "---\n" + &job("wary", "c", &arguments, rest)));
    world.ok(&["apply", "-f", "job.yaml"]);
    world.wait_job("wary", "it trains", |job| replicas(job) > 0 && phase(job) == "Running");
    makes_steps(&world);
    world
}

fn makes_steps(world: &World) {
    let before = last(&world.path("record"));
    world.wait("it makes steps", || (last(&world.path("record")).step > before.step).then_some(()));
}

/// Waits, without a controller to ask, until a group has made steps.
fn wait_for_group(record: &Path, group: u64) {
    within(PATIENCE, || (last(record).group >= group).then_some(()))
        .unwrap_or_else(|| panic!("group {group} makes no steps: {:?}", last(record)));
}

/// The node of a rank: its name and its address.
fn node_of(world: &World, rank: usize) -> (String, String) {
    let name = world.job("wary")["status"]["workers"][rank]["node"].as_str().unwrap().to_owned();
    let node = node(world, &name).unwrap();
    (name, node["address"].as_str().unwrap().to_owned())
}

fn node(world: &World, name: &str) -> Option<Value> {
    let cluster = world.get("cluster", "c");
    cluster["status"]["nodes"].as_array()?.iter().find(|node| node["name"] == name).cloned()
}

fn newest_group(job: &Value) -> &Value {
    job["status"]["history"].as_array().unwrap().last().unwrap()
}

#[test]
fn a_node_that_will_be_taken_away_is_left_at_once_and_replaced() {
    let metadata = Metadata::start();
    let world = training(&metadata, 2, "checkpoint: {interval: 0s}");
    let (name, address) = node_of(&world, 0);
    metadata.interrupt(&address, NOTICE);
    let seen =
        world.wait("the notice is seen", || node(&world, &name)?["notice"].as_str().map(str::to_owned));
    assert!(seen.starts_with("spot interruption: terminate at "), "{seen}");
    let moved = world.wait_job("wary", "it trains elsewhere", |job| {
        replicas(job) == 1
            && job["status"]["group"] == 1
            && job["status"]["workers"][0]["node"] != name.as_str()
            // Known when it has made its first step.
            && !newest_group(job)["lostSteps"].is_null()
    });
    assert_eq!(newest_group(&moved)["reason"], "NodeLeaving");
    assert_eq!(newest_group(&moved)["lostSteps"], 0);
    world.wait("it is replaced", || {
        let ready = world.get("cluster", "c")["status"]["readyNodes"] == 2;
        (ready && node(&world, &name).is_none()).then_some(())
    });
    makes_steps(&world);
    world.wait_job("wary", "all is as wanted", |job| phase(job) == "Running" && replicas(job) == 1);
    assert_unbroken(&recorded(&world.path("record")), 0);
    world.finish();
}

#[test]
fn where_there_is_no_other_node_the_job_is_saved_and_waits() {
    let metadata = Metadata::start();
    let world = training(&metadata, 1, "checkpoint: {interval: 0s}");
    let (name, address) = node_of(&world, 0);
    metadata.interrupt(&address, NOTICE);
    let saved = world.wait_job("wary", "its state is durable", |job| job["status"]["checkpoint"].is_object());
    assert_eq!(saved["status"]["checkpoint"]["id"]["group"], 0);
    // Its successor is asked for at once, and the job goes on there.
    let again = world.wait_job("wary", "it goes on", |job| {
        replicas(job) == 1 && job["status"]["workers"][0]["node"] != name.as_str()
    });
    assert_eq!(newest_group(&again)["restored"]["group"], 0);
    makes_steps(&world);
    assert_unbroken(&recorded(&world.path("record")), 0);
    world.finish();
}

#[test]
fn with_the_controller_away_the_bridge_goes_on_with_what_is_left() {
    let metadata = Metadata::start();
    let rest = "scaling: {policy: Fixed, replicas: 2}\n  maxReplicas: 2\n  checkpoint: {interval: 1s}";
    let mut world = training(&metadata, 2, rest);
    let record = world.path("record");
    let both = |job: &Value| replicas(job) == 2 && job["status"]["checkpoint"].is_object();
    // It may have begun with one, for want of the other node.
    let first = world.wait_job("wary", "both train", both)["status"]["group"].as_u64().unwrap();
    let (_, address) = node_of(&world, 1);
    world.kill_controller();

    metadata.interrupt(&address, NOTICE);
    wait_for_group(&record, first + 1);
    assert_unbroken(&recorded(&record), 0);

    let workers = world.processes().into_iter().filter(|(_, command)| command.starts_with("[worker]"));
    for (worker, _) in workers {
        signal(worker, Signal::SIGKILL);
    }
    wait_for_group(&record, first + 2);
    assert_unbroken(&recorded(&record), STEPS_OF_AN_INTERVAL);

    world.start(&[], &[]);
    let adopted = world.wait_job("wary", "it is adopted, and given its second worker again", |job| {
        replicas(job) == 2 && phase(job) == "Running" && job["status"]["group"].as_u64() > Some(first + 2)
    });
    let alone = adopted["status"]["history"].as_array().unwrap().iter().filter(|group| {
        let number = group["number"].as_u64();
        number > Some(first) && number <= Some(first + 2)
    });
    let reasons: Vec<&str> = alone.filter_map(|group| group["reason"].as_str()).collect();
    assert_eq!(reasons, ["NodeLeaving", "WorkerKilled"]);
    makes_steps(&world);
    assert_unbroken(&recorded(&record), STEPS_OF_AN_INTERVAL);
    assert_eq!(world.job("wary")["status"]["failures"].as_u64().unwrap_or(0), 0);
    world.finish();
}
