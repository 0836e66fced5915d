//! Clusters on EC2 of which nobody has the state directory any more: they are found by their tags, and adopted or
//! destroyed; and with nobody there at all they end themselves.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::record::{assert_unbroken, last, recorded};
use crate::region::Region;
use crate::support::{PATIENCE, World, job, phase, pids, replicas, within};

/// A command that finds the region, and that nobody can be asked by.
fn said(world: &World, region: &Region, arguments: &[&str]) -> (bool, String, String) {
    let mut command = world.command(&[&["clusters"], arguments].concat());
    command.envs(region.environment()).env("AWS_REGION", region.name()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn ok(world: &World, region: &Region, arguments: &[&str]) -> String {
    let (ok, out, err) = said(world, region, arguments);
    assert!(ok, "{arguments:?}: {out}{err}");
    out
}

/// What is found, as JSON.
fn found(world: &World, region: &Region) -> Vec<Value> {
    let text = ok(world, region, &["find", "-o", "json"]);
    serde_json::from_str::<Value>(&text).unwrap().as_array().unwrap().clone()
}

fn lose_everything(world: &mut World) {
    world.kill_controller();
    fs::remove_dir_all(world.path("state")).unwrap();
}

/// Gives the parameters of cluster `c` the names that they had before they were named after their cluster.
fn rename_parameters(region: &Region, uid: &str) {
    region.boto(&format!(
        "for what in ('ray-token', 'manifest'):\n    \
         named, before = f'/rayconcile/default/c/{uid}/{{what}}', f'/rayconcile/{uid}/{{what}}'\n    \
         it = ssm.get_parameter(Name=named, WithDecryption=True)['Parameter']\n    \
         ssm.put_parameter(Name=before, Value=it['Value'], Type=it['Type'])\n    \
         ssm.delete_parameter(Name=named)"
    ));
}

#[test]
fn a_lost_cluster_is_adopted_and_its_job_goes_on() {
    let region = Region::start(&[]);
    let mut world = region.world();
    let enough = world.path("enough");
    let record = world.path("record");
    let arguments =
        format!("--until, {}, --work, '0.0003', --record, {}", enough.display(), record.display());
    let far = job("far", "c", &arguments, "scaling: {policy: Fixed, replicas: 1}");
    let groups = [region.group("cpu", (0, 2), "{onDemand: {}}", "m5.large")];
    world.write("c.yaml", &region.cluster("c", "", &groups));
    world.write("far.yaml", &far);
    world.ok(&["apply", "-f", "c.yaml", "-f", "far.yaml"]);
    let before = world.wait_job("far", "it trains", |job| replicas(job) == 1 && job["status"]["group"] == 0);
    let uid = world.get("cluster", "c")["metadata"]["uid"].clone();
    lose_everything(&mut world);
    rename_parameters(&region, uid.as_str().unwrap());

    let lost = found(&world, &region);
    assert_eq!(lost.len(), 1, "{lost:#?}");
    assert_eq!((&lost[0]["uid"], &lost[0]["name"], &lost[0]["here"]), (&uid, &json!("c"), &json!(false)));
    let table = ok(&world, &region, &["find"]);
    println!("{table}");
    assert!(table.contains("default/c") && table.contains(uid.as_str().unwrap()), "{table}");

    let adopted = ok(&world, &region, &["adopt", "c"]);
    assert_eq!(adopted, "cluster/default/c adopted with 2 nodes\njob/default/far adopted\n");
    assert!(said(&world, &region, &["adopt", "c"]).2.contains("has cluster default/c already"));
    assert!(said(&world, &region, &["destroy", "c", "--yes"]).2.contains("delete cluster c"));
    world.start(&[], &region.environment());
    let after = world.wait_job("far", "it is seen to train", |job| replicas(job) == 1);
    // Nothing was taken for gone, and nothing was begun again: the same process goes on.
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(pids(&after), pids(&before));
    assert_eq!(world.get("cluster", "c")["metadata"]["uid"], uid);
    assert_eq!(found(&world, &region)[0]["here"], true);

    // It is rescaled from where it is, under the next number.
    world.write("far.yaml", &far.replace("replicas: 1", "replicas: 2"));
    world.ok(&["apply", "-f", "far.yaml"]);
    world.wait_job("far", "it trains on two nodes", |job| replicas(job) == 2 && job["status"]["group"] == 1);
    let steps = last(&record).step;
    world.wait("it gets on", || (last(&record).step > steps).then_some(()));
    // With one worker again, for two would not see after the same step that it is enough.
    world.write("far.yaml", &far);
    world.ok(&["apply", "-f", "far.yaml"]);
    world.wait_job("far", "it trains on one node", |job| replicas(job) == 1 && job["status"]["group"] == 2);
    fs::write(enough, "").unwrap();
    world.wait_job("far", "it has done its work", |job| phase(job) == "Succeeded");
    assert_unbroken(&recorded(&record), 0);
    assert_eq!(region.calls("RunInstances"), 3, "a head and two workers, and no more");
    region.finish(world);
}

#[test]
fn a_lost_cluster_is_destroyed_and_nothing_else_is() {
    let region = Region::start(&["--never-boot", "t3.micro"]);
    let mut world = region.world();
    let groups = [region.group("cpu", (1, 1), "{onDemand: {}}", "m5.large")];
    world.write("c.yaml", &region.cluster("c", "", &groups));
    world.ok(&["apply", "-f", "c.yaml"]);
    world.wait("a worker joins", || (world.get("cluster", "c")["status"]["readyNodes"] == 1).then_some(()));
    let uid = world.get("cluster", "c")["metadata"]["uid"].as_str().unwrap().to_owned();
    // Somebody else's has the same name.
    let theirs = region.boto(&format!(
        "tags = [{{'Key': 'rayconcile.dev/cluster', 'Value': 'default/c'}}, \
         {{'Key': 'rayconcile.dev/cluster-uid', 'Value': 'another'}}]\n\
         print(ec2.run_instances(ImageId='{}', InstanceType='t3.micro', MinCount=1, MaxCount=1, \
         TagSpecifications=[{{'ResourceType': 'instance', 'Tags': tags}}])['Instances'][0]['InstanceId'])",
        region.image()
    ));
    lose_everything(&mut world);

    let (ok, _, err) = said(&world, &region, &["destroy", "c", "--yes"]);
    assert!(!ok && err.contains("several clusters are called c"), "{err}");
    let (ok, _, err) = said(&world, &region, &["destroy", &uid]);
    assert!(!ok && err.contains("--yes"), "{err}");
    assert_eq!(region.up(), 3);
    let (ok, out, err) = said(&world, &region, &["destroy", &uid, "--yes"]);
    println!("{out}{err}");
    assert!(
        ok && out.contains("cluster/default/c destroyed: 2 instances ended; 1 network interface"),
        "{out}{err}"
    );
    let left: Vec<Value> = region.left();
    let ours = left.iter().filter(|it| it["tags"]["rayconcile.dev/cluster-uid"] == uid.as_str());
    assert_eq!(ours.count(), 0, "{left:#?}");
    let instance = region.instances().into_iter().find(|instance| instance["id"] == theirs).unwrap();
    assert_eq!(instance["state"], "running");
}

#[test]
fn a_job_goes_on_without_agent_and_controller_and_its_instances_end_after_it() {
    let region = Region::start(&[]);
    let mut world = region.world();
    let (enough, record) = (world.path("enough"), world.path("record"));
    let arguments =
        format!("--until, {}, --work, '0.0003', --record, {}", enough.display(), record.display());
    let groups = [region.group("cpu", (0, 1), "{onDemand: {}}", "m5.large")];
    let cluster = region.cluster("c", ", orphanTimeout: 1m", &groups);
    world.write("all.yaml", &format!("{cluster}---\n{}", job("far", "c", &arguments, "maxReplicas: 1")));
    world.ok(&["apply", "-f", "all.yaml"]);
    world.wait_job("far", "it trains", |job| replicas(job) == 1);
    let head = world.wait("the head's instance is known", || {
        let nodes = world.get("cluster", "c")["status"]["nodes"].clone();
        let head = nodes.as_array()?.iter().find(|node| node["group"].is_null())?;
        Some(head["instance"]["id"].as_str()?.to_owned())
    });
    lose_everything(&mut world);
    assert_eq!(region.kill_process(&head, "rayconcile_agent.agent"), 1);

    // Nobody can tell the instances that there is a job but the job itself.
    std::thread::sleep(Duration::from_secs(80));
    assert_eq!(region.up(), 2, "{:#?}", region.instances());
    let steps = last(&record).step;
    world.wait("it gets on", || (last(&record).step > steps).then_some(()));
    fs::write(enough, "").unwrap();
    let ended = within(PATIENCE, || (region.up() == 0).then_some(()));
    assert!(ended.is_some(), "{:#?}", region.instances());
    assert_unbroken(&recorded(&record), 0);
    ok(&world, &region, &["destroy", "c", "--yes"]);
    assert!(region.left().is_empty(), "{:#?}", region.left());
}

#[test]
fn with_nobody_there_every_instance_ends_itself() {
    let region = Region::start(&["--env", "RAYCONCILE_ORPHAN_POLL_S=1"]);
    let mut world = region.world();
    let groups = [region.group("cpu", (1, 1), "{onDemand: {}}", "m5.large")];
    world.write(
        "all.yaml",
        &format!(
            "{}---\n{}",
            region.cluster("c", ", orphanTimeout: 1m", &groups),
            job("brief", "c", "--steps, '20'", "maxReplicas: 1"),
        ),
    );
    world.ok(&["apply", "-f", "all.yaml"]);
    world.wait_job("brief", "it has done its work", |job| phase(job) == "Succeeded");
    assert_eq!(region.up(), 2);
    lose_everything(&mut world);
    let ended = within(PATIENCE, || (region.up() == 0).then_some(()));
    assert!(ended.is_some(), "{:#?}", region.instances());

    // What EC2 charges beside them is found, and removed.
    let ended = within(PATIENCE, || (found(&world, &region)[0]["instances"] == json!([])).then_some(()));
    assert!(ended.is_some(), "{:#?}", found(&world, &region));
    assert!(said(&world, &region, &["adopt", "c"]).2.contains("has no head any more"));
    let destroyed = ok(&world, &region, &["destroy", "c", "--yes"]);
    assert!(destroyed.contains("0 instances ended"), "{destroyed}");
    assert!(region.left().is_empty(), "{:#?}", region.left());
    assert_eq!(found(&world, &region).len(), 0);
}
