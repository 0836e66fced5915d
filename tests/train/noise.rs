//! What is known of the gradients' noise is what AdaptDL knows of the same gradients.

use std::collections::BTreeMap;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Job, repository};

/// A job whose gradients are the means of its samples.
fn job(spread: f32, options: serde_json::Value) -> Job {
    let mut random = fastrand::Rng::with_seed(5);
    let data: Vec<Vec<f32>> = (0..240).map(|_| (0..8).map(|_| random.f32() - spread).collect()).collect();
    let job = Job::new("noise", options);
    std::fs::write(job.path("data.json"), serde_json::to_vec(&data).unwrap()).unwrap();
    job
}

/// Compares, after each step, the squared norm and the variance of the gradient; gives the steps.
fn compare(job: &Job, batch_size: u32) -> Vec<Vec<Vec<i64>>> {
    let mut steps: BTreeMap<u64, Vec<Vec<i64>>> = BTreeMap::new();
    for line in job.lines("steps") {
        let (step, samples) = line.split_once(' ').unwrap();
        steps.entry(step.parse().unwrap()).or_default().push(serde_json::from_str(samples).unwrap());
    }
    let steps: Vec<_> = steps.into_values().take(job.lines("noise").len()).collect();
    std::fs::write(job.path("steps.json"), serde_json::to_vec(&steps).unwrap()).unwrap();
    let output = Command::new(repository(".venv/bin/python"))
        .arg(repository("tests/train/noise.py"))
        .args([job.path("data.json"), batch_size.to_string().into(), job.path("steps.json")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = String::from_utf8(output.stdout).unwrap();
    let ours = job.lines("noise");
    assert_eq!(ours.len(), theirs.lines().count());
    for (step, (ours, theirs)) in ours.iter().zip(theirs.lines()).enumerate() {
        let numbers = |line: &str| -> Vec<f64> { line.split(' ').map(|it| it.parse().unwrap()).collect() };
        // Before the first estimate, for which one replica needs two steps, AdaptDL has defaults, and ours has nothing.
        if step == 0 && steps[0].len() == 1 {
            assert_eq!(*ours, "NaN NaN");
            continue;
        }
        for (ours, theirs) in numbers(ours).into_iter().zip(numbers(theirs)) {
            let limit = 1e-6 * theirs.abs().max(1e-6);
            assert!((ours - theirs).abs() <= limit, "step {step}: {ours:e}, AdaptDL {theirs:e}");
        }
    }
    steps
}

/// With one replica, gradients of steps in turn are compared.
#[test]
fn noise_is_what_adaptdl_finds() {
    for replicas in [1, 3] {
        // What is known of gradients is of what they are, not of what they are cut down to.
        for clip in [None, Some(0.1)] {
            let options = json!({"samples": 240, "batchSize": 24, "epochs": 2, "clip": clip});
            let mut job = job(0.4, options);
            job.start(replicas).succeed();
            assert_eq!(compare(&job, 24).len(), 20);
        }
    }
}

#[test]
fn noise_is_what_adaptdl_finds_where_gradients_are_added_up() {
    let options = json!({"samples": 240, "batchSize": 4, "epochs": 100_000, "maxBatchSize": 64, "pause": 20});
    let mut job = job(0.5, options);
    let mut group = job.start(1);
    group.until(|group| group.batch_size(0) > 4);
    let grown = group.steps(0);
    group.wait_steps(grown + 40);
    group.signal(0, Signal::SIGTERM);
    group.wait(0);
    let steps = compare(&job, 4);
    assert!(steps.iter().any(|batches| batches.len() > 1), "a lone replica with a larger batch adds up");
}
