//! How often EC2 is asked for a cluster of a thousand nodes in which nothing changes: every call is counted where it
//! arrives, from the real controller and SDK.
//!
//! `NODES` chooses how many. The head runs for real; the instances of the workers are there, with the tags of launches,
//! but run nothing. A controller with an empty state directory adopts them all. moto takes seconds to list a thousand
//! instances, and EC2 less than one: so that this hides no call, how often instances are listed is counted while there
//! is only the head.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code)]
mod common;
#[allow(dead_code)]
#[path = "../live/region.rs"]
mod region;
#[allow(dead_code)]
#[path = "../live/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use common::{keep, number, wait};
use region::Region;
use support::World;

/// Half of the calls that EC2 lets an account make in an hour whenever it only looks: 20 a second.
const HALF_OF_THE_LIMIT: f64 = 36_000.0;
/// Listings that are counted.
const LISTINGS: u64 = 5;
/// The type of instances that run nothing.
const IDLE_TYPE: &str = "m5a.large";

/// What was counted.
struct Counted {
    listings: u64,
    calls: BTreeMap<String, u64>,
    seconds: f64,
}

fn main() -> ExitCode {
    let nodes = number("NODES").unwrap_or(1000);
    let region = Region::start(&["--never-boot", IDLE_TYPE]);
    let mut world = region.world();
    let groups = [region.group("cpu", (0, nodes as u32), "{onDemand: {}}", IDLE_TYPE)];
    world.write("c.yaml", &region.cluster("c", ", joinTimeout: 2h", &groups));
    world.ok(&["apply", "-f", "c.yaml"]);
    wait(&world, "the head answers", || (phase(&world) == "Ready").then_some(()));
    let head = count(&world, &region);

    world.kill_controller();
    fs::remove_dir_all(world.path("state")).unwrap();
    launch(&region, nodes);
    let mut adopt = world.command(&["clusters", "adopt", "c"]);
    adopt.envs(region.environment()).env("AWS_REGION", region.name()).stdin(Stdio::null());
    let adopted = adopt.output().unwrap();
    let said = String::from_utf8_lossy(&adopted.stdout).into_owned();
    eprint!("{said}{}", String::from_utf8_lossy(&adopted.stderr));
    assert!(said.contains(&format!("adopted with {} nodes", nodes + 1)), "not all are the cluster's");
    world.start(&[], &region.environment());
    wait(&world, "the head answers again", || (phase(&world) == "Ready").then_some(()));
    let all = count(&world, &region);
    assert_eq!(region.up(), nodes + 1, "something was launched or ended");
    report(nodes, &head, &all)
}

fn phase(world: &World) -> String {
    world.get("cluster", "c")["status"]["phase"].as_str().unwrap_or_default().to_owned()
}

/// Counts calls from the beginning of one listing to that of another.
fn count(world: &World, region: &Region) -> Counted {
    // A fault that does nothing counts the calls that ask for a first page.
    region.faults(json!([{"action": "DescribeInstances", "match": {"NextToken": null}, "delayS": 0}]));
    let begun = |listings: u64| {
        wait(world, "instances are listed", || {
            (region.in_force()[0]["used"].as_u64()? >= listings).then_some(())
        });
        (Instant::now(), region.all_calls())
    };
    let (first, before) = begun(1);
    let (last, after) = begun(1 + LISTINGS);
    let new = |(action, count): (&String, &u64)| (action.clone(), count - before.get(action).unwrap_or(&0));
    let calls = after.iter().map(new).filter(|(_, count)| *count > 0).collect();
    Counted { listings: LISTINGS, calls, seconds: last.duration_since(first).as_secs_f64() }
}

/// Launches workers as a controller does that lost its state directory: each by a call of its own, marked as one of the
/// cluster's.
fn launch(region: &Region, nodes: usize) {
    let launched = region.boto(&format!(
        r"head = next(i for r in ec2.describe_instances()['Reservations'] for i in r['Instances'])
mark = 'rayconcile.dev/'
shared = [tag for tag in head['Tags'] if tag['Key'].removeprefix(mark) in ('cluster-uid', 'cluster', 'incarnation')]
for number in range(2, {nodes} + 2):
    own = {{'node': f'c-cpu-{{number}}', 'launch': f'lost-{{number}}', 'group': 'cpu'}}
    tags = shared + [{{'Key': mark + key, 'Value': value}} for key, value in own.items()]
    ec2.run_instances(
        ImageId=head['ImageId'], InstanceType='{IDLE_TYPE}', MinCount=1, MaxCount=1, SubnetId=head['SubnetId'],
        TagSpecifications=[{{'ResourceType': 'instance', 'Tags': tags}}],
    )
print(number)"
    ));
    assert_eq!(launched, (nodes + 1).to_string());
}

fn report(nodes: usize, head: &Counted, all: &Counted) -> ExitCode {
    let asked = |counted: &Counted| counted.calls.get("DescribeInstances").copied().unwrap_or(0) as f64;
    let pages = asked(all) / all.listings as f64;
    let listings = head.listings as f64 * 3600.0 / head.seconds;
    let hourly = pages * listings;
    let others: Vec<&String> =
        head.calls.keys().chain(all.calls.keys()).filter(|action| *action != "DescribeInstances").collect();
    let table = format!(
        "| nodes and a head | calls of one listing | listings an hour | `DescribeInstances` an hour | half of the limit | \
         others |\n|---|---|---|---|---|---|\n| {nodes} | {pages:.1} | {listings:.0} | {hourly:.0} | \
         {HALF_OF_THE_LIMIT:.0} | {} |\n",
        others.len()
    );
    let counted = |counted: &Counted| -> Value {
        json!({"listings": counted.listings, "calls": counted.calls, "seconds": counted.seconds})
    };
    keep(
        "calls",
        &table,
        &json!({"nodes": nodes, "head": counted(head), "all": counted(all), "hourly": hourly}),
    );
    if !others.is_empty() {
        eprintln!("other calls were made, though nothing changes: {others:?}");
    }
    if hourly > HALF_OF_THE_LIMIT {
        eprintln!("that is more than half of what EC2 lets an account ask");
    }
    if others.is_empty() && hourly <= HALF_OF_THE_LIMIT { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
