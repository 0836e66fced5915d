//! What a fit minimises: how far predictions are from measurements. And the descent to where that is least.
//!
//! The objective is `_obj_fn` of `adaptdl/goodput.py`: the roots of the mean squared errors of both times' logarithms,
//! and two small costs that decide where measurements do not. It is minimised over the logarithms of the model's
//! times, which are orders of magnitude apart, and over `gamma` as it is: together, a [`Point`].

use std::convert::Infallible;

use basin::{
    BoxBounds, ConstraintDescription, ConstraintSet, Constraints, CostFunction, Executor, FirstOrderState,
    Gradient, Lbfgsb,
};

use super::fit::Measurement;
use super::model::{Link, overlapped};
use super::params::{Overlap, PerfParams, Seconds};

/// The logarithms of the six times, and `gamma`, in the order of AdaptDL's `PerfParams`.
pub(super) type Point = Vec<f64>;

pub(super) const ALPHA_C: usize = 0;
pub(super) const BETA_C: usize = 1;
pub(super) const ALPHA_N: usize = 2;
pub(super) const BETA_N: usize = 3;
pub(super) const ALPHA_R: usize = 4;
pub(super) const BETA_R: usize = 5;
pub(super) const GAMMA: usize = 6;

/// What a `gamma` above 1 costs: the other parameters are easier to find where it is small.
const OVERLAP_COST: f64 = 1e-3;

/// What it costs that replicas beyond the second slow synchronising down: the model is to be optimistic.
const RETROGRESSION_COST: f64 = 1e-2;

/// A root of a mean square has no gradient where predictions are exact, and of a few measurements they often are at
/// the optimum. So each descent is over `sqrt(mean + smoothing²)`, and the next one goes on from where it ended.
const SMOOTHINGS: [f64; 6] = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7];

/// Most steps of one descent. It seldom takes a hundred.
const MOST_STEPS: u64 = 300;

/// The slope at which a descent has arrived.
const FLAT: f64 = 1e-10;

/// The parameters that a point stands for.
pub(super) fn parameters(point: &[f64]) -> PerfParams {
    let time = |index: usize| {
        let log: f64 = point[index];
        // The exponential function alone may miss the bound by its last bit.
        if log <= Seconds::FLOOR.get().ln() { Seconds::FLOOR } else { Seconds::nearest(log.exp()) }
    };
    PerfParams {
        alpha_c: time(ALPHA_C),
        beta_c: time(BETA_C),
        alpha_n: time(ALPHA_N),
        beta_n: time(BETA_N),
        alpha_r: time(ALPHA_R),
        beta_r: time(BETA_R),
        gamma: Overlap::nearest(point[GAMMA]),
    }
}

/// The objective over some measurements, and the bounds within which it is minimised.
pub(super) struct Objective<'a> {
    measurements: &'a [Measurement],
    lower: Point,
    upper: Point,
}

impl<'a> Objective<'a> {
    /// Over at least one measurement, of which every time is above zero.
    pub(super) fn new(measurements: &'a [Measurement], lower: Point, upper: Point) -> Self {
        Self { measurements, lower, upper }
    }

    /// The least value found by descending from here, and where it is: never worse than the start, which is put
    /// within the bounds first.
    pub(super) fn descend(&self, mut start: Point) -> (f64, Point) {
        for (value, (lower, upper)) in start.iter_mut().zip(self.lower.iter().zip(&self.upper)) {
            *value = value.max(*lower).min(*upper);
        }
        let mut best = (self.value(&start), start.clone());
        let mut point = start;
        for smoothing in SMOOTHINGS {
            let solver = Lbfgsb::new()
                .with_absolute_projected_gradient_tolerance(FLAT)
                .with_relative_cost_reduction_tolerance(0.0);
            let smoothed = Smoothed { objective: self, smoothing };
            let descent = Executor::new(smoothed, solver, FirstOrderState::new(point)).max_iter(MOST_STEPS);
            let Ok(end) = descent.run() else { break };
            point = end.best_param().clone();
            let value = self.value(&point);
            if value < best.0 {
                best = (value, point.clone());
            }
        }
        best
    }

    /// AdaptDL's objective itself.
    fn value(&self, point: &[f64]) -> f64 {
        self.smoothed(point, 0.0).0
    }

    /// The objective with smoothed roots, and its gradient.
    fn smoothed(&self, point: &[f64], smoothing: f64) -> (f64, Point) {
        let perf = parameters(point);
        let gamma = perf.gamma.get();
        let (mut accumulation, mut step) = (Errors::default(), Errors::default());
        for measurement in self.measurements {
            let placement = measurement.placement;
            let compute = perf.compute_time(measurement.atomic.get());
            // By how much the logarithm of a predicted time grows with each coordinate of the point.
            let mut slopes = [0.0; GAMMA + 1];
            slopes[ALPHA_C] = perf.alpha_c.get() / compute;
            slopes[BETA_C] = 1.0 - slopes[ALPHA_C];
            accumulation.add(compute.ln() - measurement.accumulation_s.ln(), &slopes);

            let network = perf.network_time(placement);
            let total = overlapped(compute, network, gamma);
            let (compute_part, network_part) = (compute / total, network / total);
            let (of_compute, of_network) = (compute_part.powf(gamma), network_part.powf(gamma));
            slopes[ALPHA_C] *= of_compute;
            slopes[BETA_C] *= of_compute;
            let (alpha, beta, constant) = match placement.link() {
                Link::None => (ALPHA_R, BETA_R, None),
                Link::Within => (ALPHA_R, BETA_R, Some(perf.alpha_r)),
                Link::Between => (ALPHA_N, BETA_N, Some(perf.alpha_n)),
            };
            if let Some(constant) = constant {
                slopes[alpha] = of_network * constant.get() / network;
                slopes[beta] = of_network - slopes[alpha];
            }
            slopes[GAMMA] = (of_compute * compute_part.ln() + of_network * network_part.ln()) / gamma;
            step.add(total.ln() - measurement.step_s.ln(), &slopes);
        }

        let mut gradient = vec![0.0; GAMMA + 1];
        let count = self.measurements.len() as f64;
        let mut value = accumulation.root(count, smoothing, &mut gradient);
        value += step.root(count, smoothing, &mut gradient);

        let above_one = gamma - Overlap::MIN;
        value += OVERLAP_COST * above_one * above_one;
        gradient[GAMMA] += 2.0 * OVERLAP_COST * above_one;
        for (alpha, beta) in [(ALPHA_N, BETA_N), (ALPHA_R, BETA_R)] {
            let cost = RETROGRESSION_COST * (2.0 * (point[beta] - point[alpha])).exp();
            value += cost;
            gradient[beta] += 2.0 * cost;
            gradient[alpha] -= 2.0 * cost;
        }
        (value, gradient)
    }
}

/// Squared errors, summed up, and half the gradient of the sum.
#[derive(Default)]
struct Errors {
    squares: f64,
    half_gradient: [f64; GAMMA + 1],
}

impl Errors {
    fn add(&mut self, error: f64, slopes: &[f64; GAMMA + 1]) {
        self.squares += error * error;
        for (half, slope) in self.half_gradient.iter_mut().zip(slopes) {
            *half += error * slope;
        }
    }

    /// The root of the mean square; its gradient is added to the one given.
    fn root(&self, count: f64, smoothing: f64, gradient: &mut [f64]) -> f64 {
        let root = (self.squares / count + smoothing * smoothing).sqrt();
        if root > 0.0 {
            for (sum, half) in gradient.iter_mut().zip(self.half_gradient) {
                *sum += half / (count * root);
            }
        }
        root
    }
}

/// What one descent minimises.
struct Smoothed<'a> {
    objective: &'a Objective<'a>,
    smoothing: f64,
}

impl Constraints for Smoothed<'_> {
    type Set = ConstraintSet<BoxBounds<Point>>;

    fn constraints(&self) -> <Self::Set as ConstraintDescription>::Borrowed<'_> {
        ConstraintSet::new()
            .with_bounds(BoxBounds::new(Some(&self.objective.lower), Some(&self.objective.upper)))
    }
}

impl CostFunction for Smoothed<'_> {
    type Param = Point;
    type Output = f64;
    type Error = Infallible;

    fn cost(&self, point: &Point) -> Result<f64, Infallible> {
        Ok(self.objective.smoothed(point, self.smoothing).0)
    }
}

impl Gradient for Smoothed<'_> {
    type Gradient = Point;

    fn gradient(&self, point: &Point) -> Result<Point, Infallible> {
        Ok(self.objective.smoothed(point, self.smoothing).1)
    }

    fn cost_and_gradient(&self, point: &Point) -> Result<(f64, Point), Infallible> {
        Ok(self.objective.smoothed(point, self.smoothing))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::model::Placement;
    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let measured = |nodes, replicas, atomic, accumulation_s, step_s| Measurement {
            placement: Placement::new(nodes, replicas).unwrap(),
            atomic: NonZeroU32::new(atomic).unwrap(),
            accumulation_s,
            step_s,
        };
        let measurements = [
            measured(1, 1, 8, 0.2, 0.21),
            measured(1, 2, 16, 0.3, 0.4),
            measured(1, 5, 16, 0.35, 0.6),
            measured(3, 7, 40, 0.9, 2.0),
        ];
        let objective = Objective::new(&measurements, Point::new(), Point::new());
        for gamma in [1.0 + 1e-4, 1.7, 9.0] {
            let point = vec![-2.0, -4.0, -1.0, -3.0, -2.5, -4.5, gamma];
            for smoothing in [0.0, 1e-2, 1.0] {
                let (_, gradient) = objective.smoothed(&point, smoothing);
                for (index, slope) in gradient.into_iter().enumerate() {
                    let at = |by: f64| {
                        let mut moved = point.clone();
                        moved[index] += by;
                        objective.smoothed(&moved, smoothing).0
                    };
                    let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                    assert!((slope - expected).abs() < 1e-8, "{index} at {gamma}: {slope} is not {expected}");
                }
            }
        }
    }
}
