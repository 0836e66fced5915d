//! Rolling replacement: a template changes, and the nodes follow, no faster than their group's strategy has it.

use std::collections::BTreeSet;

use rayconcile::api::ids::NodeName;
use rayconcile::api::record::NodeState;

use super::stories::Story;
use crate::simulate::key;

/// As many machines of one CPU as there are workers, and room for one more.
const GROUP: &str = "
provider: {local: {}}
workerGroups: [{name: a, minNodes: 2, maxNodes: 3, idleTimeout: 1m, template: {resources: {cpu: 1}}}]
";

const TWO_WORKERS: &str =
    "{clusterRef: {name: gpu}, entrypoint: main.py, maxReplicas: 2, scaling: {policy: Fixed, replicas: 2}}";

/// What was seen of a group while its nodes were replaced.
#[derive(Debug)]
struct Course {
    most_nodes: usize,
    /// In any of the job's groups.
    fewest_workers: Option<usize>,
}

fn nodes(story: &Story) -> BTreeSet<NodeName> {
    let record = story.world.cluster(&key("gpu")).unwrap();
    record.nodes.iter().filter(|(_, node)| node.group.is_some()).map(|(name, _)| name.clone()).collect()
}

/// Two workers on two nodes.
fn begin(spec: &str) -> Story {
    let mut story = Story::on(spec);
    story.job("ada", TWO_WORKERS);
    story.until(60);
    assert_eq!((story.workers("ada"), nodes(&story).len()), (2, 2));
    story
}

/// Changes the cluster, and watches for so long.
fn change(story: &mut Story, spec: &str, until: u64) -> Course {
    story.cluster("gpu", spec);
    let mut course = Course { most_nodes: 0, fewest_workers: None };
    for second in 61..=until {
        story.until(second);
        course.most_nodes = course.most_nodes.max(nodes(story).len());
    }
    let groups = story.world.job(&key("ada")).map(|job| &job.groups);
    course.fewest_workers = groups.into_iter().flatten().map(|group| group.nodes.len()).min();
    course
}

fn said(story: &Story) -> Vec<String> {
    let report = story.world.report(&key("gpu")).unwrap();
    report.cluster.waiting.iter().map(|it| format!("{}: {}", it.reason, it.message)).collect()
}

fn labelled(spec: &str) -> String {
    spec.replace("template: {", "template: {labels: {disk: new}, ")
}

#[test]
fn a_template_changes() {
    let mut story = begin(GROUP);
    let before = nodes(&story);
    let course = change(&mut story, &labelled(GROUP), 300);
    assert!(nodes(&story).is_disjoint(&before), "{:?}", nodes(&story));
    // One more at a time, and nobody waits for a place.
    assert_eq!((course.most_nodes, course.fewest_workers), (3, Some(2)));
    insta::assert_snapshot!(story.end());
}

#[test]
fn a_template_changes_in_a_full_group() {
    let full = GROUP.replace("maxNodes: 3", "maxNodes: 2");
    let mut story = begin(&full);
    let before = nodes(&story);
    let course = change(&mut story, &labelled(&full), 400);
    assert!(nodes(&story).is_disjoint(&before), "{:?}", nodes(&story));
    assert_eq!((course.most_nodes, course.fewest_workers), (2, Some(1)));
    insta::assert_snapshot!(story.end());
}

#[test]
fn nodes_may_be_missing_instead() {
    let strict =
        GROUP.replace("idleTimeout", "updateStrategy: {maxUnavailable: 1, maxSurge: 0}, idleTimeout");
    let mut story = begin(&strict);
    let before = nodes(&story);
    let course = change(&mut story, &labelled(&strict), 400);
    assert!(nodes(&story).is_disjoint(&before), "{:?}", nodes(&story));
    assert_eq!((course.most_nodes, course.fewest_workers), (2, Some(1)));
}

#[test]
fn idle_nodes_are_replaced_one_by_one_too() {
    let mut story = Story::on(GROUP);
    story.until(60);
    let before = nodes(&story);
    let course = change(&mut story, &labelled(GROUP), 300);
    assert!(nodes(&story).is_disjoint(&before), "{:?}", nodes(&story));
    assert_eq!((nodes(&story).len(), course.most_nodes), (2, 3));
}

#[test]
fn what_does_not_concern_a_node_replaces_none() {
    let mut story = begin(GROUP);
    let before = story.world.cluster(&key("gpu")).unwrap().launched;
    change(&mut story, &GROUP.replace("idleTimeout: 1m", "idleTimeout: 2m"), 90);
    change(
        &mut story,
        &GROUP.replace("idleTimeout", "updateStrategy: {maxUnavailable: 2}, idleTimeout"),
        200,
    );
    assert_eq!(story.world.cluster(&key("gpu")).unwrap().launched, before);
}

#[test]
fn workers_that_fit_nowhere_else_keep_their_node() {
    let two_cpus = GROUP.replace("cpu: 1", "cpu: 2");
    let mut story = Story::on(&two_cpus);
    story.job("ada", "{clusterRef: {name: gpu}, entrypoint: main.py, resources: {cpu: 2}}");
    story.until(60);
    change(&mut story, GROUP, 300);
    assert_eq!(story.workers("ada"), 1);
    assert!(
        said(&story)
            .iter()
            .any(|it| it.contains("1 node of an outdated template stays: its workers fit nowhere else")),
        "{:?}",
        said(&story)
    );
}

#[test]
fn the_head_is_not_replaced() {
    let mut story = begin(GROUP);
    let head = |story: &Story| {
        let record = story.world.cluster(&key("gpu")).unwrap();
        let node = record.nodes.values().find(|node| node.group.is_none()).unwrap();
        assert!(matches!(node.state, NodeState::Ready { .. }));
        node.launch.clone()
    };
    let before = head(&story);
    change(&mut story, &format!("{GROUP}head: {{labels: {{disk: new}}}}"), 120);
    assert_eq!(head(&story), before);
    assert_eq!(
        said(&story),
        ["HeadOutdated: the head is outdated: it is replaced when the cluster is suspended or deleted"]
    );
}
