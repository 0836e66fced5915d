//! The fitted parameters of the model. Each is bounded by its type, so that no formula over them can
//! overflow, divide by zero or turn out negative.

use serde::Serialize;
use thiserror::Error;

/// A number that the model cannot work with.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[error("{found:?} is out of bounds, expected a number from {min:?} to {max:?}")]
pub struct OutOfBounds {
    /// The number refused; may be infinite or not a number.
    pub found: f64,
    /// The least number allowed.
    pub min: f64,
    /// The greatest number allowed.
    pub max: f64,
}

/// A time in seconds, or seconds per sample or per replica, from [`Seconds::FLOOR`] to [`Seconds::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(into = "f64")]
pub struct Seconds(f64);

impl Seconds {
    /// AdaptDL's fit keeps every time at or above this (`fit_perf_params`: "to avoid numerical instability
    /// issues"), and takes it for the network time of a replica that is alone.
    pub const FLOOR: Self = Self(1e-8);
    /// One day. No step of a training job that is worth scaling takes longer.
    pub const MAX: Self = Self(86_400.0);

    /// Takes a number from 0 to [`Seconds::MAX`]; less than [`Seconds::FLOOR`] counts as the floor.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it is negative, greater, or not a number.
    pub fn new(value: f64) -> Result<Self, OutOfBounds> {
        within(value, 0.0, Self::MAX.0).map(|value| Self(value.max(Self::FLOOR.0)))
    }

    /// The nearest time within bounds; the floor for what is not a number.
    #[allow(clippy::manual_clamp, reason = "`clamp` lets what is not a number through")]
    pub(super) fn nearest(value: f64) -> Self {
        Self(value.max(Self::FLOOR.0).min(Self::MAX.0))
    }

    /// The number itself.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// How much computing and communicating overlap: from 1 (one after the other) to 10 (AdaptDL's stand-in for
/// a perfect overlap).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(into = "f64")]
pub struct Overlap(f64);

impl Overlap {
    pub(super) const MIN: f64 = 1.0;
    pub(super) const MAX: f64 = 10.0;
    /// An optimiser may end this far outside its bounds through rounding.
    const TOLERANCE: f64 = 1e-6;

    /// Takes a number from 1 to 10; what rounding puts just outside counts as the bound.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it is further outside, or not a number.
    pub fn new(value: f64) -> Result<Self, OutOfBounds> {
        let clamped = value.clamp(Self::MIN, Self::MAX);
        if (value - clamped).abs() <= Self::TOLERANCE {
            Ok(Self(clamped))
        } else {
            Err(OutOfBounds { found: value, min: Self::MIN, max: Self::MAX })
        }
    }

    /// The nearest exponent within bounds; the least for what is not a number.
    #[allow(clippy::manual_clamp, reason = "`clamp` lets what is not a number through")]
    pub(super) fn nearest(value: f64) -> Self {
        Self(value.max(Self::MIN).min(Self::MAX))
    }

    /// The exponent, as used in the formula for the step time.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// A squared gradient norm, or a variance of gradients: from 0 to [`SquaredNorm::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(into = "f64")]
pub struct SquaredNorm(f64);

impl SquaredNorm {
    /// The square of the greatest `f32` is about 1e77; this leaves room for the sum over a thousand of them.
    pub const MAX: Self = Self(1e80);

    /// Takes a number from 0 to [`SquaredNorm::MAX`].
    ///
    /// # Errors
    /// [`OutOfBounds`] when it is negative, greater, or not a number.
    pub fn new(value: f64) -> Result<Self, OutOfBounds> {
        within(value, 0.0, Self::MAX.0).map(Self)
    }

    /// The number itself.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// How long the parts of a training step take, fitted by the worker to what it measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PerfParams {
    /// Constant part of computing one local batch, s.
    pub alpha_c: Seconds,
    /// Computing one sample, s per sample.
    pub beta_c: Seconds,
    /// Constant part of synchronising replicas on different nodes, s.
    pub alpha_n: Seconds,
    /// What each replica beyond the second adds to that, s per replica.
    pub beta_n: Seconds,
    /// Constant part of synchronising replicas on one node, s.
    pub alpha_r: Seconds,
    /// What each replica beyond the second adds to that, s per replica.
    pub beta_r: Seconds,
    /// How much computing and communicating overlap.
    pub gamma: Overlap,
}

/// How noisy the gradients are: what decides how much a larger batch helps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GradParams {
    /// Squared norm of the true gradient; `norm` in a worker's hints.
    #[serde(rename = "norm")]
    pub sqr: SquaredNorm,
    /// Trace of the gradient's covariance at the job's own batch.
    pub var: SquaredNorm,
}

impl Default for GradParams {
    /// Noise alone, so that no batch is too large: what AdaptDL's allocator assumes of a job which has not
    /// reported its gradients (`_get_job_info`).
    fn default() -> Self {
        Self { sqr: SquaredNorm(0.0), var: SquaredNorm(1.0) }
    }
}

/// Refuses what lies outside; a NaN lies outside everything. A negative zero becomes a plain one.
fn within(value: f64, min: f64, max: f64) -> Result<f64, OutOfBounds> {
    if (min..=max).contains(&value) { Ok(value + 0.0) } else { Err(OutOfBounds { found: value, min, max }) }
}

macro_rules! f64_conversions {
    ($($bounded:ident),+) => {$(
        impl TryFrom<f64> for $bounded {
            type Error = OutOfBounds;

            fn try_from(value: f64) -> Result<Self, OutOfBounds> {
                Self::new(value)
            }
        }

        impl From<$bounded> for f64 {
            fn from(bounded: $bounded) -> Self {
                bounded.0
            }
        }
    )+};
}

f64_conversions!(Seconds, Overlap, SquaredNorm);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HOSTILE: [f64; 6] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1e300, f64::MAX];

    #[test]
    fn hostile_numbers_are_refused() {
        for value in HOSTILE {
            assert!(Seconds::new(value).is_err(), "{value} s");
            assert!(Overlap::new(value).is_err(), "gamma {value}");
            assert!(SquaredNorm::new(value).is_err(), "norm {value}");
        }
    }

    #[test]
    fn times_below_the_floor_of_the_fit_count_as_the_floor() {
        assert_eq!(Seconds::new(0.0).unwrap(), Seconds::FLOOR);
        assert_eq!(Seconds::new(1e-300).unwrap(), Seconds::FLOOR);
        assert_eq!(Seconds::new(0.25).unwrap().get(), 0.25);
        assert_eq!(Seconds::new(86_400.0).unwrap(), Seconds::MAX);
    }

    #[test]
    fn overlap_forgives_rounding_only() {
        assert_eq!(Overlap::new(1.0 - 1e-9).unwrap().get(), 1.0);
        assert_eq!(Overlap::new(10.0 + 1e-9).unwrap().get(), 10.0);
        assert_eq!(Overlap::new(2.5).unwrap().get(), 2.5);
        assert!(Overlap::new(0.99).is_err());
        assert!(Overlap::new(10.01).is_err());
    }

    #[test]
    fn the_nearest_number_is_within_bounds() {
        for value in HOSTILE {
            let (time, overlap) = (Seconds::nearest(value), Overlap::nearest(value));
            let high = value > 1.0;
            assert_eq!(time, if high { Seconds::MAX } else { Seconds::FLOOR }, "{value} s");
            assert_eq!(overlap.get(), if high { Overlap::MAX } else { Overlap::MIN }, "gamma {value}");
        }
        assert_eq!(Seconds::nearest(0.25).get(), 0.25);
        assert_eq!(Overlap::nearest(2.5).get(), 2.5);
    }

    #[test]
    fn a_negative_zero_is_stored_as_zero() {
        assert!(SquaredNorm::new(-0.0).unwrap().get().is_sign_positive());
    }

    #[test]
    fn the_message_names_value_and_bounds() {
        let error = Overlap::new(11.5).unwrap_err();
        assert_eq!(error.to_string(), "11.5 is out of bounds, expected a number from 1.0 to 10.0");
    }
}
