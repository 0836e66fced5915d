//! What is known of the gradients' noise is what AdaptDL knows of the same gradients.

use std::process::Command;

use crate::harness::{Job, repository};
use serde_json::json;

/// Steps' sizes and numbers of replicas: with one, gradients of steps in turn are compared.
#[test]
fn noise_is_what_adaptdl_finds() {
    let mut random = fastrand::Rng::with_seed(5);
    let data: Vec<Vec<f32>> = (0..240).map(|_| (0..8).map(|_| random.f32() - 0.4).collect()).collect();
    for replicas in [1, 2, 4] {
        let mut job = Job::new("noise", json!({"samples": 240, "batchSize": 24, "epochs": 2}));
        std::fs::write(job.path("data.json"), serde_json::to_vec(&data).unwrap()).unwrap();
        job.start(replicas).succeed();
        let output = Command::new(repository(".venv/bin/python"))
            .arg(repository("tests/train/noise.py"))
            .args([job.path("data.json").to_str().unwrap(), &replicas.to_string(), "24", "2"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs = String::from_utf8(output.stdout).unwrap();
        let ours = job.lines("noise");
        assert_eq!((ours.len(), theirs.lines().count()), (20, 20));
        for (step, (ours, theirs)) in ours.iter().zip(theirs.lines()).enumerate() {
            let numbers =
                |line: &str| -> Vec<f64> { line.split(' ').take(3).map(|it| it.parse().unwrap()).collect() };
            // Before the first estimate AdaptDL has defaults, and ours says that it has none.
            let pairs = numbers(ours).into_iter().zip(numbers(theirs)).filter(|(ours, _)| !ours.is_nan());
            for (ours, theirs) in pairs {
                let limit = 1e-6 * theirs.abs().max(1e-6);
                assert!(
                    (ours - theirs).abs() <= limit,
                    "step {step} of {replicas}: {ours:e}, AdaptDL {theirs:e}"
                );
            }
        }
    }
}
