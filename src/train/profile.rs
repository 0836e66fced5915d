//! How long steps take, and what the job's supervisor is told of it: AdaptDL's hints.
//!
//! As in `adaptdl` 0.2.11, `adaptdl/torch/_metrics.py`.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::goodput::{
    BatchLimits, GoodputModel, GradParams, Hints, LocalBatch, Measurement, PerfParams, Placement, Prediction,
    SquaredNorm, fit,
};

/// How often hints are reported.
const REPORT: Duration = Duration::from_secs(30);
/// By how much another batch must be better to be worth the change (`_speedup_threshold` in `adaptdl/torch/data.py`).
const WORTHWHILE: f64 = 1.05;

/// How long batches of one size have taken on one placement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    nodes: u32,
    replicas: u32,
    atomic: u32,
    /// Batches that only added to the gradient: all their seconds, and how many there were.
    added: (f64, u64),
    /// Batches after which the optimizer has stepped.
    stepped: (f64, u64),
    /// How much of that was waiting for other replicas' gradients.
    waited: f64,
}

/// All that was measured, on all placements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Profile(Vec<Times>);

impl Profile {
    fn times(&mut self, placement: Placement, atomic: u32) -> &mut Times {
        let (nodes, replicas) = (placement.nodes(), placement.replicas());
        let known =
            self.0.iter().position(|it| (it.nodes, it.replicas, it.atomic) == (nodes, replicas, atomic));
        let place = known.unwrap_or_else(|| {
            self.0.push(Times { nodes, replicas, atomic, added: (0.0, 0), stepped: (0.0, 0), waited: 0.0 });
            self.0.len() - 1
        });
        &mut self.0[place]
    }

    /// A batch only added to the gradient.
    pub(super) fn added(&mut self, placement: Placement, atomic: u32, took: Duration) {
        let added = &mut self.times(placement, atomic).added;
        *added = (added.0 + took.as_secs_f64(), added.1 + 1);
    }

    /// The optimizer has stepped after a batch, for which this replica has waited for others.
    pub(super) fn stepped(&mut self, placement: Placement, atomic: u32, took: Duration, waited: Duration) {
        let times = self.times(placement, atomic);
        times.stepped = (times.stepped.0 + took.as_secs_f64(), times.stepped.1 + 1);
        times.waited += waited.min(took).as_secs_f64();
    }

    /// The parameters that explain it best.
    fn fit(&self) -> Option<PerfParams> {
        let measured = self.0.iter().filter(|it| it.stepped.1 > 0).filter_map(|it| {
            // Without the waiting a step takes about as long as a batch that only adds.
            let computing = it.added.0 + it.stepped.0 - it.waited;
            Some(Measurement {
                placement: Placement::new(it.nodes, it.replicas)?,
                atomic: NonZeroU32::new(it.atomic)?,
                accumulation_s: computing / (it.added.1 + it.stepped.1) as f64,
                step_s: it.stepped.0 / it.stepped.1 as f64,
            })
        });
        fit(&measured.collect::<Vec<_>>())
    }

    fn most_replicas(&self) -> u32 {
        self.0.iter().map(|it| it.replicas).max().unwrap_or(0)
    }
}

/// Chooses batches, and reports, by what was measured.
pub(super) struct Advisor {
    placement: Placement,
    limits: BatchLimits,
    model: Option<PerfParams>,
    reported: Instant,
}

impl Advisor {
    pub(super) fn new(placement: Placement, limits: BatchLimits, profile: &Profile) -> Self {
        Self { placement, limits, model: profile.fit(), reported: Instant::now() }
    }

    /// Whether there should be a report now.
    pub(super) fn is_due(&self) -> bool {
        self.reported.elapsed() >= REPORT
    }

    /// What is known now, for the supervisor.
    pub(super) fn report(&mut self, profile: &Profile, noise: Option<(f64, f64)>, batch: u64) -> Hints {
        self.reported = Instant::now();
        self.model = profile.fit();
        Hints {
            limits: self.limits,
            global_batch_size: crate::goodput::BatchSize::new(batch),
            max_profiled_replicas: profile.most_replicas(),
            grad_params: noise.and_then(grad_params),
            perf_params: self.model,
        }
    }

    /// The batch to go on with: another one than now only if it is better by enough. As long as nothing is known it
    /// stays as it is.
    pub(super) fn batch(&self, current: Option<LocalBatch>, noise: Option<(f64, f64)>) -> Option<LocalBatch> {
        self.limits.max()?;
        let model = GoodputModel::new(self.model?, noise.and_then(grad_params)?, self.limits);
        let Prediction { batch, goodput, .. } = model.optimize(self.placement);
        let Some(current) = current else { return Some(batch) };
        let now = model.evaluate(self.placement, current);
        Some(if goodput > now * WORTHWHILE { batch } else { current })
    }
}

fn grad_params((sqr, var): (f64, f64)) -> Option<GradParams> {
    Some(GradParams { sqr: SquaredNorm::new(sqr).ok()?, var: SquaredNorm::new(var).ok()? })
}
