//! `convert`: make a manifest of a `ray up` configuration, or of a job of AdaptDL's own operator.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use super::input::InvalidManifests;
use super::{Context, ExitStatus, wrong};
use crate::api::meta::name_problem;
use crate::convert::{Conversion, convert};
use crate::manifest::collect;

pub(super) const EXAMPLES: &str = "\
Examples:
  rayconcile convert cluster.yaml                     to look at it
  rayconcile convert cluster.yaml -o gpu.yaml         into a file
  rayconcile convert - --name gpu <cluster.yaml       from standard input, with another name
  rayconcile convert adaptdljob.yaml                  an AdaptDLJob of adaptdl.petuum.com/v1";

#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// The configuration, for AWS, or the old AdaptDLJob; - for standard input
    file: PathBuf,
    /// The cluster's or job's name; by default the one that it has
    #[arg(long)]
    name: Option<String>,
    /// The file to write the manifest to; by default standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(context: &Context, args: &ConvertArgs) -> Result<ExitStatus> {
    if let Some((name, problem)) = args.name.as_ref().and_then(|name| Some((name, name_problem(name)?))) {
        return Err(wrong(format!("--name {name:?}: a name {problem}")));
    }
    if args.file.is_dir() {
        return Err(wrong(format!("{} is a directory; name one file", args.file.display())));
    }
    let (mut sources, problems) = collect(std::slice::from_ref(&args.file), false);
    let Some(source) = sources.pop() else { return Err(InvalidManifests { problems }.into()) };
    let conversion =
        convert(source, args.name.as_deref()).map_err(|problems| InvalidManifests { problems })?;
    match &args.output {
        None => context.printer.data(&conversion.manifest),
        Some(output) => write(args, output, &conversion)?,
    }
    for advice in &conversion.advice {
        context.printer.warn(advice);
    }
    match conversion.comments {
        0 => {}
        1 => context.printer.talk("1 setting has no equivalent; it is a comment in the manifest"),
        count => {
            context
                .printer
                .talk(&format!("{count} settings have no equivalent; they are comments in the manifest"));
        }
    }
    Ok(ExitStatus::Success)
}

/// Writes the manifest, but not over what it is made from.
fn write(args: &ConvertArgs, output: &Path, conversion: &Conversion) -> Result<()> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(output).is_some_and(|output| real(&args.file) == Some(output)) {
        return Err(wrong(format!("{} would be overwritten; name another file", output.display())));
    }
    std::fs::write(output, &conversion.manifest).with_context(|| format!("cannot write {}", output.display()))
}
