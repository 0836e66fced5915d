//! The gradient noise scale, and what follows from it: how much a larger batch gains, and the learning rate for it.
//!
//! Sources: Qiao et al., "Pollux", OSDI '21, section 3.1; Johnson et al., "AdaScale SGD", ICML '20; the estimator's
//! details as in `adaptdl` 0.2.11, `adaptdl/torch/gradient_noise_scale.py`, to which `tests/train` compares it.

use serde::{Deserialize, Serialize};

/// How much of an average is kept in a step with the job's own batch.
const SMOOTHING: f64 = 0.999;
/// Variances are taken for at least this.
const LEAST_VARIANCE: f64 = 1e-6;

/// What a step has shown, for each group of variables.
pub(super) struct Observation<'a> {
    /// The mean of the squared norms of single gradients.
    pub(super) single_sqr: &'a [f64],
    /// The squared norm of their mean.
    pub(super) mean_sqr: &'a [f64],
    /// How many of them there are: at least two.
    pub(super) count: f64,
    /// All their samples, relative to the job's own batch.
    pub(super) scale: f64,
    /// Whether they come from steps that followed each other, and not from one.
    pub(super) differenced: bool,
}

/// A running mean that begins without a bias towards zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Average {
    value: Vec<f64>,
    biased: Vec<f64>,
    unbias: f64,
}

impl Average {
    fn new(groups: usize, value: f64) -> Self {
        Self { value: vec![value; groups], biased: vec![0.0; groups], unbias: 0.0 }
    }

    /// Forgets what was seen, but not what was concluded until something else is seen.
    fn reset(&mut self) {
        self.biased.fill(0.0);
        self.unbias = 0.0;
    }

    fn update(&mut self, seen: impl Iterator<Item = f64>, factor: f64) {
        self.unbias = factor * self.unbias + (1.0 - factor);
        for ((value, biased), seen) in self.value.iter_mut().zip(&mut self.biased).zip(seen) {
            *biased = factor * *biased + (1.0 - factor) * seen;
            *value = *biased / self.unbias;
        }
    }
}

/// What is known of the gradients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Noise {
    sqr: Average,
    var: Average,
    /// Whether it was estimated from steps that followed each other, which is less exact.
    differenced: bool,
    /// Whether anything was observed.
    known: bool,
}

impl Noise {
    /// Nothing is known of so many groups of variables.
    pub(super) fn new(groups: usize) -> Self {
        Self {
            sqr: Average::new(groups, 1.0),
            var: Average::new(groups, 0.0),
            differenced: false,
            known: false,
        }
    }

    /// How many groups of variables it is about.
    pub(super) fn groups(&self) -> usize {
        self.sqr.value.len()
    }

    /// Takes a step into account. Gradients that are infinite or no numbers are not.
    pub(super) fn observe(&mut self, seen: &Observation) {
        if !seen.single_sqr.iter().chain(seen.mean_sqr).all(|it| it.is_finite()) {
            return;
        }
        if self.differenced && !seen.differenced {
            self.sqr.reset();
            self.var.reset();
        }
        self.differenced = seen.differenced;
        self.known = true;
        let factor = SMOOTHING.powf(seen.scale);
        let pairs = || seen.single_sqr.iter().zip(seen.mean_sqr);
        let (count, scale) = (seen.count, seen.scale);
        self.sqr.update(pairs().map(|(single, mean)| (count * mean - single) / (count - 1.0)), factor);
        self.var.update(pairs().map(|(single, mean)| (single - mean) * scale / (count - 1.0)), factor);
    }

    /// The squared norm of the true gradient.
    pub(super) fn sqr(&self) -> f64 {
        self.sqr.value.iter().map(|it| it.max(0.0)).sum()
    }

    /// The trace of the gradient's covariance, with the job's own batch.
    pub(super) fn var(&self) -> f64 {
        self.var.value.iter().map(|it| it.max(LEAST_VARIANCE)).sum()
    }

    /// Both, once something was observed.
    pub(super) fn known(&self) -> Option<(f64, f64)> {
        self.known.then(|| (self.sqr(), self.var()))
    }

    /// How many steps with the job's own batch a step with `scale` times as many samples is worth.
    pub(super) fn gain(&self, scale: f64) -> f64 {
        gain(self.sqr(), self.var(), scale)
    }

    /// By what AdaScale multiplies each group's learning rate for `scale` times as many samples.
    pub(super) fn rate_factors(&self, scale: f64) -> Vec<f64> {
        let groups = self.sqr.value.iter().zip(&self.var.value);
        groups.map(|(sqr, var)| gain(sqr.max(0.0), var.max(LEAST_VARIANCE), scale)).collect()
    }
}

fn gain(sqr: f64, var: f64, scale: f64) -> f64 {
    (var + sqr) / (var / scale + sqr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<'a>(single_sqr: &'a [f64], mean_sqr: &'a [f64], differenced: bool) -> Observation<'a> {
        Observation { single_sqr, mean_sqr, count: 4.0, scale: 2.0, differenced }
    }

    #[test]
    fn noise_alone_gains_as_much_as_there_are_samples_and_none_gains_nothing() {
        let mut noise = Noise::new(1);
        assert_eq!(noise.known(), None);
        // The mean of four gradients of pure noise has a quarter of their squared norm.
        noise.observe(&seen(&[4.0], &[1.0], false));
        assert_eq!(noise.known(), Some((0.0, 2.0)));
        assert!((noise.gain(8.0) - 8.0).abs() < 1e-12);
        let mut still = Noise::new(1);
        still.observe(&seen(&[4.0], &[4.0], false));
        assert!((still.gain(8.0) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn what_is_estimated_from_steps_in_turn_is_dropped_for_better() {
        let mut noise = Noise::new(1);
        noise.observe(&seen(&[100.0], &[1.0], true));
        noise.observe(&seen(&[4.0], &[1.0], false));
        let mut fresh = Noise::new(1);
        fresh.observe(&seen(&[4.0], &[1.0], false));
        assert_eq!(noise, fresh);
    }

    #[test]
    fn gradients_that_are_no_numbers_change_nothing() {
        let mut noise = Noise::new(2);
        noise.observe(&seen(&[4.0, 1.0], &[1.0, 0.5], false));
        let before = noise.clone();
        noise.observe(&seen(&[f64::NAN, 1.0], &[1.0, 1.0], false));
        noise.observe(&seen(&[1.0, 1.0], &[1.0, f64::INFINITY], true));
        assert_eq!(noise, before);
    }

    #[test]
    fn each_group_of_variables_has_a_rate_of_its_own() {
        let mut noise = Noise::new(2);
        noise.observe(&seen(&[4.0, 4.0], &[1.0, 4.0], false));
        let factors = noise.rate_factors(4.0);
        assert!((factors[0] - 4.0).abs() < 1e-9 && (factors[1] - 1.0).abs() < 1e-5, "{factors:?}");
    }
}
