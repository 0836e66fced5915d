//! Elastic training in Rust: what needs the feature `tch`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod harness;
mod noise;
mod programs;
mod ring;
mod training;
