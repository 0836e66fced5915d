//! Tests that need neither Ray nor torch: they run anywhere, in seconds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod architecture;
mod cli;
mod convert;
mod gitops;
mod inspect;
mod launcher;
mod manifest;
mod plan;
mod provider;
mod roundtrips;
mod server;
mod simulate;
mod store;
mod trouble;
mod world;
