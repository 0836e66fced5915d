//! The command line of AdaptDL on Ray: its flags, mapped onto a job of ours. It blocks, its output is the workers', and
//! its exit code the job's.
//!
//! Where the agent's port of the cluster cannot be reached from here, or with `--detach`, what attends to the job runs
//! on the head instead (`launcher`), and this only follows it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser;

use super::attach::{self, OnInterrupt, Subject};
use super::attend::{Attendance, End};
use super::printer::Printer;
use super::submission::{Submission, cluster, dashboard_of, name_of, name_of_cluster, script};
use super::voice::Voice;
use super::{Context, ExitStatus, conclude, default_state_dir};
use crate::api::cluster::{Auth, agent_port};
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey};
use crate::api::object::AnyObject;
use crate::launcher::hosting::{self, HOSTED_CLUSTER};
use crate::launcher::{self, probe};
use crate::provider::ray::dashboard::Dashboard;

/// The name under which this program is that command line.
pub(super) const NAME: &str = "adaptdl_on_ray_aws";

const EXAMPLES: &str = "\
Examples:
  adaptdl_on_ray_aws -u ray://head:10001 -f main.py -m 8 -d . -- --epochs 90
  adaptdl_on_ray_aws -u http://head:8265 -f main.py -m 8 -d . --gpus 0 --detach
  rayconcile attach --uri http://head:8265

Ray's token, if the cluster asks for one, is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
Ctrl-C checkpoints and stops the job; after the end of the terminal it goes on. Under nohup this goes on, too.
Exit codes: 0 the job has succeeded; 1 it has failed; 2 wrong arguments; 130 interrupted.";

/// AdaptDL on Ray: train elastically on a Ray cluster
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100, after_help = EXAMPLES)]
// As argparse has it: the beginning of a flag is enough, and of one that is given twice the last counts.
#[command(infer_long_args = true, args_override_self = true)]
struct Arguments {
    /// The script to run, relative to --working-dir
    #[arg(short, long)]
    file: PathBuf,
    /// The Ray cluster: ray://HEAD:10001, or its dashboard's address, http://HEAD:8265
    #[arg(short, long)]
    uri: String,
    /// Never more workers than this
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_cluster_size: u32,
    /// The directory with the script, which is brought to the workers
    #[arg(short = 'd', long, value_name = "DIR")]
    working_dir: PathBuf,
    /// CPUs of each worker
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// GPUs of each worker
    #[arg(long, value_name = "N", default_value_t = 1)]
    gpus: u32,
    /// Of no meaning any more: workers take ports that are free
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u32,
    /// How long the first worker may take to hand a checkpoint over; then the one before is used
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    checkpoint_timeout: u64,
    /// How long to wait for wanted nodes, before going on with those that are there
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    cluster_rescale_timeout: u64,
    /// Do not wait: the job goes on in the cluster, and `rayconcile attach` shows it
    #[arg(long)]
    detach: bool,
    /// Arguments of the script; those that begin with a dash go after `--`
    #[arg(trailing_var_arg = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

/// Runs that command line to its end.
pub(super) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let state = std::env::var_os("RAYCONCILE_STATE_DIR").map_or_else(default_state_dir, PathBuf::from);
    let state_dir = std::path::absolute(&state).unwrap_or(state);
    let context = Context { state_dir, printer: Printer::new() };
    super::start_tracing(0, false);
    conclude(&context, run(&context, &arguments))
}

async fn run(context: &Context, arguments: &Arguments) -> Result<ExitStatus> {
    let (directory, script) = script(&arguments.working_dir, &arguments.file)?;
    let address = dashboard_of(&arguments.uri)?;
    if arguments.port_offset != 0 {
        context.printer.talk("note: --port-offset is not needed any more: workers take ports that are free");
    }
    let name = name_of(&script);
    let job = Job { arguments, name: &name, directory, script };
    let (dashboard, auth) = launcher::connect(&address)
        .await
        .with_context(|| format!("there is no Ray cluster to be reached at {}", arguments.uri))?;
    // Two controllers cannot share a cluster: where one runs inside, it takes this job as well.
    let inside = hosting::list(&dashboard).await?.iter().any(|hosted| !hosted.present().has_ended());
    let outside = !arguments.detach && !inside;
    if outside && probe::agent_answers(&dashboard, agent_port()).await {
        return job.attend(context, &address, auth).await;
    }
    let (head, reachable) = probe::look(&dashboard, agent_port()).await?;
    if outside && reachable {
        return job.attend(context, &address, auth).await;
    }
    if inside {
        context.printer.talk("a controller runs inside this cluster already: it takes this job too");
    } else if outside {
        context.printer.talk(&format!(
            "port {} of the head cannot be reached from here: the controller runs on the head, and is followed through \
             the dashboard",
            agent_port()
        ));
    }
    job.host(context, &address, &dashboard, &head).await
}

struct Job<'a> {
    arguments: &'a Arguments,
    name: &'a str,
    directory: PathBuf,
    script: String,
}

impl Job<'_> {
    fn admit(&self, cluster: &str, packages: &std::path::Path) -> Result<AnyObject> {
        let submission = Submission {
            name: self.name,
            cluster,
            directory: self.directory.clone(),
            script: self.script.clone(),
            arguments: &self.arguments.arguments,
            cpus: self.arguments.cpus,
            gpus: self.arguments.gpus,
            most_workers: self.arguments.max_cluster_size,
            checkpoint_timeout_s: self.arguments.checkpoint_timeout,
            rescale_timeout_s: self.arguments.cluster_rescale_timeout,
        };
        submission.admit(packages)
    }

    /// Attends to it from here.
    async fn attend(&self, context: &Context, address: &str, auth: Auth) -> Result<ExitStatus> {
        let packages = tempfile::tempdir().context("cannot make a temporary directory")?;
        let cluster = cluster(&name_of_cluster(address), address, auth)?;
        let job = self.admit(&cluster.key().name, packages.path())?;
        context.printer.talk(&format!(
            "job {}: Ctrl-C stops it; its state is in {}",
            self.name,
            context.state_dir.display()
        ));
        let attendance = Attendance {
            context,
            voice: Arc::new(Voice::new(context.printer)),
            cluster,
            key: ObjectKey::new(DEFAULT_NAMESPACE, self.name),
            job: Some(job),
            packages: packages.path().to_owned(),
            resume: false,
            position: None,
            offer: None,
            stop_within: None,
        };
        let end = attendance.attend().await?;
        match end {
            End::Left => context.printer.warn(&format!(
                "left at once; {} goes on without a controller: `rayconcile controller` finds it again",
                self.name
            )),
            End::Stopped(Some(_)) => context.printer.talk(&format!(
                "while a `rayconcile controller` runs, `rayconcile checkpoint get {}` fetches its checkpoint",
                self.name
            )),
            _ => {}
        }
        Ok(end.status())
    }

    /// Has the head attend to it.
    async fn host(
        &self,
        context: &Context,
        address: &str,
        dashboard: &Dashboard,
        head: &probe::Head,
    ) -> Result<ExitStatus> {
        let packages = tempfile::tempdir().context("cannot make a temporary directory")?;
        let AnyObject::Job(job) = self.admit(HOSTED_CLUSTER, packages.path())? else {
            unreachable!("a job was made of a job's manifest")
        };
        let program = attach::program(context, dashboard, head).await?;
        hosting::submit(dashboard, &program, &job, packages.path()).await?;
        let again = format!("rayconcile attach {} --uri {address}", self.name);
        if self.arguments.detach {
            context.printer.data(self.name);
            context.printer.talk(&format!("job {} goes on in the cluster; `{again}` shows it", self.name));
            return Ok(ExitStatus::Success);
        }
        context.printer.talk(&format!(
            "job {}: Ctrl-C stops it; if this ends otherwise it goes on, and `{again}` shows it",
            self.name
        ));
        let subject = Subject { context, dashboard, address, name: self.name };
        subject.follow(OnInterrupt::Stop).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [&str; 9] = [NAME, "-u", "ray://h:10001", "-f", "main.py", "-m", "8", "-d", "."];

    fn parse(more: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(NEEDED.iter().chain(more))
    }

    #[test]
    fn what_follows_is_the_scripts() -> Result<(), clap::Error> {
        for (more, meant) in [
            (&[][..], &[][..]),
            (&["--", "--epochs", "5", "-m", "3"], &["--epochs", "5", "-m", "3"]),
            (&["train", "--epochs", "5", "-m", "3"], &["train", "--epochs", "5", "-m", "3"]),
            (&["--cpus", "2", "--", "--cpus", "4"], &["--cpus", "4"]),
            (&["--", "a", "--", "b"], &["a", "--", "b"]),
        ] {
            let arguments = parse(more)?;
            assert_eq!(arguments.arguments, meant, "{more:?}");
            assert_eq!(arguments.max_cluster_size, 8);
        }
        Ok(())
    }

    #[test]
    fn flags_have_the_defaults_that_they_had() -> Result<(), clap::Error> {
        let arguments = parse(&[])?;
        let defaults = (arguments.cpus, arguments.gpus, arguments.port_offset);
        assert_eq!(defaults, (1, 1, 0));
        assert_eq!((arguments.checkpoint_timeout, arguments.cluster_rescale_timeout), (120, 60));
        // Parts of flags were taken for them, as argparse does.
        assert_eq!(parse(&["--checkpoint", "7", "--cluster=9"])?.checkpoint_timeout, 7);
        // Of a flag that is given twice, the last counts.
        assert_eq!(parse(&["-m", "3"])?.max_cluster_size, 3);
        Ok(())
    }

    #[test]
    fn every_flag_has_its_long_name() -> Result<(), clap::Error> {
        let line = "adaptdl_on_ray_aws --uri ray://h:10001 --file main.py --max-cluster-size 8 --working-dir code \
                    --cpus 2 --gpus 3 --port-offset 4 --checkpoint-timeout 5 --cluster-rescale-timeout 6";
        let given = Arguments::try_parse_from(line.split_whitespace())?;
        assert_eq!((given.uri.as_str(), given.max_cluster_size), ("ray://h:10001", 8));
        assert_eq!((given.file, given.working_dir), (PathBuf::from("main.py"), PathBuf::from("code")));
        assert_eq!((given.cpus, given.gpus, given.port_offset), (2, 3, 4));
        assert_eq!((given.checkpoint_timeout, given.cluster_rescale_timeout), (5, 6));
        Ok(())
    }

    #[test]
    fn flags_that_do_not_exist_are_refused() {
        for more in [&["--epochs", "5"][..], &["--max", "3", "--nosuch"], &["-m", "0"], &["--gpus", "-1"]] {
            assert_eq!(parse(more).map_err(|error| error.exit_code()).err(), Some(2), "{more:?}");
        }
    }
}
