//! A controller that can reach its cluster, and which the cluster cannot reach, does everything.

use std::net::TcpStream;

use crate::elastic::elastic_story;
use crate::support::{World, cluster, free_ports, phase};

#[test]
fn a_controller_that_the_cluster_cannot_reach_does_everything() {
    // Somebody else's cluster, as far as the controller in the enclosure knows.
    let mut outside = World::with_controller(&[]);
    outside.write("cluster.yaml", &cluster("theirs", 2));
    outside.ok(&["apply", "-f", "cluster.yaml"]);
    let theirs = outside.wait("the cluster is ready", || {
        let found = outside.get("cluster", "theirs");
        (phase(&found) == "Ready" && found["status"]["readyNodes"] == 2).then_some(found)
    });
    let dashboard = theirs["status"]["dashboard"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let (address, port) = dashboard.split_once(':').unwrap();
    let token = outside.path("state/clusters/default.theirs/ray-token");
    outside.kill_controller();

    let [agent_port] = free_ports();
    let mut inside = World::enclosed(address, &[port.parse().unwrap(), agent_port]);
    inside.start(&[], &[]);
    let interfaces = inside.inside(&["cat", "/proc/net/dev"]);
    assert_eq!(interfaces.lines().skip(2).count(), 1, "there is more than loopback:\n{interfaces}");
    let existing = format!(
        "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: c}}\nspec:\n  \
         provider: {{existing: {{address: 'http://127.0.0.1:{port}', agentPort: {agent_port}}}}}\n  \
         auth: {{mode: token, tokenFrom: {{file: {}}}}}\n",
        token.display()
    );
    elastic_story(&mut inside, &existing);
    inside.finish();

    outside.start(&[], &[]);
    let gone = || TcpStream::connect((address, agent_port)).is_err();
    outside.wait("the agent is gone from a cluster that goes on", || gone().then_some(()));
    outside.finish();
}
