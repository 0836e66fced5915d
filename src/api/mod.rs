//! The vocabulary of the house: what objects look like, and the words everything else is said in.
//!
//! Plain data with its parsing and printing; no IO, no clock, no client. Shape and conventions are
//! Kubernetes': camelCase, `metadata`, `spec`, `status`, conditions, quantities.

pub mod aws;
pub mod bucket;
pub mod cluster;
pub mod columns;
pub mod condition;
pub mod cost;
pub mod docker;
pub mod document;
pub mod event;
pub mod ids;
pub mod job;
pub mod keepsake;
pub mod meta;
pub mod money;
pub mod object;
pub mod observed;
pub mod record;
pub mod review;
pub mod shared;
pub mod source;
pub mod status;
pub mod token;
pub mod units;
pub mod wire;
pub mod words;

/// The API group and version of our kinds.
pub const API_VERSION: &str = "rayconcile.dev/v1";
