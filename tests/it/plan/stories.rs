//! Stories: what the planner does in a world where everything takes its usual time, told line by line.

use rayconcile::api::cluster::RayClusterSpec;
use rayconcile::api::job::AdaptDLJobSpec;
use rayconcile::api::object::{AnyObject, Kind};
use rayconcile::api::wire::NoticeKind;
use rayconcile::simulate::{Fault, Options, Simulation, Workload};

use crate::simulate::{cluster, hints, job, key, options};

const MINUTE: u64 = 60_000;

/// Two machines with two CPUs each, beside a head with none.
pub(super) const TWO_MACHINES: &str = "
provider: {local: {}}
workerGroups: [{name: a, maxNodes: 2, idleTimeout: 1m, template: {resources: {cpu: 2}}}]
";

pub(super) const SMALL: &str = "{clusterRef: {name: gpu}, entrypoint: main.py, maxReplicas: 4}";

pub(super) struct Story {
    pub(super) world: Simulation,
}

impl Story {
    fn new() -> Self {
        Self { world: Simulation::new(Options { steady: true, transcript: 10_000, ..options(1) }) }
    }

    pub(super) fn on(spec: &str) -> Self {
        let mut story = Self::new();
        story.cluster("gpu", spec);
        story
    }

    pub(super) fn cluster(&mut self, name: &str, spec: &str) {
        let mut spec: RayClusterSpec = read(spec);
        spec.fill_defaults();
        self.world.apply(cluster(name, spec));
    }

    pub(super) fn job(&mut self, name: &str, spec: &str) {
        self.world.apply(job_of(name, spec));
    }

    /// A job that trains for ever, and whose workers report what they measure.
    fn scaling_job(&mut self, name: &str, compute: f64, exchange: f64) {
        let hints = Some(hints(compute, exchange));
        self.world.program(&key(name), Workload { hints, ..Workload::default() });
        self.job(name, SMALL);
    }

    /// Goes on until a moment, in seconds.
    pub(super) fn until(&mut self, seconds: u64) {
        self.world.run_until(seconds * 1000);
    }

    pub(super) fn workers(&self, name: &str) -> usize {
        self.world.training(&key(name)).len()
    }

    /// Everything must become as wanted; then the story is over.
    pub(super) fn end(mut self) -> String {
        self.world.converge(30 * MINUTE);
        let missing = self.world.missing();
        assert!(self.world.violation().is_none() && missing.is_empty(), "{}", self.world.transcript());
        plain(&self.world.transcript())
    }
}

fn job_of(name: &str, spec: &str) -> AnyObject {
    job(name, read::<AdaptDLJobSpec>(spec))
}

fn read<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
    let value: serde_json::Value = serde_yaml::from_str(yaml).unwrap();
    serde_json::from_value(value).unwrap()
}

/// Without what differs from one version of the program to the next: ids made from digests.
fn plain(transcript: &str) -> String {
    let lines = transcript.lines().filter(|line| !line.contains("  begins ") && !line.contains("Telling:"));
    let lines = lines.map(|line| match line.split_once("the node of launch ") {
        Some((before, _)) => format!("{before}a node has joined"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn first_start() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", SMALL);
    story.until(60);
    assert_eq!(story.workers("ada"), 1);
    insta::assert_snapshot!(story.end());
}

#[test]
fn grows_by_hints() {
    let mut story = Story::on(TWO_MACHINES);
    story.scaling_job("ada", 1.0, 0.01);
    story.until(600);
    assert_eq!(story.workers("ada"), 4);
    insta::assert_snapshot!(story.end());
}

#[test]
fn slow_communication_keeps_it_small() {
    let mut story = Story::on(TWO_MACHINES);
    story.scaling_job("ada", 0.1, 2.0);
    story.until(600);
    assert_eq!(story.workers("ada"), 1);
    insta::assert_snapshot!(story.end());
}

#[test]
fn a_node_is_lost() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", "{clusterRef: {name: gpu}, entrypoint: main.py, minReplicas: 2, maxReplicas: 4}");
    story.until(60);
    story.world.strike(Fault::NodeDies);
    insta::assert_snapshot!(story.end());
}

#[test]
fn the_head_is_lost() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", "{clusterRef: {name: gpu}, entrypoint: main.py, checkpoint: {interval: 30s}}");
    story.until(90);
    story.world.strike(Fault::HeadDies);
    insta::assert_snapshot!(story.end());
}

#[test]
fn suspended_and_resumed() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", SMALL);
    story.until(60);
    story.job("ada", &SMALL.replace("maxReplicas", "suspend: true, maxReplicas"));
    story.until(120);
    assert_eq!(story.workers("ada"), 0);
    story.job("ada", SMALL);
    insta::assert_snapshot!(story.end());
}

#[test]
fn deleted() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", SMALL);
    story.until(60);
    story.world.delete(Kind::AdaptDLJob, &key("ada"));
    story.until(90);
    story.world.delete(Kind::RayCluster, &key("gpu"));
    insta::assert_snapshot!(story.end());
}

#[test]
fn fails_until_it_is_given_up() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", &SMALL.replace("maxReplicas", "args: [--fail-at-start], backoffLimit: 2, maxReplicas"));
    insta::assert_snapshot!(story.end());
}

#[test]
fn its_bridge_dies() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", "{clusterRef: {name: gpu}, entrypoint: main.py, checkpoint: {interval: 30s}}");
    story.until(90);
    story.world.strike(Fault::BridgeDies);
    insta::assert_snapshot!(story.end());
}

#[test]
fn the_controller_is_away() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", "{clusterRef: {name: gpu}, entrypoint: main.py, checkpoint: {interval: 30s}}");
    story.until(90);
    story.world.strike(Fault::ControllerDies(MINUTE));
    insta::assert_snapshot!(story.end());
}

#[test]
fn on_a_cluster_of_somebody_else() {
    let mut story = Story::new();
    story.world.somebody_runs(&key("gpu"), 2, 4);
    story.cluster("gpu", "provider: {existing: {address: 'http://head:8265'}}");
    story.job("ada", SMALL);
    story.until(60);
    story.world.delete(Kind::AdaptDLJob, &key("ada"));
    story.until(90);
    story.world.delete(Kind::RayCluster, &key("gpu"));
    insta::assert_snapshot!(story.end());
}

#[test]
fn on_a_cluster_with_an_autoscaler() {
    let mut story = Story::new();
    story.world.somebody_runs(&key("gpu"), 1, 1);
    story.world.autoscales(&key("gpu"), 2);
    story.cluster("gpu", "provider: {existing: {address: 'http://head:8265', autoscaler: true}}");
    let fixed = "{clusterRef: {name: gpu}, entrypoint: main.py, maxReplicas: 4, scaling: {policy: Fixed, replicas: 4}}";
    story.job("ada", fixed);
    story.until(60);
    assert_eq!(story.workers("ada"), 4);
    story.world.delete(Kind::AdaptDLJob, &key("ada"));
    story.until(90);
    story.world.delete(Kind::RayCluster, &key("gpu"));
    insta::assert_snapshot!(story.end());
}

#[test]
fn on_this_machine() {
    let mut story = Story::new();
    story.world.program(&key("ada"), Workload { steps: Some(300), ..Workload::default() });
    story.job("ada", "{entrypoint: main.py}");
    insta::assert_snapshot!(story.end());
}

#[test]
fn two_jobs_share_a_cluster() {
    let mut story = Story::on(TWO_MACHINES);
    story.scaling_job("ada", 1.0, 0.01);
    story.until(300);
    story.job("bob", "{clusterRef: {name: gpu}, entrypoint: main.py, priority: 1, minReplicas: 2}");
    story.until(400);
    assert_eq!((story.workers("ada"), story.workers("bob")), (2, 2));
    insta::assert_snapshot!(story.end());
}

#[test]
fn idle_nodes_are_given_back() {
    let fixed = "{clusterRef: {name: gpu}, entrypoint: main.py, maxReplicas: 4, scaling: {policy: Fixed, replicas: 4}}";
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", fixed);
    story.until(60);
    assert_eq!(story.workers("ada"), 4);
    story.job("ada", &fixed.replace("replicas: 4}", "replicas: 1}"));
    insta::assert_snapshot!(story.end());
}

#[test]
fn another_program_beside_the_one_that_trains() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", SMALL);
    story.until(60);
    story.job("ada", &SMALL.replace("maxReplicas", "args: [--rate=2], maxReplicas"));
    insta::assert_snapshot!(story.end());
}

#[test]
fn moved_to_another_cluster() {
    let mut story = Story::on(TWO_MACHINES);
    story.cluster("spot", TWO_MACHINES);
    story.job("ada", SMALL);
    story.until(60);
    story.job("ada", &SMALL.replace("gpu", "spot"));
    insta::assert_snapshot!(story.end());
}

#[test]
fn no_node_can_be_had() {
    let mut story = Story::on(TWO_MACHINES);
    story.world.exhaust(&key("gpu"), true);
    story.job("ada", SMALL);
    story.until(120);
    let report = story.world.report(&key("gpu")).cloned().unwrap();
    let said = report.jobs.values().next().map(|job| job.waiting[0].message.clone());
    assert_eq!(said.as_deref(), Some("the nodes for its workers cannot be started: there is no capacity"));
    story.world.exhaust(&key("gpu"), false);
    insta::assert_snapshot!(story.end());
}

#[test]
fn a_spot_node_is_taken_and_another_is_there() {
    let mut story = Story::on(&TWO_MACHINES.replace("maxNodes: 2", "minNodes: 2, maxNodes: 2"));
    story.job("ada", SMALL);
    story.until(60);
    story.world.strike(Fault::NodeNotice(NoticeKind::SpotInterruption));
    story.until(90);
    assert_eq!(story.workers("ada"), 1);
    insta::assert_snapshot!(story.end());
}

#[test]
fn a_spot_node_is_taken_and_there_is_no_other() {
    let mut story = Story::on(&TWO_MACHINES.replace("maxNodes: 2", "maxNodes: 1"));
    story.job("ada", SMALL);
    story.until(60);
    story.world.strike(Fault::NodeNotice(NoticeKind::SpotInterruption));
    insta::assert_snapshot!(story.end());
}

#[test]
fn a_node_had_better_be_left() {
    let mut story = Story::on(TWO_MACHINES);
    story.job("ada", SMALL);
    story.until(60);
    story.world.strike(Fault::NodeNotice(NoticeKind::RebalanceRecommendation));
    insta::assert_snapshot!(story.end());
}

#[test]
fn a_node_is_lost_while_the_controller_is_away() {
    let mut story = Story::on(&TWO_MACHINES.replace("cpu: 2", "cpu: 1"));
    let two = "{clusterRef: {name: gpu}, entrypoint: main.py, maxReplicas: 2, scaling: {policy: Fixed, replicas: 2}}";
    story.job("ada", two);
    story.until(60);
    story.world.strike(Fault::ControllerDies(MINUTE));
    story.world.strike(Fault::NodeDies);
    story.until(110);
    assert_eq!(story.workers("ada"), 1);
    insta::assert_snapshot!(story.end());
}
