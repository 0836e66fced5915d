//! Programs that are not scripts of ours to start (`spec.command`): one that follows the protocol of docs/programs.md is
//! as elastic as a script, and one that knows nothing of it runs as it is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{World, phase, pids, replicas, repository, signal};

/// A cluster of one node with room for two groups, and a job in a directory.
fn manifest(name: &str, directory: &str, command: &str, workers: u32) -> String {
    format!(
        "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: c}}\nspec:\n  \
         provider: {{local: {{}}}}\n  head: {{resources: {{cpu: 3}}}}\n---\n\
         apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: {name}}}\nspec:\n  \
         clusterRef: {{name: c}}\n  workingDir: {directory}\n  command: [{command}]\n  \
         minReplicas: {workers}\n  maxReplicas: {workers}\n  backoffLimit: 0\n  progressDeadline: 15s\n  \
         checkpoint: {{interval: 0s}}\n"
    )
}

fn steps(job: &Value) -> u64 {
    job["status"]["progress"]["steps"].as_u64().unwrap_or(0)
}

/// When something happened to a group.
fn moment(group: &Value, event: &str) -> Timestamp {
    let moment = group["timeline"][event].as_str().unwrap_or_else(|| panic!("no {event}: {group:#}"));
    moment.parse().unwrap()
}

#[test]
fn a_program_that_follows_the_protocol_is_as_elastic_as_a_script() {
    let world = World::with_controller(&[]);
    let (lock, enough) = (world.path("lock"), world.path("enough"));
    let apply = |workers| {
        let command = format!("python, protocol.py, {}, {}", lock.display(), enough.display());
        let directory = repository("tests/live/jobs");
        world.write("job.yaml", &manifest("plain", &directory.display().to_string(), &command, workers));
        world.ok(&["apply", "-f", "job.yaml"]);
    };
    apply(1);
    let one = world.wait_job("plain", "it trains", |job| steps(job) > 20 && replicas(job) == 1);
    let progress = &one["status"]["progress"];
    assert_eq!(progress["batchSize"], 64);
    assert!(progress["epoch"].is_u64() && progress["progress"].as_f64().unwrap() > 0.0, "{progress:#}");

    // What the first has shown is known of the second, and of that again.
    for (group, workers) in [(1, 2), (2, 1)] {
        apply(workers);
        let moved = world.wait_job("plain", "what the change cost is known", |job| {
            let group = &job["status"]["history"][group];
            replicas(job) == u64::from(workers) && group["downtimeMs"].is_u64() && group["lostSteps"].is_u64()
        });
        let change = &moved["status"]["history"][group];
        assert_eq!(change["lostSteps"], 0, "{change:#}");
        assert!(moment(change, "started") < moment(&change["before"], "signalled"), "{change:#}");
    }
    let events = world.ok(&["events", "--for", "job/plain"]);
    assert!(!events.contains("NoOverlap") && !events.contains("NotSaved"), "{events}");

    // It saves while it trains, and goes on from there when a worker stands still for too long.
    world.ok(&["checkpoint", "now", "plain"]);
    let saved = world.job("plain");
    let checkpoint = &saved["status"]["checkpoint"];
    assert_eq!((&checkpoint["id"]["group"], &saved["status"]["group"]), (&2.into(), &2.into()), "{saved:#}");
    signal(u32::try_from(pids(&saved)[0]).unwrap(), Signal::SIGSTOP);
    world.wait_job("plain", "it trains again", |job| job["status"]["group"] == 3 && replicas(job) == 1);
    let again =
        world.wait_job("plain", "its loss is known", |job| job["status"]["history"][3]["lostSteps"].is_u64());
    assert_eq!(again["status"]["history"][3]["reason"], "WorkerKilled");
    assert_eq!(again["status"]["history"][3]["restored"], checkpoint["id"]);

    world.write("enough", "");
    let (code, said) = world.run(&["wait", "job/plain", "--for", "phase=Succeeded", "--timeout", "2m"]);
    assert_eq!(code, 0, "{said}");
    goes_on(&world.ok(&["logs", "plain"]));
    world.finish();
}

/// Each group goes on where the one before has saved, and makes every step after that once.
fn goes_on(output: &str) {
    let number = |line: &str, name: &str| -> Option<u64> {
        line.split_whitespace().find_map(|word| word.strip_prefix(name)?.parse().ok())
    };
    let mut groups: Vec<(u64, u64, u64)> = Vec::new();
    for line in output.lines() {
        let Some(step) = number(line, "step=") else { continue };
        let replicas = number(line, "replicas=").unwrap();
        match groups.last_mut() {
            Some((_, last, of)) if !line.starts_with("begin") => {
                assert_eq!((step, replicas), (*last + 1, *of), "{line}");
                *last = step;
            }
            _ => groups.push((step, step, replicas)),
        }
    }
    assert_eq!(groups.iter().map(|group| group.2).collect::<Vec<_>>(), [1, 2, 1, 1], "{groups:?}");
    let begins: Vec<u64> = groups.iter().map(|group| group.0).collect();
    assert_eq!(begins[..3], [0, groups[0].1, groups[1].1], "no step is missing or made twice: {groups:?}");
    assert!(begins[3] > begins[2] && begins[3] <= groups[2].1, "from what was saved in place: {groups:?}");
    assert!(output.trim_end().ends_with("done"), "{output}");
}

#[test]
fn a_program_that_knows_nothing_of_it_never_runs_beside_itself() {
    let world = World::with_controller(&[]);
    // The first replica of two groups at a time would fail; and it takes longer to leave than times of two reports
    // may be apart.
    let script = "#!/bin/sh\n\
        trap 'sleep 1; exit 143' TERM\n\
        if [ $ADAPTDL_REPLICA_RANK = 0 ]; then mkdir \"$1/alone\" || exit 3; trap 'rmdir \"$1/alone\"' EXIT; fi\n\
        echo began with $ADAPTDL_NUM_REPLICAS\n\
        while [ ! -e \"$1/enough\" ]; do sleep 0.1; done\n";
    let program = world.write("program/run", script);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let apply = |workers| {
        let command = format!("./run, {}", world.path("").display());
        world.write("job.yaml", &manifest("other", "program", &command, workers));
        world.ok(&["apply", "-f", "job.yaml"]);
    };
    let began = |workers: u32| {
        let line = format!("began with {workers}");
        world.wait(&line, || world.run(&["logs", "other"]).1.contains(&line).then_some(()));
    };
    apply(1);
    began(1);
    apply(2);
    began(2);
    let moved = world.job("other");
    let change = &moved["status"]["history"][1];
    assert!(moment(change, "started") > moment(&change["before"], "signalled"), "{change:#}");
    assert_eq!(moved["status"]["failures"], 0, "{moved:#}");
    assert!(!world.ok(&["events", "--for", "job/other"]).contains("NoOverlap"));

    world.write("enough", "");
    world.wait_job("other", "it has succeeded", |job| phase(job) == "Succeeded");
    world.finish();
}
