//! `apply`: make objects what manifests say.

pub(super) mod prune;
mod settled;

use std::os::unix::fs::DirBuilderExt as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use super::input::{Files, admit, read, send_packages, warn};
use super::sync::warn_of_source;
use super::target::name;
use super::{Context, ExitStatus, wrong};
use crate::api::units::Span;
use crate::client::{Client, ClientError};
use prune::{Prune, surplus};

/// How long a controller may take to start.
const START_PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    files: Files,
    /// Say what would be done, and change nothing
    #[arg(long, value_enum, value_name = "WHERE", num_args = 0..=1, default_missing_value = "client")]
    dry_run: Option<DryRun>,
    #[command(flatten)]
    prune: Prune,
    /// Wait until jobs run and clusters are as wanted
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", requires = "wait")]
    timeout: Span,
    /// Start a controller in the background if none is running
    #[arg(long)]
    start_controller: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DryRun {
    /// Read and check the manifests here
    Client,
    /// Have the controller check them
    Server,
    /// Do it
    None,
}

pub(super) async fn run(context: &Context, args: ApplyArgs) -> Result<ExitStatus> {
    args.prune.check()?;
    let dry_run = args.dry_run.filter(|wanted| *wanted != DryRun::None);
    if args.wait && dry_run.is_some() {
        return Err(wrong("--wait has nothing to wait for where nothing is changed"));
    }
    if args.start_controller && dry_run.is_some() {
        return Err(wrong("--start-controller would change something, and --dry-run is to change nothing"));
    }
    if args.prune.prune && dry_run == Some(DryRun::Client) {
        return Err(wrong("only the controller knows what --prune would delete: use --dry-run=server"));
    }
    let manifests = read(&args.files.files, args.files.recursive, &args.files.namespace)?;
    warn(context, &manifests);
    let packages = tempfile::tempdir().context("cannot make a temporary directory")?;
    let objects = admit(&manifests, packages.path())?;
    if dry_run == Some(DryRun::Client) {
        for object in &objects {
            context.printer.data(&format!("{} checked (dry run)", name(object.kind(), &object.key())));
        }
        return Ok(ExitStatus::Success);
    }
    let client = match connect(context).await {
        Err(ClientError::NoController { .. }) if args.start_controller => start_controller(context).await?,
        other => other?,
    };
    if dry_run.is_none() {
        send_packages(&client, &objects, packages.path()).await?;
    }
    for object in &objects {
        let word = client.apply(object, dry_run.is_some()).await;
        let (word, stored) =
            word.with_context(|| format!("{} was not applied", name(object.kind(), &object.key())))?;
        let note = if dry_run.is_some() { " (server dry run)" } else { "" };
        context.printer.data(&format!("{} {word}{note}", name(object.kind(), &object.key())));
        if word == "configured" && dry_run.is_none() {
            warn_of_source(context, &stored, "change its manifest there");
        }
    }
    for object in surplus(&client, &args.prune, &objects, &args.files.namespace).await? {
        let title = name(object.kind(), &object.key());
        if dry_run.is_some() {
            context.printer.data(&format!("{title} pruned (server dry run)"));
            continue;
        }
        match client.delete(object.kind(), &object.key(), false).await {
            // It has gone by itself.
            Err(error) if error.is_not_found() => {}
            deleted => {
                deleted.with_context(|| format!("{title} was not pruned"))?;
                context.printer.data(&format!("{title} pruned"));
            }
        }
    }
    if args.wait {
        return settled::wait(context, &client, &objects, args.timeout).await;
    }
    Ok(ExitStatus::Success)
}

/// A client of a controller that answers.
async fn connect(context: &Context) -> Result<Client, ClientError> {
    let client = context.client()?;
    client.ping().await?;
    Ok(client)
}

/// Starts a controller that outlives this command, and waits until it answers.
pub(super) async fn start_controller(context: &Context) -> Result<Client> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&context.state_dir)
        .with_context(|| format!("cannot make {}", context.state_dir.display()))?;
    let path = context.state_dir.join("controller.log");
    let log = std::fs::File::options().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("cannot write {}", path.display()))?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = std::process::Command::new(program);
    command.arg("--state-dir").arg(&context.state_dir).arg("controller");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = process_wrap::std::CommandWrap::from(command)
        .wrap(process_wrap::std::ProcessSession)
        .spawn()
        .context("cannot start a controller")?;
    let deadline = tokio::time::Instant::now() + START_PATIENCE;
    loop {
        match connect(context).await {
            Ok(client) => {
                context.printer.talk(&format!(
                    "started a controller (process {}, log in {})",
                    child.id(),
                    path.display()
                ));
                return Ok(client);
            }
            Err(error) => {
                if child.try_wait().context("cannot look after the controller")?.is_some() {
                    let said = std::fs::read_to_string(&path).unwrap_or_default();
                    let error = said.lines().rev().find_map(|line| line.strip_prefix("error: "));
                    let error = error.map_or_else(|| format!("see {}", path.display()), str::to_owned);
                    bail!("the controller did not start: {error}");
                }
                if tokio::time::Instant::now() > deadline {
                    bail!("the controller has started, but {error}; see {}", path.display());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
