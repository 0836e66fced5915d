//! Elastic training in Rust: what needs the feature `tch`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod adapting;
mod examples;
mod harness;
mod noise;
mod optimizers;
mod programs;
mod ring;
mod training;
