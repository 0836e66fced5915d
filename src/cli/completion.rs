//! `completion`: print a shell's completion script.

use anyhow::Result;
use clap::{Args, CommandFactory as _};

use super::{Cli, Context, ExitStatus};

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: clap_complete::Shell,
}

pub(super) fn run(context: &Context, args: &CompletionArgs) -> Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rayconcile", &mut script);
    context.printer.raw(&String::from_utf8_lossy(&script));
    Ok(ExitStatus::Success)
}
