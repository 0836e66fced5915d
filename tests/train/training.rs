//! Training with several replicas is training with one, whatever happens to them.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tch::Tensor;

use crate::harness::Job;

/// What a job has learnt.
fn learnt(job: &Job) -> Vec<(String, Tensor)> {
    let mut tensors = Tensor::read_safetensors(job.path("final.safetensors")).unwrap();
    tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
    tensors
}

/// The greatest difference between what two jobs have learnt.
fn difference(one: &Job, other: &Job) -> f64 {
    let pairs = learnt(one).into_iter().zip(learnt(other));
    let differences = pairs.map(|((name, one), (other_name, other))| {
        assert_eq!(name, other_name);
        (one - other).abs().max().double_value(&[])
    });
    differences.fold(0.0, f64::max)
}

fn run(options: &Value, replicas: u32) -> Job {
    let mut job = Job::new("network", options.clone());
    job.start(replicas).succeed();
    job
}

/// How often each sample was given, by epoch.
fn seen(job: &Job) -> BTreeMap<u64, BTreeMap<i64, u32>> {
    let mut seen: BTreeMap<u64, BTreeMap<i64, u32>> = BTreeMap::new();
    for line in job.lines("seen") {
        let (epoch, samples) = line.split_once(' ').unwrap();
        for sample in serde_json::from_str::<Vec<i64>>(samples).unwrap() {
            *seen.entry(epoch.parse().unwrap()).or_default().entry(sample).or_default() += 1;
        }
    }
    seen
}

pub(crate) fn each_sample_once(job: &Job, samples: i64, epochs: u64) {
    let once: BTreeMap<i64, u32> = (0..samples).map(|sample| (sample, 1)).collect();
    assert_eq!(seen(job), (0..epochs).map(|epoch| (epoch, once.clone())).collect());
}

/// The last step of an epoch has ten samples for up to four replicas, or one. Three do not divide 64.
#[test]
fn replicas_together_learn_what_one_does() {
    let rates = json!({"samples": 241, "rates": true, "cuts": true});
    for options in
        [json!({}), rates, json!({"double": true, "cuts": true}), json!({"adam": true, "batchSize": 64})]
    {
        let limit = if options["double"] == true { 1e-12 } else { 1e-6 };
        let alone = run(&options, 1);
        let losses =
            |job: &Job| serde_json::from_str::<Value>(&job.lines("own")[0]).unwrap()["losses"].clone();
        assert!(losses(&alone)[1].as_f64() < losses(&alone)[0].as_f64(), "it learns: {}", losses(&alone));
        for replicas in 2..=4 {
            let together = run(&options, replicas);
            let difference = difference(&alone, &together);
            assert!(difference <= limit, "{replicas} replicas, {options}: {difference:e}");
            each_sample_once(&together, options["samples"].as_i64().unwrap_or(250), 2);
            assert_eq!(alone.lines("done"), together.lines("done"));
        }
    }
}

/// From one replica to three, to two, with checkpoints in the middle of epochs.
#[test]
fn restarts_with_other_numbers_change_nothing() {
    for options in
        [json!({"epochs": 3, "pause": 10}), json!({"epochs": 3, "pause": 10, "adam": true, "cuts": true})]
    {
        let mut job = Job::new("network", options.clone());
        for (replicas, steps) in [(1, 3), (3, 4), (2, 3)] {
            let mut group = job.start(replicas);
            group.wait_steps(steps);
            job.stop(group);
        }
        job.start(4).succeed();
        let alone = run(&options, 1);
        let difference = difference(&alone, &job);
        assert!(difference <= 1e-6, "{options}: {difference:e}");
        each_sample_once(&job, 250, 3);
        assert_eq!(alone.lines("done"), job.lines("done"));
        let losses = |job: &Job| {
            let own: Value = serde_json::from_str(&job.lines("own")[0]).unwrap();
            own["losses"].as_array().unwrap().len()
        };
        assert_eq!(losses(&job), 3, "the program's own state goes along");
    }
}

#[test]
fn a_save_in_between_costs_nothing_and_can_be_gone_on_from() {
    let options = json!({"epochs": 3, "pause": 5});
    let mut job = Job::new("network", options.clone());
    let mut group = job.start(2);
    group.wait_steps(2);
    group.save();
    group.wait_steps(6);
    group.save();
    job.keep(&group);
    let saved = group.steps(0);
    group.wait_steps(saved + 1);
    group.signal(0, Signal::SIGKILL);
    group.wait(0);
    group.wait(1);
    job.start(3).succeed();
    let alone = run(&options, 1);
    let difference = difference(&alone, &job);
    assert!(difference <= 1e-6, "{difference:e}");
    assert_eq!(alone.lines("done"), job.lines("done"));
}

#[test]
fn a_group_waits_for_its_release() {
    let mut job = Job::new("network", json!({"pause": 10}));
    let mut first = job.start(1);
    first.wait_steps(2);
    let mut second = job.prepare(2);
    second.until(|group| group.asked() == 2);
    assert_eq!((second.steps(0), second.steps(1)), (0, 0));
    // Told to end before it could train, it has nothing to save.
    let mut third = job.prepare(1);
    third.until(|group| group.asked() == 1);
    third.signal(0, Signal::SIGTERM);
    assert_eq!(third.wait(0).code(), Some(143), "{}", third.output(0));
    first.succeed();
    assert_eq!((second.steps(0), second.steps(1)), (0, 0), "nobody has let it go");
    second.release();
    second.succeed();
}

#[test]
fn when_one_dies_the_others_end_and_say_so() {
    for victim in 0..3 {
        let mut job = Job::new("network", json!({"panic": [victim, 3]}));
        let mut group = job.start(3);
        for rank in (0..3).filter(|rank| *rank != victim) {
            let status = group.wait(rank);
            let output = group.output(rank);
            assert_eq!(status.code(), Some(1), "{output}");
            let expected = format!("error: cannot train with the other replicas: rank {victim}");
            assert!(output.contains(&expected), "of {victim}, rank {rank} says: {output}");
        }
    }
}

#[test]
fn a_variable_of_two_stages_is_refused() {
    let mut job = Job::new("network", json!({"cuts": true, "badCut": true}));
    let mut group = job.start(2);
    assert_eq!(group.wait(0).code(), Some(1));
    let output = group.output(0);
    assert!(output.contains("second.bias belongs to another stage than 1"), "{output}");
}

#[test]
fn a_checkpoint_of_another_program_is_refused() {
    let mut job = Job::new("network", json!({"pause": 10}));
    let mut group = job.start(1);
    group.wait_steps(1);
    job.stop(group);
    let state = job.path("group-0/rank-0/saves/1/checkpoint-0/training.json");
    let text = std::fs::read_to_string(&state).unwrap();
    let mut changed: Value = serde_json::from_str(&text).unwrap();
    changed["samplesPerEpoch"] = json!(17);
    std::fs::write(&state, changed.to_string()).unwrap();
    let mut group = job.start(1);
    assert_eq!(group.wait(0).code(), Some(1));
    assert!(group.output(0).contains("its epochs have 17 samples, expected 250"), "{}", group.output(0));
    std::fs::write(&state, text).unwrap();
    let model = state.with_file_name("model.safetensors");
    let whole = std::fs::read(&model).unwrap();
    std::fs::write(&model, &whole[..whole.len() - 7]).unwrap();
    let mut group = job.start(1);
    assert_eq!(group.wait(0).code(), Some(1));
    assert!(group.output(0).contains("model.safetensors"), "{}", group.output(0));
}

/// What cannot be restored is said when it is to be saved.
#[test]
fn what_cannot_be_kept_is_refused() {
    let mut job = Job::new("network", json!({"infinite": true, "pause": 10}));
    let mut group = job.start(1);
    group.wait_steps(1);
    group.signal(0, Signal::SIGTERM);
    assert_eq!(group.wait(0).code(), Some(1));
    let output = group.output(0);
    assert!(output.contains("keeps of its own cannot be read back") && output.contains("finite"), "{output}");
}

/// Of the last sample one of two replicas has nothing.
#[test]
fn sums_of_different_places_are_refused() {
    let mut job = Job::new("network", json!({"sums": true, "samples": 61}));
    let mut group = job.start(2);
    for rank in 0..2 {
        assert_eq!(group.wait(rank).code(), Some(1));
    }
    let said: String = (0..2).map(|rank| group.output(rank)).collect();
    assert!(said.contains("replicas call sum in different places"), "{said}");
}
