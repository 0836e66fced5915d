//! A walk through the life of a cluster on EC2: the controller is killed at every step between an intent and its
//! record, and EC2's replies are lost. There are never more instances than wanted, and in the end there is nothing.

use serde_json::Value;

use crate::region::Region;
use crate::support::{PATIENCE, World};

/// A cluster's life, with one region for all of it.
struct Walk {
    region: Region,
    world: World,
}

impl Walk {
    fn start(&mut self, crash_at: Option<&str>) {
        let mut environment = self.region.environment();
        environment.extend(crash_at.map(|at| ("RAYCONCILE_CRASH_AT", at)));
        self.world.start(&[], &environment);
    }

    /// A controller that dies at a point, after the replies to these calls were lost to it.
    fn die(&mut self, crash_at: &str, lost: &[&str]) {
        self.region.lose_replies(lost);
        self.start(Some(crash_at));
        self.is_dead(crash_at);
    }

    fn is_dead(&mut self, crash_at: &str) {
        assert!(self.world.controller_dies(PATIENCE), "{crash_at} is not reached\n{}", self.world.log());
        assert_eq!(self.region.not_struck(), [Value::Null; 0], "at {crash_at}");
    }

    fn apply(&self, nodes: u32) {
        let group = self
            .region
            .group("cpu", (nodes, 1), "{spot: {}}", "m5.large")
            .replace("idleTimeout: 5s", "idleTimeout: 1s");
        self.world.write("c.yaml", &self.region.cluster("c", "", &[group]));
        self.world.ok(&["apply", "-f", "c.yaml"]);
    }

    fn wait_nodes(&self, count: usize) {
        self.world.wait(&format!("{count} nodes are ready, and no other is there"), || {
            let cluster = self.world.get("cluster", "c");
            let nodes = cluster["status"]["nodes"].as_array()?;
            (nodes.len() == count && nodes.iter().all(|node| node["state"] == "Ready")).then_some(())
        });
    }

    /// How many of each kind there are of what the nodes share.
    fn shared(&self) -> [usize; 3] {
        let left = self.region.left();
        ["group", "interface", "parameter"].map(|kind| left.iter().filter(|it| it["kind"] == kind).count())
    }
}

#[test]
fn whatever_is_killed_or_lost_no_instance_is_one_too_many() {
    let region = Region::start(&[]);
    let mut walk = Walk { region, world: World::new() };

    // It is stored, and nobody has looked at it yet: the credentials are no good so far.
    walk.start(None);
    walk.region.faults(serde_json::json!([{"action": "*", "error": "RequestExpired"}]));
    walk.apply(1);
    walk.world.kill_controller();

    walk.die("kept", &[]);
    walk.die("before:OpenCluster", &[]);
    walk.die("after:OpenCluster", &["CreateSecurityGroup"]);
    // That it has failed is recorded, and what was made is not made again.
    walk.die("settled:OpenCluster", &["CreateNetworkInterface"]);
    walk.die("after:OpenCluster", &["PutParameter"]);
    walk.die("settled:OpenCluster", &[]);
    // The token and the manifest are parameters.
    assert_eq!(walk.shared(), [1, 1, 2]);
    assert_eq!(walk.region.instances().len(), 0);

    walk.die("before:LaunchNode", &[]);
    walk.die("after:LaunchNode", &["RunInstances"]);
    walk.die("settled:LaunchNode", &[]);
    assert_eq!(walk.region.instances().len(), 1, "the head");
    walk.die("before:LaunchNode", &[]);
    // That it has failed is recorded, and then it is found.
    walk.die("settled:LaunchNode", &["RunInstances"]);
    walk.start(None);
    walk.wait_nodes(2);
    assert_eq!(walk.region.instances().len(), 2, "the head and a worker, whatever was repeated");

    walk.apply(0);
    walk.world.kill_controller();
    walk.die("before:TerminateNode", &[]);
    walk.die("after:TerminateNode", &["TerminateInstances"]);
    walk.die("settled:TerminateNode", &[]);
    walk.start(None);
    walk.wait_nodes(1);

    walk.world.ok(&["delete", "cluster", "c", "--no-wait"]);
    walk.world.kill_controller();
    walk.die("before:CloseCluster", &[]);
    walk.die("after:CloseCluster", &["DeleteNetworkInterface"]);
    walk.die("settled:CloseCluster", &["DeleteSecurityGroup"]);
    walk.die("after:CloseCluster", &["DeleteParameter"]);
    walk.die("settled:CloseCluster", &[]);
    walk.start(None);
    walk.world.wait("the cluster is gone", || walk.world.get("cluster", "c").is_null().then_some(()));

    assert_eq!(walk.region.most_up(), 2, "at once");
    assert_eq!(walk.region.instances().len(), 2, "ever");
    let Walk { region, world } = walk;
    region.finish(world);
}

/// A cluster that is deleted before it could be opened leaves nothing of what was made until then.
#[test]
fn what_was_made_before_opening_failed_is_removed() {
    let region = Region::start(&[]);
    let world = region.world();
    region.faults(serde_json::json!([{"action": "PutParameter", "error": "AccessDeniedException"}]));
    world.write("c.yaml", &region.cluster("c", "", &[]));
    world.ok(&["apply", "-f", "c.yaml"]);
    let count = |kind: &str| region.left().iter().filter(|it| it["kind"] == kind).count();
    world.wait("it is tried again", || (region.calls("PutParameter") > 2).then_some(()));
    assert_eq!((count("group"), count("interface")), (1, 1));
    region.finish(world);
}
