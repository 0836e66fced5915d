//! Elastic training in Rust: what AdaptDL gives a PyTorch script, for a program that uses `tch`.
//!
//! A program that is started with AdaptDL's variables, as Rayconcile starts the `command` of an `AdaptDLJob`, is one
//! replica of a job. It meets the others, averages gradients with them, saves when it is told to, and goes on with
//! another number of replicas.
//!
//! - [`Worker`] is what the process is told; [`Training`] is all that happens until the [`Goal`] of its [`Plan`].
//! - An epoch passes over each sample once, however often the number of replicas changes.
//! - Gradients are averaged over samples: replicas together do what one with all their samples would.
//! - From their noise comes how much a larger batch gains: the learning rate follows it (AdaScale), and the batch, if it
//!   may, and what the supervisor is told for its planning (the [`goodput`](crate::goodput) model).
//!
//! # Example
//! ```no_run
//! use rayconcile::train::{Plan, Sgd, Training, Worker};
//! use tch::nn::{self, Module};
//! use tch::{Device, Kind, Tensor};
//!
//! # fn main() -> Result<(), rayconcile::train::TrainError> {
//! let mut store = nn::VarStore::new(Device::Cpu);
//! let layer = nn::linear(store.root() / "layer", 8, 1, Default::default());
//! let mut training = Training::<()>::start(
//!     Worker::from_env()?,
//!     &mut store,
//!     Plan::new(Sgd { lr: 0.1, momentum: 0.9, ..Sgd::default() }, 1_000, 32, 10),
//! )?;
//! let inputs = Tensor::randn([1_000, 8], (Kind::Float, training.device()));
//! let targets = inputs.sum_dim_intlist(1, true, Kind::Float);
//! while let Some(epoch) = training.next_epoch()? {
//!     // A restart within an epoch begins here again, with the samples that are left of it.
//!     let (mut loss, mut samples) = (0.0, 0.0);
//!     while let Some(batch) = training.next_batch()? {
//!         let picked = batch.indices();
//!         let guesses = layer.forward(&inputs.index_select(0, &picked));
//!         let error = guesses.mse_loss(&targets.index_select(0, &picked), tch::Reduction::Mean);
//!         training.backward(&error)?;
//!         loss += error.double_value(&[]) * batch.len() as f64;
//!         samples += batch.len() as f64;
//!     }
//!     let sums = training.sum(&[loss, samples])?;
//!     if training.is_first() {
//!         println!("epoch {epoch}: {}", sums[0] / sums[1]);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod alike;
mod checkpoint;
mod control;
mod error;
mod gradients;
mod loader;
mod noise;
mod optimizer;
mod parameters;
mod plan;
mod profile;
mod ring;
mod saving;
mod step;
mod supervisor;
mod training;
mod worker;

pub use error::TrainError;
pub use optimizer::{Adam, Optimizer, Sgd};
pub use plan::{Adaptive, Goal, Plan};
pub use ring::{Element, Peer, Pending, Ring, RingConfig, RingError};
pub use training::{Batch, Training};
pub use worker::Worker;
