//! Our fit of the performance model against the real AdaptDL's: the same measurements, an optimum as good as theirs.
//!
//! AdaptDL's own objective judges both. Ours may be better: in about half of the cases scipy's L-BFGS-B, which AdaptDL
//! leaves at its defaults, stops early, since its objective has kinks and its parameters differ by orders of
//! magnitude. Where both have found the same optimum, and there is only one, they must predict the same.

use std::io::Write;
use std::num::NonZeroU32;
use std::process::{Command, Stdio};

use rayconcile::goodput::{
    BatchLimits, BatchSize, GoodputModel, GradParams, LocalBatch, LocalBounds, Measurement, Overlap,
    PerfParams, Placement, Seconds, fit,
};
use serde::{Deserialize, Serialize};

use crate::support::{python, repository};

/// By how much our objective may exceed AdaptDL's: predictions that are off by another millionth of themselves.
const WORSE: f64 = 1e-6;

/// Objectives that differ by less are taken to be at the same optimum.
const SAME: f64 = 1e-4;

/// Measurements with more noise may contradict each other, so that a whole range of predictions is equally bad: two
/// times between which one is to be chosen, and the sum of the distances to both is what counts.
const LITTLE_NOISE: f64 = 1e-3;

/// By how much predictions may then differ, relatively.
const TOLERANCE: f64 = 2e-3;

/// Fewer cases mean that the script has lost some.
const LEAST_CASES: usize = 200;

/// Fewer at the same optimum, and with little noise, mean that one of the optimisers has become worse.
const LEAST_SAME: usize = 30;

#[derive(Serialize, Deserialize)]
struct Fit {
    /// Standard deviation of the logarithms of the times.
    noise: f64,
    /// Nodes, replicas, atomic batch size, accumulation step, optimizer step.
    measurements: Vec<(u32, u32, NonZeroU32, f64, f64)>,
    /// In the order of AdaptDL's `PerfParams`.
    fitted: [f64; 7],
}

impl Fit {
    fn measurements(&self) -> Vec<Measurement> {
        let measurement = |&(nodes, replicas, atomic, accumulation_s, step_s): &_| Measurement {
            placement: Placement::new(nodes, replicas).unwrap(),
            atomic,
            accumulation_s,
            step_s,
        };
        self.measurements.iter().map(measurement).collect()
    }

    fn ours(&self) -> Self {
        let perf = fit(&self.measurements()).unwrap();
        let times = [perf.alpha_c, perf.beta_c, perf.alpha_n, perf.beta_n, perf.alpha_r, perf.beta_r];
        let [alpha_c, beta_c, alpha_n, beta_n, alpha_r, beta_r] = times.map(Seconds::get);
        let fitted = [alpha_c, beta_c, alpha_n, beta_n, alpha_r, beta_r, perf.gamma.get()];
        Self { measurements: self.measurements.clone(), fitted, ..*self }
    }

    fn model(&self) -> GoodputModel {
        let [alpha_c, beta_c, alpha_n, beta_n, alpha_r, beta_r] =
            std::array::from_fn(|index| Seconds::new(self.fitted[index]).unwrap());
        let gamma = Overlap::new(self.fitted[6]).unwrap();
        let perf = PerfParams { alpha_c, beta_c, alpha_n, beta_n, alpha_r, beta_r, gamma };
        let limits =
            BatchLimits::new(BatchSize::new(1).unwrap(), None, LocalBounds::default(), true).unwrap();
        GoodputModel::new(perf, GradParams::default(), limits)
    }

    /// By how much predictions for what was measured differ from another's, at most, relatively.
    fn distance(&self, other: &Self) -> f64 {
        let (ours, theirs) = (self.model(), other.model());
        let differences =
            self.measurements().into_iter().flat_map(|Measurement { placement, atomic, .. }| {
                [0, 7].map(|accumulations| {
                    let batch = LocalBatch::new(atomic, accumulations);
                    (ours.throughput(placement, batch) / theirs.throughput(placement, batch) - 1.0).abs()
                })
            });
        differences.fold(0.0, f64::max)
    }
}

#[test]
fn fits_are_as_good_as_adaptdls() {
    let theirs: Vec<Fit> = lines(&run(&[], ""));
    assert!(theirs.len() >= LEAST_CASES, "there are {} cases only", theirs.len());
    let ours: Vec<Fit> = theirs.iter().map(Fit::ours).collect();
    let judged = |fits: &[Fit]| -> Vec<f64> {
        let text: String = fits.iter().map(|fit| serde_json::to_string(fit).unwrap() + "\n").collect();
        let values = lines(&run(&["judge"], &text));
        assert_eq!(values.len(), fits.len());
        values
    };

    let (mut same, mut wrong) = (0, Vec::new());
    for (index, (our_value, their_value)) in judged(&ours).into_iter().zip(judged(&theirs)).enumerate() {
        let (our_fit, their_fit) = (&ours[index], &theirs[index]);
        let mut report = |what: String| {
            let measured = serde_json::to_string(&their_fit.measurements).unwrap();
            wrong.push(format!(
                "{what}\n  ours {:?}\n  AdaptDL's {:?}\n  of {measured}",
                our_fit.fitted, their_fit.fitted
            ));
        };
        if our_value.is_nan() || our_value > their_value + WORSE {
            report(format!("an objective of {our_value}, AdaptDL's is {their_value}"));
        } else if their_value < our_value + SAME && their_fit.noise <= LITTLE_NOISE {
            same += 1;
            let distance = our_fit.distance(their_fit);
            if distance > TOLERANCE {
                report(format!("predictions that differ by {distance}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), theirs.len(), wrong.join("\n\n"));
    assert!(same >= LEAST_SAME, "{same} of {} are at the same optimum", theirs.len());
}

/// What the script prints.
fn run(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(python());
    command.arg(repository("tests/live/goodput_fits.py")).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // While its output is read: neither waits for the other.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    writer.join().unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn lines<T: serde::de::DeserializeOwned>(text: &str) -> Vec<T> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect()
}
