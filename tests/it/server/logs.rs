//! Output: as our command line is told of it, and as Kubernetes gives that of a Pod.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rayconcile::api::ids::{GroupNumber, Uid};
use rayconcile::api::meta::ObjectMeta;
use rayconcile::store::logs::JobLogs;
use serde_json::json;

use super::training::Training;
use crate::world::address;

/// The output of the job's rank 0 in a group.
fn logs(training: &Training) -> JobLogs {
    let job =
        ObjectMeta { uid: Uid::from("uid-digits".to_owned()), ..ObjectMeta::named("default", "digits") };
    JobLogs::of(training.directory.path(), &job)
}

#[test]
fn a_pods_output_is_plain_whatever_is_missing_of_it() {
    let training = Training::new();
    let logs = logs(&training);
    for group in 5..25 {
        logs.append((GroupNumber(group), 0), 0, format!("all of {group}\n").as_bytes()).unwrap();
    }
    // What it wrote first has had to go.
    logs.append((GroupNumber(25), 0), 1000, b"the end\n").unwrap();
    let pod = "/api/v1/namespaces/default/pods/digits-0/log";
    let read = |query: &str| training.api.get(&format!("{pod}?{query}")).body;
    let whole = read("");
    let lines: Vec<&str> = whole.as_str().unwrap().lines().collect();
    assert_eq!((lines.len(), lines[0], lines[19]), (20, "all of 6", "the end"), "{whole}");
    assert_eq!(read("limitBytes=7"), "all of ");
    assert_eq!((read("tailLines=1"), read("tailLines=0")), (json!("the end\n"), json!("")));
    // Our own command line says what is missing.
    let told = training.api.get(&format!("{}/log", address("adaptdljobs", "digits"))).body;
    let notes = told.as_str().unwrap().lines().filter(|line| line.contains("is not here any more"));
    assert_eq!(notes.count(), 1, "{told}");
}

#[test]
fn who_follows_from_the_end_gets_what_is_new() {
    let training = Training::new();
    let logs = logs(&training);
    let worker = (GroupNumber(3), 0);
    logs.append(worker, 0, b"old\n").unwrap();
    let path = format!("{}/log?follow=true&tailLines=0", address("adaptdljobs", "digits"));
    let mut watch = training.api.watch(&path);
    let seen = AtomicBool::new(false);
    thread::scope(|scope| {
        // When it began to follow nobody can tell: so there is something new until it has come.
        scope.spawn(|| {
            while !seen.load(Ordering::Relaxed) {
                let (_, end) = logs.range(worker).unwrap();
                logs.append(worker, end, b"new\n").unwrap();
                thread::sleep(Duration::from_millis(10));
            }
        });
        let first = watch.next();
        seen.store(true, Ordering::Relaxed);
        let text = first["text"].as_str().unwrap();
        assert!(text.starts_with("new\n"), "{first}");
    });
    // It ends with the job, and what was written until then is in it.
    training.end();
    let whole = training.api.get(&format!("{}/log?follow=true", address("adaptdljobs", "digits"))).body;
    assert!(whole.to_string().contains("old"), "{whole}");
}
