//! `wait`: wait until an object is as wanted.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;
use serde_json::json;

use super::complete;
use super::target::{name, object};
use super::{Context, ExitStatus, wrong};
use crate::api::condition::{Condition, Truth};
use crate::api::ids::Uid;
use crate::api::meta::DEFAULT_NAMESPACE;
use crate::api::object::{AnyObject, Kind};
use crate::api::status::{ClusterPhase, JobPhase};
use crate::api::units::Span;

/// How often the object is looked at.
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// The object: KIND NAME, KIND/NAME, or a job's name
    #[arg(required = true, add = ArgValueCandidates::new(complete::objects))]
    object: Vec<String>,
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// condition=TYPE[=STATUS], phase=PHASE, or delete
    #[arg(long = "for", value_name = "WHAT")]
    what: Goal,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    timeout: Span,
}

/// What is waited for.
#[derive(Clone, Debug)]
enum Goal {
    Condition { kind: String, status: String },
    Phase(String),
    Delete,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "delete" {
            return Ok(Self::Delete);
        }
        match text.split_once('=') {
            Some(("phase", phase)) => Ok(Self::Phase(phase.to_owned())),
            Some(("condition", rest)) => {
                let (kind, status) = rest.split_once('=').unwrap_or((rest, "True"));
                Ok(Self::Condition { kind: kind.to_owned(), status: status.to_owned() })
            }
            _ => Err("write condition=TYPE, condition=TYPE=STATUS, phase=PHASE or delete".to_owned()),
        }
    }
}

pub(super) async fn run(context: &Context, args: WaitArgs) -> Result<ExitStatus> {
    let (kind, key) = object(&args.object, &args.namespace)?;
    check(&args.what, kind)?;
    let client = context.client()?;
    let deadline = tokio::time::Instant::now() + args.timeout.duration();
    let deletion = matches!(args.what, Goal::Delete);
    let mut first: Option<Uid> = None;
    loop {
        let found = match client.get(kind, &key).await {
            Err(error) if error.is_not_found() && deletion => None,
            other => Some(other?),
        };
        // Another one of its name, such as a watched directory makes at once, is not the one that was to go.
        let found = found
            .filter(|object| !deletion || first.get_or_insert_with(|| object.uid().clone()) == object.uid());
        match found.as_ref().map(|object| reached(object, &args.what)) {
            None => {
                context.printer.data(&format!("{} has gone", name(kind, &key)));
                return Ok(ExitStatus::Success);
            }
            Some(Progress::Reached) => {
                context.printer.data(&format!("{} is as wanted", name(kind, &key)));
                return Ok(ExitStatus::Success);
            }
            Some(Progress::Never(message)) => {
                context.printer.talk(&format!("{}: {message}", name(kind, &key)));
                return Ok(ExitStatus::Failure);
            }
            Some(Progress::NotYet(message)) if tokio::time::Instant::now() >= deadline => {
                context.printer.talk(&format!(
                    "{} is not as wanted after {}: {message}",
                    name(kind, &key),
                    args.timeout
                ));
                return Ok(ExitStatus::TimedOut);
            }
            Some(Progress::NotYet(_)) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Refuses a goal that no object of this kind can ever reach.
fn check(goal: &Goal, kind: Kind) -> Result<()> {
    let known = match (goal, kind) {
        (Goal::Phase(phase), Kind::AdaptDLJob) => serde_json::from_value::<JobPhase>(json!(phase)).err(),
        (Goal::Phase(phase), Kind::RayCluster) => serde_json::from_value::<ClusterPhase>(json!(phase)).err(),
        (Goal::Condition { status, .. }, _) => serde_json::from_value::<Truth>(json!(status)).err(),
        (Goal::Delete, _) => None,
    };
    match known {
        Some(error) => Err(wrong(format!("`--for` of {}: {error}", kind.plural()))),
        None => Ok(()),
    }
}

enum Progress {
    Reached,
    NotYet(String),
    Never(String),
}

fn reached(object: &AnyObject, goal: &Goal) -> Progress {
    let (phase, message, conditions, observed): (String, &str, &[Condition], u64) = match object {
        AnyObject::Job(job) => {
            let status = &job.status;
            (status.phase.to_string(), &status.message, &status.conditions, status.observed_generation)
        }
        AnyObject::Cluster(cluster) => {
            let status = &cluster.status;
            (status.phase.to_string(), &status.message, &status.conditions, status.observed_generation)
        }
    };
    let said = if message.is_empty() { phase.clone() } else { format!("{phase}: {message}") };
    // A status is only worth anything if it is about the present specification.
    let generation = object.metadata().generation;
    if observed != generation {
        return Progress::NotYet(said);
    }
    let fits = match goal {
        // Nobody has deleted it; or somebody has, and this is another one of its name.
        Goal::Delete if object.metadata().deletion_timestamp.is_none() => {
            return Progress::NotYet(format!("it is not being deleted; it is {said}"));
        }
        Goal::Delete => return Progress::NotYet(said),
        Goal::Phase(wanted) => *wanted == phase,
        Goal::Condition { kind, status } => {
            // Every object has all conditions of its kind as soon as it has any.
            if !conditions.is_empty() && !conditions.iter().any(|condition| condition.kind == *kind) {
                let known: Vec<&str> = conditions.iter().map(|condition| condition.kind.as_str()).collect();
                return Progress::Never(format!("there is no condition {kind}, only {}", known.join(", ")));
            }
            conditions.iter().any(|condition| {
                condition.kind == *kind
                    && format!("{:?}", condition.status) == *status
                    && condition.observed_generation == generation
            })
        }
    };
    match object {
        _ if fits => Progress::Reached,
        AnyObject::Job(job) if job.status.phase.is_final() && finished_for_good(job.status.phase) => {
            Progress::Never(said)
        }
        _ => Progress::NotYet(said),
    }
}

fn finished_for_good(phase: JobPhase) -> bool {
    matches!(phase, JobPhase::Succeeded | JobPhase::Failed)
}
