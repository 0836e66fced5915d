//! What can be wrong with EC2 for a while: each is said, asked about no more than it helps, and got over.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::region::Region;
use crate::support::World;

/// A condition of the cluster: its status, its reason and its message.
fn condition(world: &World, kind: &str) -> Option<[String; 3]> {
    let cluster = world.get("cluster", "c");
    let conditions = cluster["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some(["status", "reason", "message"].map(|field| found[field].as_str().unwrap_or_default().to_owned()))
}

fn wait_condition(world: &World, kind: &str, status: &str, reason: &str, words: &str) {
    world.wait(&format!("{kind} is {status}, {reason}: {words}"), || {
        let [found, why, message] = condition(world, kind)?;
        (found == status && why == reason && message.contains(words)).then_some(())
    });
}

fn wait_converged(world: &World, nodes: u64) {
    world.wait(&format!("it has converged with {nodes} worker nodes"), || {
        let ready = world.get("cluster", "c")["status"]["readyNodes"].as_u64()?;
        (ready == nodes && condition(world, "Converged")?[0] == "True").then_some(())
    });
}

fn apply(world: &World, text: &str) {
    world.write("c.yaml", text);
    world.ok(&["apply", "-f", "c.yaml"]);
}

/// What was called in some time, by action.
fn calls_in(region: &Region, time: Duration) -> BTreeMap<String, u64> {
    let before = region.all_calls();
    std::thread::sleep(time);
    let mut calls = region.all_calls();
    for (action, count) in &mut calls {
        *count -= before.get(action).unwrap_or(&0);
    }
    calls.retain(|_, count| *count > 0);
    calls
}

#[test]
fn a_throttled_controller_waits_longer_and_goes_on() {
    const LONG: Duration = Duration::from_secs(20);
    let region = Region::start(&[]);
    let world = region.world();
    let throttled = json!([{"action": "*", "error": "RequestLimitExceeded"}]);
    let manifest =
        |nodes| region.cluster("c", "", &[region.group("cpu", (nodes, 2), "{onDemand: {}}", "m5.large")]);

    // It cannot even be opened: each try ends with its first call, and tries come after 1, 2, 4, 8 s.
    region.faults(throttled.clone());
    apply(&world, &manifest(1));
    wait_condition(&world, "Provisioned", "False", "CannotOpen", "RequestLimitExceeded");
    let calls: u64 = calls_in(&region, LONG).values().sum();
    assert!(calls <= 6, "{calls} calls in {LONG:?} to open");
    region.faults(json!([]));
    wait_converged(&world, 1);

    // What is there cannot be seen, is not taken for gone, and no more can be launched.
    region.faults(throttled);
    apply(&world, &manifest(2));
    wait_condition(&world, "Provisioned", "Unknown", "CannotSeeInstances", "RequestLimitExceeded");
    wait_condition(&world, "Converged", "False", "CannotOpen", "RequestLimitExceeded");
    let calls = calls_in(&region, LONG);
    // Listing after 5, 10, 20 s; opening it again for what the manifest says now, and the launch, which looks first
    // whether it has taken place, after 1, 2, 4, 8 s each.
    let all: u64 = calls.values().sum();
    assert!(all <= 14, "in {LONG:?}: {calls:?}");
    assert_eq!(world.get("cluster", "c")["status"]["readyNodes"], 1);
    region.faults(json!([]));
    wait_converged(&world, 2);
    assert_eq!(region.instances().len(), 3, "the head and two workers, whatever was repeated");

    // A cluster that is as it should be only looks: once every 5 s.
    let calls = calls_in(&region, LONG);
    assert_eq!(calls.keys().collect::<Vec<_>>(), ["DescribeInstances"], "{calls:?}");
    assert!(calls["DescribeInstances"] <= LONG.as_secs() / 5 + 1, "{calls:?}");
    region.finish(world);
}

#[test]
fn a_group_whose_nodes_never_join_is_paused_and_others_are_not() {
    let region = Region::start(&[]);
    let world = region.world();
    let bad = region.group("bad", (1, 2), "{onDemand: {}}", "m5.large");
    let bad = bad.replace("instance: {", "instance: {setupCommands: ['echo no such driver; false'], ");
    let good = region.group("good", (1, 1), "{onDemand: {}}", "m5.large");
    apply(&world, &region.cluster("c", "", &[bad.clone(), good.clone()]));
    wait_condition(&world, "Provisioned", "False", "GroupFailing", "paused after 3 nodes in a row");
    let of_bad = |region: &Region| region.instances().len() - 2;
    assert_eq!(of_bad(&region), 3, "{:#?}", region.instances());
    let nodes = world.get("cluster", "c")["status"]["nodes"].clone();
    assert!(
        nodes.as_array().unwrap().iter().any(|node| node["group"] == "good" && node["state"] == "Ready"),
        "{nodes:#}"
    );
    let status = world.ok(&["status"]);
    assert!(status.contains("group bad: paused after 3 nodes in a row that did not come to be"), "{status}");
    let events = world.ok(&["events", "--for", "cluster/c"]);
    assert!(events.contains("its console ends with") && events.contains("no such driver"), "{events}");
    let calls = calls_in(&region, Duration::from_secs(10));
    assert_eq!(calls.keys().collect::<Vec<_>>(), ["DescribeInstances"], "{calls:?}");

    // What was wrong with it is mended: it is tried at once.
    apply(&world, &region.cluster("c", "", &[bad.replace("; false", ""), good]));
    wait_converged(&world, 2);
    assert_eq!(of_bad(&region), 4);
    region.finish(world);
}

#[test]
fn nodes_that_boot_and_never_join_are_ended_told_of_and_tried_again() {
    const SOON: Duration = Duration::from_secs(20);
    let region = Region::start(&[]);
    let world = region.world();
    let fault = world.write("fault", "");
    // One whose set-up hangs for now, and three whose `ray start` does not come to the head.
    let hangs = format!(
        "instance: {{setupCommands: ['echo waiting for the file server; while test -e {}; do sleep 0.2; done'], ",
        fault.display()
    );
    let slow = region.group("slow", (1, 1), "{onDemand: {}}", "m5.large").replace("instance: {", &hangs);
    let lost = region.group("lost", (3, 3), "{onDemand: {}}", "m5a.large");
    let of = |kind: &str| {
        let instances = region.instances();
        instances.into_iter().filter(|instance| instance["type"] == kind).collect::<Vec<_>>()
    };
    region.keep_apart(&["m5a.large"]);
    apply(&world, &region.cluster("c", ", joinTimeout: 1m", &[lost.clone(), slow.clone()]));
    wait_condition(&world, "Provisioned", "False", "GroupFailing", "paused after 3 nodes in a row");
    let [_, _, message] = condition(&world, "Provisioned").unwrap();
    println!("{message}");
    for words in
        ["group lost: ", "it did not join within 1m; its console ends with", "Failed to connect to GCS"]
    {
        assert!(message.contains(words), "{words}: {message}");
    }
    world.wait("all of them have ended", || {
        let lost = of("m5a.large");
        lost.iter().all(|instance| instance["state"] == "terminated").then_some(())
    });
    // The one that hangs may be told of a moment later than they.
    let events = world.wait("all four are told of", || {
        let events = world.ok(&["events", "--for", "cluster/c"]);
        (events.matches("NodeNotJoined").count() == 4).then_some(events)
    });
    println!("{events}");
    assert!(events.contains("waiting for the file server"), "{events}");
    // That group is tried again after a while.
    assert!(region.calls("RunInstances") <= 6, "{:?}", region.all_calls());

    // The first fault ends, and the next of that group joins. What is paused costs nothing then.
    std::fs::remove_file(fault).unwrap();
    world.wait("the other group has its node", || {
        (world.get("cluster", "c")["status"]["readyNodes"] == 1).then_some(())
    });
    // A console is asked for once while an instance runs, and once more if it has then ended by itself, because it gave
    // up a moment before its time was over.
    let workers = region.instances().len() - 1;
    let by_itself = region.instances().iter().filter(|instance| instance["byItself"] == true).count();
    let most = u64::try_from(workers + by_itself).unwrap();
    assert!((4..=most).contains(&region.calls("GetConsoleOutput")), "{most}: {:?}", region.all_calls());
    let calls = calls_in(&region, SOON);
    let others: u64 =
        calls.iter().filter(|(action, _)| *action != "DescribeInstances").map(|(_, count)| count).sum();
    assert!(others <= 1 && calls["DescribeInstances"] <= SOON.as_secs() / 5 + 2, "{calls:?}");
    assert_eq!(of("m5a.large").len(), 3, "{:#?}", region.instances());

    // The other group is tried once its template has changed.
    region.keep_apart(&[]);
    let mended = lost.replace("instance: {", "labels: {network: mended}, instance: {");
    apply(&world, &region.cluster("c", ", joinTimeout: 1m", &[mended, slow]));
    wait_converged(&world, 4);
    region.finish(world);
}

#[test]
fn a_controller_without_credentials_says_so_until_it_has_some() {
    let region = Region::start(&[]);
    let mut world = World::new();
    let credentials = world.path("credentials");
    let mut environment = region.environment();
    environment.retain(|(name, _)| !name.contains("KEY"));
    environment.push(("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()));
    world.start(&[], &environment);
    apply(&world, &region.cluster("c", "", &[]));
    wait_condition(
        &world,
        "Provisioned",
        "False",
        "CannotOpen",
        "the controller's credentials for AWS are missing",
    );
    assert_eq!(region.all_calls(), BTreeMap::new());
    let status = world.ok(&["status"]);
    assert!(status.contains("aws configure"), "{status}");

    world.write("credentials", "[default]\naws_access_key_id = AKIATEST\naws_secret_access_key = secret\n");
    wait_converged(&world, 0);
    region.finish(world);
}
