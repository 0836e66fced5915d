//! `completion`: print what makes a shell ask this program for completions.

use anyhow::{Context as _, Result};
use clap::Args;
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh};

use super::{Context, ExitStatus};

/// The variable by which a shell says that it asks for completions.
const VARIABLE: &str = "COMPLETE";

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell
    shell: clap_complete::Shell,
}

pub(super) fn run(context: &Context, args: &CompletionArgs) -> Result<ExitStatus> {
    let shell: &dyn EnvCompleter = match args.shell {
        clap_complete::Shell::Bash => &Bash,
        clap_complete::Shell::Elvish => &Elvish,
        clap_complete::Shell::Fish => &Fish,
        clap_complete::Shell::PowerShell => &Powershell,
        _ => &Zsh,
    };
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "rayconcile", "rayconcile", "rayconcile", &mut script)
        .context("cannot write the script")?;
    context.printer.raw(&String::from_utf8_lossy(&script));
    Ok(ExitStatus::Success)
}
