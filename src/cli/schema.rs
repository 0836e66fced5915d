//! `schema`: print the JSON Schemas of manifests, for editors and other programs.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use super::{Context, ExitStatus, wrong};
use crate::manifest::schemas;

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Which schema: a kind, or `all` for manifests of any kind
    #[arg(default_value = "all")]
    kind: String,
    /// Write all schemas into a directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "kind")]
    write: Option<PathBuf>,
}

pub(super) fn run(context: &Context, args: &SchemaArgs) -> Result<ExitStatus> {
    if let Some(directory) = &args.write {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for (name, schema) in schemas() {
            let path = directory.join(name);
            let text = format!("{}\n", serde_json::to_string_pretty(&schema)?);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        return Ok(ExitStatus::Success);
    }
    let singular =
        crate::api::object::Kind::from_word(&args.kind).map_or(args.kind.as_str(), |kind| kind.singular());
    let wanted = format!("{singular}.json");
    let all = schemas();
    let known: Vec<&str> = all.iter().filter_map(|(name, _)| name.strip_suffix(".json")).collect();
    let found = all.iter().find(|(name, _)| *name == wanted);
    let (_, schema) = found.ok_or_else(|| {
        wrong(format!("there is no schema {:?}; there are {}", args.kind, known.join(", ")))
    })?;
    context.printer.data(&serde_json::to_string_pretty(schema)?);
    Ok(ExitStatus::Success)
}
