//! `attach`: show jobs whose controller runs inside their cluster, through its dashboard alone: list them, follow one
//! to its end, stop one, or fetch what it has saved.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::signals::{Asked, Signals};
use super::submission::dashboard_of;
use super::text::{duration, table};
use super::voice::Voice;
use super::{Context, ExitStatus, wrong};
use crate::action::EffectError;
use crate::api::cluster::agent_port;
use crate::launcher::follow::{News, follow};
use crate::launcher::hosting::{self, Hosted, checkpoint_file};
use crate::launcher::lines::Piece;
use crate::launcher::{self, probe};
use crate::provider::ray::dashboard::Dashboard;
use crate::provider::ray::jobs::ListedJob;

pub(super) const EXAMPLES: &str = "\
Examples:
  rayconcile attach --uri http://head:8265
  rayconcile attach main-x7k2p --uri http://head:8265
  rayconcile attach main-x7k2p --uri http://head:8265 --stop
  rayconcile attach main-x7k2p --uri http://head:8265 --fetch-checkpoint ./saved

The exit code of following a job is the job's.";

/// A Ray job that dies so often, never having attended for long, is not submitted again.
const MOST_DEATHS: u32 = 5;
/// After so long a life earlier deaths do not count any more.
const LONG_LIFE: Duration = Duration::from_secs(600);
/// How long to wait after the first death before it is submitted again; after each further one four times as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// The job; left out, the cluster's jobs are listed
    job: Option<String>,
    /// The cluster: its dashboard's address, http://HEAD:8265, or ray://HEAD:10001
    #[arg(short, long, value_name = "URI", env = "RAY_ADDRESS")]
    uri: String,
    /// Have the job checkpointed and stopped, and follow it until it has
    #[arg(long, requires = "job")]
    stop: bool,
    /// Have a job that was stopped go on from its checkpoint
    #[arg(long, requires = "job", conflicts_with = "stop")]
    resume: bool,
    /// Fetch the newest checkpoint of a job that has ended into a directory
    #[arg(long, value_name = "DIR", requires = "job", conflicts_with_all = ["stop", "resume"])]
    fetch_checkpoint: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: AttachArgs) -> Result<ExitStatus> {
    let address = dashboard_of(&args.uri)?;
    let (dashboard, _) = launcher::connect(&address)
        .await
        .with_context(|| format!("there is no Ray cluster to be reached at {}", args.uri))?;
    let Some(name) = &args.job else {
        return list(context, &dashboard).await;
    };
    let subject = Subject { context, dashboard: &dashboard, address: &address, name };
    let hosted = subject.find().await?;
    if let Some(directory) = &args.fetch_checkpoint {
        return subject.fetch(&hosted, directory).await;
    }
    if args.resume {
        if !hosted.present().has_ended() {
            return Err(wrong(format!("{name} has not been stopped")));
        }
        subject.submit_again(&hosted, true).await?;
    } else if args.stop {
        subject.stop(&hosted).await?;
    }
    subject.follow(OnInterrupt::Leave).await
}

async fn list(context: &Context, dashboard: &Dashboard) -> Result<ExitStatus> {
    let rows: Vec<[String; 4]> = hosting::list(dashboard).await?.iter().map(row).collect();
    if rows.is_empty() {
        context.printer.talk("no job has its controller in this cluster");
    } else {
        context.printer.table(&table("", &["NAME", "STATUS", "AGE", "EXIT CODE"], &rows));
    }
    Ok(ExitStatus::Success)
}

fn row(hosted: &Hosted) -> [String; 4] {
    let job = hosted.present();
    let status = match (job.status.as_str(), job.driver_exit_code) {
        _ if hosting::has_died(job) => "Unattended",
        ("PENDING", _) => "Starting",
        ("RUNNING", _) => "Running",
        (_, Some(0)) => "Succeeded",
        (_, Some(130)) => "Stopped",
        _ => "Failed",
    };
    let began = hosted.began().and_then(|began| jiff::Timestamp::from_millisecond(began).ok());
    // The clock of the head is another: an age is what is good enough here.
    let age = began.map(|began| duration(jiff::Timestamp::now().duration_since(began)));
    let code = job.driver_exit_code.filter(|_| !hosting::has_died(job)).map(|code| code.to_string());
    [hosted.name.clone(), status.to_owned(), age.unwrap_or_default(), code.unwrap_or_default()]
}

/// The program for a head, brought there.
pub(super) async fn program(context: &Context, dashboard: &Dashboard, head: &probe::Head) -> Result<String> {
    let head = head.clone();
    let package = tokio::task::spawn_blocking(move || hosting::program_for(&head)).await??;
    if !dashboard.has_package(&package.name).await.map_err(EffectError::from)? {
        let size = package.contents.len() as f64 / 1e6;
        context.printer.talk(&format!("bringing rayconcile to the head ({size:.1} MB)"));
    }
    Ok(hosting::bring(dashboard, package).await?)
}

/// What Ctrl-C means to the job.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnInterrupt {
    /// It is checkpointed and stopped.
    Stop,
    /// Nothing.
    Leave,
}

/// Says what a Ray job has written that never began to attend: that is why.
fn say_preface(voice: &Voice, preface: &str) {
    if !preface.trim().is_empty() {
        voice.status(preface.trim_end());
    }
}

/// A job whose controller runs in its cluster.
pub(super) struct Subject<'a> {
    pub(super) context: &'a Context,
    pub(super) dashboard: &'a Dashboard,
    pub(super) address: &'a str,
    pub(super) name: &'a str,
}

/// What comes of following one Ray job.
enum Followed {
    /// With what it wrote before it attended, and for how long it was seen to attend.
    Ended(Box<ListedJob>, String, Duration),
    Left,
}

/// How often what attends has died lately.
#[derive(Default)]
struct Deaths(u32);

impl Deaths {
    /// Counts one, after so long a life; says how long to wait before it is started again, if it is.
    fn pause_after(&mut self, lived: Duration) -> Option<Duration> {
        self.0 = if lived < LONG_LIFE { self.0 + 1 } else { 1 };
        (self.0 < MOST_DEATHS).then(|| FIRST_PAUSE * 4_u32.pow(self.0 - 1))
    }
}

impl Subject<'_> {
    async fn find(&self) -> Result<Hosted> {
        let hosted = hosting::list(self.dashboard).await?;
        let names: Vec<String> = hosted.iter().map(|hosted| hosted.name.clone()).collect();
        hosted.into_iter().find(|hosted| hosted.name == self.name).ok_or_else(|| {
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            anyhow!("the cluster at {} attends to no job {}; it knows of {known}", self.address, self.name)
        })
    }

    /// Shows the job until it has ended; gives its exit code.
    pub(super) async fn follow(&self, on_interrupt: OnInterrupt) -> Result<ExitStatus> {
        let voice = Voice::new(self.context.printer);
        let mut signals = Signals::new()?;
        let mut deaths = Deaths::default();
        loop {
            let hosted = self.find().await?;
            let followed = self.follow_one(&voice, &mut signals, &hosted, on_interrupt).await?;
            let Followed::Ended(job, preface, lived) = followed else { return Ok(ExitStatus::Interrupted) };
            if !hosting::has_died(&job) {
                say_preface(&voice, &preface);
                return Ok(self.end(&voice, &job));
            }
            let reason = job.message.as_deref().unwrap_or("no reason is given");
            let death = format!(
                "what attended to {} has died ({})",
                self.name,
                reason.lines().next().unwrap_or_default()
            );
            let Some(pause) = deaths.pause_after(lived) else {
                voice.status(&death);
                say_preface(&voice, &preface);
                bail!("what attends to {} dies again and again; `{}` tries again", self.name, self.again());
            };
            voice.status(&format!("{death}; it is started again in {} s", pause.as_secs()));
            say_preface(&voice, &preface);
            tokio::select! {
                () = tokio::time::sleep(pause) => self.submit_again(&hosted, false).await?,
                asked = signals.next() => {
                    if asked == Asked::Leave || on_interrupt == OnInterrupt::Leave {
                        self.say_left(&voice);
                        return Ok(ExitStatus::Interrupted);
                    }
                    // The one that was just begun may not answer yet: it is followed, and can be asked again.
                    if let Err(error) = self.stop(&hosted).await {
                        voice.status(&format!("it could not be asked to stop: {error:#}"));
                    }
                }
            }
        }
    }

    /// The command that shows the job.
    fn again(&self) -> String {
        format!("rayconcile attach {} --uri {}", self.name, self.address)
    }

    fn say_left(&self, voice: &Voice) {
        voice.status(&format!("{} goes on: `{}`", self.name, self.again()));
    }

    fn end(&self, voice: &Voice, job: &ListedJob) -> ExitStatus {
        let more = self.again();
        match job.driver_exit_code {
            Some(0) => ExitStatus::Success,
            Some(130) => {
                voice.status(&format!(
                    "`{more} --resume` has it go on; with `--fetch-checkpoint DIR` its checkpoint is fetched"
                ));
                ExitStatus::Interrupted
            }
            _ => ExitStatus::Failure,
        }
    }

    async fn follow_one(
        &self,
        voice: &Voice,
        signals: &mut Signals,
        hosted: &Hosted,
        on_interrupt: OnInterrupt,
    ) -> Result<Followed> {
        let (sender, mut news) = mpsc::channel(64);
        let following = tokio::spawn(follow(self.dashboard.clone(), hosted.submission().to_owned(), sender));
        let mut stopping: OptionFuture<BoxFuture<'_, Result<()>>> = None.into();
        let (mut asked_before, mut asking) = (false, false);
        let mut began: Option<Instant> = None;
        let left = loop {
            tokio::select! {
                biased;
                asked = signals.next() => {
                    if asked == Asked::Leave || on_interrupt == OnInterrupt::Leave || asked_before {
                        break Followed::Left;
                    }
                    voice.status("the job saves its state and stops (Ctrl-C again leaves at once)");
                    (asked_before, asking) = (true, true);
                    stopping = Some(self.stop(hosted).boxed()).into();
                }
                outcome = &mut stopping, if asking => {
                    asking = false;
                    if let Some(Err(error)) = outcome {
                        voice.status(&format!("it cannot be told to stop: {error:#}"));
                        asked_before = false;
                    }
                }
                told = news.recv() => match told {
                    Some(News::Piece(piece)) => {
                        began.get_or_insert_with(Instant::now);
                        match piece {
                            Piece::Output(text) => voice.output(&text),
                            Piece::Status(line) => voice.status(&line),
                        }
                    }
                    Some(News::Lost(reason)) => {
                        voice.status(&format!("{reason}; the job goes on, and is looked for again and again"));
                    }
                    Some(News::Back) => voice.status("the cluster can be reached again"),
                    Some(News::Ended(job, preface)) => {
                        let lived = began.map_or(Duration::ZERO, |began| began.elapsed());
                        break Followed::Ended(job, preface, lived);
                    }
                    Some(News::Refused(error)) => return Err(EffectError::from(error).into()),
                    None => bail!("following {} has come to an end", self.name),
                },
            }
        };
        following.abort();
        if let Followed::Left = left {
            self.say_left(voice);
        }
        Ok(left)
    }

    /// Has the job checkpointed and stopped.
    async fn stop(&self, hosted: &Hosted) -> Result<()> {
        // Somebody must be there to see to it.
        if hosting::has_died(hosted.present()) {
            self.submit_again(hosted, false).await?;
        } else if hosted.present().has_ended() {
            return Ok(());
        }
        hosting::ask(self.dashboard, hosted, &format!("suspend {}", self.name)).await?;
        Ok(())
    }

    /// Has the head attend to the job again.
    async fn submit_again(&self, hosted: &Hosted, resume: bool) -> Result<()> {
        let program = async || {
            let (head, _) = probe::look(self.dashboard, agent_port()).await?;
            Ok(hosting::program_for(&head)?)
        };
        Ok(hosting::submit_again(self.dashboard, hosted, resume, program).await?)
    }

    /// Fetches the newest checkpoint of the job, which has ended.
    async fn fetch(&self, hosted: &Hosted, directory: &Path) -> Result<ExitStatus> {
        let job = hosted.present();
        if !job.has_ended() {
            return Err(wrong(format!("{} has not ended: `--stop` checkpoints and stops it", self.name)));
        }
        let node = job.driver_node_id.as_deref().unwrap_or_default();
        let found = self.dashboard.log_file(node, &checkpoint_file(self.name)).await;
        let found =
            found.map_err(|error| anyhow!("{} has left no checkpoint on the head: {error}", self.name))?;
        let mut archive = tempfile::tempfile().context("cannot make a temporary file")?;
        let mut pieces = pin!(found);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(EffectError::from)?;
            archive.write_all(&piece).context("cannot write a temporary file")?;
        }
        std::io::Seek::rewind(&mut archive).context("cannot read what was fetched")?;
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        tar::Archive::new(archive)
            .unpack(directory)
            .with_context(|| format!("cannot unpack into {}", directory.display()))?;
        self.context.printer.data(&directory.display().to_string());
        Ok(ExitStatus::Success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_forgotten_after_a_long_life_and_waited_after_else() {
        let pauses = |lives: &[u64]| {
            let mut deaths = Deaths::default();
            let pauses = lives.iter().map(|life| deaths.pause_after(Duration::from_secs(*life)));
            pauses.map(|pause| pause.map(|pause| pause.as_secs())).collect::<Vec<_>>()
        };
        assert_eq!(pauses(&[0, 599, 3, 0, 0]), [Some(1), Some(4), Some(16), Some(64), None]);
        assert_eq!(pauses(&[0, 0, 0, 0, 600, 0]), [Some(1), Some(4), Some(16), Some(64), Some(1), Some(4)]);
    }
}
