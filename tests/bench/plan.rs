//! How long a plan takes for a large cluster on EC2: when nothing is to be done, and after a tenth of its nodes was
//! lost at once. One of a tenth the size and one of twice the size are measured in the same run: what grows faster than the cluster shows.
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

/// No plan of a cluster may take longer: a round is more than its plan.
const LIMIT_MS: f64 = 100.0;
/// A plan of ten times the nodes may take so many times as long: more than ten, for maps are deeper and caches too small,
/// the more so beside other work; far less than the hundred of what looks at all nodes for each.
const LIMIT_TENFOLD: f64 = 20.0;
/// A plan of twice the nodes may take so many times as long: more than two, for the same reasons; less than four.
const LIMIT_TWOFOLD: f64 = 3.0;

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
    // The smallest for as long as the next: a kernel may count CPU time in ticks of 4 ms.
    let runs = [(nodes / 10, repetitions * 10), (nodes, repetitions), (nodes * 2, repetitions)];
    let runs = runs.map(|(nodes, repetitions)| measure(nodes, repetitions));
    let [small, middle, large] = &runs;
    let ratios = [
        ("ten times", LIMIT_TENFOLD, ratios(small, middle)),
        ("twice", LIMIT_TWOFOLD, ratios(middle, large)),
    ];
    let described: Vec<Value> = runs.iter().map(describe).collect();
    keep(
        "plan",
        &table(&runs, ratios),
        &json!({"runs": described, "ratios": ratios.map(|(times, _, (steady, burst))| {
            json!({"nodes": times, "steady": steady, "burst": burst})
        })}),
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
fn ratios(small: &Run, large: &Run) -> (f64, f64) {
    let [steady, before] = [large, small].map(|run| mean(&run.steady).unwrap_or_default());
    let [burst, least] = [large, small].map(|run| largest(&run.burst).unwrap_or_default());
    (steady / before, burst / least)
}

/// How many times the nodes, how many times as long that may take, and how many it takes.
type Growth = (&'static str, f64, (f64, f64));

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

fn table(runs: &[Run; 3], ratios: [Growth; 2]) -> String {
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
    for (times, _, (steady, burst)) in ratios {
        let _ = writeln!(table, "| {times} the nodes | | × {steady:.1} | | | × {burst:.1} | |");
    }
    table
}

fn judge(runs: &[Run; 3], ratios: [Growth; 2]) -> ExitCode {
    let times = runs.iter().flat_map(|run| run.steady.iter().chain(&run.burst));
    let slow = times.filter(|time| **time > LIMIT_MS).count();
    if slow > 0 {
        eprintln!("{slow} plans took longer than {LIMIT_MS} ms");
    }
    let steep: Vec<Growth> =
        ratios.into_iter().filter(|(_, limit, (steady, burst))| steady.max(*burst) > *limit).collect();
    for (times, limit, _) in &steep {
        eprintln!("{times} the nodes take more than {limit} times as long");
    }
    if slow > 0 || !steep.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
