//! Rayconcile: elastic AdaptDL training on Ray, declared in YAML and reconciled without Kubernetes.
//!
//! The map of the house; its invariants are in `ARCHITECTURE.md`, and `tests/it/architecture.rs` holds who may use
//! whom.
//!
//! - What is said: [`api`] has the words, [`action`] every effect, [`goodput`] AdaptDL's performance model,
//!   [`cost`] what EC2 asks for an hour.
//! - What is wanted: [`manifest`] reads what people write, [`convert`] what they wrote for `ray up`; [`store`]
//!   remembers it, with all that came of it; [`gitops`] keeps it as directories and repositories have it.
//! - What is decided: [`plan`], a pure function, which [`simulate`] tries out in a world of its own.
//! - What is done: [`controller`] observes, plans, keeps and does, by way of [`provider`].
//! - Where that is done, if only a dashboard can be reached: [`launcher`] brings this program to the head.
//! - What trains, if it is written in Rust: `train`, with the feature `tch`.
//! - What was saved: [`inspect`] looks into checkpoints, and runs nothing of them.
//! - Who asks: [`server`] is the API, [`client`] its other side, [`cli`] the verbs.

pub mod action;
pub mod api;
pub mod cli;
pub mod client;
pub mod controller;
pub mod convert;
pub mod cost;
pub mod gitops;
pub mod goodput;
pub mod inspect;
pub mod launcher;
pub mod manifest;
pub mod plan;
pub mod provider;
pub mod server;
pub mod simulate;
pub mod store;
#[cfg(feature = "tch")]
pub mod train;
