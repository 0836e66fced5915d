//! How a group ended, in words.

use super::super::draft::JobDraft;
use super::Said;
use crate::api::event::EventType;
use crate::api::ids::GroupNumber;
use crate::api::record::GroupOutcome;
use crate::api::wire::Outcome;

/// Tells of the end of a group.
pub(super) fn announce(
    job: &JobDraft<'_>,
    number: GroupNumber,
    outcome: &GroupOutcome,
    trained: bool,
) -> Option<Said> {
    let what = if trained { "" } else { " while it was prepared" };
    let limit = job.job.spec.backoff_limit;
    let (event_type, reason, message) = match outcome.kind.as_str() {
        "Superseded" => return None,
        "Succeeded" => (EventType::Normal, "ProgramSucceeded", format!("group {number} has done its work")),
        "Stopped" => {
            (EventType::Normal, "GroupStopped", format!("group {number} has stopped{}", outcome.message))
        }
        "Failed" => {
            let count = job.record.failures + 1;
            let message =
                format!("group {number} failed{what} (failure {count}, limit {limit}): {}", outcome.message);
            (EventType::Warning, "ProgramFailed", message)
        }
        kind => {
            let reason = if kind == "Killed" { "WorkerKilled" } else { kind };
            (EventType::Warning, reason, format!("group {number} ended{what}: {}", outcome.message))
        }
    };
    Some((event_type, reason.to_owned(), message))
}

/// An outcome's name on the wire.
pub(super) fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "Succeeded",
        Outcome::Stopped { .. } => "Stopped",
        Outcome::Superseded => "Superseded",
        Outcome::Failed { .. } => "Failed",
        Outcome::Killed { .. } => "Killed",
        Outcome::Hung { .. } => "Hung",
        Outcome::Terminated { .. } => "Terminated",
        Outcome::Lost { .. } => "Lost",
        Outcome::SlotFailed { .. } => "SlotFailed",
        Outcome::RuntimeEnvFailed { .. } => "RuntimeEnvFailed",
        Outcome::NoCheckpoint { .. } => "NoCheckpoint",
    }
}

/// An outcome in a sentence; of a failed program the last lines it wrote.
pub(super) fn message(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Succeeded | Outcome::Superseded => String::new(),
        Outcome::Stopped { saved: true } => ", its checkpoint is saved".to_owned(),
        Outcome::Stopped { saved: false } => " without a checkpoint".to_owned(),
        Outcome::Failed { rank, code, signal, tail } => {
            let end = match (code, signal) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => signal.clone(),
                (None, None) => "an unknown end".to_owned(),
            };
            format!("rank {rank} ended with {end}{}", last_lines(tail))
        }
        Outcome::Killed { message }
        | Outcome::Hung { message }
        | Outcome::Terminated { message }
        | Outcome::Lost { message }
        | Outcome::SlotFailed { message }
        | Outcome::RuntimeEnvFailed { message }
        | Outcome::NoCheckpoint { message } => message.trim().to_owned(),
    }
}

/// The last lines of some output, as many as a message bears.
fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.trim_end().lines().rev().take(8).collect();
    if lines.is_empty() {
        return ", having written nothing".to_owned();
    }
    lines.iter().rev().fold(":".to_owned(), |text, line| format!("{text}\n    {line}"))
}
