//! `validate`: say what is wrong with manifests.

use anyhow::Result;
use clap::Args;

use super::input::{Files, InvalidManifests, read, warn};
use super::target::name;
use super::{Context, ExitStatus};

#[derive(Debug, Args)]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    files: Files,
}

pub(super) fn run(context: &Context, args: &ValidateArgs) -> Result<ExitStatus> {
    let manifests = read(&args.files.files, args.files.recursive, &args.files.namespace)?;
    warn(context, &manifests);
    let problems: Vec<_> = manifests.iter().flat_map(crate::manifest::Manifest::validate).collect();
    if !problems.is_empty() {
        return Err(InvalidManifests { problems }.into());
    }
    for manifest in &manifests {
        let object = &manifest.object;
        context.printer.data(&format!("{} is valid", name(object.kind(), &object.key())));
    }
    Ok(ExitStatus::Success)
}
