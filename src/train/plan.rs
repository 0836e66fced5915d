//! What a program says of its training, before it begins.

use std::num::NonZeroU32;

use super::TrainError;
use super::optimizer::Optimizer;
use crate::goodput::{BatchLimits, BatchSize, LimitsError, LocalBatch, LocalBounds, Placement};

/// What is trained with what, and until when.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How gradients change the variables.
    pub optimizer: Optimizer,
    /// Samples in one epoch: from 1 to 2³² - 1.
    pub samples: u64,
    /// Samples in a step of the optimizer, of all replicas together, for which the learning rate is meant.
    pub batch_size: u32,
    /// How far the batch may grow, if it may.
    pub adaptive: Option<Adaptive>,
    /// When training is done.
    pub goal: Goal,
    /// Whether samples come in an order that changes with every epoch.
    pub shuffle: bool,
    /// Where random numbers begin: of the order, and of torch's generator, which is seeded anew before every batch.
    pub seed: u64,
    /// Gradients are scaled down to this norm if theirs is greater.
    pub max_gradient_norm: Option<f64>,
}

/// Limits of a batch that may grow.
#[derive(Clone, Copy, Debug)]
pub struct Adaptive {
    /// The most samples in a step of the optimizer, of all replicas together.
    pub max_batch_size: u32,
    /// The fewest and the most that one replica takes at a time.
    pub local_bounds: Option<(u32, u32)>,
    /// Whether a replica may add up the gradients of several batches before the optimizer's step.
    pub accumulation: bool,
}

/// When training is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// After so many epochs.
    Epochs(u64),
    /// After a progress of so many scale-invariant iterations: steps with the job's own batch, or what is worth as much.
    /// It may come within an epoch. Larger batches need more samples for the same progress, so this, and not a number
    /// of epochs, keeps what is learnt the same.
    Iterations(f64),
}

impl Plan {
    /// A plan for so many samples with these batches and epochs, with samples in a random order and batches that stay.
    pub fn new(optimizer: impl Into<Optimizer>, samples: u64, batch_size: u32, epochs: u64) -> Self {
        Self {
            optimizer: optimizer.into(),
            samples,
            batch_size,
            adaptive: None,
            goal: Goal::Epochs(epochs),
            shuffle: true,
            seed: 0,
            max_gradient_norm: None,
        }
    }

    /// The batches that this allows.
    pub(super) fn limits(&self) -> Result<BatchLimits, TrainError> {
        let invalid = |field, found: String, expected: &str| TrainError::Plan {
            field,
            found,
            expected: expected.into(),
        };
        if !(1..=u64::from(u32::MAX)).contains(&self.samples) {
            return Err(invalid("samples", self.samples.to_string(), "a number from 1 to 4294967295"));
        }
        if let Goal::Iterations(iterations) = self.goal
            && (iterations.is_nan() || iterations < 0.0)
        {
            return Err(invalid("goal", iterations.to_string(), "a number of iterations from 0"));
        }
        if let Some(norm) = self.max_gradient_norm.filter(|norm| norm.is_nan() || *norm <= 0.0) {
            return Err(invalid("max_gradient_norm", norm.to_string(), "a number above 0"));
        }
        let size = |field, samples: u32| {
            let expected = format!("a number from 1 to {}", BatchSize::MAX);
            BatchSize::new(samples.into()).ok_or_else(|| invalid(field, samples.to_string(), &expected))
        };
        let init = size("batch_size", self.batch_size)?;
        let Some(adaptive) = self.adaptive else {
            return BatchLimits::new(init, None, LocalBounds::default(), false).map_err(contradiction);
        };
        let bounds = match adaptive.local_bounds {
            Some((min, max)) if min > max => {
                let found = format!("{min} to {max}");
                return Err(invalid(
                    "adaptive.local_bounds",
                    found,
                    "a least number that is not above the greatest",
                ));
            }
            Some((min, max)) => LocalBounds {
                min: Some(size("adaptive.local_bounds", min)?),
                max: Some(size("adaptive.local_bounds", max)?),
            },
            None => LocalBounds::default(),
        };
        let max = size("adaptive.max_batch_size", adaptive.max_batch_size)?;
        BatchLimits::new(init, Some(max), bounds, adaptive.accumulation).map_err(contradiction)
    }
}

/// What is said of limits that contradict each other, in the words of [`Plan`].
fn contradiction(error: LimitsError) -> TrainError {
    let (field, found, expected, init) = match error {
        LimitsError::MaxBelowInit { max, init } => ("adaptive.max_batch_size", max, "at least", init),
        LimitsError::LocalMinAboveInit { min, init } => {
            ("the least of adaptive.local_bounds", min, "at most", init)
        }
        LimitsError::LocalMaxBelowInit { max, init } => {
            ("the most of adaptive.local_bounds", max, "at least", init)
        }
    };
    TrainError::Plan { field, found: found.to_string(), expected: format!("{expected} batch_size ({init})") }
}

/// The batch to begin with, as long as nothing is known: the job's own, in equal parts.
pub(super) fn first_batch(limits: &BatchLimits, placement: Placement) -> LocalBatch {
    let atomic = limits.init().get().div_ceil(placement.replicas());
    LocalBatch::new(NonZeroU32::new(atomic).unwrap_or(NonZeroU32::MIN), 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::train::Sgd;

    fn message(change: impl FnOnce(&mut Plan)) -> String {
        let mut plan = Plan::new(Sgd::default(), 100, 16, 1);
        change(&mut plan);
        plan.limits().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_done_is_said_before_it_begins() {
        assert!(Plan::new(Sgd::default(), 100, 16, 1).limits().is_ok());
        assert_eq!(message(|plan| plan.samples = 0), "samples is 0, expected a number from 1 to 4294967295");
        assert_eq!(
            message(|plan| plan.batch_size = 0),
            "batch_size is 0, expected a number from 1 to 1073741824"
        );
        assert!(message(|plan| plan.goal = Goal::Iterations(f64::NAN)).starts_with("goal is NaN"));
        assert!(message(|plan| plan.max_gradient_norm = Some(0.0)).starts_with("max_gradient_norm is 0"));
        let adaptive = |max_batch_size, local_bounds| {
            message(|plan| {
                plan.adaptive = Some(Adaptive { max_batch_size, local_bounds, accumulation: false })
            })
        };
        assert_eq!(adaptive(8, None), "adaptive.max_batch_size is 8, expected at least batch_size (16)");
        assert!(adaptive(32, Some((9, 8))).contains("adaptive.local_bounds is 9 to 8"));
        let most = "the most of adaptive.local_bounds is 8, expected at least batch_size (16)";
        assert_eq!(adaptive(32, Some((1, 8))), most);
    }
}
