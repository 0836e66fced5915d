//! Objects shown, waited for, suspended, resumed and deleted.

use std::process::Stdio;

use rayconcile::api::ids::{GroupNumber, Uid};
use rayconcile::api::meta::ObjectMeta;
use rayconcile::store::logs::JobLogs;

use super::{run, some_objects};
use crate::world::{World, ends, read_all, terminate};

#[test]
fn objects_are_shown_in_every_format() {
    let world = World::with_controller(&[]);
    for arguments in [&["get", "jobs"] as &[&str], &["status"], &["events"]] {
        insta::assert_snapshot!(format!("{}-nothing", arguments[0]), run(&world, arguments));
    }
    some_objects(&world);
    let shown: [(&str, &[&str]); 14] = [
        ("get-jobs", &["get", "jobs"]),
        ("get-jobs-wide", &["get", "jobs", "-o", "wide"]),
        ("get-jobs-name", &["get", "jobs", "-A", "-o", "name"]),
        ("get-jobs-selected", &["get", "jobs", "-l", "team=vision"]),
        ("get-jobs-everywhere", &["get", "jobs", "-A"]),
        ("get-cluster", &["get", "cluster", "lab"]),
        ("get-cluster-yaml", &["get", "cluster/lab", "-o", "yaml"]),
        ("get-job-json", &["get", "job", "night", "-o", "json"]),
        ("get-none", &["get", "jobs", "-n", "elsewhere"]),
        ("get-missing", &["get", "job", "nobody"]),
        ("status", &["status"]),
        ("status-one", &["status", "night"]),
        ("describe-job", &["describe", "waits"]),
        ("describe-cluster", &["describe", "cluster", "lab"]),
    ];
    for (name, arguments) in shown {
        insta::assert_snapshot!(name, run(&world, arguments));
    }
    // What is printed can be applied again.
    world.write("again.yaml", &world.ok(&["get", "jobs", "-o", "yaml"]));
    assert_eq!(
        world.ok(&["apply", "-f", "again.yaml"]),
        "adaptdljob/night unchanged\nadaptdljob/waits unchanged\n"
    );
    insta::assert_snapshot!("checkpoint-none", run(&world, &["checkpoint", "ls", "night"]));
    insta::assert_snapshot!("checkpoint-get-none", run(&world, &["checkpoint", "get", "night"]));
    insta::assert_snapshot!("checkpoint-missing", run(&world, &["checkpoint", "ls", "nobody"]));
    insta::assert_snapshot!("logs-none", run(&world, &["logs", "night"]));
    insta::assert_snapshot!("describe-missing", run(&world, &["describe", "job", "nobody"]));
    world.finish();
}

#[test]
fn output_that_is_not_here_any_more_is_missed_aloud() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    let uid = world.get("job", "night")["metadata"]["uid"].as_str().unwrap().to_owned();
    let job = ObjectMeta { uid: Uid::from(uid), ..ObjectMeta::named("default", "night") };
    let logs = JobLogs::of(&world.path("state"), &job);
    for group in 2..22 {
        logs.append((GroupNumber(group), 0), 0, format!("all of {group}\n").as_bytes()).unwrap();
    }
    for megabyte in 0..40 {
        let word = format!("megabyte {megabyte}");
        let line = format!("{word}{}\n", " ".repeat((1 << 20) - 1 - word.len()));
        logs.append((GroupNumber(22), 0), megabyte << 20, line.as_bytes()).unwrap();
    }
    let said = world.run(&["logs", "night"]);
    let lines: Vec<&str> = said.out.lines().map(str::trim_end).collect();
    assert_eq!((lines.len(), lines[0], lines[19]), (19 + 32, "all of 3", "megabyte 8"));
    let missing: Vec<&str> = said.err.lines().filter(|line| !line.starts_with("---")).collect();
    let expected = [
        "nothing of groups 0 to 2 is here any more",
        "the first 8.0 MiB of rank 0 in group 22 is not here any more",
    ];
    assert_eq!(missing, expected);
    // Whoever wants the last lines misses none of it.
    assert_eq!(world.run(&["logs", "night", "--tail", "1"]).err, "");
    assert_eq!(world.run(&["logs", "night", "--group", "3"]).err, "");
    let said = world.run(&["logs", "night", "--group", "1"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", "nothing of groups 0 to 2 is here any more\n"));
    world.finish();
}

#[test]
fn objects_are_waited_for_suspended_resumed_and_deleted() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    insta::assert_snapshot!("wait-met", run(&world, &["wait", "job/night", "--for", "condition=Accepted"]));
    insta::assert_snapshot!(
        "wait-not-met",
        run(&world, &["wait", "waits", "--for", "condition=Converged", "--timeout", "300ms"])
    );
    insta::assert_snapshot!(
        "wait-phase",
        run(&world, &["wait", "cluster", "lab", "--for", "phase=Ready", "--timeout", "1s"])
    );
    insta::assert_snapshot!("wait-missing", run(&world, &["wait", "nobody", "--for", "phase=Running"]));
    insta::assert_snapshot!("wait-deleted", run(&world, &["wait", "nobody", "--for", "delete"]));
    insta::assert_snapshot!("suspend", run(&world, &["suspend", "waits"]));
    world.ok(&["wait", "waits", "--for", "phase=Suspended"]);
    insta::assert_snapshot!("resume", run(&world, &["resume", "waits"]));
    world.ok(&["wait", "waits", "--for", "phase=Pending"]);
    insta::assert_snapshot!("suspend-missing", run(&world, &["suspend", "job", "nobody"]));
    insta::assert_snapshot!("delete", run(&world, &["delete", "job", "waits"]));
    insta::assert_snapshot!("delete-missing", run(&world, &["delete", "job/nobody", "job/night"]));
    assert_eq!(world.run(&["get", "jobs"]).out, "");
    insta::assert_snapshot!("delete-files", run(&world, &["delete", "-f", "objects.yaml"]));
    world.finish();
}

#[test]
fn changes_are_followed() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    let follow = |arguments: &[&str]| world.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut jobs = follow(&["get", "jobs", "-l", "team=vision", "-w", "-o", "name"]);
    let mut events = follow(&["events", "--for", "job/night", "-w"]);
    world.ok(&["suspend", "waits"]);
    world.ok(&["resume", "night"]);
    world.ok(&["wait", "night", "--for", "phase=Pending"]);
    // Long enough for one more change, which ends the wait: the job is seen to go.
    world.ok(&["delete", "job/night"]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    for child in [&mut jobs, &mut events] {
        terminate(child.id());
        ends(child);
    }
    let seen = read_all(jobs.stdout.take().unwrap());
    assert!(seen.lines().count() >= 2 && seen.lines().all(|line| line == "adaptdljob/night"), "{seen}");
    world.finish();
}
