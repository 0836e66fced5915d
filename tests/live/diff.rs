//! What `diff` says of a job that trains on a real cluster, and that it is what comes of it.

use serde_json::Value;

use crate::support::{World, cluster, job, phase, replicas};

#[test]
fn what_would_be_done_is_what_is_done() {
    let world = World::with_controller(&[]);
    let fixed = |replicas: u32| {
        let rest = format!("scaling: {{policy: Fixed, replicas: {replicas}}}");
        let arguments = format!("--until, {}", world.path("enough").display());
        [cluster("c", 2), job("plan", "c", &arguments, &rest)].join("---\n")
    };
    let diff = || {
        let output = world.command(&["diff", "-f", "job.yaml", "-o", "json"]).output().unwrap();
        let review: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), review)
    };
    world.write("job.yaml", &fixed(1));
    let (code, new) = diff();
    assert_eq!((code, &new["clusters"][0]["jobs"][0]["workers"]["after"]), (Some(1), &1.into()), "{new}");
    world.ok(&["apply", "-f", "job.yaml", "--wait", "--timeout", "3m"]);
    world.wait_job("plan", "it trains", |job| replicas(job) == 1 && phase(job) == "Running");
    assert_eq!(diff().0, Some(0), "{:?}", diff());

    world.write("job.yaml", &fixed(2));
    let (code, larger) = diff();
    let review = &larger["clusters"][0];
    assert_eq!(
        (code, &review["jobs"][0]["workers"]),
        (Some(1), &serde_json::json!({"before": 1, "after": 2})),
        "{larger}"
    );
    assert_eq!(review["jobs"][0]["groups"].as_array().unwrap().len(), 1, "{larger}");
    world.ok(&["apply", "-f", "job.yaml"]);
    let grown = world.wait_job("plan", "it has grown", |job| replicas(job) == 2 && phase(job) == "Running");
    let (foretold, last) =
        (&review["jobs"][0]["groups"][0], grown["status"]["history"].as_array().unwrap().last().unwrap());
    assert_eq!((&foretold["reason"], &foretold["message"]), (&last["reason"], &last["message"]), "{larger}");
    assert_eq!((&foretold["from"], &foretold["to"]), (&last["fromReplicas"], &last["replicas"]));
    let nodes = world.get("cluster", "c")["status"]["readyNodes"].clone();
    assert_eq!(review["nodes"]["after"], nodes, "{larger}");
    world.write("enough", "");
    world.wait_job("plan", "it has finished", |job| phase(job) == "Succeeded");
    world.finish();
}
