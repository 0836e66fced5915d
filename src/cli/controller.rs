//! `controller`: run the controller.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Context, ExitStatus};
use crate::api::units::{Bytes, Span};
use crate::controller::Controller;
use crate::gitops::{self, Source};
use crate::plan::snapshot::{Machine, Settings};
use crate::server::{Listen, Question, Server};
use crate::store::{Store, StoreError};

mod listen;
mod sources;

use listen::ListenArgs;
use listen::loopback;
use sources::SourceArgs;

/// How long a slot lives without its bridge: long enough for a busy machine, short enough to wait for.
pub(super) const LEASE: Span = Span::from_secs(20);
/// How long a local node may take to join: a second or two on a good day.
const JOIN_TIMEOUT: Span = Span::from_secs(120);

#[derive(Debug, Args)]
pub(super) struct ControllerArgs {
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    listen: ListenArgs,
    /// How long the built-in cluster is kept when no job needs it
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    idle_timeout: Span,
}

/// A controller with its API, running.
pub(super) struct Running {
    pub(super) controller: Controller,
    pub(super) url: String,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Running {
    /// Starts a controller that only this process needs; none if there is one for the state directory.
    pub(super) async fn embedded(state: &Path, built_in_idle: Span) -> Result<Option<Self>> {
        match Self::start(state, loopback(), Vec::new(), gitops::Settings::default(), built_in_idle).await {
            Ok(running) => Ok(Some(running)),
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Locked { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts a controller and its API.
    pub(super) async fn start(
        state: &Path,
        listen: impl Into<Listen>,
        sources: Vec<Source>,
        keeping: gitops::Settings,
        built_in_idle: Span,
    ) -> Result<Self> {
        let store = Store::open(state)?;
        let settings =
            Settings { lease: LEASE, built_in_idle, join_timeout: JOIN_TIMEOUT, machine: machine() };
        let controller = Controller::new(store.clone(), state.to_owned(), settings)?;
        let stop = CancellationToken::new();
        let (sources, mut tasks) = gitops::start(sources, keeping, &store, state, stop.clone())?;
        let server = Server::listen(listen, store, state, sources, stop.clone()).await?;
        let (planner, questions) = mpsc::channel(1);
        let server = server.with_planner(planner);
        let url = server.endpoint().url.clone();
        tasks.push(tokio::spawn(server.serve()));
        tasks.push(tokio::spawn(answer(controller.clone(), questions, stop.clone())));
        let running = controller.clone();
        tasks.push(tokio::spawn(async move { running.run().await }));
        Ok(Self { controller, url, stop, tasks })
    }

    /// Ends it. What trains goes on training.
    pub(super) async fn stop(self) {
        self.controller.stop();
        self.stop.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// Answers whoever asks what a change would come to, one at a time.
async fn answer(controller: Controller, mut questions: mpsc::Receiver<Question>, stop: CancellationToken) {
    while let Some(Some(Question { objects, deletions, answer })) =
        stop.run_until_cancelled(questions.recv()).await
    {
        let controller = controller.clone();
        let work = async move {
            // Who has left in the meantime does not want to know.
            let _ = answer.send(controller.review(objects, deletions).await);
        };
        // A defect of the planner costs this one answer.
        let _ = stop.run_until_cancelled(tokio::spawn(work)).await;
    }
}

pub(super) async fn run(context: &Context, args: ControllerArgs) -> Result<ExitStatus> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let sources = args.sources.sources(context)?;
    let keeping = args.sources.settings()?;
    let names: Vec<String> = sources.iter().map(Source::name).collect();
    let listening = args.listen.listening();
    let running = Running::start(&context.state_dir, listening, sources, keeping, args.idle_timeout).await?;
    context.printer.talk(&format!(
        "controller: state in {}, API at {}",
        context.state_dir.display(),
        running.url
    ));
    for name in names {
        context.printer.talk(&format!("controller: watching {name}"));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    context.printer.talk("controller: stopping; clusters and jobs go on without it");
    running.stop().await;
    Ok(ExitStatus::Success)
}

/// What this machine has, as far as it can be told without asking its GPUs.
fn machine() -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes: u64 =
        total.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0);
    let gpus = (0..).take_while(|number| Path::new(&format!("/dev/nvidia{number}")).exists()).count();
    Machine {
        cpus: u32::try_from(cpus).unwrap_or(1),
        gpus: u32::try_from(gpus).unwrap_or(0),
        // What is left when the head's own processes have theirs.
        memory: Bytes((kibibytes * 1024).saturating_sub(2 << 30).max(1 << 30)),
    }
}
