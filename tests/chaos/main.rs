//! Random faults at random moments, on a real cluster with two jobs, and at the end: has anything been lost?
//!
//! `SEED` chooses the faults and their moments, `MINUTES` how long they last, `FAULTS` which kinds of them there are.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod faults;
#[allow(dead_code)]
#[path = "../live/metadata.rs"]
mod metadata;
mod storm;
#[allow(dead_code)]
#[path = "../live/support.rs"]
mod support;

use std::time::Duration;

use faults::Fault;

fn main() {
    let setting = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
    let seed = setting("SEED").map_or(1, |text| text.parse().expect("SEED is a number"));
    let minutes: f64 = setting("MINUTES").map_or(3.0, |text| text.parse().expect("MINUTES is a number"));
    let kinds = match setting("FAULTS") {
        Some(text) => text.split([' ', ',']).filter(|word| !word.is_empty()).map(Fault::named).collect(),
        None => Fault::ALL.to_vec(),
    };
    storm::run(seed, Duration::from_secs_f64(minutes * 60.0), &kinds);
}
