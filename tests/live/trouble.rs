//! Programs that fail, hang, shout and lie, on a real cluster: each is dealt with, and none harms another.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{World, job, phase, pids, replicas, signal};

/// A cluster of one node with so many logical CPUs.
fn wide_cluster(cpus: u32) -> String {
    format!(
        "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: c}}\nspec:\n  \
         provider: {{local: {{}}}}\n  head: {{resources: {{cpu: {cpus}}}}}\n"
    )
}

/// A job that runs `trouble.py` in a mode.
fn trouble(mode: &str, rest: &str) -> String {
    job(mode, "c", mode, rest).replace("elastic.py", "trouble.py")
}

fn message(job: &Value) -> &str {
    job["status"]["message"].as_str().unwrap_or("")
}

#[test]
fn programs_that_fail_hang_shout_and_lie_are_dealt_with() {
    let world = World::with_controller(&[]);
    let jobs = [
        wide_cluster(8),
        trouble("exits", "backoffLimit: 1"),
        trouble("plain", "artifacts: {paths: ['*.txt'], destination: plain}"),
        trouble("hangs", "checkpoint: {timeout: 5s}"),
        trouble("loud", ""),
        trouble("hostile", ""),
    ];
    world.write("jobs.yaml", &jobs.join("---\n"));
    world.ok(&["apply", "-f", "jobs.yaml"]);

    // A program that fails is tried again as often as its manifest says, and then the job has failed: its message
    // tells how the program ended and what it said last.
    let exits = world.wait_job("exits", "it has failed", |job| phase(job) == "Failed");
    assert_eq!(exits["status"]["failures"], 2);
    assert!(
        message(&exits).contains("exit code 3") && message(&exits).contains("this cannot work"),
        "{exits:#}"
    );
    assert_eq!(exits["status"]["history"].as_array().unwrap().len(), 2);

    // A program that does not use AdaptDL is run all the same.
    world.wait_job("plain", "it has succeeded", |job| phase(job) == "Succeeded");
    assert_eq!(std::fs::read_to_string(world.path("plain/result.txt")).unwrap(), "42\n");
    assert!(world.ok(&["logs", "plain"]).starts_with("did it"));

    // One that hangs before it meets AdaptDL is not said to train, and can be deleted.
    world.wait("it hangs", || world.run(&["logs", "hangs"]).1.contains("hanging").then_some(()));
    let hangs = world.job("hangs");
    assert_eq!(replicas(&hangs), 0, "{hangs:#}");
    assert_eq!(hangs["status"]["workers"][0]["state"], "Running");
    let pid = u32::try_from(pids(&hangs)[0]).unwrap();
    world.ok(&["delete", "job", "hangs"]);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(world.job("hangs"), Value::Null);

    // One that lies about itself is found out, and nothing happens.
    let lies = world.wait_job("hostile", "it is done", |job| phase(job) == "Succeeded");
    assert_eq!(lies["status"]["history"].as_array().unwrap().len(), 1);
    let events = world.ok(&["events", "--for", "job/hostile"]);
    assert!(events.matches("BadHints").count() >= 3, "{events}");
    let said = world.ok(&["logs", "hostile"]);
    assert!(said.contains("still here") && said.matches("refused").count() == 3, "{said}");

    // A gigabyte of output is cut, not kept; its end is there.
    world.wait_job("loud", "it is done", |job| phase(job) == "Succeeded");
    let tail = world.ok(&["logs", "loud", "--tail", "1"]);
    assert!(tail.trim_end() == "the last line", "{} bytes of tail", tail.len());
    let kept: u64 = walk(&world.path("state/jobs")).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(kept < 64 << 20, "{kept} bytes of output are kept");
    world.finish();
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_killed_worker_costs_the_steps_since_the_last_checkpoint_and_no_more() {
    let world = World::with_controller(&[]);
    let rest = "minReplicas: 2\n  maxReplicas: 2\n  backoffLimit: 0\n  checkpoint: {interval: 3s}";
    let manifest = wide_cluster(2) + "---\n" + &job("killed", "c", "--steps, '100000'", rest);
    world.write("job.yaml", &manifest);
    world.ok(&["apply", "-f", "job.yaml"]);
    let saved = world.wait_job("killed", "it has saved while training", |job| {
        job["status"]["checkpoint"]["steps"].as_u64().is_some_and(|steps| steps > 20) && replicas(job) == 2
    });
    assert_eq!(saved["status"]["group"], 0, "saving does not end the group");

    signal(u32::try_from(pids(&saved)[1]).unwrap(), Signal::SIGKILL);
    let again = world.wait_job("killed", "it trains again", |job| {
        job["status"]["group"] == 1
            && phase(job) == "Running"
            && replicas(job) == 2
            && job["status"]["history"][1]["lostSteps"].is_u64()
    });
    let group = &again["status"]["history"][1];
    assert_eq!(group["reason"], "WorkerKilled");
    assert_eq!(group["restored"]["group"], 0);
    assert_eq!(again["status"]["failures"], 0, "a killed worker is not the program's failure");
    let began: Vec<u64> = world.wait("the output of both groups is here", || {
        let output = world.ok(&["logs", "killed"]);
        let begin = |line: &str| line.strip_prefix("begin step=")?.split_whitespace().next()?.parse().ok();
        Some(output.lines().filter_map(begin).collect::<Vec<u64>>()).filter(|began| began.len() == 2)
    });
    assert!(began[1] > 20, "it begins again at step {}", began[1]);

    // Deleted while it trains, it is checkpointed first, and the checkpoint can still be had.
    let newest = world.job("killed")["status"]["checkpoint"]["id"].clone();
    world.ok(&["delete", "job", "killed"]);
    let kept = world.ok(&["checkpoint", "ls", "killed"]);
    assert!(kept.lines().count() >= 2 && !newest.is_null(), "{kept}");
    let path = world.ok(&["checkpoint", "get", "killed", "-o", "fetched"]);
    let files = std::fs::read_dir(world.path(path.trim())).unwrap().count();
    assert!(files >= 3, "{files} files in {path}");
    world.finish();
}
