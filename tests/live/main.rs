//! Tests with the real things: Ray, torch, AdaptDL, processes, signals. They need what `make python` installs.
//!
//! Each test has a state directory, clusters, ports and temporary directories of its own, can run beside other Ray
//! clusters, and ends what it started.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod apart;
mod autoscaler;
mod chaos;
mod commands;
mod crashes;
mod diff;
mod ec2;
mod ec2_faults;
mod ec2_lost;
mod ec2_walk;
mod elastic;
mod enclosed;
#[allow(dead_code)]
#[path = "../chaos/faults.rs"]
mod faults;
mod gitops;
mod goodput;
mod goodput_fits;
mod inspect;
mod kubectl;
mod launcher;
mod life;
mod logs;
mod machines;
#[allow(dead_code)]
mod metadata;
mod notices;
mod places;
mod prices;
mod python;
mod record;
mod region;
mod rust;
mod storage;
#[path = "../chaos/storm.rs"]
mod storm;
mod support;
mod trouble;
mod walk;
