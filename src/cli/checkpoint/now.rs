//! `checkpoint now`: have a job saved at once, in place, and wait until that is durable.
//!
//! The wish is an annotation of the job, under a name of its own. What comes of it is told in the job's status.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use clap_complete::ArgValueCandidates;
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::{Context, ExitStatus, Hinted, complete};
use crate::api::meta::{CHECKPOINT_NOW, DEFAULT_NAMESPACE, ObjectKey};
use crate::api::object::{AdaptDLJob, AnyObject, Kind};
use crate::api::status::{AdaptDLJobStatus, CheckpointStatus, JobPhase};
use crate::api::units::Span;
use crate::api::words::count;
use crate::client::{Client, ClientError};

/// How often the job is looked at.
const POLL: Duration = Duration::from_millis(100);

pub(super) const EXAMPLES: &str = "Examples:
  rayconcile checkpoint now digits                 before something risky
  rayconcile checkpoint now digits --timeout 10m   when it is large and the disk is slow
  rayconcile checkpoint now digits && rayconcile checkpoint get digits -o saved";

#[derive(Debug, Args)]
pub(super) struct NowArgs {
    /// The job
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    timeout: Span,
    /// Ask for it, and do not wait until it is there
    #[arg(long)]
    no_wait: bool,
}

pub(super) async fn run(context: &Context, args: NowArgs) -> Result<ExitStatus> {
    let key = ObjectKey::new(&args.namespace, &args.job);
    let client = context.client()?;
    let before = job(&client, &key).await?.status;
    refuse(&key, before.phase)?;
    let deadline = Instant::now() + args.timeout.duration();
    let mut wish = Uuid::new_v4().to_string();
    let patch = json!({"metadata": {"annotations": {CHECKPOINT_NOW: wish}}});
    client.patch(Kind::AdaptDLJob, &key, &patch).await?;
    if args.no_wait {
        context.printer.data(&format!("checkpoint {key} is asked for"));
        return Ok(ExitStatus::Success);
    }
    let mut said = None;
    loop {
        let job = job(&client, &key).await?;
        let progress = match look(&job, &wish) {
            Ok(checkpoint) => {
                context.printer.data(&format!("checkpoint {key} {}", describe(checkpoint)));
                return Ok(ExitStatus::Success);
            }
            Err(progress) => progress,
        };
        refuse(&key, job.status.phase)?;
        // Somebody else's newer wish is as good as this one, which it replaces.
        let old = before.checkpoint_request.as_ref().map(|request| &request.id);
        match job.metadata.annotations.get(CHECKPOINT_NOW) {
            Some(newest) if Some(newest) != old => wish.clone_from(newest),
            _ => return Err(taken_back(&key)),
        }
        if Instant::now() >= deadline {
            return Err(too_late(&key, progress, args.timeout));
        }
        if progress.is_worth_telling() && said != Some(progress) {
            context.printer.talk(&format!("{key}: {}", progress.told()));
            said = Some(progress);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn job(client: &Client, key: &ObjectKey) -> Result<AdaptDLJob> {
    match client.get(Kind::AdaptDLJob, key).await {
        Ok(AnyObject::Job(job)) => Ok(*job),
        Ok(AnyObject::Cluster(_)) => Err(ClientError::Broken(format!("{key} is no job")).into()),
        Err(error) if error.is_not_found() => Err(failure(
            error.to_string(),
            "`rayconcile get jobs -A` shows all jobs; `-n` names another namespace".to_owned(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Says that a job has nothing to save in a phase in which it does not train, and will not by itself.
fn refuse(key: &ObjectKey, phase: JobPhase) -> Result<()> {
    let saved = format!("what it saved before is shown by `rayconcile checkpoint ls {}`", in_namespace(key));
    let (state, hint) = match phase {
        JobPhase::Starting | JobPhase::Running | JobPhase::Rescaling | JobPhase::Unknown => return Ok(()),
        JobPhase::Pending => (
            "pending: it has no workers now",
            format!("`rayconcile describe job {}` says what it waits for", in_namespace(key)),
        ),
        JobPhase::Stopping => ("being stopped, and is saved as it stops", saved),
        JobPhase::Suspended => ("suspended", saved),
        JobPhase::Succeeded => ("done", saved),
        JobPhase::Failed => ("given up", saved),
    };
    Err(failure(format!("{key} is {state}; there is nothing to save"), hint))
}

/// What a shell must be told to mean this job.
fn in_namespace(ObjectKey { namespace, name }: &ObjectKey) -> String {
    if namespace == DEFAULT_NAMESPACE { name.clone() } else { format!("{name} -n {namespace}") }
}

/// How far a wish is that is not granted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// For the cluster, which cannot be heard or has not taken the wish.
    ForCluster,
    /// For workers: there are none at the moment.
    ForWorkers,
    /// For the program, which has not come to AdaptDL, if it uses it.
    ForAdaptDL,
    /// For the first step.
    ForStep,
    /// For the workers to save.
    ForSave,
    /// For the checkpoint to be brought to where it is durable.
    ForStorage,
}

impl Waits {
    fn told(self) -> &'static str {
        match self {
            Self::ForCluster => "its cluster has not taken the wish yet",
            Self::ForWorkers => "it has no workers that train at the moment",
            Self::ForAdaptDL => "its program has not come to AdaptDL yet",
            Self::ForStep => "it has made no step yet",
            Self::ForSave => "its workers are told to save after their next step",
            Self::ForStorage => "the checkpoint is made, and is brought to where it is durable",
        }
    }

    /// The others are over in a moment.
    fn is_worth_telling(self) -> bool {
        matches!(self, Self::ForWorkers | Self::ForAdaptDL | Self::ForStep)
    }

    fn hint(self, key: &ObjectKey) -> String {
        let job = in_namespace(key);
        match self {
            Self::ForCluster => {
                format!("`rayconcile describe job {job}` says whether its cluster can be heard")
            }
            Self::ForAdaptDL => format!(
                "only a program that trains with AdaptDL can be saved; `rayconcile logs {job}` shows what it does"
            ),
            Self::ForWorkers | Self::ForStep | Self::ForSave => format!(
                "the wish stays, and is granted as soon as it can be; `rayconcile checkpoint ls {job}` will show it"
            ),
            Self::ForStorage => {
                format!("`rayconcile events --for job/{job}` says what keeps it from being fetched")
            }
        }
    }
}

/// The durable checkpoint that grants a wish, or what is still waited for.
fn look<'j>(job: &'j AdaptDLJob, wish: &str) -> Result<&'j CheckpointStatus, Waits> {
    let status = &job.status;
    let taken = status.checkpoint_request.as_ref().filter(|request| request.id == wish);
    match taken.map(|request| request.checkpoint) {
        Some(Some(made)) => {
            status.checkpoint.as_ref().filter(|durable| durable.id >= made).ok_or(Waits::ForStorage)
        }
        Some(None) => Err(waits_for(status)),
        // What the workers do says more than that nothing was heard of the wish, unless they do train.
        None => Err(match waits_for(status) {
            Waits::ForSave => Waits::ForCluster,
            other => other,
        }),
    }
}

fn waits_for(status: &AdaptDLJobStatus) -> Waits {
    let any = |state: &str| status.workers.iter().any(|worker| worker.state == state);
    let present = status.history.iter().find(|group| Some(group.number) == status.group);
    let stepped = present.is_some_and(|group| group.timeline.contains_key("firstStep"));
    match status.phase {
        JobPhase::Unknown => Waits::ForCluster,
        _ if status.workers.is_empty() => Waits::ForWorkers,
        _ if stepped => Waits::ForSave,
        _ if any("Training") || any("Joining") => Waits::ForStep,
        _ => Waits::ForAdaptDL,
    }
}

fn describe(checkpoint: &CheckpointStatus) -> String {
    format!(
        "{}: {}, {}, saved in {:.0} ms",
        checkpoint.id,
        checkpoint.size.rounded(),
        count(checkpoint.steps, "step"),
        checkpoint.save_ms
    )
}

fn failure(message: String, hint: String) -> anyhow::Error {
    Hinted { message, hint, status: ExitStatus::Failure }.into()
}

fn taken_back(key: &ObjectKey) -> anyhow::Error {
    let hint = format!("ask once more with `rayconcile checkpoint now {}`", in_namespace(key));
    failure(format!("the wish for a checkpoint of {key} was taken back in the meantime"), hint)
}

fn too_late(key: &ObjectKey, progress: Waits, timeout: Span) -> anyhow::Error {
    let message = format!("there is no new checkpoint of {key} after {timeout}: {}", progress.told());
    Hinted { message, hint: progress.hint(key), status: ExitStatus::TimedOut }.into()
}
