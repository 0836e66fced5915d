//! `checkpoint inspect`: what is in a checkpoint, and how two differ.

mod page;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, ValueEnum};
use clap_complete::{ArgValueCompleter, CompletionCandidate, PathCompleter, engine::ValueCompleter as _};
use serde_json::{Map, Value, json};

use super::super::{Context, ExitStatus, Hinted, complete, status_of, wrong};
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey};
use crate::api::record::CheckpointRecord;
use crate::inspect::{Checkpoint, Diff, Tensor, TensorChange, TensorDiff, ValueChange};

pub(super) const EXAMPLES: &str = "Examples:
  rayconcile checkpoint inspect cifar               a job's newest checkpoint
  rayconcile checkpoint inspect cifar 3-1           another of it, as `ls` names it
  rayconcile checkpoint inspect saved/checkpoint-3  what `get` has fetched
  rayconcile checkpoint inspect ./model.pt          a file of torch's
  rayconcile checkpoint inspect --diff cifar:3-1 cifar:4-1
  rayconcile checkpoint inspect --diff cifar ./baseline.safetensors -o json

A PATH has a `/` in it, or ends in .pt, .pth, .safetensors or .tar; anything else is a JOB.
Norms are of the numbers that are finite. Neither torch nor Python is needed, and nothing that a
checkpoint would have Python do is done: such a call is shown as it stands there.

Exit codes of --diff: 0 they are alike; 1 they differ; 2 or more: it cannot be said.";

/// How the names of files end that can be looked into.
const ENDS: [&str; 4] = [".pt", ".pth", ".safetensors", ".tar"];

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// A job, or JOB:ID for another checkpoint than its newest; or a directory, file or archive
    #[arg(value_name = "JOB|PATH", add = ArgValueCompleter::new(targets))]
    target: String,
    /// Which one of the job, as `ls` names it; with --diff, what to compare with
    #[arg(value_name = "ID|OTHER", add = ArgValueCompleter::new(targets))]
    other: Option<String>,
    /// Show how two checkpoints differ
    #[arg(long, requires = "other")]
    diff: bool,
    /// How to print it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// JSON
    Json,
}

/// A checkpoint, and where it comes from.
struct Subject {
    /// What it is called in what is printed.
    name: String,
    /// The job's record of it, if it is a job's.
    record: Option<CheckpointRecord>,
    checkpoint: Checkpoint,
}

pub(super) async fn run(context: &Context, args: InspectArgs) -> Result<ExitStatus> {
    if !args.diff {
        return show(context, &args).await;
    }
    match compare(context, &args).await {
        // 1 says that there are differences.
        Err(error) if status_of(&error) == ExitStatus::Failure => {
            context.printer.error(&error);
            Ok(ExitStatus::Usage)
        }
        other => other,
    }
}

async fn show(context: &Context, args: &InspectArgs) -> Result<ExitStatus> {
    let target = match &args.other {
        Some(id) if path(&args.target).is_none() => format!("{}:{id}", args.target),
        Some(_) => return Err(wrong("only a job has more than one checkpoint; `--diff` compares two")),
        None => args.target.clone(),
    };
    let subject = read(context, &target, &args.namespace).await?;
    match args.output {
        Output::Json => context.printer.data(&serde_json::to_string_pretty(&document(&subject))?),
        Output::Text => context.printer.data(&page::checkpoint(context.printer, &subject)),
    }
    Ok(ExitStatus::Success)
}

async fn compare(context: &Context, args: &InspectArgs) -> Result<ExitStatus> {
    let before = read(context, &args.target, &args.namespace).await?;
    let after = read(context, args.other.as_deref().unwrap_or_default(), &args.namespace).await?;
    let diff = before.checkpoint.diff(&after.checkpoint);
    match args.output {
        Output::Json => {
            let document = differences(&before, &after, &diff);
            context.printer.data(&serde_json::to_string_pretty(&document)?);
        }
        Output::Text => context.printer.data(&page::diff(context.printer, &before, &after, &diff)),
    }
    let mut whole = true;
    for subject in [&before, &after] {
        for file in &subject.checkpoint.files {
            if let Some(problem) = &file.problem {
                context
                    .printer
                    .warn(&format!("of {} of {} not all was read: {problem}", file.name, subject.name));
                whole = false;
            }
        }
    }
    Ok(match (whole, diff.is_empty()) {
        (false, _) => ExitStatus::Usage,
        (true, false) => ExitStatus::Differs,
        (true, true) => ExitStatus::Success,
    })
}

/// The path that a word means, if it means none of a job's checkpoints.
fn path(word: &str) -> Option<PathBuf> {
    let is_path =
        word.contains('/') || word == "." || word == ".." || ENDS.iter().any(|end| word.ends_with(end));
    is_path.then(|| PathBuf::from(word))
}

async fn read(context: &Context, target: &str, namespace: &str) -> Result<Subject> {
    if let Some(path) = path(target) {
        return Ok(Subject { name: target.to_owned(), record: None, checkpoint: Checkpoint::read(&path)? });
    }
    fetch(context, target, namespace).await.map_err(|error| hinted(error, target))
}

async fn fetch(context: &Context, target: &str, namespace: &str) -> Result<Subject> {
    let (job, id) = target.split_once(':').map_or((target, None), |(job, id)| (job, Some(id)));
    let key = ObjectKey::new(namespace, job);
    let id = id.map(super::parse).transpose()?;
    let client = context.client()?;
    let mut all = client.checkpoints(&key).await?;
    let record = match id {
        None => all.pop().ok_or_else(|| anyhow!("{key} has no checkpoints yet"))?,
        Some(id) => {
            let found = all.into_iter().find(|record| record.id == id);
            found.ok_or_else(|| anyhow!("{key} has no checkpoint {id}; `checkpoint ls` lists them"))?
        }
    };
    let archive =
        tempfile::Builder::new().suffix(".tar").tempfile().context("cannot make a temporary file")?;
    client.fetch_checkpoint(&key, record.id, archive.path()).await?;
    let checkpoint = Checkpoint::read(archive.path())
        .with_context(|| format!("cannot look into checkpoint {} of {key}", record.id))?;
    Ok(Subject { name: format!("{key} {}", record.id), record: Some(record), checkpoint })
}

/// Who has named a file as a job is told how to name it.
fn hinted(error: anyhow::Error, target: &str) -> anyhow::Error {
    if !Path::new(target).exists() {
        return error;
    }
    let status = status_of(&error);
    Hinted { message: error.to_string(), hint: format!("./{target} names the file or directory"), status }
        .into()
}

/// Jobs, and files.
fn targets(current: &std::ffi::OsStr) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    let jobs =
        complete::jobs().into_iter().filter(|job| job.get_value().to_string_lossy().starts_with(&*begun));
    jobs.chain(PathCompleter::any().complete(current)).collect()
}

/// A checkpoint for programs.
fn document(subject: &Subject) -> Value {
    let Checkpoint { files, training, values, tensors, .. } = &subject.checkpoint;
    let files = files.iter().map(|file| {
        let mut told =
            json!({"name": file.name, "size": file.size, "sha256": file.sha256, "format": file.format.word()});
        if let Some(problem) = &file.problem {
            told["problem"] = json!(problem);
        }
        told
    });
    let training: Map<String, Value> =
        training.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let values: Map<String, Value> = values.iter().cloned().collect();
    json!({
        "source": source(subject),
        "files": files.collect::<Vec<_>>(),
        "training": training,
        "values": values,
        "tensors": tensors.iter().map(tensor).collect::<Vec<_>>(),
    })
}

fn source(subject: &Subject) -> Value {
    match &subject.record {
        None => json!({"path": subject.checkpoint.path, "group": subject.checkpoint.group}),
        Some(record) => json!({
            "job": subject.name.split(' ').next(), "id": record.id.to_string(), "group": record.id.group,
            "size": record.size.0, "digest": record.digest, "saved": record.saved, "steps": record.steps,
        }),
    }
}

fn tensor(tensor: &Tensor) -> Value {
    let mut told = json!({"name": tensor.name, "type": tensor.dtype.name(), "shape": tensor.shape});
    match tensor.stats() {
        Ok(stats) => {
            told["norm"] = json!(stats.norm);
            told["nan"] = json!(stats.nan);
            told["inf"] = json!(stats.inf);
        }
        Err(problem) => told["problem"] = json!(problem),
    }
    told
}

/// How two checkpoints differ, for programs.
fn differences(before: &Subject, after: &Subject, diff: &Diff) -> Value {
    let value = |change: &ValueChange| {
        let ValueChange { name, before, after } = change;
        json!({"name": name, "before": before, "after": after})
    };
    let tensor = |TensorDiff { name, change }: &TensorDiff| match change {
        TensorChange::OnlyBefore(kind) => json!({"name": name, "change": "removed", "before": kind}),
        TensorChange::OnlyAfter(kind) => json!({"name": name, "change": "added", "after": kind}),
        TensorChange::Kind(a, b) => json!({"name": name, "change": "kind", "before": a, "after": b}),
        TensorChange::Unread(problem) => json!({"name": name, "change": "unread", "problem": problem}),
        TensorChange::Numbers { difference, norm } => json!({
            "name": name, "change": "numbers", "norm": difference.norm, "relative": relative(difference.norm, *norm),
            "largest": difference.largest, "elements": difference.elements, "notFinite": difference.not_finite,
        }),
    };
    json!({
        "before": source(before),
        "after": source(after),
        "values": diff.values.iter().map(value).collect::<Vec<_>>(),
        "tensors": diff.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "alike": {"values": diff.same_values, "tensors": diff.same_tensors},
    })
}

/// A difference beside what was there; none if that was nothing.
fn relative(difference: f64, norm: f64) -> Option<f64> {
    (norm > 0.0).then(|| difference / norm)
}
