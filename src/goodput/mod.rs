//! Goodput: how fast a job would train on a given number of nodes and replicas. Pure: no IO, no clock,
//! no randomness.
//!
//! What an AdaptDL worker measured arrives as [`Hints`]. From them comes a [`GoodputModel`], which predicts
//! for a [`Placement`] the best batch and what it yields, and a [`SpeedupModel`], which relates that to
//! one replica on one node. What to do with speedups is decided in `plan/`.
//!
//! What a worker of our own measured, [`Measurement`]s, becomes the parameters in its hints by [`fit`].
//!
//! # The model
//!
//! For `K` replicas on `N` nodes, of which each processes `m` samples at a time and accumulates gradients
//! `a` times before the optimiser steps (`B = K·m·(a+1)` samples per step, `B0` the job's own batch):
//!
//! | quantity | formula |
//! |---|---|
//! | compute, s | `Tc = alpha_c + beta_c·m` |
//! | network, s | `Tn = alpha + beta·max(K-2, 0)`, `alpha_n, beta_n` between nodes, `alpha_r, beta_r` within one |
//! | step, s | `T = a·Tc + (Tc^gamma + Tn^gamma)^(1/gamma)` |
//! | throughput, samples/s | `B / T` |
//! | efficiency | `((var+sqr) / (var/s+sqr)) / s`, where `s = B/B0` |
//! | goodput, useful samples/s | `throughput · efficiency` |
//!
//! Goodput is maximised over 50 values of `B` in geometric steps from `B0` to the job's maximum.
//!
//! # Sources
//!
//! - The model: Qiao et al., "Pollux: Co-adaptive Cluster Scheduling for Goodput-Optimized Deep Learning",
//!   OSDI '21, section 3.
//! - Its details, which are reproduced because the worker itself picks its batch by them, and a prediction
//!   should be of what the worker will do: `adaptdl` 0.2.11, `adaptdl/goodput.py`.
//! - What hints mean to a scheduler: `adaptdl-sched` 0.2.11, `adaptdl_sched/policy/speedup.py` and
//!   `AdaptDLAllocator._get_job_info` in `adaptdl_sched/allocator.py`.
//!
//! `tests/live/goodput.rs` compares all of it with the Python package over a few thousand cases, and
//! `tests/live/goodput_fits.rs` the fit over a few hundred.
//!
//! # Invariants
//!
//! - Parameters are bounded by their types ([`Seconds`], [`Overlap`], [`SquaredNorm`], [`BatchSize`],
//!   [`Placement`]), so every output of every model is finite and not negative, whatever a worker, or
//!   somebody who pretends to be one, has sent.
//! - So are fitted parameters, whatever was measured: what cannot be a time is left out.
//! - [`BatchLimits`] always admit the job's own batch, so an optimum exists for every placement, its
//!   goodput is above zero, and a speedup never divides by zero.

mod batch;
mod fit;
mod hint_field;
mod hints;
mod model;
mod objective;
mod params;
#[cfg(test)]
mod properties;
mod speedup;

pub use batch::{BatchLimits, BatchSize, LimitsError, LocalBatch, LocalBounds};
pub use fit::{Measurement, fit};
pub use hint_field::{Expected, HintError};
pub use hints::{Hints, ReplicaCaps, ReplicaLimit};
pub use model::{GoodputModel, Placement, Prediction};
pub use params::{GradParams, OutOfBounds, Overlap, PerfParams, Seconds, SquaredNorm};
pub use speedup::SpeedupModel;
