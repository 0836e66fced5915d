//! What is changed by hand under a directory, and sources that are paused.

use std::fs;

use jiff::Timestamp;
use rayconcile::api::meta::{ObjectKey, SOURCE_DIGEST};
use rayconcile::api::object::Kind;
use rayconcile::api::record::{JobOutcome, JobRecord};
use rayconcile::api::status::JobPhase;
use rayconcile::store::Store;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    cluster, finish, generation, job, see, see_source, source, state, told, watching, watching_with,
};
use crate::world::{World, address};

fn patch(world: &World, plural: &str, name: &str, patch: &Value) {
    let answer = world.api().put(Method::PATCH, &address(plural, name), patch);
    assert_eq!(answer.code, 200, "{answer:?}");
}

#[test]
fn what_is_changed_by_hand_is_set_back() {
    let world = watching(&["watched"]);
    world.write("watched/one.yaml", &job("one", "  command: [a]\n"));
    world.write("watched/lab.yaml", &cluster("lab", ""));
    see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    let first = see(&world, "job", "one", "is there", |job| generation(job) == 1);
    patch(
        &world,
        "adaptdljobs",
        "one",
        &json!({"spec": {"command": ["b"]}, "metadata": {"labels": {"x": "y"}}}),
    );
    let back = see(&world, "job", "one", "is set back", |job| generation(job) == 3);
    assert_eq!((&back["spec"]["command"][0], &back["metadata"]["labels"]), (&json!("a"), &Value::Null));
    let event = told(&world, "job/one", "DriftCorrected");
    assert!(event.contains("in one.yaml: spec.command, metadata.labels.x"), "{event}");

    // Nobody takes an object from its directory.
    patch(
        &world,
        "adaptdljobs",
        "one",
        &json!({"metadata": {"annotations": {"rayconcile.dev/source": null, "rayconcile.dev/source-file": "other"}}}),
    );
    assert_eq!(world.get("job", "one")["metadata"]["annotations"], first["metadata"]["annotations"]);

    // By the verbs, whoever does it is told.
    world.write("mine.yaml", &job("one", "  command: [c]\n"));
    let said = world.run(&["apply", "-f", "mine.yaml"]);
    let warning =
        format!("warning: adaptdljob/one comes from {} (one.yaml)", world.path("watched").display());
    assert!(said.code == 0 && said.err.starts_with(&warning), "{said:?}");
    see(&world, "job", "one", "is set back", |job| generation(job) == 5);
    let said = world.run(&["suspend", "one"]);
    assert!(said.code == 0 && said.err.contains("spec.suspend there"), "{said:?}");
    see(&world, "job", "one", "goes on", |job| generation(job) == 7 && job["spec"]["suspend"] != true);

    // Deleted, it is made again: it has gone all the same, and whoever deletes it is told.
    let said = world.run(&["delete", "job/one"]);
    assert!(said.code == 0 && said.out == "adaptdljob/one deleted\n", "{said:?}");
    assert!(said.err.starts_with(&warning) && said.err.contains("delete its manifest there"), "{said:?}");
    let again = see(&world, "job", "one", "is there again", |job| generation(job) == 1);
    assert_ne!(again["metadata"]["uid"], first["metadata"]["uid"]);
    let event = told(&world, "job/one", "DriftCorrected");
    assert!(event.contains("it was deleted by hand"), "{event}");
    see_source(&world, "watched", "is well", |source| state(source) == "Synced");
    finish(world, &["watched"]);
}

#[test]
fn what_is_changed_by_hand_can_be_left_so() {
    let options = ["--self-heal=false"];
    let world = watching_with(&["watched"], &options);
    world.write("watched/one.yaml", &job("one", "  command: [a]\n"));
    world.write("watched/lab.yaml", &cluster("lab", ""));
    see(&world, "job", "one", "is there", |job| generation(job) == 1);
    patch(&world, "adaptdljobs", "one", &json!({"spec": {"command": ["b"]}}));
    let differs = |source: &Value| {
        let expected =
            json!([{"object": "adaptdljob/default/one", "message": "changed by hand: spec.command"}]);
        state(source) == "OutOfSync" && source["outOfSync"] == expected
    };
    see_source(&world, "watched", "differs", differs);
    assert!(told(&world, "job/one", "OutOfSync").contains("changed by hand: spec.command"));
    // Another controller sees it too, and leaves it.
    world.kill();
    world.start(&["--watch", "watched", "--self-heal=false"]);
    see_source(&world, "watched", "differs", differs);
    assert_eq!(generation(&world.get("job", "one")), 2);
    // The file's next word is the last one.
    world.write("watched/one.yaml", &job("one", "  command: [a]\n  minReplicas: 1\n"));
    world.write("watched/one.yaml", &job("one", "  command: [c]\n"));
    see(&world, "job", "one", "is as its file says", |job| job["spec"]["command"][0] == "c");
    see_source(&world, "watched", "is well", |source| state(source) == "Synced");
    world.ok(&["delete", "job/one"]);
    see_source(&world, "watched", "knows", |source| {
        state(source) == "OutOfSync" && source["outOfSync"][0]["message"] == "deleted by hand"
    });
    assert_eq!(world.get("job", "one"), Value::Null);
    // Another controller knows it too; and then the file has something else to say.
    world.kill();
    world.start(&["--watch", "watched", "--self-heal=false"]);
    see_source(&world, "watched", "knows", |source| {
        state(source) == "OutOfSync" && source["outOfSync"][0]["message"] == "deleted by hand"
    });
    assert_eq!(world.get("job", "one"), Value::Null);
    world.write("watched/one.yaml", &job("one", "  command: [d]\n"));
    see(&world, "job", "one", "is there again", |job| generation(job) == 1);
    see_source(&world, "watched", "is well", |source| state(source) == "Synced");
    finish(world, &["watched"]);
}

/// Notes that a job has trained to its end.
fn end(world: &World, name: &str) {
    let store = Store::open(&world.path("state")).unwrap();
    let key = ObjectKey::new("default", name);
    let ended = store.write_now(|tx| {
        let job = tx.get(Kind::AdaptDLJob, &key)?.unwrap();
        let outcome = JobOutcome {
            phase: JobPhase::Succeeded,
            reason: "Completed".to_owned(),
            message: String::new(),
            at: Timestamp::now(),
            source: job.metadata().annotations.get(SOURCE_DIGEST).cloned(),
        };
        let record = JobRecord { outcome: Some(outcome), ..tx.job_record(job.uid())? };
        tx.put_job_record(job.uid(), &record)
    });
    ended.unwrap();
}

#[test]
fn a_finished_job_that_was_let_go_is_not_trained_again() {
    let world = watching(&["watched"]);
    let manifest = job("one", "  command: [a]\n  ttlAfterFinished: 1s\n");
    world.write("watched/one.yaml", &manifest);
    world.write("watched/lab.yaml", &cluster("lab", ""));
    see(&world, "job", "one", "is there", |job| generation(job) == 1);
    world.kill();
    end(&world, "one");
    world.start(&["--watch", "watched"]);
    see(&world, "job", "one", "is gone", Value::is_null);
    let known =
        |source: &Value| state(source) == "Synced" && source["finished"] == json!(["adaptdljob/default/one"]);
    see_source(&world, "watched", "knows", known);
    // Neither for another controller, nor when its file is written anew, or moved.
    world.kill();
    world.start(&["--watch", "watched"]);
    see_source(&world, "watched", "knows", known);
    world.write("watched/one.yaml", &format!("# the same\n{manifest}"));
    fs::rename(world.path("watched/one.yaml"), world.path("watched/two.yaml")).unwrap();
    world.ok(&["sync", "now", "watched"]);
    assert!(known(&source(&world, "watched")) && world.get("job", "one").is_null());
    let page = world.ok(&["sync", "status"]);
    let said = "adaptdljob/default/one: finished and gone (ttlAfterFinished); it runs again when its file says otherwise";
    assert!(page.contains(said), "{page}");
    world.write("watched/two.yaml", &manifest.replace("[a]", "[b]"));
    see(&world, "job", "one", "is there again", |job| generation(job) == 1);
    see_source(&world, "watched", "is well", |source| source["finished"].is_null());
    let events = world.ok(&["events", "-A"]);
    assert!(!events.contains("deleted by hand"), "{events}");
    finish(world, &["watched"]);
}

#[test]
fn what_a_file_says_after_its_job_has_finished_is_run_when_that_one_goes() {
    let world = watching(&["watched"]);
    let manifest = job("one", "  command: [a]\n  ttlAfterFinished: 1h\n");
    world.write("watched/one.yaml", &manifest);
    world.write("watched/lab.yaml", &cluster("lab", ""));
    let first = see(&world, "job", "one", "is there", |job| generation(job) == 1);
    world.kill();
    end(&world, "one");
    world.start(&["--watch", "watched"]);
    world.write("watched/one.yaml", &manifest.replace("[a]", "[b]").replace("1h", "1s"));
    let again = see(&world, "job", "one", "is another", |job| {
        job["metadata"]["uid"].is_string() && job["metadata"]["uid"] != first["metadata"]["uid"]
    });
    assert_eq!(again["spec"]["command"], json!(["b"]));
    finish(world, &["watched"]);
}

#[test]
fn what_can_never_be_read_holds_up_no_deletion_elsewhere() {
    let nowhere = "file:///nowhere/there-is-none.git#main";
    let world = watching_with(&["watched"], &["--repo", nowhere]);
    world.write("watched/one.yaml", &job("one", "  command: [a]\n"));
    world.write("watched/two.yaml", &job("two", "  command: [a]\n"));
    // A file of a program, and not a manifest.
    world.write("watched/train/conf/config.yaml", "lr: 0.1\n");
    see(&world, "job", "one", "is there", |job| generation(job) == 1);
    see(&world, "job", "two", "is there", |job| generation(job) == 1);
    fs::remove_file(world.path("watched/one.yaml")).unwrap();
    see(&world, "job", "one", "is gone", Value::is_null);
    finish(world, &["watched"]);
}

#[test]
fn what_a_paused_source_has_too_is_not_stopped() {
    let world = watching(&["one", "two"]);
    world.write("one/lab.yaml", &cluster("lab", ""));
    let first = see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    world.write("two/lab.yaml", &cluster("lab", ""));
    see_source(&world, "two", "has it too", |source| state(source) == "Failed");
    world.ok(&["sync", "pause", "two"]);
    world.kill();
    world.start(&["--watch", "one", "--watch", "two"]);
    fs::remove_file(world.path("one/lab.yaml")).unwrap();
    let source = |lab: &Value| lab["metadata"]["annotations"]["rayconcile.dev/source"].clone();
    see(&world, "cluster", "lab", "is nobody's", |lab| !lab.is_null() && source(lab).is_null());
    world.ok(&["sync", "resume", "two"]);
    let two = world.path("two").display().to_string();
    let last = see(&world, "cluster", "lab", "is the other's", |lab| source(lab) == two.as_str());
    assert_eq!(last["metadata"]["uid"], first["metadata"]["uid"]);
    assert!(last["metadata"]["deletionTimestamp"].is_null());
    finish(world, &["one", "two"]);
}

#[test]
fn a_paused_source_changes_nothing() {
    let world = watching(&["watched", "other"]);
    world.write("watched/one.yaml", &job("one", "  command: [a]\n"));
    world.write("watched/two.yaml", &job("two", "  command: [a]\n"));
    see(&world, "job", "one", "is there", |job| generation(job) == 1);
    see(&world, "job", "two", "is there", |job| generation(job) == 1);
    let said = world.ok(&["sync", "pause", "watched"]);
    assert_eq!(
        said,
        format!("{} is paused: its objects stay as they are\n", world.path("watched").display())
    );
    world.write("watched/one.yaml", &job("one", "  command: [b]\n"));
    fs::remove_file(world.path("watched/two.yaml")).unwrap();
    world.kill();
    world.start(&["--watch", "watched", "--watch", "other"]);
    // The other one goes on.
    world.write("other/lab.yaml", &cluster("lab", ""));
    see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    see_source(&world, "watched", "is paused", |source| state(source) == "Paused");
    assert_eq!((generation(&world.get("job", "one")), generation(&world.get("job", "two"))), (1, 1));
    let said = world.run(&["sync", "now", "watched"]);
    assert!(said.code == 1 && said.err.contains("is paused"), "{said:?}");
    let said = world.run(&["sync", "resume"]);
    assert!(said.code == 2 && said.err.contains("say which source"), "{said:?}");

    world.ok(&["sync", "resume", "watched"]);
    see(&world, "job", "one", "is as its file says", |job| generation(job) == 2);
    see(&world, "job", "two", "is gone", Value::is_null);
    finish(world, &["watched", "other"]);
}
