//! Fits the model's parameters to measured step times, as a worker does: `fit_perf_params` of `adaptdl/goodput.py`.

use std::num::NonZeroU32;

use super::model::{Link, Placement};
use super::objective::{ALPHA_C, ALPHA_N, ALPHA_R, BETA_N, BETA_R, GAMMA, Objective, Point, parameters};
use super::params::{Overlap, PerfParams, Seconds};

/// By how much a link between nodes is slower than one within a node, at least, as long as nobody has measured it.
const BETWEEN_NODES: f64 = 1.1;

/// Where `gamma` starts: just off its bound.
const LITTLE_OVERLAP: f64 = 1.0 + 1e-3;

/// How long steps take with one placement and one local batch: means over many of them.
///
/// Times that are not above zero, not numbers, or longer than [`Seconds::MAX`] can be none: a fit leaves them out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurement {
    /// Where the job trained.
    pub placement: Placement,
    /// Samples that each replica processed at a time.
    pub atomic: NonZeroU32,
    /// Forward and backward pass over them, without synchronising, s.
    pub accumulation_s: f64,
    /// The same with synchronising and the optimiser's own step, s.
    pub step_s: f64,
}

impl Measurement {
    fn is_usable(&self) -> bool {
        [self.accumulation_s, self.step_s].into_iter().all(|time| time > 0.0 && Seconds::new(time).is_ok())
    }
}

/// The parameters with which the model comes closest to the measurements; `None` without one that is usable.
///
/// What the measurements say nothing of is fixed, and optimistic: links that were not used, the slowdown by replicas
/// beyond the second, and how computing grows with the local batch. The result may be a little closer than AdaptDL's,
/// whose optimiser at times stops early, and its times never exceed [`Seconds::MAX`].
///
/// Takes a few milliseconds for some dozens of measurements. The same measurements in the same order have the same result.
pub fn fit(measurements: &[Measurement]) -> Option<PerfParams> {
    let usable: Vec<Measurement> = measurements.iter().copied().filter(Measurement::is_usable).collect();
    let [first, ..] = usable.as_slice() else { return None };
    let used = |link| usable.iter().any(|measurement| measurement.placement.link() == link);
    let (between, within) = (used(Link::Between), used(Link::Within));

    let mut bounds = Bounds::widest();
    if usable.iter().all(|measurement| measurement.atomic == first.atomic) {
        bounds.fix(ALPHA_C, Seconds::nearest(mean(&usable, |measurement| measurement.accumulation_s) / 2.0));
    }
    if !between {
        bounds.fix(ALPHA_N, Seconds::FLOOR);
        bounds.fix(BETA_N, Seconds::FLOOR);
    }
    if !within {
        bounds.fix(ALPHA_R, Seconds::FLOOR);
        bounds.fix(BETA_R, Seconds::FLOOR);
    }
    if usable.iter().all(|measurement| measurement.placement.replicas() <= 2) {
        bounds.fix(BETA_N, Seconds::FLOOR);
        bounds.fix(BETA_R, Seconds::FLOOR);
    }

    let objective = Objective::new(&usable, bounds.lower, bounds.upper);
    let ends = [adaptdl_start(), measured_start(&usable)].map(|start| objective.descend(start));
    let (_, best) = ends.into_iter().min_by(|(left, _), (right, _)| left.total_cmp(right))?;
    let perf = parameters(&best);
    Some(if between { perf } else { slower_between_nodes(perf) })
}

/// Between which numbers each coordinate of a point may be.
struct Bounds {
    lower: Point,
    upper: Point,
}

impl Bounds {
    fn widest() -> Self {
        let of = |time: Seconds, overlap| {
            let mut point = vec![time.get().ln(); GAMMA];
            point.push(overlap);
            point
        };
        Self { lower: of(Seconds::FLOOR, Overlap::MIN), upper: of(Seconds::MAX, Overlap::MAX) }
    }

    fn fix(&mut self, parameter: usize, time: Seconds) {
        self.lower[parameter] = time.get().ln();
        self.upper[parameter] = time.get().ln();
    }
}

/// AdaptDL's own start.
fn adaptdl_start() -> Point {
    let (constant, growing) = (0.1_f64.ln(), 0.01_f64.ln());
    vec![constant, growing, constant, growing, constant, growing, LITTLE_OVERLAP]
}

/// A start near the measured times, of whatever magnitude they are: AdaptDL's leads some into a poorer optimum.
fn measured_start(usable: &[Measurement]) -> Point {
    let computing = mean(usable, |measurement| measurement.accumulation_s.ln()) - 2_f64.ln();
    let samples = mean(usable, |measurement| f64::from(measurement.atomic.get()).ln());
    let step = mean(usable, |measurement| measurement.step_s.ln());
    let (constant, growing) = (step + 0.1_f64.ln(), step + 0.01_f64.ln());
    vec![computing, computing - samples, constant, growing, constant, growing, LITTLE_OVERLAP]
}

fn mean(usable: &[Measurement], of: impl Fn(&Measurement) -> f64) -> f64 {
    usable.iter().map(of).sum::<f64>() / usable.len() as f64
}

/// What AdaptDL expects of links between nodes that were never used.
fn slower_between_nodes(perf: PerfParams) -> PerfParams {
    let slower = |within: Seconds| Seconds::nearest(within.get() * BETWEEN_NODES);
    PerfParams { alpha_n: slower(perf.alpha_r), beta_n: slower(perf.beta_r), ..perf }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Nodes and replicas: alone, within a node, and between nodes.
    const EVERYWHERE: [(u32, u32); 8] = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (2, 8), (4, 16), (8, 8)];

    fn parameters_of([alpha_c, beta_c, alpha_n, beta_n, alpha_r, beta_r, gamma]: [f64; 7]) -> PerfParams {
        let seconds = |value| Seconds::new(value).unwrap();
        PerfParams {
            alpha_c: seconds(alpha_c),
            beta_c: seconds(beta_c),
            alpha_n: seconds(alpha_n),
            beta_n: seconds(beta_n),
            alpha_r: seconds(alpha_r),
            beta_r: seconds(beta_r),
            gamma: Overlap::new(gamma).unwrap(),
        }
    }

    fn truth() -> PerfParams {
        parameters_of([0.121, 0.00568, 0.236, 0.00634, 0.0618, 0.00317, 1.64])
    }

    fn measured(nodes: u32, replicas: u32, atomic: u32, accumulation_s: f64, step_s: f64) -> Measurement {
        let placement = Placement::new(nodes, replicas).unwrap();
        Measurement { placement, atomic: NonZeroU32::new(atomic).unwrap(), accumulation_s, step_s }
    }

    /// The times of a pass and of a step, written down plainly.
    fn predicted(perf: &PerfParams, placement: Placement, atomic: NonZeroU32) -> (f64, f64) {
        let beyond_two = (f64::from(placement.replicas()) - 2.0).max(1e-8);
        let network = match (placement.nodes(), placement.replicas()) {
            (1, 1) => 1e-8,
            (1, _) => perf.alpha_r.get() + perf.beta_r.get() * beyond_two,
            _ => perf.alpha_n.get() + perf.beta_n.get() * beyond_two,
        };
        let compute = perf.alpha_c.get() + perf.beta_c.get() * f64::from(atomic.get());
        let (gamma, longer) = (perf.gamma.get(), compute.max(network));
        let powers = (compute / longer).powf(gamma) + (network / longer).powf(gamma);
        (compute, longer * powers.powf(1.0 / gamma))
    }

    /// AdaptDL's objective, written down plainly.
    fn objective(perf: &PerfParams, measurements: &[Measurement]) -> f64 {
        let squared_errors = measurements.iter().map(|measurement| {
            let (accumulation, step) = predicted(perf, measurement.placement, measurement.atomic);
            let error = |predicted: f64, measured: f64| (predicted.ln() - measured.ln()).powi(2);
            (error(accumulation, measurement.accumulation_s), error(step, measurement.step_s))
        });
        let (accumulation, step) =
            squared_errors.fold((0.0, 0.0), |sum, error| (sum.0 + error.0, sum.1 + error.1));
        let count = measurements.len() as f64;
        let ratio = |beta: Seconds, alpha: Seconds| (beta.get() / alpha.get()).powi(2);
        (accumulation / count).sqrt()
            + (step / count).sqrt()
            + 1e-3 * (perf.gamma.get() - 1.0).powi(2)
            + 1e-2 * (ratio(perf.beta_n, perf.alpha_n) + ratio(perf.beta_r, perf.alpha_r))
    }

    /// What a job with these parameters would measure.
    fn measurements_of(perf: &PerfParams, placements: &[(u32, u32)], sizes: &[u32]) -> Vec<Measurement> {
        let shapes = placements.iter().flat_map(|at| sizes.iter().map(move |atomic| (*at, *atomic)));
        shapes
            .map(|((nodes, replicas), atomic)| {
                let shape = measured(nodes, replicas, atomic, 1.0, 1.0);
                let (accumulation_s, step_s) = predicted(perf, shape.placement, shape.atomic);
                Measurement { accumulation_s, step_s, ..shape }
            })
            .collect()
    }

    fn assert_close(left: f64, right: f64, tolerance: f64) {
        assert!((left / right - 1.0).abs() <= tolerance, "{left} is not {right}");
    }

    #[test]
    fn what_is_minimised_is_adaptdls_objective() {
        let mut measurements = measurements_of(&truth(), &EVERYWHERE, &[8, 32]);
        for (measurement, factor) in measurements.iter_mut().zip([0.5, 1.0, 1.7].into_iter().cycle()) {
            measurement.step_s *= factor;
        }
        let bounds = Bounds::widest();
        let (value, point) =
            Objective::new(&measurements, bounds.lower, bounds.upper).descend(measured_start(&measurements));
        assert!(value > 0.1, "the measurements contradict each other");
        assert_close(value, objective(&parameters(&point), &measurements), 1e-9);
    }

    #[test]
    fn known_parameters_are_predicted_back() {
        for gamma in [1.0, 1.64, 3.0] {
            let truth = PerfParams { gamma: Overlap::new(gamma).unwrap(), ..truth() };
            let fitted = fit(&measurements_of(&truth, &EVERYWHERE, &[8, 32, 100])).unwrap();
            // Also where nothing was measured.
            for expected in measurements_of(&truth, &[(1, 3), (2, 4), (4, 32)], &[4, 64, 200]) {
                let (accumulation, step) = predicted(&fitted, expected.placement, expected.atomic);
                assert_close(accumulation, expected.accumulation_s, 0.01);
                assert_close(step, expected.step_s, 0.05);
            }
        }
    }

    #[test]
    fn a_single_local_batch_splits_computing_in_halves() {
        let fitted = fit(&[measured(1, 1, 20, 0.3, 0.3), measured(1, 2, 20, 0.5, 0.6)]).unwrap();
        assert_close(fitted.alpha_c.get(), 0.2, 1e-12);
        let fitted = fit(&[measured(1, 1, 20, 0.4, 0.4), measured(1, 2, 20, 0.4, 0.6)]).unwrap();
        assert_close(fitted.beta_c.get(), 0.2 / 20.0, 1e-3);

        let two_sizes = [measured(1, 1, 20, 0.3, 0.3), measured(1, 1, 40, 0.6, 0.6)];
        assert!(fit(&two_sizes).unwrap().alpha_c.get() < 1e-3, "computing is in proportion to the batch");
    }

    #[test]
    fn links_between_nodes_that_nobody_used_are_a_little_slower() {
        let fitted = fit(&measurements_of(&truth(), &[(1, 1), (1, 2), (1, 4), (1, 8)], &[8, 32])).unwrap();
        assert!(fitted.alpha_r.get() > 0.01);
        assert!(fitted.beta_r.get() > 1e-4);
        assert_close(fitted.alpha_n.get(), fitted.alpha_r.get() * 1.1, 1e-12);
        assert_close(fitted.beta_n.get(), fitted.beta_r.get() * 1.1, 1e-12);
    }

    #[test]
    fn links_within_nodes_that_nobody_used_cost_nothing() {
        let fitted = fit(&measurements_of(&truth(), &[(1, 1), (2, 2), (4, 4), (8, 8)], &[8, 32])).unwrap();
        assert_eq!((fitted.alpha_r, fitted.beta_r), (Seconds::FLOOR, Seconds::FLOOR));
        assert!(fitted.alpha_n.get() > 0.1);
        assert!(fitted.beta_n.get() > 1e-4);
    }

    #[test]
    fn two_replicas_tell_nothing_of_a_third() {
        let fitted = fit(&measurements_of(&truth(), &[(1, 1), (1, 2), (2, 2)], &[8, 32])).unwrap();
        assert_eq!((fitted.beta_n, fitted.beta_r), (Seconds::FLOOR, Seconds::FLOOR));
        assert!(fitted.alpha_n > fitted.alpha_r && fitted.alpha_r.get() > 0.01);
    }

    #[test]
    fn one_measurement_is_met() {
        for (nodes, replicas) in [(1, 1), (1, 2), (1, 3), (2, 2), (3, 9)] {
            for (accumulation_s, step_s) in [(0.3, 0.4), (1e-6, 2e-6), (4000.0, 70_000.0), (0.3, 0.3)] {
                let step_s = if replicas == 1 { accumulation_s } else { step_s };
                let measurement = measured(nodes, replicas, 20, accumulation_s, step_s);
                let fitted = fit(&[measurement]).unwrap();
                let (accumulation, step) = predicted(&fitted, measurement.placement, measurement.atomic);
                assert_close(accumulation, accumulation_s, 0.02);
                assert_close(step, step_s, 0.02);
            }
        }
    }

    #[test]
    fn what_cannot_be_a_time_is_left_out() {
        let real = measurements_of(&truth(), &EVERYWHERE, &[8, 32]);
        let expected = fit(&real).unwrap();
        for time in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, -0.0, 1e300, 86_401.0] {
            let wrong = [measured(1, 2, 8, time, 0.1), measured(4, 8, 16, 0.1, time)];
            assert_eq!(fit(&wrong), None, "{time}");
            let mixed: Vec<Measurement> = wrong.into_iter().chain(real.iter().copied()).collect();
            assert_eq!(fit(&mixed), Some(expected), "{time}");
        }
        assert_eq!(fit(&[]), None);
    }

    #[test]
    fn equal_and_extreme_times_are_fitted() {
        let all_equal = EVERYWHERE.map(|(nodes, replicas)| measured(nodes, replicas, 8 * replicas, 0.5, 0.5));
        let fitted = fit(&all_equal).unwrap();
        assert!(objective(&fitted, &all_equal) < 0.3, "{fitted:?}");

        let tiny = EVERYWHERE
            .map(|(nodes, replicas)| measured(nodes, replicas, replicas, 5e-324, f64::MIN_POSITIVE));
        assert_eq!(fit(&tiny).unwrap().beta_c, Seconds::FLOOR);

        let huge =
            EVERYWHERE.map(|(nodes, replicas)| measured(nodes, replicas, u32::MAX, 86_400.0, 86_400.0));
        assert_close(fit(&huge).unwrap().alpha_c.get(), 43_200.0, 1e-12);
    }

    fn any_measurement() -> impl Strategy<Value = Measurement> {
        let replicas = prop_oneof![4 => 1_u32..=16, 1 => 1..=Placement::MAX_REPLICAS];
        let placement = replicas.prop_flat_map(|replicas| (1..=replicas, Just(replicas)));
        let atomic = prop_oneof![2 => prop::sample::select(vec![1_u32, 8, 64]), 1 => 1..=u32::MAX];
        let time = || prop_oneof![6 => (-7.0..4.9_f64).prop_map(|exponent| 10_f64.powf(exponent)), 1 => any::<f64>()];
        (placement, atomic, time(), time()).prop_map(|((nodes, replicas), atomic, accumulation_s, step_s)| {
            measured(nodes, replicas, atomic, accumulation_s, step_s)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn fits_are_within_bounds_and_no_worse_than_the_start(measurements in vec(any_measurement(), 0..12)) {
            let usable: Vec<Measurement> = measurements.iter().copied().filter(Measurement::is_usable).collect();
            let Some(fitted) = fit(&measurements) else {
                prop_assert!(usable.is_empty());
                return Ok(());
            };
            for time in [
                fitted.alpha_c, fitted.beta_c, fitted.alpha_n, fitted.beta_n, fitted.alpha_r, fitted.beta_r,
            ] {
                prop_assert!((Seconds::FLOOR..=Seconds::MAX).contains(&time), "{fitted:?}");
            }
            prop_assert!((1.0..=10.0).contains(&fitted.gamma.get()), "{fitted:?}");
            prop_assert_eq!(fit(&measurements), Some(fitted));

            // As AdaptDL starts: unless it fixes them, constants are 0.1 s and the others 0.01 s.
            let start = parameters_of([0.1, 0.01, 0.1, 0.01, 0.1, 0.01, 1.001]);
            let either = |fixed: bool, start: Seconds| if fixed { Seconds::FLOOR } else { start };
            let used = |link| usable.iter().any(|measurement| measurement.placement.link() == link);
            let two = usable.iter().all(|measurement| measurement.placement.replicas() <= 2);
            let (no_between, no_within) = (!used(Link::Between), !used(Link::Within));
            let one_size = usable.iter().all(|measurement| measurement.atomic == usable[0].atomic);
            let start = PerfParams {
                alpha_c: if one_size { fitted.alpha_c } else { start.alpha_c },
                alpha_n: either(no_between, start.alpha_n),
                beta_n: either(no_between || two, start.beta_n),
                alpha_r: either(no_within, start.alpha_r),
                beta_r: either(no_within || two, start.beta_r),
                ..start
            };
            // What the fit was before it was told that links between nodes are slower.
            let fitted = PerfParams {
                alpha_n: either(no_between, fitted.alpha_n),
                beta_n: either(no_between, fitted.beta_n),
                ..fitted
            };
            let (reached, started) = (objective(&fitted, &usable), objective(&start, &usable));
            prop_assert!(reached <= started + 1e-9, "{} is worse than {}", reached, started);
        }
    }
}
