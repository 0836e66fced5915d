//! Objects shown, waited for, suspended, resumed and deleted.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rayconcile::api::ids::{GroupNumber, Uid};
use rayconcile::api::meta::ObjectMeta;
use rayconcile::store::logs::JobLogs;
use serde_json::{Value, json};
use wiremock::matchers::{path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::{run, some_objects};
use crate::world::{Said, World, address, ends, read_all, said, terminate, waiting_job};

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
    let late = run(&world, &["wait", "night", "--for", "delete", "--timeout", "300ms"]);
    insta::assert_snapshot!("wait-not-deleted", late);
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
fn every_object_that_is_named_is_shown() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    let both = "adaptdljob/night\nadaptdljob/waits\n";
    for words in [&["job/night", "job/waits"] as &[&str], &["job", "night", "waits"]] {
        assert_eq!(world.ok(&[&["get", "-o", "name"], words].concat()), both, "{words:?}");
    }
    insta::assert_snapshot!("get-both-kinds", run(&world, &["get", "job/night", "cluster/lab"]));
    let list: Value =
        serde_json::from_str(&world.ok(&["get", "job/night", "cluster/lab", "-o", "json"])).unwrap();
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&"List".into(), 2));
    let refused: [(&str, &[&str]); 5] = [
        ("get-without-kind", &["get", "job/night", "waits"]),
        ("get-unknown-kind", &["get", "night", "waits"]),
        ("get-named-and-selected", &["get", "job", "night", "-l", "team=vision"]),
        ("get-named-everywhere", &["get", "job/night", "-A"]),
        ("get-watch-both-kinds", &["get", "job/night", "cluster/lab", "-w"]),
    ];
    for (name, arguments) in refused {
        insta::assert_snapshot!(name, run(&world, arguments));
    }
    world.finish();
}

#[test]
fn who_watches_is_shown_each_change_once_and_the_end() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    let follow = |format: &str| {
        let mut command = world.command(&["get", "jobs", "-w", "-o", format]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut jobs = follow("json");
    let documents = serde_json::Deserializer::from_reader(jobs.stdout.take().unwrap());
    let mut documents = documents.into_iter::<Value>().map(Result::unwrap);
    let mut table = follow("wide");
    let mut rows = BufReader::new(table.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(rows.next().unwrap().starts_with("NAME ") && rows.next().unwrap().starts_with("night "));
    // Each document is an object, also of what there is when it begins.
    let first: Vec<Value> = documents.by_ref().take(2).collect();
    assert!(first.iter().all(|job| job["kind"] == "AdaptDLJob"), "{first:?}");
    let api = world.api();
    let since = &first[0]["metadata"]["resourceVersion"];
    let jobs_at = address("adaptdljobs", "");
    let mut watch =
        api.watch(&format!("{jobs_at}?watch=true&resourceVersion={}", since.as_str().unwrap_or("0")));
    world.ok(&["delete", "job/night"]);
    let mut told = Vec::new();
    let gone = loop {
        let line = watch.next();
        if line["type"] == "DELETED" {
            break line["object"]["metadata"]["resourceVersion"].clone();
        }
    };
    // The last one is how it was when it went.
    while told.last() != Some(&gone) {
        told.push(documents.next().unwrap()["metadata"]["resourceVersion"].clone());
    }
    let shown = told.len();
    told.dedup();
    assert_eq!(told.len(), shown, "each change once: {told:?}");
    assert!(
        rows.find(|row| row.starts_with("NAME ") || row.starts_with("night ")).unwrap().starts_with("night ")
    );
    for child in [&mut jobs, &mut table] {
        terminate(child.id());
        ends(child);
    }
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

/// A world whose controller says what a test has it say.
async fn mocked() -> (World, MockServer) {
    let (world, server) = (World::new(), MockServer::start().await);
    world.write("state/api.json", &json!({"url": server.uri(), "pid": 1}).to_string());
    world.write("state/api-token", "t");
    (world, server)
}

/// Runs a command while the test goes on to answer it.
async fn answered(world: &World, arguments: &[&str]) -> Said {
    let mut command = world.command(arguments);
    said(&tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
}

/// Lines of a watch of events, after a version.
async fn tells(server: &MockServer, since: &str, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let watch = Mock::given(path("/api/v1/namespaces/default/events")).and(query_param("watch", "true"));
    let watch =
        watch.and(query_param("allowWatchBookmarks", "true")).and(query_param("resourceVersion", since));
    watch.respond_with(ResponseTemplate::new(200).set_body_string(text)).expect(1).mount(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_time_is_up_goes_on_where_it_was() {
    let (world, server) = mocked().await;
    let event = |reason: &str| {
        let about = json!({"kind": "AdaptDLJob", "namespace": "default", "name": "night"});
        let at = "2026-11-28T13:00:00Z";
        json!({"type": "ADDED", "object": {"involvedObject": about, "type": "Normal", "reason": reason, "message": "m",
                                           "count": 1, "firstTimestamp": at, "lastTimestamp": at}})
    };
    let bookmark =
        |version: &str| json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}});
    tells(&server, "", &[event("One"), bookmark("7")]).await;
    tells(&server, "7", &[bookmark("8"), event("Two"), bookmark("9")]).await;
    // What does not say up to where it has told was ended by somebody, and is the end.
    tells(&server, "9", &[event("Three")]).await;
    let said = answered(&world, &["events", "-w"]).await;
    let seen = ["One", "Two", "Three"]
        .map(|reason| format!("13:00:00 Normal adaptdljob/night {reason}: m\n"))
        .concat();
    assert_eq!((said.code, said.out, said.err), (0, seen, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_one_of_its_name_is_not_the_one_that_was_to_go() {
    let (world, server) = mocked().await;
    for (uid, times) in [("one", 2), ("another", 9)] {
        let mut job = waiting_job("night", "lab");
        job["metadata"]["uid"] = json!(uid);
        let answer = ResponseTemplate::new(200).set_body_json(job);
        let get = Mock::given(path(address("adaptdljobs", "night"))).respond_with(answer);
        get.up_to_n_times(times).mount(&server).await;
    }
    let said = answered(&world, &["wait", "night", "--for", "delete"]).await;
    assert_eq!((said.code, said.out.as_str()), (0, "adaptdljob/night has gone\n"), "{said:?}");
}
