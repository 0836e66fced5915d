//! What runs on the head of a cluster for a job of which only the dashboard can be reached from outside. Nobody types
//! it: `adaptdl_on_ray_aws` and `attach` have Ray run it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;

use super::attend::Attendance;
use super::printer::Printer;
use super::submission::cluster;
use super::voice::Voice;
use super::{Context, ExitStatus, conclude};
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey};
use crate::api::object::AnyObject;
use crate::launcher;
use crate::launcher::hosting::{HOSTED_CLUSTER, checkpoint_file};

/// Ray kills a job that it was asked to stop after 3 s (`RAY_JOB_STOP_WAIT_TIME_S`). The bridge, once it has been told,
/// saves and stops the workers alone.
const STOP_WITHIN: Duration = Duration::from_millis(2500);

/// The name under which this program is that.
pub(super) const NAME: &str = "rayconcile-hosted";

/// Attend to a job on the head of its cluster
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Arguments {
    /// The directory with the controller's state
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// The job's name
    name: String,
    /// The job, with its package beside it, unless this state directory has it
    #[arg(long, value_name = "FILE")]
    job: Option<PathBuf>,
    /// Have a job that was stopped go on
    #[arg(long)]
    resume: bool,
    /// The address of this cluster's dashboard
    #[arg(long, value_name = "URL")]
    dashboard: String,
    /// The directory of Ray's session
    #[arg(long, value_name = "DIR")]
    session: PathBuf,
}

/// Does it to its end.
pub(super) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let context = Context { state_dir: arguments.state_dir.clone(), printer: Printer::new() };
    super::start_tracing(0, false);
    conclude(&context, run(&context, &arguments))
}

async fn run(context: &Context, args: &Arguments) -> Result<ExitStatus> {
    let voice = Arc::new(Voice::marked(context.printer));
    let outcome = attend(context, args, &voice).await;
    Ok(outcome.unwrap_or_else(|error| {
        voice.status(&format!("error: {error:#}"));
        ExitStatus::Failure
    }))
}

async fn attend(context: &Context, args: &Arguments, voice: &Arc<Voice>) -> Result<ExitStatus> {
    // Everything before the first such line is Ray's own.
    voice.status(&format!("attending to {} on the head", args.name));
    let (_, auth) = launcher::connect(&args.dashboard).await?;
    let job = args.job.as_deref().map(read).transpose()?;
    let packages = args.job.as_deref().and_then(|file| file.parent()).unwrap_or(Path::new("."));
    let attendance = Attendance {
        context,
        voice: voice.clone(),
        cluster: cluster(HOSTED_CLUSTER, &args.dashboard, auth)?,
        key: ObjectKey::new(DEFAULT_NAMESPACE, &args.name),
        job,
        packages: packages.to_owned(),
        resume: args.resume,
        position: Some(context.state_dir.join(format!("shown-{}.json", args.name))),
        stop_within: Some(STOP_WITHIN),
        // Ray's dashboard gives files of that directory.
        offer: Some(args.session.join("logs").join(checkpoint_file(&args.name))),
    };
    Ok(attendance.attend().await?.status())
}

fn read(file: &Path) -> Result<AnyObject> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let value = serde_json::from_str(&text)?;
    AnyObject::from_json(value).with_context(|| format!("{} is no job", file.display()))
}
