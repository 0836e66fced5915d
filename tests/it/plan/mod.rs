//! The planner: stories that are told in full, and what holds for any snapshot whatsoever.

mod clock;
mod cloud;
mod cloud_faults;
mod cost;
mod properties;
mod region;
mod review;
mod rollout;
mod storage;
mod stories;
mod untrusted;
mod wishes;
