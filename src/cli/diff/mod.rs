//! `diff`: what manifests would change, field by field, and what the controller would do about it.

mod fields;
mod page;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::json;

use super::apply::prune::{Prune, surplus};
use super::input::{Files, admit, read, warn};
use super::{Context, ExitStatus, status_of};
use crate::api::object::AnyObject;
use crate::api::review::{ChangeKind, ObjectName, Proposal, Review};
use crate::client::Client;
use fields::{FieldChange, changes};

pub(super) const EXAMPLES: &str = "\
Examples:
  rayconcile diff -f jobs/                      what applying a directory would come to
  rayconcile diff -f jobs/ -R --prune -l team=vision
                                                with what would be deleted
  rayconcile diff -f job.yaml -o json | jq '.clusters[].perHour'
                                                for programs
  kustomize build | rayconcile diff -f -        from standard input

Exit codes: 0 nothing would change; 1 something would; 2 or more: it cannot be said.";

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    prune: Prune,
    /// How to print it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// JSON
    Json,
}

pub(super) async fn run(context: &Context, args: DiffArgs) -> Result<ExitStatus> {
    match look(context, &args).await {
        // 1 says that there are differences.
        Err(error) if status_of(&error) == ExitStatus::Failure => {
            context.printer.error(&error);
            Ok(ExitStatus::Usage)
        }
        other => other,
    }
}

async fn look(context: &Context, args: &DiffArgs) -> Result<ExitStatus> {
    args.prune.check()?;
    let manifests = read(&args.files.files, args.files.recursive, &args.files.namespace)?;
    warn(context, &manifests);
    let packages = tempfile::tempdir()?;
    let objects = admit(&manifests, packages.path())?;
    let client = context.client()?;
    let proposal = propose(&client, args, &objects).await?;
    let review = client.review(&proposal).await?;
    let refused = review.objects.iter().any(|object| object.change == ChangeKind::Refused);
    let differs = review.objects.iter().any(|object| object.change != ChangeKind::Unchanged);
    match args.output {
        Output::Json => context.printer.data(&serde_json::to_string_pretty(&document(&review))?),
        Output::Text if !differs => {}
        Output::Text => context.printer.data(&page::page(context.printer, &review)),
    }
    Ok(match (refused, differs) {
        (true, _) => ExitStatus::Usage,
        (false, true) => ExitStatus::Differs,
        (false, false) => ExitStatus::Success,
    })
}

async fn propose(client: &Client, args: &DiffArgs, objects: &[AnyObject]) -> Result<Proposal> {
    let surplus = surplus(client, &args.prune, objects, &args.files.namespace).await?;
    let deletions = surplus.iter().map(|object| ObjectName { kind: object.kind(), key: object.key() });
    Ok(Proposal { objects: objects.iter().map(AnyObject::to_json).collect(), deletions: deletions.collect() })
}

/// The review as programs get it: with fields in the place of whole objects, and without secrets.
fn document(review: &Review) -> serde_json::Value {
    let field = |FieldChange { path, before, after }: FieldChange| json!({"path": path, "before": before, "after": after});
    let objects = review.objects.iter().map(|object| {
        let fields: Vec<_> = changes(object).into_iter().map(field).collect();
        let name = &object.name;
        let mut told = json!({
            "kind": name.kind, "namespace": name.key.namespace, "name": name.key.name, "change": object.change,
            "fields": fields,
        });
        if let Some(message) = &object.message {
            told["message"] = json!(message);
        }
        told
    });
    json!({"objects": objects.collect::<Vec<_>>(), "clusters": review.clusters})
}
