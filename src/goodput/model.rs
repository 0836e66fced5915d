//! The formulas: step time, throughput, efficiency, goodput, and the batch that maximises it.

use std::num::NonZeroU32;

use serde::Serialize;

use super::batch::{BatchLimits, LocalBatch};
use super::params::{GradParams, PerfParams, Seconds};

/// How many replicas on how many nodes: at least one replica on each node, at most
/// [`Placement::MAX_REPLICAS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Placement {
    nodes: NonZeroU32,
    replicas: NonZeroU32,
}

impl Placement {
    /// 2¹⁶, beyond every real job. The bound keeps products with a batch size exact.
    pub const MAX_REPLICAS: u32 = 1 << 16;

    /// One replica on one node: what speedups are relative to.
    pub const ONE: Self = Self { nodes: NonZeroU32::MIN, replicas: NonZeroU32::MIN };

    /// `None` when there are no nodes, fewer replicas than nodes, or too many replicas.
    pub fn new(nodes: u32, replicas: u32) -> Option<Self> {
        if nodes > replicas || replicas > Self::MAX_REPLICAS {
            return None;
        }
        Some(Self { nodes: NonZeroU32::new(nodes)?, replicas: NonZeroU32::new(replicas)? })
    }

    /// Distinct nodes.
    pub fn nodes(self) -> u32 {
        self.nodes.get()
    }

    /// Replicas over all nodes.
    pub fn replicas(self) -> u32 {
        self.replicas.get()
    }

    /// The slowest link between its replicas.
    pub(super) fn link(self) -> Link {
        match (self.nodes(), self.replicas()) {
            (_, 1) => Link::None,
            (1, _) => Link::Within,
            _ => Link::Between,
        }
    }

    /// By how many replicas synchronising is slower than between two; never zero, as in AdaptDL.
    pub(super) fn beyond_two(self) -> f64 {
        f64::from(self.replicas().saturating_sub(2)).max(Seconds::FLOOR.get())
    }
}

/// What replicas synchronise over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// A replica that is alone.
    None,
    /// Replicas on one node.
    Within,
    /// Replicas on different nodes.
    Between,
}

/// What the model says of a job that trains with a certain batch on a certain placement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prediction {
    /// Where it would train.
    pub placement: Placement,
    /// What each replica would process per step.
    pub batch: LocalBatch,
    /// Samples per step over all replicas.
    pub total_batch: u64,
    /// Samples per second.
    pub throughput: f64,
    /// How much a sample contributes, relative to one at the job's own batch: from 0 to 1.
    pub efficiency: f64,
    /// Useful samples per second: throughput times efficiency.
    pub goodput: f64,
}

/// Predicts a job's goodput. Every output is finite and not negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoodputModel {
    perf: PerfParams,
    grad: GradParams,
    limits: BatchLimits,
}

impl GoodputModel {
    /// The model of a job with these fitted parameters and batch limits.
    pub fn new(perf: PerfParams, grad: GradParams, limits: BatchLimits) -> Self {
        Self { perf, grad, limits }
    }

    /// The batch sizes among which [`GoodputModel::optimize`] chooses.
    pub fn limits(&self) -> &BatchLimits {
        &self.limits
    }

    /// Samples per second.
    pub fn throughput(&self, placement: Placement, batch: LocalBatch) -> f64 {
        let compute = self.perf.compute_time(batch.atomic());
        let last = overlapped(compute, self.perf.network_time(placement), self.perf.gamma.get());
        let step = f64::from(batch.accumulation_steps()) * compute + last;
        batch.total(placement.replicas()) as f64 / step
    }

    /// How much a sample of a batch of this total size contributes to training, relative to one of a batch
    /// of the job's own size: 1 there, less for larger batches. 0 below the job's own size, for which the
    /// model has no meaning and with which AdaptDL never trains.
    pub fn efficiency(&self, total_batch: u64) -> f64 {
        let init = self.limits.init().get();
        if total_batch < u64::from(init) {
            return 0.0;
        }
        let scale = total_batch as f64 / f64::from(init);
        let (sqr, var) = (self.grad.sqr.get(), self.grad.var.get());
        let remaining = var / scale + sqr;
        // Without any gradient there is nothing to gain from averaging it.
        let gain = if remaining > 0.0 { (var + sqr) / remaining } else { 1.0 };
        // A gain exceeds the scale through rounding only.
        (gain / scale).min(1.0)
    }

    /// Useful samples per second with this batch: throughput times efficiency. 0 when the batch is below the
    /// job's own.
    pub fn evaluate(&self, placement: Placement, batch: LocalBatch) -> f64 {
        self.predict(placement, batch).goodput
    }

    /// Everything the model says of training with this batch.
    pub fn predict(&self, placement: Placement, batch: LocalBatch) -> Prediction {
        let total_batch = batch.total(placement.replicas());
        let throughput = self.throughput(placement, batch);
        let efficiency = self.efficiency(total_batch);
        Prediction { placement, batch, total_batch, throughput, efficiency, goodput: throughput * efficiency }
    }

    /// The batch with the greatest goodput on this placement, and what it yields; of equals, the first in
    /// AdaptDL's order, which is the smallest.
    ///
    /// Its goodput is above zero. Beyond [`BatchLimits::max_replicas`] every replica still gets its least
    /// local batch, and the total exceeds the job's maximum, because that is what an AdaptDL worker does.
    pub fn optimize(&self, placement: Placement) -> Prediction {
        let replicas = placement.replicas();
        let mut best = self.predict(placement, self.limits.smallest(replicas));
        let mut previous = best.batch;
        for batch in self.limits.candidates(replicas) {
            if batch == previous {
                continue;
            }
            previous = batch;
            let candidate = self.predict(placement, batch);
            if candidate.goodput > best.goodput {
                best = candidate;
            }
        }
        best
    }
}

impl PerfParams {
    /// Seconds for one replica to process one local batch.
    pub(super) fn compute_time(&self, atomic: u32) -> f64 {
        self.alpha_c.get() + self.beta_c.get() * f64::from(atomic)
    }

    /// Seconds to synchronise the replicas: the slowest link decides.
    pub(super) fn network_time(&self, placement: Placement) -> f64 {
        let (constant, per_replica) = match placement.link() {
            Link::None => (Seconds::FLOOR, Seconds::FLOOR),
            Link::Within => (self.alpha_r, self.beta_r),
            Link::Between => (self.alpha_n, self.beta_n),
        };
        constant.get() + per_replica.get() * placement.beyond_two()
    }
}

/// `(a^gamma + b^gamma)^(1/gamma)` for positive times, with the greater one factored out, so that no power
/// overflows or vanishes.
pub(super) fn overlapped(a: f64, b: f64, gamma: f64) -> f64 {
    let longer = a.max(b);
    longer * (1.0 + (a.min(b) / longer).powf(gamma)).powf(gamma.recip())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::batch::{BatchSize, LocalBounds};
    use super::super::params::{Overlap, SquaredNorm};
    use super::*;

    fn model(init: u64, max: u64, accumulation: bool) -> GoodputModel {
        let seconds = |value| Seconds::new(value).unwrap();
        let perf = PerfParams {
            alpha_c: seconds(0.1),
            beta_c: seconds(0.01),
            alpha_n: seconds(0.5),
            beta_n: seconds(0.02),
            alpha_r: seconds(0.05),
            beta_r: seconds(0.001),
            gamma: Overlap::new(1.0).unwrap(),
        };
        let norm = |value| SquaredNorm::new(value).unwrap();
        let grad = GradParams { sqr: norm(1.0), var: norm(9.0) };
        let size = |samples| BatchSize::new(samples).unwrap();
        let limits = BatchLimits::new(size(init), Some(size(max)), LocalBounds::default(), accumulation);
        GoodputModel::new(perf, grad, limits.unwrap())
    }

    fn at(nodes: u32, replicas: u32) -> Placement {
        Placement::new(nodes, replicas).unwrap()
    }

    fn batch(atomic: u32, accumulation_steps: u32) -> LocalBatch {
        LocalBatch::new(NonZeroU32::new(atomic).unwrap(), accumulation_steps)
    }

    fn assert_close(left: f64, right: f64) {
        assert!((left - right).abs() <= 1e-12 * right.abs(), "{left} is not {right}");
    }

    #[test]
    fn impossible_placements_cannot_be_named() {
        for (nodes, replicas) in [(0, 0), (0, 1), (1, 0), (2, 1), (1, (1 << 16) + 1), (u32::MAX, u32::MAX)] {
            assert_eq!(Placement::new(nodes, replicas), None, "{nodes} nodes, {replicas} replicas");
        }
        assert_eq!(Placement::new(1, 1), Some(Placement::ONE));
    }

    #[test]
    fn throughput_follows_the_slowest_link() {
        let model = model(8, 1024, true);
        let compute = 0.1 + 0.01 * 10.0;
        assert_close(model.throughput(at(1, 4), batch(10, 0)), 40.0 / (compute + 0.05 + 2.0 * 0.001));
        assert_close(model.throughput(at(2, 4), batch(10, 0)), 40.0 / (compute + 0.5 + 2.0 * 0.02));
        // Two replicas add no retrogression, apart from AdaptDL's 1e-8 of it.
        assert_close(model.throughput(at(2, 2), batch(10, 0)), 20.0 / (compute + 0.5 + 0.02e-8));
        assert_close(model.throughput(at(1, 1), batch(10, 0)), 10.0 / (compute + 1e-8 + 1e-16));
    }

    #[test]
    fn accumulation_computes_more_often_and_synchronises_once() {
        let compute = 0.1 + 0.01 * 10.0;
        let expected = 80.0 / (3.0 * compute + compute + 0.05 + 0.001e-8);
        assert_close(model(8, 1024, true).throughput(at(1, 2), batch(10, 3)), expected);
    }

    #[test]
    fn overlap_hides_the_shorter_time() {
        assert_close(overlapped(3.0, 4.0, 1.0), 7.0);
        assert_close(overlapped(3.0, 4.0, 2.0), 5.0);
        assert_close(overlapped(1e-8, 1e14, 10.0), 1e14);
        assert_close(overlapped(1e-8, 1e-8, 10.0), 1e-8 * 2f64.powf(0.1));
    }

    #[test]
    fn efficiency_falls_as_the_batch_outgrows_the_noise() {
        let model = model(10, 1024, true);
        assert_close(model.efficiency(10), 1.0);
        assert_close(model.efficiency(30), (10.0 / 4.0) / 3.0);
        assert_eq!(model.efficiency(9), 0.0);
        assert_eq!(model.efficiency(0), 0.0);
        assert!(model.efficiency(u64::MAX) > 0.0);
    }

    #[test]
    fn without_a_gradient_a_larger_batch_gains_nothing() {
        let zero = SquaredNorm::new(0.0).unwrap();
        let model = GoodputModel { grad: GradParams { sqr: zero, var: zero }, ..model(10, 1024, true) };
        assert_close(model.efficiency(20), 0.5);
    }

    #[test]
    fn a_batch_below_the_initial_one_is_worth_nothing() {
        let model = model(100, 1024, true);
        assert_eq!(model.evaluate(at(1, 2), batch(49, 0)), 0.0);
        assert!(model.evaluate(at(1, 2), batch(50, 0)) > 0.0);
    }

    #[test]
    fn the_optimum_is_the_best_of_what_it_was_chosen_from() {
        let model = model(64, 4096, true);
        for placement in [at(1, 1), at(1, 4), at(4, 16), at(64, 64)] {
            let best = model.optimize(placement);
            assert_eq!(best, model.predict(placement, best.batch));
            for candidate in model.limits().candidates(placement.replicas()) {
                assert!(model.evaluate(placement, candidate) <= best.goodput, "{candidate:?}");
            }
        }
    }
}
