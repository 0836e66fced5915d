//! `checkpoint`: list a job's checkpoints, fetch one, have one made now, or look inside.

mod inspect;
mod now;

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;

use super::complete;
use super::text::{age, table};
use super::{Context, ExitStatus, wrong};
use crate::api::ids::CheckpointId;
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey};

#[derive(Debug, Args)]
pub(super) struct CheckpointArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List a job's durable checkpoints, oldest first
    Ls {
        /// The job; a deleted one's are kept for a week
        #[arg(add = ArgValueCandidates::new(complete::jobs))]
        job: String,
        /// The namespace
        #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
        namespace: String,
    },
    /// Have a job saved at once, while it goes on training, and wait until that checkpoint is durable
    #[command(after_help = now::EXAMPLES)]
    Now(now::NowArgs),
    /// Look inside a checkpoint: how far training was, and all its tensors; or compare two
    #[command(after_help = inspect::EXAMPLES)]
    Inspect(inspect::InspectArgs),
    /// Fetch a checkpoint into a directory
    Get {
        /// The job
        #[arg(add = ArgValueCandidates::new(complete::jobs))]
        job: String,
        /// Which one, as `ls` names it; by default the newest
        id: Option<String>,
        /// The directory to put it in
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        output: PathBuf,
        /// The namespace
        #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
        namespace: String,
    },
}

pub(super) async fn run(context: &Context, args: CheckpointArgs) -> Result<ExitStatus> {
    match args.what {
        What::Now(args) => now::run(context, args).await,
        What::Inspect(args) => inspect::run(context, args).await,
        What::Ls { job, namespace } => list(context, &ObjectKey::new(namespace, job)).await,
        What::Get { job, id, output, namespace } => {
            get(context, &ObjectKey::new(namespace, job), id, output).await
        }
    }
}

async fn list(context: &Context, key: &ObjectKey) -> Result<ExitStatus> {
    let checkpoints = context.client()?.checkpoints(key).await?;
    if checkpoints.is_empty() {
        context.printer.talk(&format!("{key} has no checkpoints yet"));
        return Ok(ExitStatus::Success);
    }
    let rows: Vec<Vec<String>> = checkpoints
        .iter()
        .map(|checkpoint| {
            vec![
                checkpoint.id.to_string(),
                age(checkpoint.saved),
                checkpoint.size.rounded(),
                checkpoint.files.to_string(),
                checkpoint.steps.to_string(),
                format!("{:.0}ms", checkpoint.save_ms),
                checkpoint.digest.short().to_owned(),
            ]
        })
        .collect();
    context.printer.table(&table("", &["ID", "AGE", "SIZE", "FILES", "STEPS", "SAVED IN", "DIGEST"], &rows));
    Ok(ExitStatus::Success)
}

async fn get(context: &Context, key: &ObjectKey, id: Option<String>, output: PathBuf) -> Result<ExitStatus> {
    let client = context.client()?;
    let id = match id {
        Some(text) => parse(&text)?,
        None => {
            let newest = client.checkpoints(key).await?.pop();
            newest.ok_or_else(|| anyhow!("{key} has no checkpoints yet"))?.id
        }
    };
    let archive = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    client.fetch_checkpoint(key, id, archive.path()).await?;
    let file = std::fs::File::open(archive.path()).context("cannot read what was fetched")?;
    std::fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    tar::Archive::new(file)
        .unpack(&output)
        .with_context(|| format!("cannot unpack into {}", output.display()))?;
    context.printer.data(&output.join(format!("checkpoint-{}", id.group)).display().to_string());
    Ok(ExitStatus::Success)
}

fn parse(text: &str) -> Result<CheckpointId> {
    text.parse().map_err(|()| wrong(format!("{text:?} is no checkpoint; `checkpoint ls` lists them")))
}
