//! Clusters on EC2, as far as one machine can have it: the real SDK against a region in which instances really run.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::region::Region;
use crate::support::{PATIENCE, World, job, phase, replicas, within};

/// A job of one to two workers.
fn elastic(world: &World, cluster: &str, steps: u64) -> String {
    let arguments =
        format!("--steps, '{steps}', --work, '0.0003', --record, {}", world.path("record").display());
    job("far", cluster, &arguments, "maxReplicas: 2\n  scaling: {policy: Fixed, replicas: 2}")
}

fn nodes(world: &World, cluster: &str) -> Vec<Value> {
    world.get("cluster", cluster)["status"]["nodes"].as_array().cloned().unwrap_or_default()
}

fn ready(world: &World, cluster: &str) -> u64 {
    world.get("cluster", cluster)["status"]["readyNodes"].as_u64().unwrap_or(0)
}

/// The one node of a group, and its instance: EC2 is asked every few seconds which it is.
fn instance_of(world: &World, group: &str) -> (Value, String) {
    world.wait(&format!("the instance of {group} is known"), || {
        let nodes = nodes(world, "c");
        let node = nodes.iter().find(|node| node["group"].as_str().unwrap_or("head") == group)?;
        Some((node.clone(), node["instance"]["id"].as_str()?.to_owned()))
    })
}

/// A condition of a cluster: its reason and its message.
fn provisioned(world: &World, cluster: &str) -> Option<(String, String)> {
    let cluster = world.get("cluster", cluster);
    let conditions = cluster["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == "Provisioned")?;
    Some((found["reason"].as_str()?.to_owned(), found["message"].as_str()?.to_owned()))
}

fn wait_provisioned(world: &World, cluster: &str, reason: &str, words: &str) {
    world.wait(&format!("{cluster} says {reason}: {words}"), || {
        let (found, message) = provisioned(world, cluster)?;
        (found == reason && message.contains(words)).then_some(())
    });
}

/// That its instances can reach nobody outside, and the controller least of all.
fn assert_enclosed(region: &Region, world: &World) {
    let interfaces = String::from_utf8(region.inside(&["cat", "/proc/net/dev"]).stdout).unwrap();
    assert_eq!(interfaces.lines().skip(2).count(), 1, "there is more than loopback:\n{interfaces}");
    let controller = fs::read_to_string(world.path("state/api.json")).unwrap();
    let controller: Value = serde_json::from_str(&controller).unwrap();
    let call = ["curl", "--silent", "--noproxy", "*", "--max-time", "5", controller["url"].as_str().unwrap()];
    assert!(Command::new(call[0]).args(&call[1..]).output().unwrap().status.success(), "{call:?}");
    assert!(!region.inside(&call).status.success(), "{call:?}");
}

#[test]
fn from_nothing_over_an_interruption_to_nothing_where_nothing_can_be_reached_from() {
    let region = Region::enclosed();
    let world = region.world();
    assert_enclosed(&region, &world);
    let groups = [region.group("spot", (0, 3), "{spot: {}}", "m5.large, m5a.large")];
    world.write("all.yaml", &(region.cluster("c", "", &groups) + "---\n" + &elastic(&world, "c", 1_000_000)));
    world.ok(&["apply", "-f", "all.yaml"]);
    world.wait_job("far", "it trains on two instances", |job| replicas(job) == 2);
    let (taken, instance) = world.wait("its instances are known", || {
        let nodes = nodes(&world, "c");
        let taken = nodes.iter().find(|node| node["workers"] == 1)?;
        Some((taken.clone(), taken["instance"]["id"].as_str()?.to_owned()))
    });
    assert_eq!(taken["instance"]["market"], "spot", "{taken}");
    world.wait("what it costs is known", || {
        let cost = world.get("cluster", "c")["status"]["cost"].clone();
        let prices: Vec<Value> =
            nodes(&world, "c").iter().map(|node| node["instance"]["price"].clone()).collect();
        // The head's is in our table, and moto's EC2 asks so much for any spot instance.
        let known = prices.len() == 3 && prices.iter().all(|price| price == "0.096" || price == "0.00001");
        (known && cost["perHour"] == "0.09602" && cost["spent"] != "0").then_some(())
    });
    let status = world.ok(&["status"]);
    assert!(
        status.contains("  cost      $0.09602/h, ") && status.contains("  cost        $0.00002/h, "),
        "{status}"
    );
    region.notice(&instance, "terminate", 120);
    world.wait_job("far", "it has moved", |job| {
        let workers = job["status"]["workers"].as_array().cloned().unwrap_or_default();
        replicas(job) == 2 && workers.iter().all(|worker| worker["node"] != taken["name"])
    });
    // However fast this machine is, it has worked long enough.
    let made = world.job("far")["status"]["progress"]["steps"].as_u64().unwrap();
    world.write("job.yaml", &elastic(&world, "c", made + 200));
    world.ok(&["apply", "-f", "job.yaml"]);
    world.wait_job("far", "it has done its work", |job| phase(job) == "Succeeded");
    let job = world.job("far");
    assert_eq!(job["status"]["failures"], 0, "{job}");
    world.wait("idle nodes are given back", || (region.up() == 1).then_some(()));
    region.finish(world);
}

#[test]
fn a_root_volume_that_its_image_would_keep_ends_with_its_instance() {
    let region = Region::start(&["--never-boot"]);
    let world = region.world();
    let image = region.boto(
        "root = {'DeviceName': '/dev/xvdr', 'Ebs': {'VolumeSize': 9, 'DeleteOnTermination': False}}\n\
         print(ec2.register_image(Name='kept', RootDeviceName='/dev/xvdr', BlockDeviceMappings=[root])['ImageId'])",
    );
    let snapshots = region.left();
    world.write("c.yaml", &region.cluster("c", "", &[]).replace(region.image(), &image));
    world.ok(&["apply", "-f", "c.yaml"]);
    world.wait("the head is launched", || (region.up() == 1).then_some(()));
    let volumes = region.boto(
        "for reservation in ec2.describe_instances()['Reservations']:\n    \
         for device in reservation['Instances'][0]['BlockDeviceMappings']:\n        \
         print(device['DeviceName'], device['Ebs']['DeleteOnTermination'])",
    );
    assert_eq!(volumes, "/dev/xvdr True");
    world.finish();
    world_is_as_it_was(&region, &snapshots);
}

/// That nothing is left but this.
fn world_is_as_it_was(region: &Region, before: &[Value]) {
    let left = within(PATIENCE, || (region.left() == before).then_some(()));
    assert!(left.is_some(), "left in the region: {:#?}", region.left());
}

#[test]
fn what_ec2_refuses_is_said_and_got_over() {
    let region = Region::start(&[]);
    // A type that does not exist, and then an image.
    let world = region.world();
    let good = region.cluster("c", "", &[region.group("spot", (1, 1), "{spot: {}}", "m5.large, m5a.large")]);
    world.write("c.yaml", &good.replace("types: [m5.large]", "types: [m5.lagre]"));
    world.ok(&["apply", "-f", "c.yaml"]);
    wait_provisioned(&world, "c", "CannotOpen", "m5.lagre");
    world.write("c.yaml", &good.replace(region.image(), "ami-0badbadbadbadbad0"));
    world.ok(&["apply", "-f", "c.yaml"]);
    wait_provisioned(&world, "c", "CannotOpen", "ami-0badbadbadbadbad0");
    assert_eq!(region.calls("RunInstances"), 0);

    // No capacity for workers, whatever type.
    region.faults(json!([{"action": "RunInstances", "match": {"MinCount": "1", "InstanceMarketOptions.MarketType": "spot"},
        "error": "InsufficientInstanceCapacity"}]));
    world.write("c.yaml", &good);
    world.ok(&["apply", "-f", "c.yaml"]);
    wait_provisioned(&world, "c", "NoCapacity", "InsufficientInstanceCapacity");
    let calls = region.calls("RunInstances");
    // Two types in two zones, and the head.
    assert!(calls <= 6, "{calls} launches");
    let status = world.ok(&["status"]);
    assert!(status.contains("EC2 has none of what is asked for"), "{status}");

    // Credentials expire: nothing is taken for gone, nothing is launched; and when they are good again it goes on.
    region.faults(json!([{"action": "*", "error": "RequestExpired"}]));
    let asked = region.calls("DescribeInstances");
    world.wait("it was seen", || (region.calls("DescribeInstances") > asked + 1).then_some(()));
    assert_eq!(nodes(&world, "c").iter().filter(|node| node["state"] == "Ready").count(), 1);
    world.write("c.yaml", &good.replace("{spot: {}}", "{onDemand: {}}"));
    world.ok(&["apply", "-f", "c.yaml"]);
    region.faults(json!([]));
    world.wait("a worker joins", || (ready(&world, "c") == 1).then_some(()));
    region.finish(world);
}

#[test]
fn what_is_somebody_elses_is_not_touched() {
    let region = Region::start(&["--never-boot", "t3.micro"]);
    let world = region.world();
    world.write(
        "c.yaml",
        &region.cluster("c", "", &[region.group("cpu", (1, 1), "{onDemand: {}}", "m5.large")]),
    );
    world.ok(&["apply", "-f", "c.yaml"]);
    // Everything but the cluster's uid is as on ours.
    let theirs = region.boto(&format!(
        "tags = [{{'Key': 'rayconcile.dev/cluster', 'Value': 'default/c'}}, \
         {{'Key': 'rayconcile.dev/cluster-uid', 'Value': 'another'}}, \
         {{'Key': 'rayconcile.dev/launch', 'Value': 'n123'}}, {{'Key': 'Name', 'Value': 'c-cpu-2'}}]\n\
         print(ec2.run_instances(ImageId='{}', InstanceType='t3.micro', MinCount=1, MaxCount=1, \
         TagSpecifications=[{{'ResourceType': 'instance', 'Tags': tags}}])['Instances'][0]['InstanceId'])",
        region.image()
    ));
    world.wait("a worker joins", || (ready(&world, "c") == 1).then_some(()));
    // An instance of ours dies, and is replaced.
    let (lost, instance) = instance_of(&world, "cpu");
    region.kill(&instance);
    world.wait("it is replaced", || {
        let nodes = nodes(&world, "c");
        let replaced = nodes.iter().all(|node| node["name"] != lost["name"]);
        (replaced && ready(&world, "c") == 1).then_some(())
    });
    world.finish();
    world_is_empty_but_for(&region, &theirs);
}

fn world_is_empty_but_for(region: &Region, theirs: &str) {
    let ours = |left: &&Value| {
        left["tags"].to_string().contains("rayconcile.dev/cluster-uid")
            && !left["tags"].to_string().contains("another")
    };
    let left = region.left();
    assert_eq!(left.iter().filter(ours).count(), 0, "{left:#?}");
    assert!(left.iter().any(|it| it["id"] == theirs), "{left:#?}");
    let instance = region.instances().into_iter().find(|instance| instance["id"] == theirs).unwrap();
    assert_eq!(instance["state"], "running");
}

#[test]
fn a_cluster_without_its_head_is_built_again() {
    let region = Region::start(&[]);
    let world = region.world();
    let groups = [region.group("cpu", (0, 2), "{onDemand: {}}", "m5.large")];
    world.write("all.yaml", &(region.cluster("c", "", &groups) + "---\n" + &elastic(&world, "c", 1_000_000)));
    world.ok(&["apply", "-f", "all.yaml"]);
    world.wait_job("far", "it trains", |job| replicas(job) == 2);
    let (head, instance) = instance_of(&world, "head");
    region.kill(&instance);
    world.wait("another head is there", || {
        let nodes = nodes(&world, "c");
        let other = nodes.iter().find(|node| node["group"].is_null())?;
        (other["instance"]["id"] != head["instance"]["id"] && other["state"] == "Ready").then_some(())
    });
    world.wait_job("far", "it trains again", |job| {
        replicas(job) == 2 && job["status"]["group"].as_u64() > Some(0)
    });
    assert_eq!(world.job("far")["status"]["failures"], 0);
    region.finish(world);
}
