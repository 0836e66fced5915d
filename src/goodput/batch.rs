//! Batch sizes: what a job allows, how a batch is split over replicas and accumulation steps, and which
//! batches are candidates for a number of replicas. Times and efficiencies are in `model`.

use std::iter;
use std::num::NonZeroU32;

use serde::Serialize;
use thiserror::Error;

/// How many batch sizes are tried for a placement: the default `num` of `numpy.geomspace`, which AdaptDL
/// leaves as it is.
const CANDIDATES: u32 = 50;

/// AdaptDL's tolerance when it rounds up a number of samples (`eps` in `GoodputFunction.optimize`).
///
/// It is also what makes our candidates equal to numpy's. Both compute them as powers of ten of evenly
/// spaced logarithms, but numpy's vectorised `log10` and `power` differ from the C library's in the last
/// bit. Where a candidate should be whole, it is off by about 1e-15 of itself, so both sides round to the
/// same number as long as a local batch is below some millions; the two end points are exact in both.
const TOLERANCE: f64 = 1e-8;

/// A number of samples, from 1 to [`BatchSize::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "u64")]
pub struct BatchSize(NonZeroU32);

impl BatchSize {
    /// 2³⁰ samples: beyond every real batch, and small enough for exact products with any number of replicas.
    pub const MAX: u32 = 1 << 30;

    /// `None` when there are no samples, or more than [`BatchSize::MAX`].
    pub fn new(samples: u64) -> Option<Self> {
        let samples = u32::try_from(samples).ok().filter(|samples| *samples <= Self::MAX)?;
        NonZeroU32::new(samples).map(Self)
    }

    /// The number of samples.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    fn as_f64(self) -> f64 {
        f64::from(self.get())
    }
}

impl From<BatchSize> for u64 {
    fn from(size: BatchSize) -> Self {
        Self::from(size.get())
    }
}

/// What one replica can process at a time, in samples; `None` is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalBounds {
    /// The fewest samples that still use a replica well.
    pub min: Option<BatchSize>,
    /// The most samples that fit a replica's memory.
    pub max: Option<BatchSize>,
}

/// Limits that contradict each other. AdaptDL's data loader refuses the same ones
/// (`autoscale_batch_size`), so no AdaptDL worker reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LimitsError {
    /// The maximum is below the batch that the job starts with.
    #[error("maxBatchSize is {max}, expected at least initBatchSize ({init})")]
    MaxBelowInit {
        /// The maximum found.
        max: u32,
        /// The job's own batch.
        init: u32,
    },
    /// One replica alone could not train with the job's own batch: it is too small.
    #[error("localBszBounds[0] is {min}, expected at most initBatchSize ({init})")]
    LocalMinAboveInit {
        /// The lower bound found.
        min: u32,
        /// The job's own batch.
        init: u32,
    },
    /// One replica alone could not train with the job's own batch: it is too large.
    #[error("localBszBounds[1] is {max}, expected at least initBatchSize ({init})")]
    LocalMaxBelowInit {
        /// The upper bound found.
        max: u32,
        /// The job's own batch.
        init: u32,
    },
}

/// The batch sizes that a job may train with. The job's own batch on one replica is always among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    init: BatchSize,
    max: Option<BatchSize>,
    local: LocalBounds,
    accumulation: bool,
}

impl BatchLimits {
    /// Limits of a job that starts with `init` samples per step. Without a `max` its batch never grows.
    /// `accumulation` says whether replicas may collect gradients over several local batches.
    ///
    /// # Errors
    /// [`LimitsError`] when the job's own batch would not be within the limits.
    pub fn new(
        init: BatchSize,
        max: Option<BatchSize>,
        local: LocalBounds,
        accumulation: bool,
    ) -> Result<Self, LimitsError> {
        if let Some(max) = max.filter(|max| *max < init) {
            return Err(LimitsError::MaxBelowInit { max: max.get(), init: init.get() });
        }
        if let Some(min) = local.min.filter(|min| *min > init) {
            return Err(LimitsError::LocalMinAboveInit { min: min.get(), init: init.get() });
        }
        if let Some(max) = local.max.filter(|max| *max < init) {
            return Err(LimitsError::LocalMaxBelowInit { max: max.get(), init: init.get() });
        }
        Ok(Self { init, max, local, accumulation })
    }

    /// The job's own batch: samples per step that its learning rate is meant for.
    pub fn init(&self) -> BatchSize {
        self.init
    }

    /// The most samples per step over all replicas, where the job gave a number.
    pub fn max(&self) -> Option<BatchSize> {
        self.max
    }

    /// The most samples per step over all replicas that the job ever trains with.
    pub fn largest(&self) -> BatchSize {
        self.max.unwrap_or(self.init)
    }

    /// What one replica can process at a time.
    pub fn local(&self) -> LocalBounds {
        self.local
    }

    /// Whether replicas may collect gradients over several local batches.
    pub fn accumulation(&self) -> bool {
        self.accumulation
    }

    /// How many replicas can still have the least local batch within the greatest batch: at least 1.
    ///
    /// AdaptDL's allocator has the same cap, but only for a job that reports local bounds. Without them the
    /// least local batch is one sample, and a replica without a sample is as useless.
    pub fn max_replicas(&self) -> u32 {
        self.largest().get() / self.local.min.map_or(1, BatchSize::get)
    }

    /// How this many replicas split the smallest batch that gives each its least local batch.
    ///
    /// Always within the local bounds: a replica's share is then the lower bound or less than the job's own
    /// batch, and the bounds contain both.
    pub(super) fn smallest(&self, replicas: u32) -> LocalBatch {
        self.split(self.smallest_total(replicas) / f64::from(replicas), replicas)
    }

    /// The splits to try for this many replicas, in AdaptDL's order, which begins with the smallest.
    /// Neighbours may be equal.
    pub(super) fn candidates(&self, replicas: u32) -> impl Iterator<Item = LocalBatch> {
        // With more than `max_replicas` the smallest total exceeds the largest; the steps then go down, and
        // the worker does train with more samples than its maximum.
        geometric_steps(self.smallest_total(replicas), self.largest().as_f64())
            .map(move |total| self.split(total / f64::from(replicas), replicas))
            .filter(|batch| self.admits(*batch))
    }

    fn smallest_total(&self, replicas: u32) -> f64 {
        let least_local = self.local.min.map_or(1.0, BatchSize::as_f64);
        self.init.as_f64().max(least_local * f64::from(replicas))
    }

    /// Splits one replica's share of a batch into equal local batches.
    fn split(&self, share: f64, replicas: u32) -> LocalBatch {
        if self.accumulation {
            return self.split_accumulating(share, replicas);
        }
        // AdaptDL never lets a lone replica's batch grow without accumulation: with a single local batch
        // there is nothing to estimate the gradient's noise from.
        let atomic = if replicas == 1 { self.init.as_f64() } else { (share - TOLERANCE).ceil() };
        LocalBatch::rounded(atomic, 0.0)
    }

    fn split_accumulating(&self, share: f64, replicas: u32) -> LocalBatch {
        let needed = (share / self.largest_local() - TOLERANCE).ceil() - 1.0;
        // For the same reason a lone replica with a grown batch takes at least two local batches.
        let grown_alone = replicas == 1 && share > self.init.as_f64() + TOLERANCE;
        // `needed` is -1 for a share below 1e-8 of the bound; AdaptDL goes on to divide by zero there.
        let steps = needed.max(if grown_alone { 1.0 } else { 0.0 });
        LocalBatch::rounded((share / (steps + 1.0) - TOLERANCE).ceil(), steps)
    }

    fn admits(&self, batch: LocalBatch) -> bool {
        let atomic = f64::from(batch.atomic());
        self.local.min.is_none_or(|min| min.as_f64() <= atomic) && atomic <= self.largest_local()
    }

    fn largest_local(&self) -> f64 {
        self.local.max.unwrap_or(self.largest()).as_f64()
    }
}

/// What one replica processes between two steps of the optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalBatch {
    atomic: NonZeroU32,
    accumulation_steps: u32,
}

impl LocalBatch {
    /// A local batch of `atomic` samples, processed once and `accumulation_steps` times more.
    pub fn new(atomic: NonZeroU32, accumulation_steps: u32) -> Self {
        Self { atomic, accumulation_steps }
    }

    /// Samples that the replica processes at a time.
    pub fn atomic(self) -> u32 {
        self.atomic.get()
    }

    /// How many local batches only add to the gradient before the one that steps.
    pub fn accumulation_steps(self) -> u32 {
        self.accumulation_steps
    }

    /// Samples per step of the optimiser over this many replicas.
    pub fn total(self, replicas: u32) -> u64 {
        let local = u64::from(self.atomic()) * (u64::from(self.accumulation_steps) + 1);
        local.saturating_mul(u64::from(replicas))
    }

    /// From whole numbers as the formulas give them; what does not fit becomes the nearest that does.
    fn rounded(atomic: f64, accumulation_steps: f64) -> Self {
        let atomic = NonZeroU32::new(atomic as u32).unwrap_or(NonZeroU32::MIN);
        Self { atomic, accumulation_steps: accumulation_steps as u32 }
    }
}

/// What `numpy.geomspace(start, stop)` gives: [`CANDIDATES`] numbers with equal ratios, up or down, of which
/// the first and the last are exact, and none is beyond these, as numpy's may be by a rounding error: of large
/// batches that would be a sample more than the job allows.
fn geometric_steps(start: f64, stop: f64) -> impl Iterator<Item = f64> {
    let log_start = start.log10();
    let step = (stop.log10() - log_start) / f64::from(CANDIDATES - 1);
    let between = (1..CANDIDATES - 1)
        .map(move |i| 10f64.powf(f64::from(i) * step + log_start).clamp(start.min(stop), start.max(stop)));
    iter::once(start).chain(between).chain(iter::once(stop))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn size(samples: u64) -> BatchSize {
        BatchSize::new(samples).unwrap()
    }

    fn limits(init: u64, max: u64, local: (u64, u64), accumulation: bool) -> BatchLimits {
        let local = LocalBounds { min: BatchSize::new(local.0), max: BatchSize::new(local.1) };
        BatchLimits::new(size(init), BatchSize::new(max), local, accumulation).unwrap()
    }

    fn splits(limits: &BatchLimits, replicas: u32) -> Vec<(u32, u32)> {
        let mut splits: Vec<_> =
            limits.candidates(replicas).map(|batch| (batch.atomic(), batch.accumulation_steps())).collect();
        splits.dedup();
        splits
    }

    #[test]
    fn batch_sizes_are_bounded() {
        assert_eq!(BatchSize::new(0), None);
        assert_eq!(BatchSize::new(1 << 30).unwrap().get(), BatchSize::MAX);
        assert_eq!(BatchSize::new((1 << 30) + 1), None);
        assert_eq!(BatchSize::new(u64::MAX), None);
    }

    #[test]
    fn limits_must_admit_the_initial_batch() {
        let new = |max, local: (u64, u64)| {
            let local = LocalBounds { min: BatchSize::new(local.0), max: BatchSize::new(local.1) };
            BatchLimits::new(size(128), BatchSize::new(max), local, false)
        };
        assert_eq!(new(127, (0, 0)), Err(LimitsError::MaxBelowInit { max: 127, init: 128 }));
        assert_eq!(new(256, (129, 0)), Err(LimitsError::LocalMinAboveInit { min: 129, init: 128 }));
        assert_eq!(new(256, (0, 127)), Err(LimitsError::LocalMaxBelowInit { max: 127, init: 128 }));
        assert!(new(128, (128, 128)).is_ok());
    }

    #[test]
    fn geometric_steps_have_exact_ends_and_equal_ratios() {
        for (start, stop) in [(128.0, 4096.0), (100.0, 100.0), (4096.0, 128.0)] {
            let steps: Vec<f64> = geometric_steps(start, stop).collect();
            assert_eq!(steps.len(), 50);
            assert_eq!((steps[0], steps[49]), (start, stop));
            let ratio = (stop / start).powf(1.0 / 49.0);
            assert!(steps.windows(2).all(|pair| (pair[1] / pair[0] - ratio).abs() < 1e-12));
        }
    }

    #[test]
    fn whole_steps_are_not_rounded_up_by_an_ulp() {
        // 128 · 2⁷ over 49 steps doubles every 7 steps.
        let limits = limits(128, 128 << 7, (0, 0), false);
        let splits = splits(&limits, 2);
        for doubled in 0..=7 {
            assert!(splits.contains(&(64 << doubled, 0)), "{doubled}: {splits:?}");
        }
    }

    #[test]
    fn no_step_leaves_the_ends() {
        // Logarithms of numbers this large are off by more samples than the tolerance is.
        for samples in (1 << 29) - 1000..=1 << 29 {
            assert_eq!(splits(&limits(2 * samples, 2 * samples, (0, 0), false), 2), [(samples as u32, 0)]);
        }
    }

    #[test]
    fn a_lone_replica_grows_only_by_accumulation() {
        assert_eq!(splits(&limits(128, 1024, (0, 0), false), 1), [(128, 0)]);
        let accumulating = splits(&limits(128, 1024, (0, 1024), true), 1);
        assert_eq!(accumulating[0], (128, 0));
        assert!(accumulating[1..].iter().all(|(atomic, steps)| *steps >= 1 && *atomic <= 512));
    }

    #[test]
    fn a_large_share_is_split_to_fit_the_replica() {
        let accumulating = splits(&limits(128, 1024, (32, 128), true), 2);
        assert_eq!(accumulating[0], (64, 0));
        assert_eq!(accumulating.last(), Some(&(128, 3)));
        let plain = splits(&limits(128, 1024, (32, 128), false), 2);
        assert!(plain.iter().all(|(atomic, _)| (64..=128).contains(atomic)));
    }

    #[test]
    fn more_replicas_than_the_batch_can_feed_keep_the_least_local_batch() {
        let limits = limits(128, 256, (32, 0), false);
        assert_eq!(limits.max_replicas(), 8);
        assert_eq!(splits(&limits, 8), [(32, 0)]);
        assert_eq!(splits(&limits, 16), [(32, 0)]);
    }

    #[test]
    fn a_share_far_below_the_bound_needs_no_accumulation() {
        let limits = limits(1, 1, (0, 1 << 30), true);
        assert_eq!(splits(&limits, 1), [(1, 0)]);
    }

    #[test]
    fn totals_saturate() {
        let greatest = LocalBatch::new(NonZeroU32::MAX, u32::MAX);
        assert_eq!(greatest.total(u32::MAX), u64::MAX);
        assert_eq!(LocalBatch::new(NonZeroU32::new(32).unwrap(), 1).total(4), 256);
    }
}
