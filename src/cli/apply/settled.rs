//! Waiting until what was applied has come true.

use std::time::Duration;

use anyhow::Result;

use super::super::target::name;
use super::super::{Context, ExitStatus};
use crate::api::condition::{Condition, Truth};
use crate::api::meta::ObjectKey;
use crate::api::object::{AnyObject, Kind};
use crate::api::status::JobPhase;
use crate::api::units::Span;
use crate::client::Client;

/// How often the objects are looked at.
const POLL: Duration = Duration::from_millis(200);

/// What is said of an object of which the controller has said nothing yet.
const UNSEEN: &str = "it was not looked at yet";

/// How far an object is.
enum State {
    Settled(String),
    Failed(String),
    NotYet(String),
}

/// Waits until jobs run and clusters are as wanted; what is waited for is said as it changes.
pub(super) async fn wait(
    context: &Context,
    client: &Client,
    objects: &[AnyObject],
    timeout: Span,
) -> Result<ExitStatus> {
    let deadline = tokio::time::Instant::now() + timeout.duration();
    let mut waiting: Vec<(Kind, ObjectKey, String)> =
        objects.iter().map(|object| (object.kind(), object.key(), String::new())).collect();
    let mut status = ExitStatus::Success;
    loop {
        let mut left = Vec::new();
        for (kind, key, said) in waiting {
            let title = name(kind, &key);
            match state(&client.get(kind, &key).await?) {
                State::Settled(word) => context.printer.data(&format!("{title} {word}")),
                State::Failed(message) => {
                    context.printer.talk(&format!("{title}: {message}"));
                    status = ExitStatus::Failure;
                }
                State::NotYet(message) => {
                    if message != said && message != UNSEEN {
                        context.printer.talk(&format!("{title}: {message}"));
                    }
                    left.push((kind, key, message));
                }
            }
        }
        if left.is_empty() {
            return Ok(status);
        }
        if tokio::time::Instant::now() >= deadline {
            for (kind, key, message) in &left {
                let title = name(*kind, key);
                context.printer.talk(&format!("{title} is not as wanted after {timeout}: {message}"));
            }
            return Ok(ExitStatus::TimedOut);
        }
        waiting = left;
        tokio::time::sleep(POLL).await;
    }
}

fn state(object: &AnyObject) -> State {
    let generation = object.metadata().generation;
    let converged = |conditions: &[Condition]| {
        conditions.iter().any(|condition| {
            condition.kind == "Converged"
                && condition.status == Truth::True
                && condition.observed_generation == generation
        })
    };
    match object {
        AnyObject::Job(job) => {
            let status = &job.status;
            let message =
                if status.message.is_empty() { status.phase.to_string() } else { status.message.clone() };
            match status.phase {
                _ if status.observed_generation != generation => State::NotYet(UNSEEN.to_owned()),
                JobPhase::Succeeded => State::Settled("has succeeded".to_owned()),
                JobPhase::Failed => State::Failed(message),
                JobPhase::Running => State::Settled(format!(
                    "runs with {}",
                    crate::api::words::count(status.replicas, "worker")
                )),
                JobPhase::Suspended => State::Settled("is suspended, as wanted".to_owned()),
                _ => State::NotYet(message),
            }
        }
        AnyObject::Cluster(cluster) => {
            let status = &cluster.status;
            let message =
                if status.message.is_empty() { status.phase.to_string() } else { status.message.clone() };
            if status.observed_generation != generation {
                State::NotYet(UNSEEN.to_owned())
            } else if converged(&status.conditions) {
                State::Settled("is as wanted".to_owned())
            } else {
                State::NotYet(message)
            }
        }
    }
}
