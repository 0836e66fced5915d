//! `man`: manual pages.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;

use super::{Context, ExitStatus};

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write the pages of all verbs into a directory instead
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

pub(super) fn run(context: &Context, args: &ManArgs) -> Result<ExitStatus> {
    if let Some(directory) = &args.write {
        let cannot = || format!("cannot write {}", directory.display());
        std::fs::create_dir_all(directory).with_context(cannot)?;
        clap_mangen::generate_to(super::command(), directory).with_context(cannot)?;
        return Ok(ExitStatus::Success);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(super::command()).render(&mut page).context("cannot write the page")?;
    context.printer.raw(&String::from_utf8_lossy(&page));
    Ok(ExitStatus::Success)
}
