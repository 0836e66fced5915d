//! The command line: one file for each verb. Data goes to standard output, talk to standard error.

mod adaptdl_on_ray_aws;
mod apply;
mod attach;
mod attend;
mod checkpoint;
mod clusters;
mod complete;
mod completion;
mod controller;
mod convert;
mod delete;
mod describe;
mod diff;
mod events;
mod examples;
mod explain;
mod get;
mod hosted;
mod input;
mod kubeconfig;
mod logs;
mod man;
mod printer;
mod run;
mod schema;
mod signals;
mod status;
mod submission;
mod suspend;
mod sync;
mod target;
mod template;
mod text;
mod token;
mod validate;
mod version;
mod voice;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::api::meta::DEFAULT_NAMESPACE;
use crate::client::{Client, ClientError};
use printer::Printer;

/// How a command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It did what was asked (0).
    Success,
    /// It could not, or the job failed (1).
    Failure,
    /// `diff` found differences (1).
    Differs,
    /// The arguments or manifests are wrong (2).
    Usage,
    /// No controller is running (3).
    NoController,
    /// What was waited for did not come in time (124, as timeout(1)).
    TimedOut,
    /// It was interrupted (130, as shells say of SIGINT).
    Interrupted,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Success => 0,
            ExitStatus::Failure | ExitStatus::Differs => 1,
            ExitStatus::Usage => 2,
            ExitStatus::NoController => 3,
            ExitStatus::TimedOut => 124,
            ExitStatus::Interrupted => 130,
        })
    }
}

/// Elastic AdaptDL training on Ray, declared in YAML.
#[derive(Debug, Parser)]
#[command(
    name = "rayconcile",
    version,
    about,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 done; 1 failed, or the job failed; 2 wrong arguments or manifests; \
                  3 no controller is running; 124 waited too long; 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Globals {
    /// The directory with the controller's state
    #[arg(long, global = true, value_name = "DIR", env = "RAYCONCILE_STATE_DIR", default_value_os_t = default_state_dir())]
    state_dir: PathBuf,
    /// Say more of what is done (twice: even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a job to its end, with a controller of its own if none is running
    Run(run::RunArgs),
    /// Run the controller
    Controller(controller::ControllerArgs),
    /// Make objects what manifests say
    Apply(apply::ApplyArgs),
    /// Show what manifests would change, and what would be done about it
    #[command(after_help = diff::EXAMPLES)]
    Diff(diff::DiffArgs),
    /// Show objects
    Get(get::GetArgs),
    /// Show everything of an object: state, history, events
    Describe(describe::DescribeArgs),
    /// Show clusters, nodes and jobs: what is wanted, what is there, what is being done
    Status(status::StatusArgs),
    /// Delete objects; jobs are checkpointed and stopped first
    Delete(delete::DeleteArgs),
    /// Show what a job's workers have written
    Logs(logs::LogsArgs),
    /// Show what happened
    Events(events::EventsArgs),
    /// Wait until an object is as wanted
    Wait(wait::WaitArgs),
    /// Checkpoint a job, or a cluster's jobs, and free everything used
    Suspend(suspend::SuspendArgs),
    /// Let a suspended job or cluster go on
    Resume(suspend::SuspendArgs),
    /// Show, pause, resume or confirm what comes from watched directories and repositories
    #[command(after_help = sync::EXAMPLES)]
    Sync(sync::SyncArgs),
    /// Say what is wrong with manifests, changing nothing
    Validate(validate::ValidateArgs),
    /// Say what a field of a manifest means
    Explain(explain::ExplainArgs),
    /// Print the JSON Schemas of manifests
    Schema(schema::SchemaArgs),
    /// Make a manifest of a `ray up` configuration, or of an old AdaptDLJob
    #[command(after_help = convert::EXAMPLES)]
    Convert(convert::ConvertArgs),
    /// List a job's checkpoints, fetch one, have one made now, or look inside
    Checkpoint(checkpoint::CheckpointArgs),
    /// Find clusters on EC2 by their tags, adopt one, or destroy one
    #[command(after_help = clusters::EXAMPLES)]
    Clusters(clusters::ClustersArgs),
    /// Follow a job whose controller runs inside its Ray cluster, or list such jobs
    #[command(after_help = attach::EXAMPLES)]
    Attach(attach::AttachArgs),
    /// Print a kubeconfig, with which kubectl finds the controller
    #[command(after_help = kubeconfig::EXAMPLES)]
    Kubeconfig(kubeconfig::KubeconfigArgs),
    /// Give out tokens for the API, list them, take them back
    #[command(after_help = token::EXAMPLES)]
    Token(token::TokenArgs),
    /// Print a shell's completion script
    Completion(completion::CompletionArgs),
    /// Print the manual page
    Man(man::ManArgs),
    /// Print the versions of this program and of the running controller
    Version(version::VersionArgs),
}

/// In which namespaces to look.
#[derive(Debug, Args)]
struct Scope {
    /// The namespace
    #[arg(short, long, value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl Scope {
    /// The one namespace, or none for all.
    fn namespace(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(self.namespace.as_str())
    }
}

/// The arguments are well formed, but do not fit together or name what there is not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongArguments(String);

/// An error of whoever typed the arguments.
fn wrong(message: impl Into<String>) -> anyhow::Error {
    WrongArguments(message.into()).into()
}

/// An error of which it is known what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Hinted {
    message: String,
    hint: String,
    status: ExitStatus,
}

/// What a verb needs of the command line's beginning.
struct Context {
    state_dir: PathBuf,
    printer: Printer,
}

impl Context {
    /// A client of the running controller.
    fn client(&self) -> Result<Client, ClientError> {
        Client::find(&self.state_dir)
    }
}

/// Follows the XDG base directories: state belongs to `$XDG_STATE_HOME`, by default `~/.local/state`.
fn default_state_dir() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state.or_else(home).unwrap_or_else(std::env::temp_dir).join("rayconcile")
}

/// The command line, with everything that is said of it.
fn command() -> Command {
    examples::add(Cli::command())
}

fn parse() -> Cli {
    let matches = command().get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command()).exit())
}

/// Runs the command line to its end: the one that belongs to the name under which this program was started.
pub fn main() -> ExitCode {
    let invoked = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    match invoked.file_stem().and_then(|name| name.to_str()) {
        Some(adaptdl_on_ray_aws::NAME) => return adaptdl_on_ray_aws::main(),
        Some(hosted::NAME) => return hosted::main(),
        _ => {}
    }
    clap_complete::CompleteEnv::with_factory(command).complete();
    let cli = parse();
    let printer = Printer::new();
    start_tracing(cli.globals.verbose, matches!(cli.verb, Verb::Controller(_)));
    let state_dir = std::path::absolute(&cli.globals.state_dir).unwrap_or(cli.globals.state_dir);
    let context = Context { state_dir, printer };
    conclude(&context, dispatch(&context, cli.verb))
}

/// Does something to its end, and tells what went wrong.
fn conclude(context: &Context, work: impl Future<Output = anyhow::Result<ExitStatus>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            context.printer.error(&error.into());
            return ExitStatus::Failure.into();
        }
    };
    let outcome = runtime.block_on(work);
    // What still runs on threads, such as a look at a slow disk, is not waited for.
    runtime.shutdown_background();
    let status = outcome.unwrap_or_else(|error| {
        context.printer.error(&error);
        status_of(&error)
    });
    status.into()
}

fn status_of(error: &anyhow::Error) -> ExitStatus {
    if let Some(Hinted { status, .. }) = error.downcast_ref() {
        *status
    } else if error
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(ClientError::NoController { .. })))
    {
        ExitStatus::NoController
    } else if error.is::<input::InvalidManifests>() || error.is::<WrongArguments>() {
        ExitStatus::Usage
    } else {
        ExitStatus::Failure
    }
}

async fn dispatch(context: &Context, verb: Verb) -> anyhow::Result<ExitStatus> {
    match verb {
        Verb::Run(args) => run::run(context, args).await,
        Verb::Controller(args) => controller::run(context, args).await,
        Verb::Apply(args) => apply::run(context, args).await,
        Verb::Diff(args) => diff::run(context, args).await,
        Verb::Get(args) => get::run(context, args).await,
        Verb::Describe(args) => describe::run(context, args).await,
        Verb::Status(args) => status::run(context, args).await,
        Verb::Delete(args) => delete::run(context, args).await,
        Verb::Logs(args) => logs::run(context, args).await,
        Verb::Events(args) => events::run(context, args).await,
        Verb::Wait(args) => wait::run(context, args).await,
        Verb::Suspend(args) => suspend::run(context, args, true).await,
        Verb::Resume(args) => suspend::run(context, args, false).await,
        Verb::Sync(args) => sync::run(context, args).await,
        Verb::Validate(args) => validate::run(context, &args),
        Verb::Schema(args) => schema::run(context, &args),
        Verb::Convert(args) => convert::run(context, &args),
        Verb::Checkpoint(args) => checkpoint::run(context, args).await,
        Verb::Clusters(args) => clusters::run(context, args).await,
        Verb::Attach(args) => attach::run(context, args).await,
        Verb::Kubeconfig(args) => kubeconfig::run(context, args).await,
        Verb::Token(args) => token::run(context, args).await,
        Verb::Completion(args) => completion::run(context, &args),
        Verb::Explain(args) => explain::run(context, &args),
        Verb::Man(args) => man::run(context, &args),
        Verb::Version(args) => version::run(context, args).await,
    }
}

/// The log goes to standard error. `RUST_LOG` overrides how much of it.
fn start_tracing(verbose: u8, controller: bool) {
    let level = match (verbose, controller) {
        (0, false) => "off",
        (0, true) | (1, false) => "rayconcile=info",
        (1, true) | (2, false) => "rayconcile=debug",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).with_target(false).init();
}
