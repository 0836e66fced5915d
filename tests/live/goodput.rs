//! Our goodput model against the real AdaptDL: the same hints, the same placements, the same answers.
//!
//! Rates may differ by [`TOLERANCE`] of themselves, since numpy's vectorised functions differ from the C
//! library's in the last bits. Batches must be equal: how they stay whole numbers all the same is said in
//! `src/goodput/batch.rs`. Only between batches that are equally good (see [`TIE`]) may the choice differ.

#![allow(clippy::expect_used, reason = "a test may panic")]

use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;

use rayconcile::goodput::{GoodputModel, Hints, LocalBatch, Placement, Prediction};
use serde::Deserialize;
use serde_json::Value;

/// Greatest difference allowed, relative to AdaptDL's number.
const TOLERANCE: f64 = 1e-9;

/// Batches whose goodputs differ by less, relatively, are equally good, and it is rounding that chooses.
///
/// Real jobs have such ties: as long as its gradients are not known, a lone replica's goodput does not
/// depend on how often it accumulates.
const TIE: f64 = 1e-13;

/// Greatest part of the cases that ties may decide.
const TIES_ALLOWED: f64 = 0.01;

/// Fewer cases mean that the script has lost some.
const LEAST_CASES: usize = 5000;

/// Mismatches that are printed in full.
const SHOWN: usize = 5;

#[test]
fn predictions_equal_adaptdl() {
    let cases = adaptdl_answers();
    assert!(cases.len() >= LEAST_CASES, "the grid has {} cases only", cases.len());

    let mut ties = 0;
    let mut mismatches = Vec::new();
    for case in &cases {
        match compare(case) {
            Ok(Match::Exact) => {}
            Ok(Match::Tie) => ties += 1,
            Err(mismatch) => mismatches.push(mismatch),
        }
    }
    let shown = mismatches[..mismatches.len().min(SHOWN)].join("\n\n");
    assert!(mismatches.is_empty(), "{} of {} cases differ:\n{shown}", mismatches.len(), cases.len());
    assert!(f64::from(ties) <= TIES_ALLOWED * cases.len() as f64, "{ties} of {} are ties", cases.len());
}

/// A line of the script's output.
#[derive(Deserialize)]
struct Case {
    hints: Value,
    /// `None` for hints that no AdaptDL worker can come to have, and that are to be refused.
    answers: Option<Answers>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answers {
    nodes: u32,
    replicas: u32,
    optimum: Optimum,
    speedup: f64,
    probe: Probe,
    max_replicas: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Optimum {
    goodput: f64,
    atomic_bsz: NonZeroU32,
    accum_steps: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    atomic_bsz: NonZeroU32,
    accum_steps: u32,
    throughput: f64,
    efficiency: f64,
    goodput: f64,
}

fn adaptdl_answers() -> Vec<Case> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/goodput_grid.py");
    let output = Command::new(crate::support::python())
        .arg(&script)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} failed, {}:\n{errors}", script.display(), output.status);
    let text = String::from_utf8(output.stdout).expect("the script prints ASCII");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect()
}

/// How a case agrees.
enum Match {
    Exact,
    /// Another batch was chosen, which is equally good.
    Tie,
}

/// The error is what differs, with all that is needed to look into it.
fn compare(case: &Case) -> Result<Match, String> {
    let (hints, answers) = match (Hints::from_json(&case.hints), &case.answers) {
        (Err(_), None) => return Ok(Match::Exact),
        (Ok(_), None) => return Err(format!("hints were accepted: {}", case.hints)),
        (Err(error), Some(_)) => return Err(format!("{error}: {}", case.hints)),
        (Ok(hints), Some(answers)) => (hints, answers),
    };
    compare_answers(&hints, answers).map_err(|what| {
        format!("{what}\n  on {} nodes, {} replicas\n  with {}", answers.nodes, answers.replicas, case.hints)
    })
}

fn compare_answers(hints: &Hints, answers: &Answers) -> Result<Match, String> {
    let model = hints.goodput_model().ok_or("no model")?;
    let placement = Placement::new(answers.nodes, answers.replicas).ok_or("no such placement")?;

    let best = hints.predict(placement).ok_or("no prediction")?;
    close("goodput of the optimum", best.goodput, answers.optimum.goodput)?;
    let chosen = compare_batches(&model, best, &answers.optimum)?;

    let speedups = hints.speedup_model().ok_or("no speedup model")?;
    close("speedup", speedups.speedup(answers.nodes, answers.replicas), answers.speedup)?;

    let probe = &answers.probe;
    let batch = LocalBatch::new(probe.atomic_bsz, probe.accum_steps);
    let total = batch.total(placement.replicas());
    close("throughput", model.throughput(placement, batch), probe.throughput)?;
    close("efficiency", model.efficiency(total), probe.efficiency)?;
    close("goodput", model.evaluate(placement, batch), probe.goodput)?;

    compare_caps(hints, answers.max_replicas)?;
    Ok(chosen)
}

fn compare_batches(model: &GoodputModel, ours: Prediction, theirs: &Optimum) -> Result<Match, String> {
    let batch = LocalBatch::new(theirs.atomic_bsz, theirs.accum_steps);
    if ours.batch == batch {
        return Ok(Match::Exact);
    }
    let lost = (ours.goodput - model.evaluate(ours.placement, batch)) / ours.goodput;
    if (0.0..=TIE).contains(&lost) {
        return Ok(Match::Tie);
    }
    Err(format!("batch: {:?}, AdaptDL says {batch:?}, which is {lost:e} worse", ours.batch))
}

/// AdaptDL leaves the batch out of account for a job without local bounds, even where a replica would be
/// left without a sample; we do not.
fn compare_caps(hints: &Hints, max_replicas: u32) -> Result<(), String> {
    let largest = hints.limits.largest().get();
    let (ours, theirs) = (hints.max_useful_replicas().lowest(), max_replicas.min(largest));
    if ours == theirs { Ok(()) } else { Err(format!("useful replicas: {ours}, AdaptDL says {theirs}")) }
}

fn close(what: &str, ours: f64, theirs: f64) -> Result<(), String> {
    let difference = (ours - theirs).abs();
    if difference <= TOLERANCE * theirs.abs() {
        Ok(())
    } else {
        Err(format!("{what}: {ours:?}, AdaptDL says {theirs:?}, off by {difference:e}"))
    }
}
