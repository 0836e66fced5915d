//! How long a job stands still when it goes from one worker to two and back: with the next workers started beside the
//! running ones and forked from a warm process, without the fork, and one after the other. A program in Rust is never
//! forked: it begins quickly by itself.
//!
//! `MODELS`, `VARIANTS` and `REPETITIONS` (of 1 → 2 → 1) choose what is measured. What the first 1 → 2 → 1 of a job
//! takes is not counted: it finds files and caches as no later one does.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod common;
#[allow(dead_code)]
#[path = "../live/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use jiff::Timestamp;
use rayconcile::api::units::Bytes;
use serde_json::{Value, json};

use common::{job, keep, largest, median, number, seconds, state_program, wait, words};
use support::{World, cluster, phase, replicas, repository};

const MODELS: [&str; 5] = ["digits", RUST, "1", "100", "1000"];
/// The same network in Rust, `examples/digits_tch.rs`.
const RUST: &str = "digits-rust";
const VARIANTS: [&str; 3] = ["overlap+fork", "overlap", "cold"];
/// What digits must do: this long at most, and so much shorter than cold.
const BOUND_S: f64 = 0.6;
const BOUND_RATIO: f64 = 10.0;
/// The moments of a switch that follow the request to save.
const MOMENTS: [&str; 5] = ["saved", "prepared", "handedOver", "released", "firstStep"];

/// What was measured of a model, in a variant and a direction.
struct Run {
    model: String,
    variant: String,
    direction: &'static str,
    state_bytes: u64,
    downtimes: Vec<f64>,
    /// Steps that had to be made again.
    lost: u64,
    /// How long it took to each moment, from the one before.
    splits: BTreeMap<&'static str, Vec<f64>>,
}

fn main() -> ExitCode {
    let world = World::with_controller(&[]);
    world.write("cluster.yaml", &cluster("c", 2));
    world.ok(&["apply", "-f", "cluster.yaml"]);
    let (models, variants) = (words("MODELS", &MODELS), words("VARIANTS", &VARIANTS));
    let mut runs = Vec::new();
    for model in &models {
        for variant in variants.iter().filter(|variant| model != RUST || *variant != "overlap+fork") {
            let found = measure(&world, model, variant);
            for run in &found {
                eprintln!("{model} {variant} {}: {:?} s", run.direction, run.downtimes);
            }
            runs.extend(found);
        }
    }
    world.finish();
    keep("rescale", &table(&runs), &json!({"runs": runs.iter().map(describe).collect::<Vec<_>>()}));
    judge(&runs)
}

/// More for what is quick, and for what is judged.
fn repetitions(model: &str, variant: &str) -> usize {
    number("REPETITIONS").unwrap_or(match (model, variant) {
        ("digits", "overlap+fork") | (RUST, "overlap") => 5,
        ("digits" | RUST, _) => 3,
        (_, "overlap+fork") => 3,
        ("1000", _) | (_, "cold") => 1,
        _ => 2,
    })
}

fn measure(world: &World, model: &str, variant: &str) -> Vec<Run> {
    let program = match model {
        "digits" => {
            let directory = repository("examples/digits");
            format!(
                "workingDir: {}\n  entrypoint: main.py\n  args: [--epochs, '100000']",
                directory.display()
            )
        }
        RUST => {
            let directory = repository("target/demo-rust");
            format!(
                "workingDir: {}\n  command: [./digits_tch]\n  args: [--epochs, '100000']",
                directory.display()
            )
        }
        megabytes => state_program(&format!("--megabytes, '{megabytes}'")),
    };
    let rescale = match variant {
        "overlap+fork" => "{}",
        "overlap" => "{forkServer: false}",
        "cold" => "{overlap: false}",
        other => panic!("{other} is no variant: {VARIANTS:?}"),
    };
    let apply = |replicas: u32| {
        let rest = format!(
            "scaling: {{policy: Fixed, replicas: {replicas}}}\n  rescale: {rescale}\n  checkpoint: {{interval: 0s}}"
        );
        world.write("job.yaml", &job("bench", &program, &rest));
        world.ok(&["apply", "-f", "job.yaml"]);
    };
    apply(1);
    let wait_until = |what: &str, replicas: u64, group: u64| {
        wait(world, what, || Some(world.job("bench")).filter(|job| settled(job, replicas, group)))
    };
    wait_until("it trains", 1, 0);
    let run = |direction| Run {
        model: model.to_owned(),
        variant: variant.to_owned(),
        direction,
        state_bytes: 0,
        downtimes: Vec::new(),
        lost: 0,
        splits: BTreeMap::new(),
    };
    let mut runs = vec![run("1-2"), run("2-1")];
    let mut group = 0;
    for repetition in 0..=repetitions(model, variant) {
        for (run, replicas) in runs.iter_mut().zip([2, 1]) {
            apply(replicas);
            group += 1;
            let job = wait_until("it has been rescaled, and all is quiet", u64::from(replicas), group);
            run.state_bytes = size(&job["status"]["checkpoint"]["size"]);
            if repetition > 0 {
                run.take(&job);
            }
        }
    }
    world.ok(&["delete", "job", "bench"]);
    runs
}

/// Whether it trains in this group, which has said what it cost, and nothing is left to do for it.
fn settled(job: &Value, wanted: u64, group: u64) -> bool {
    let Some(last) = last(job, 0) else { return false };
    let told = group == 0
        || last["downtimeMs"].is_u64() && last["lostSteps"].is_u64() && moment(last, "firstStep").is_some();
    let conditions = job["status"]["conditions"].as_array();
    let converged =
        conditions.into_iter().flatten().any(|one| one["type"] == "Converged" && one["status"] == "True");
    let kept = group == 0 || job["status"]["checkpoint"]["id"]["group"] == group - 1;
    phase(job) == "Running" && replicas(job) == wanted && last["number"] == group && told && converged && kept
}

/// A size as manifests write it.
fn size(value: &Value) -> u64 {
    serde_json::from_value::<Bytes>(value.clone()).map_or(0, |bytes| bytes.0)
}

/// A group of a job's history, counted from the newest.
fn last(job: &Value, before: usize) -> Option<&Value> {
    job["status"]["history"].as_array()?.iter().rev().nth(before)
}

fn moment(group: &Value, name: &str) -> Option<Timestamp> {
    group["timeline"][name].as_str()?.parse().ok()
}

impl Run {
    /// Takes in what a job's newest group has cost.
    fn take(&mut self, job: &Value) {
        let (new, old) = (last(job, 0).unwrap(), last(job, 1).unwrap());
        self.downtimes.push(new["downtimeMs"].as_f64().unwrap() / 1000.0);
        self.lost += new["lostSteps"].as_u64().unwrap();
        let Some(signalled) = moment(old, "signalled") else { return };
        let at = |name: &&'static str| Some((moment(if *name == "saved" { old } else { new }, name)?, *name));
        let mut moments: Vec<(Timestamp, &'static str)> =
            MOMENTS.iter().filter_map(at).filter(|(time, _)| *time >= signalled).collect();
        moments.sort();
        let mut before = signalled;
        for (time, name) in moments {
            self.splits.entry(name).or_default().push((time - before).total(jiff::Unit::Second).unwrap());
            before = time;
        }
    }

    fn median(&self) -> Option<f64> {
        median(&self.downtimes)
    }
}

fn describe(run: &Run) -> Value {
    let split: BTreeMap<_, _> = run.splits.iter().map(|(name, values)| (*name, median(values))).collect();
    json!({
        "variant": run.variant,
        "model": run.model,
        "state_bytes": run.state_bytes,
        "direction": run.direction,
        "median_s": run.median(),
        "max_s": largest(&run.downtimes),
        "n": run.downtimes.len(),
        "lost_steps": run.lost,
        "split": split,
    })
}

fn cold<'a>(runs: &'a [Run], run: &Run) -> Option<&'a Run> {
    runs.iter()
        .find(|other| other.variant == "cold" && other.model == run.model && other.direction == run.direction)
}

/// How often what was measured goes into what it is when cold.
fn ratio(runs: &[Run], run: &Run) -> Option<f64> {
    Some(cold(runs, run)?.median()? / run.median()?)
}

fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| model | state | workers | variant | median | worst | n | steps lost | times shorter than cold | saved | prepared | handed \
         over | released | first step |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for run in runs {
        let split: Vec<String> = MOMENTS
            .iter()
            .map(|name| seconds(run.splits.get(name).and_then(|values| median(values))))
            .collect();
        let _ = writeln!(
            text,
            "| {} | {:.1} MB | {} | {} | {} | {} | {} | {} | {} | {} |",
            run.model,
            run.state_bytes as f64 / 1e6,
            run.direction.replace('-', " → "),
            run.variant,
            seconds(run.median()),
            seconds(largest(&run.downtimes)),
            run.downtimes.len(),
            run.lost,
            ratio(runs, run).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.1}")),
            split.join(" | "),
        );
    }
    text + "\nEach moment is told by the time from the one before; the first follows the request to save.\n"
}

/// Says what is not as it must be: of a planned rescale no step is lost, and digits stands still for no longer than that.
fn judge(runs: &[Run]) -> ExitCode {
    let mut good = true;
    for run in runs.iter().filter(|run| run.lost > 0) {
        eprintln!("{} {} {}: {} steps lost", run.model, run.variant, run.direction, run.lost);
        good = false;
    }
    for run in runs.iter().filter(|run| run.model == "digits" && run.variant == "overlap+fork") {
        if run.median().is_none_or(|median| median >= BOUND_S) {
            eprintln!("digits {}: {} is not under {BOUND_S} s", run.direction, seconds(run.median()));
            good = false;
        }
        if let Some(ratio) = ratio(runs, run).filter(|ratio| *ratio < BOUND_RATIO) {
            eprintln!("digits {}: {ratio:.1} times shorter than cold, not {BOUND_RATIO}", run.direction);
            good = false;
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
