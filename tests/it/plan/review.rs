//! What a change comes to, before it is made: the planner's own answer, in a world where everything goes well.

use jiff::SignedDuration;
use rayconcile::action::Effect;
use rayconcile::api::ids::Uid;
use rayconcile::api::job::AdaptDLJobSpec;
use rayconcile::api::meta::ObjectMeta;
use rayconcile::api::object::Object;
use rayconcile::api::observed::Observed;
use rayconcile::api::record::JobRecord;
use rayconcile::api::review::ClusterReview;
use rayconcile::plan::Snapshot;
use rayconcile::plan::outlook::outlook;
use rayconcile::plan::review::review;
use rayconcile::plan::snapshot::JobView;

use super::region::{self, Region, SPOT, snapshot};

pub(super) const LOCAL: &str = "
provider: {local: {}}
workerGroups: [{name: a, maxNodes: 3, idleTimeout: 1m, template: {resources: {cpu: 2}}}]
";

pub(super) const JOB: &str =
    "{clusterRef: {name: gpu}, entrypoint: main.py, scaling: {policy: Fixed, replicas: 2}}";

fn read<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
    serde_json::from_value(serde_yaml::from_str(yaml).unwrap()).unwrap()
}

/// The same, with a job that is this or has become this.
pub(super) fn with(mut snapshot: Snapshot, name: &str, spec: &str) -> Snapshot {
    let spec: AdaptDLJobSpec = read(spec);
    let mut metadata = ObjectMeta::named("default", name);
    metadata.uid = Uid::from(name.to_owned());
    match snapshot.jobs.iter_mut().find(|view| view.job.metadata.uid == metadata.uid) {
        Some(view) => view.job.spec = spec,
        None => {
            let job = Object { metadata, spec, status: Default::default() };
            snapshot.jobs.push(JobView { job, record: JobRecord::default(), logs_behind: 0 });
        }
    }
    snapshot
}

/// After a minute in which everything goes well.
pub(super) fn soon(snapshot: &Snapshot) -> Snapshot {
    outlook(snapshot, SignedDuration::from_secs(60)).end
}

fn told(before: &Snapshot, after: &Snapshot) -> ClusterReview {
    review(before, after).expect("something would be done")
}

#[test]
fn a_cluster_and_a_job_come_to_be() {
    let empty = Snapshot { cluster: None, ..snapshot(LOCAL) };
    insta::assert_yaml_snapshot!(told(&empty, &with(snapshot(LOCAL), "ada", JOB)));
}

#[test]
fn nothing_is_done_about_what_stays_as_it_is() {
    let running = soon(&with(snapshot(LOCAL), "ada", JOB));
    assert_eq!(review(&running, &running), None);
    // What is only said to the running group is no new group.
    let interval = JOB.replace("entrypoint", "checkpoint: {interval: 1h}, entrypoint");
    assert_eq!(review(&running, &with(running.clone(), "ada", &interval)), None);
    let waiting = soon(&with(snapshot(LOCAL), "ada", &JOB.replace("{name: gpu}", "{name: other}")));
    assert_eq!(review(&waiting, &waiting), None);
}

#[test]
fn another_program_begins_workers_anew() {
    let running = soon(&with(snapshot(LOCAL), "ada", JOB));
    insta::assert_yaml_snapshot!(told(
        &running,
        &with(running.clone(), "ada", &JOB.replace("main.py", "other.py"))
    ));
}

#[test]
fn more_workers_take_more_nodes_and_fewer_give_them_back() {
    let running = soon(&with(snapshot(LOCAL), "ada", JOB));
    let larger = with(running.clone(), "ada", &JOB.replace("replicas: 2", "replicas: 5"));
    let grown = told(&running, &larger);
    insta::assert_yaml_snapshot!("grown", grown);
    insta::assert_yaml_snapshot!("shrunk", told(&soon(&larger), &with(soon(&larger), "ada", JOB)));
    // It is what the planner then does.
    let then = soon(&larger);
    assert_eq!(then.record.nodes.values().filter(|node| node.group.is_some()).count(), 3);
    assert_eq!(then.jobs[0].record.groups.last().unwrap().nodes.len(), 5);
}

#[test]
fn a_job_that_has_no_room_is_told_so() {
    let running = soon(&with(snapshot(LOCAL), "ada", JOB));
    let second = with(
        running.clone(),
        "bob",
        &JOB.replace("entrypoint", "minReplicas: 7, maxReplicas: 8, entrypoint"),
    );
    insta::assert_yaml_snapshot!(told(&running, &second));
}

#[test]
fn a_job_that_goes_is_stopped() {
    let running = soon(&with(snapshot(LOCAL), "ada", JOB));
    let mut deleted = running.clone();
    deleted.jobs[0].job.metadata.deletion_timestamp = Some(running.now);
    insta::assert_yaml_snapshot!(told(&running, &deleted));
}

#[test]
fn instances_are_told_of_with_what_they_cost() {
    let mut region = Region::new(&SPOT.replace("subnets", "prices: {g5.xlarge: {spot: \"0.40\"}}, subnets"));
    region.run(120);
    assert_eq!(region.ready(), 4, "the head and three");
    let before = region.snapshot.clone();
    let spec = SPOT.replace("subnets", "prices: {g5.xlarge: {spot: \"0.40\"}}, subnets");
    let more = Snapshot {
        cluster: Some(region::cluster(&spec.replace("minNodes: 3", "minNodes: 4"))),
        ..before.clone()
    };
    insta::assert_yaml_snapshot!(told(&before, &more));
}

#[test]
fn what_ec2_was_not_asked_yet_is_not_known() {
    let region = Region::new(SPOT);
    let empty = Snapshot { cluster: None, ..region.snapshot.clone() };
    let review = told(&empty, &region.snapshot);
    let priced = SPOT.replace("market: {spot: {onDemandFallback: true}}", "market: {onDemand: {}}");
    let of_priced = told(&empty, &Region::new(&priced).snapshot);
    insta::assert_snapshot!([review.unknown.unwrap(), of_priced.unknown.unwrap()].join("\n"));
}

#[test]
fn of_a_cluster_that_cannot_be_heard_no_more_is_said() {
    let mut running = soon(&with(snapshot(LOCAL), "ada", JOB));
    running.seen.agent.fail(running.now, "connection refused".to_owned());
    let review = told(&running, &with(running.clone(), "ada", &JOB.replace("main.py", "other.py")));
    assert_eq!(review.unknown.as_deref(), Some("the cluster cannot be heard now: connection refused"));
    assert!(review.jobs.is_empty() || review.jobs[0].groups.is_empty(), "{review:?}");
}

#[test]
fn an_outlook_ends() {
    // Whatever is under way, and whatever the clock says: it does not go on for ever.
    let mut snapshot = with(with(snapshot(LOCAL), "ada", JOB), "bob", JOB);
    for round in 0..12u32 {
        let ahead = outlook(&snapshot, SignedDuration::from_hours(1));
        assert!(ahead.end.now <= snapshot.now + SignedDuration::from_hours(2), "{:?}", ahead.end.now);
        let calm =
            ahead.end.intents.iter().all(|intent| matches!(intent.effect, Effect::SendDocument { .. }));
        assert!(calm, "{:?}", ahead.end.intents);
        // From the middle of things, with or without what was seen.
        snapshot = outlook(&snapshot, SignedDuration::from_secs(i64::from(round) % 5)).end;
        if round % 4 == 3 {
            snapshot.seen.processes = Observed::default();
        }
    }
}
