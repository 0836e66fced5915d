//! How long a plan takes for a large cluster on EC2: when nothing is to be done, and after a tenth of its nodes was
//! lost at once. One of twice the size is measured in the same run: what grows faster than the cluster shows.
//!
//! `NODES` and `REPETITIONS` choose what is measured. No effect is carried out: EC2, Ray and the bridges of the jobs are
//! a few lines here, which do at once whatever they are asked for.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod around;
#[allow(dead_code)]
mod common;
mod region;
#[allow(dead_code)]
#[path = "../live/support.rs"]
mod support;

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use around::Around;
use common::{keep, largest, number};
use region::{Region, WORKERS};

/// What a controller has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// No plan of the smaller cluster may take longer: a round is more than its plan.
const LIMIT_MS: f64 = 100.0;
/// A plan of twice the nodes may take so many times as long: more than two, for maps are deeper; less than the four of
/// what looks at all nodes for each. It is compared with a larger one, for a node costs more up to about 5,000 and then
/// hardly more: 1.3 µs of 500, 1.9 of 2,500, 3.4 of 5,000, 3.6 of 10,000. Probably these are caches; nobody has counted.
const LIMIT_RATIO: f64 = 3.0;

/// What was measured of a cluster.
struct Run {
    nodes: u32,
    jobs: u32,
    /// Plans when all is as wanted.
    steady: Vec<f64>,
    /// Plans from the loss of a tenth of the nodes until all is as wanted again.
    burst: Vec<f64>,
    around: Around,
}

fn main() -> ExitCode {
    let nodes = number("NODES").unwrap_or(5000) as u32;
    let repetitions = number("REPETITIONS").unwrap_or(50);
    let runs = [nodes, nodes * 2].map(|nodes| measure(nodes, repetitions));
    let ratios = ratios(&runs);
    let described: Vec<Value> = runs.iter().map(describe).collect();
    keep(
        "plan",
        &table(&runs, ratios),
        &json!({"runs": described, "ratio": {"steady": ratios.0, "burst": ratios.1}}),
    );
    judge(&runs, ratios)
}

fn measure(nodes: u32, repetitions: usize) -> Run {
    // A few nodes stay idle.
    let jobs = nodes * 24 / 25 / WORKERS;
    let mut region = Region::new(nodes, jobs);
    region.settle();
    let steady: Vec<f64> = (0..repetitions).map(|_| region.round()).collect();
    assert!(region.is_quiet(), "a plan of what is as wanted wants something");
    let around = around::measure(region.snapshot());
    region.lose(nodes / 10);
    let burst = region.settle();
    eprintln!("{nodes} nodes: {} plans until {} were replaced", burst.len(), nodes / 10);
    Run { nodes, jobs, steady, burst, around }
}

/// A kernel may count CPU time in ticks of 4 ms, in which one plan is little.
fn mean(values: &[f64]) -> Option<f64> {
    let count = u32::try_from(values.len()).ok().filter(|count| *count > 0)?;
    Some(values.iter().sum::<f64>() / f64::from(count))
}

/// How many times as long the larger cluster takes: when nothing is to be done, and at worst.
fn ratios(runs: &[Run; 2]) -> (f64, f64) {
    let steady = runs.each_ref().map(|run| mean(&run.steady).unwrap_or_default());
    let burst = runs.each_ref().map(|run| largest(&run.burst).unwrap_or_default());
    (steady[1] / steady[0], burst[1] / burst[0])
}

fn describe(run: &Run) -> Value {
    json!({
        "nodes": run.nodes,
        "jobs": run.jobs,
        "steadyMs": mean(&run.steady),
        "steadyWorstMs": largest(&run.steady),
        "burstFirstMs": run.burst.first(),
        "burstWorstMs": largest(&run.burst),
        "burstPlans": run.burst.len(),
        "around": {
            "readMs": run.around.read,
            "statusesMs": run.around.statuses,
            "compareMs": run.around.compare,
            "writeMs": run.around.write,
        },
    })
}

fn table(runs: &[Run; 2], ratios: (f64, f64)) -> String {
    let mut table = String::from(
        "| nodes | jobs | nothing to do: mean | worst | a tenth lost: first plan | worst | plans |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1} ms"));
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} | {} |",
            run.nodes,
            run.jobs,
            ms(mean(&run.steady)),
            ms(largest(&run.steady)),
            ms(run.burst.first().copied()),
            ms(largest(&run.burst)),
            run.burst.len(),
        );
    }
    let _ = writeln!(table, "| ratio | | {:.1} | | | {:.1} | |", ratios.0, ratios.1);
    table
}

fn judge(runs: &[Run; 2], ratios: (f64, f64)) -> ExitCode {
    let slow = runs[0].steady.iter().chain(&runs[0].burst).filter(|time| **time > LIMIT_MS).count();
    if slow > 0 {
        eprintln!("{slow} plans took longer than {LIMIT_MS} ms");
    }
    let steep = ratios.0.max(ratios.1) > LIMIT_RATIO;
    if steep {
        eprintln!("twice the nodes take more than {LIMIT_RATIO} times as long");
    }
    if slow > 0 || steep { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
