//! The batch grows where that pays, and the supervisor is told why.

use rayconcile::goodput::{Hints, Placement};
use serde_json::json;

use crate::harness::Job;
use crate::training::each_sample_once;

/// What a batch takes hardly depends on its size: so a larger one is better, and soon.
#[test]
fn a_batch_grows_by_what_was_measured_and_each_sample_still_comes_once() {
    let mut random = fastrand::Rng::with_seed(9);
    // Noise alone: the more samples, the better.
    let data: Vec<Vec<f32>> = (0..200).map(|_| (0..8).map(|_| random.f32() - 0.5).collect()).collect();
    let options = json!({"samples": 200, "epochs": 60, "batchSize": 4, "maxBatchSize": 64, "pause": 20});
    let mut job = Job::new("noise", options);
    std::fs::write(job.path("data.json"), serde_json::to_vec(&data).unwrap()).unwrap();
    let mut group = job.start(2);
    group.until(|group| group.batch_size(0) > 4);
    let hints = group.hints();
    let hints = Hints::from_json(&hints[0]).unwrap();
    assert_eq!(hints.max_profiled_replicas, 2);
    assert_eq!((hints.limits.init().get(), hints.limits.largest().get()), (4, 64));
    assert!(hints.grad_params.is_some() && hints.perf_params.is_some());
    let model = hints.goodput_model().unwrap();
    let (now, best) = (Placement::new(1, 2).unwrap(), group.batch_size(0));
    assert_eq!(model.optimize(now).total_batch, best, "it trains with what the model finds best");
    let grown = group.steps(0);
    group.wait_steps(grown + 3);
    job.stop(group);
    // Another number of replicas begins with the batch that suits it: what was measured goes along.
    let mut alone = job.start(1);
    alone.wait_steps(2);
    assert!(alone.batch_size(0) > 4, "{}", alone.batch_size(0));
    alone.succeed();
    each_sample_once(&job, 200, 60);
}
