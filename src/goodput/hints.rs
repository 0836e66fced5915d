//! Hints: what an AdaptDL worker PUTs to its supervisor about its job. Anyone who can reach the address
//! could send them, so every value is checked and bounded before it counts.
//!
//! The names and their meaning: `adaptdl/sched_hints.py` and `adaptdl/torch/_metrics.py` of 0.2.11.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::batch::{BatchLimits, BatchSize, LocalBounds};
use super::hint_field::{Field, HintError};
use super::model::{GoodputModel, Placement, Prediction};
use super::params::{GradParams, PerfParams};
use super::speedup::SpeedupModel;

/// What a job's workers have reported: every value within bounds, and none in contradiction to another.
///
/// Serialises to AdaptDL's own JSON. A bound given as 0, which AdaptDL reads as no bound, comes out as null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Value")]
pub struct Hints {
    /// Batch sizes that the job may train with.
    pub limits: BatchLimits,
    /// Samples per step at present. AdaptDL's PyTorch workers leave it out, and no model uses it.
    pub global_batch_size: Option<BatchSize>,
    /// The most replicas that the job's parameters were fitted to, up to [`Placement::MAX_REPLICAS`]; 0
    /// before the first measurement.
    pub max_profiled_replicas: u32,
    /// Gradient noise; `None` while unknown. AdaptDL measures it only for a job whose batch may grow.
    pub grad_params: Option<GradParams>,
    /// Performance; `None` while the job has not been profiled.
    pub perf_params: Option<PerfParams>,
}

impl Hints {
    /// Checks what a worker has sent. Unknown fields are ignored, as AdaptDL's supervisor does; a field that
    /// is null counts as left out.
    ///
    /// # Errors
    /// [`HintError`] with the first field that is wrong, missing, or in contradiction to another.
    pub fn from_json(json: &Value) -> Result<Self, HintError> {
        let object = json.as_object().ok_or_else(|| HintError::not_an_object(json))?;
        let optional = |name| Field::of(object, name).given();
        let limits = BatchLimits::new(
            Field::of(object, "initBatchSize").batch_size()?,
            optional("maxBatchSize").map_or(Ok(None), Field::batch_size_unless_zero)?,
            optional("localBszBounds").map_or(Ok(LocalBounds::default()), local_bounds)?,
            optional("gradientAccumulation").map_or(Ok(false), Field::boolean)?,
        )?;
        Ok(Self {
            limits,
            global_batch_size: optional("globalBatchSize").map_or(Ok(None), Field::batch_size_unless_zero)?,
            max_profiled_replicas: optional("maxProfiledReplicas").map_or(Ok(0), profiled_replicas)?,
            grad_params: optional("gradParams").map(grad_params).transpose()?,
            perf_params: optional("perfParams").map(perf_params).transpose()?,
        })
    }

    /// The job's goodput; `None` while it has not been profiled. Without gradient noise it is taken for
    /// noise alone (see [`GradParams::default`]).
    pub fn goodput_model(&self) -> Option<GoodputModel> {
        let grad = self.grad_params.unwrap_or_default();
        self.perf_params.map(|perf| GoodputModel::new(perf, grad, self.limits))
    }

    /// The job's speedups; `None` while it has not been profiled. AdaptDL takes [`SpeedupModel::linear`]
    /// then.
    pub fn speedup_model(&self) -> Option<SpeedupModel> {
        self.goodput_model().map(SpeedupModel::new)
    }

    /// What the job would do on this placement: the batch it would choose, throughput, efficiency, goodput.
    /// `None` while it has not been profiled.
    pub fn predict(&self, placement: Placement) -> Option<Prediction> {
        self.goodput_model().map(|model| model.optimize(placement))
    }

    /// The most replicas that are of use as far as is known, by each of the two limits.
    pub fn max_useful_replicas(&self) -> ReplicaCaps {
        ReplicaCaps {
            by_batch: self.limits.max_replicas(),
            by_profile: self.max_profiled_replicas.saturating_mul(2).max(1),
        }
    }
}

impl TryFrom<Value> for Hints {
    type Error = HintError;

    fn try_from(json: Value) -> Result<Self, HintError> {
        Self::from_json(&json)
    }
}

/// How many replicas are of use to a job. Each number is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaCaps {
    /// More would not each get their least local batch out of the greatest batch.
    pub by_batch: u32,
    /// Twice as many as have been measured: the model is not trusted further (AdaptDL's `_get_job_info`).
    pub by_profile: u32,
}

/// Which limit a cap on replicas comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaLimit {
    /// The job's batch limits: only another manifest or script lifts it.
    Batch,
    /// What has been measured: it doubles when the job has trained for a while at the cap.
    Profile,
}

impl ReplicaCaps {
    /// The lower of the two.
    pub fn lowest(self) -> u32 {
        self.by_batch.min(self.by_profile)
    }

    /// Which of the two is the lowest. Of equals the batch limits, because they will not go away.
    pub fn binding(self) -> ReplicaLimit {
        if self.by_batch <= self.by_profile { ReplicaLimit::Batch } else { ReplicaLimit::Profile }
    }
}

fn local_bounds(field: Field<'_>) -> Result<LocalBounds, HintError> {
    let (min, max) = field.pair("localBszBounds[0]", "localBszBounds[1]")?;
    let bound = |field: Field<'_>| field.given().map_or(Ok(None), Field::batch_size_unless_zero);
    Ok(LocalBounds { min: bound(min)?, max: bound(max)? })
}

fn profiled_replicas(field: Field<'_>) -> Result<u32, HintError> {
    field.integer(0, Placement::MAX_REPLICAS)
}

fn grad_params(field: Field<'_>) -> Result<GradParams, HintError> {
    let object = field.object()?;
    Ok(GradParams {
        sqr: Field::of(object, "gradParams.norm").number()?,
        var: Field::of(object, "gradParams.var").number()?,
    })
}

fn perf_params(field: Field<'_>) -> Result<PerfParams, HintError> {
    let object = field.object()?;
    Ok(PerfParams {
        alpha_c: Field::of(object, "perfParams.alpha_c").number()?,
        beta_c: Field::of(object, "perfParams.beta_c").number()?,
        alpha_n: Field::of(object, "perfParams.alpha_n").number()?,
        beta_n: Field::of(object, "perfParams.beta_n").number()?,
        alpha_r: Field::of(object, "perfParams.alpha_r").number()?,
        beta_r: Field::of(object, "perfParams.beta_r").number()?,
        gamma: Field::of(object, "perfParams.gamma").number()?,
    })
}

/// Hints as a worker writes them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    init_batch_size: BatchSize,
    local_bsz_bounds: Option<[Option<BatchSize>; 2]>,
    global_batch_size: Option<BatchSize>,
    max_batch_size: Option<BatchSize>,
    max_profiled_replicas: u32,
    gradient_accumulation: bool,
    grad_params: Option<GradParams>,
    perf_params: Option<PerfParams>,
}

impl From<Hints> for Wire {
    fn from(hints: Hints) -> Self {
        let LocalBounds { min, max } = hints.limits.local();
        Self {
            init_batch_size: hints.limits.init(),
            local_bsz_bounds: (min.is_some() || max.is_some()).then_some([min, max]),
            global_batch_size: hints.global_batch_size,
            max_batch_size: hints.limits.max(),
            max_profiled_replicas: hints.max_profiled_replicas,
            gradient_accumulation: hints.limits.accumulation(),
            grad_params: hints.grad_params,
            perf_params: hints.perf_params,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As `_report_sched_hints` of AdaptDL's PyTorch workers sends them.
    fn sent() -> Value {
        json!({
            "initBatchSize": 128,
            "localBszBounds": [32, 256],
            "globalBatchSize": null,
            "maxBatchSize": 4096,
            "maxProfiledReplicas": 2,
            "gradientAccumulation": true,
            "gradParams": {"norm": 0.02, "var": 0.31},
            "perfParams": {
                "alpha_c": 0.0195, "beta_c": 0.00043, "alpha_n": 0.0123, "beta_n": 0.00456,
                "alpha_r": 0.0078, "beta_r": 0.00091, "gamma": 1.65,
            },
        })
    }

    fn sent_with(field: &str, value: Value) -> Value {
        let mut json = sent();
        *json.pointer_mut(field).unwrap() = value;
        json
    }

    fn refusal(json: &Value) -> String {
        Hints::from_json(json).unwrap_err().to_string()
    }

    #[test]
    fn hints_survive_a_round_trip() {
        let hints = Hints::from_json(&sent()).unwrap();
        assert_eq!(serde_json::to_value(&hints).unwrap(), sent());
        assert_eq!(serde_json::from_value::<Hints>(sent()).unwrap(), hints);
    }

    #[test]
    fn only_the_initial_batch_is_required() {
        let hints = Hints::from_json(&json!({"initBatchSize": 128, "someday": {"more": []}})).unwrap();
        assert_eq!(hints.limits.max(), None);
        assert_eq!(hints.limits.local(), LocalBounds::default());
        assert_eq!((hints.max_profiled_replicas, hints.perf_params, hints.grad_params), (0, None, None));
        assert!(hints.goodput_model().is_none());
        assert!(hints.speedup_model().is_none());
        assert!(hints.predict(Placement::ONE).is_none());
    }

    #[test]
    fn null_and_zero_count_as_not_given() {
        for empty in [json!(null), json!(0)] {
            let hints = Hints::from_json(&sent_with("/maxBatchSize", empty.clone())).unwrap();
            assert_eq!(hints.limits.max(), None);
            let hints = Hints::from_json(&sent_with("/localBszBounds/0", empty.clone())).unwrap();
            assert_eq!(hints.limits.local(), LocalBounds { min: None, max: BatchSize::new(256) });
            let hints = Hints::from_json(&sent_with("/localBszBounds/1", empty)).unwrap();
            assert_eq!(hints.limits.local(), LocalBounds { min: BatchSize::new(32), max: None });
        }
    }

    #[test]
    fn without_gradients_they_are_taken_for_noise() {
        let hints = Hints::from_json(&sent_with("/gradParams", json!(null))).unwrap();
        assert_eq!(hints.goodput_model().unwrap().efficiency(4096), 1.0);
    }

    #[test]
    fn refusals_name_the_field_what_was_found_and_what_is_allowed() {
        let cases = [
            ("/initBatchSize", json!(0), "hint initBatchSize is 0, expected an integer from 1 to 1073741824"),
            (
                "/initBatchSize",
                json!(null),
                "hint initBatchSize is null, expected an integer from 1 to 1073741824",
            ),
            ("/maxBatchSize", json!(64), "hint maxBatchSize is 64, expected at least initBatchSize (128)"),
            (
                "/localBszBounds",
                json!([32]),
                "hint localBszBounds is an array of length 1, expected two bounds, of which either may be null",
            ),
            (
                "/localBszBounds/1",
                json!(12.5),
                "hint localBszBounds[1] is 12.5, expected an integer from 0 to 1073741824",
            ),
            (
                "/localBszBounds/0",
                json!(512),
                "hint localBszBounds[0] is 512, expected at most initBatchSize (128)",
            ),
            (
                "/maxProfiledReplicas",
                json!(1_000_000_000_000_000_000_u64),
                "hint maxProfiledReplicas is 1000000000000000000, expected an integer from 0 to 65536",
            ),
            ("/gradientAccumulation", json!(1), "hint gradientAccumulation is 1, expected true or false"),
            (
                "/gradParams/var",
                json!(-1e-9),
                "hint gradParams.var is -1e-9, expected a number from 0.0 to 1e80",
            ),
            ("/perfParams", json!([]), "hint perfParams is an array of length 0, expected an object"),
            (
                "/perfParams/alpha_c",
                json!("NaN"),
                "hint perfParams.alpha_c is the text \"NaN\", expected a number from 0.0 to 86400.0",
            ),
            (
                "/perfParams/gamma",
                json!(true),
                "hint perfParams.gamma is true, expected a number from 1.0 to 10.0",
            ),
            (
                "/perfParams/gamma",
                json!(10.1),
                "hint perfParams.gamma is 10.1, expected a number from 1.0 to 10.0",
            ),
        ];
        for (field, value, message) in cases {
            assert_eq!(refusal(&sent_with(field, value)), message);
        }
        assert_eq!(refusal(&json!([1])), "hints are an array of length 1, expected an object");
    }

    #[test]
    fn parameters_that_were_left_out_are_refused() {
        let json = sent_with("/perfParams", json!({"alpha_c": 0.1}));
        assert_eq!(
            refusal(&json),
            "hint perfParams.beta_c is missing, expected a number from 0.0 to 86400.0"
        );
    }

    #[test]
    fn replicas_are_capped_by_batch_and_by_profile() {
        let hints = Hints::from_json(&sent()).unwrap();
        let caps = hints.max_useful_replicas();
        assert_eq!(caps, ReplicaCaps { by_batch: 4096 / 32, by_profile: 4 });
        assert_eq!((caps.lowest(), caps.binding()), (4, ReplicaLimit::Profile));

        let hints = Hints::from_json(&sent_with("/maxProfiledReplicas", json!(100))).unwrap();
        let caps = hints.max_useful_replicas();
        assert_eq!((caps.lowest(), caps.binding()), (128, ReplicaLimit::Batch));
    }

    #[test]
    fn an_unprofiled_job_may_have_one_replica() {
        let hints = Hints::from_json(&sent_with("/maxProfiledReplicas", json!(0))).unwrap();
        assert_eq!(hints.max_useful_replicas().by_profile, 1);
    }

    #[test]
    fn predictions_serialise_for_display() {
        let hints = Hints::from_json(&sent()).unwrap();
        let shown = serde_json::to_value(hints.predict(Placement::ONE).unwrap()).unwrap();
        assert_eq!(shown["placement"], json!({"nodes": 1, "replicas": 1}));
        assert!(shown["batch"]["atomic"].is_u64() && shown["batch"]["accumulationSteps"].is_u64());
        assert!(shown["totalBatch"].is_u64() && shown["goodput"].is_f64());
    }
}
