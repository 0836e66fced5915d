//! Attending to a job that was submitted as `adaptdl_on_ray_aws` does it: with a controller of one's own, or beside
//! another that has the state directory; when that one ends, with one's own again. Its workers' output goes on where it
//! was.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures_util::{StreamExt as _, pin_mut};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::controller::Running;
use super::delete::still_there;
use super::events::short_line;
use super::signals::{Asked, Signals};
use super::target::name;
use super::voice::Voice;
use super::{Context, ExitStatus, input};
use crate::api::ids::CheckpointId;
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject, Kind};
use crate::api::status::{AdaptDLJobStatus, JobPhase};
use crate::api::units::Span;
use crate::api::words::count;
use crate::client::{Client, ClientError, WatchEvent};
use crate::store::places::Place;

/// Between two tries to find a controller, or to be one.
const AGAIN: Duration = Duration::from_millis(300);
/// How often it is seen to that the job has its cluster, which another that ends may have taken away.
const CLUSTER_LOOK: Duration = Duration::from_secs(5);
/// How long after a job has finished its last events and output may come.
const LAST_WORDS: Duration = Duration::from_millis(500);
const LAST_OUTPUT: Duration = Duration::from_secs(10);
/// How long the agent may take to go when nobody needs it any more.
const GIVING_BACK: Duration = Duration::from_secs(60);

/// How it came to an end.
pub(super) enum End {
    /// The job has succeeded or failed.
    Finished(Box<AdaptDLJob>),
    /// It was asked to stop, and has, with its newest checkpoint.
    Stopped(Option<CheckpointId>),
    /// Somebody has deleted the job.
    Deleted,
    /// The job goes on without anybody attending.
    Left,
}

impl End {
    /// The exit code of whoever attended.
    pub(super) fn status(&self) -> ExitStatus {
        match self {
            Self::Finished(job) if job.status.phase == JobPhase::Succeeded => ExitStatus::Success,
            Self::Finished(_) | Self::Deleted => ExitStatus::Failure,
            Self::Stopped(_) | Self::Left => ExitStatus::Interrupted,
        }
    }
}

/// How much of rank 0's output was shown.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct Shown {
    group: u64,
    bytes: usize,
}

/// A job, and what attends to it.
pub(super) struct Attendance<'a> {
    pub(super) context: &'a Context,
    pub(super) voice: Arc<Voice>,
    /// The job's cluster, made if it is not there, and removed when no job needs it.
    pub(super) cluster: AnyObject,
    pub(super) key: ObjectKey,
    /// The job, made if it is not there.
    pub(super) job: Option<AnyObject>,
    /// Where its package is.
    pub(super) packages: PathBuf,
    /// Whether a job that was stopped goes on.
    pub(super) resume: bool,
    /// Where it is kept how much of the output was shown, if somebody else may go on from there.
    pub(super) position: Option<PathBuf>,
    /// Where the job's newest checkpoint is to be found when it has ended.
    pub(super) offer: Option<PathBuf>,
    /// How long the job may take to stop, before this ends; else as long as it takes.
    pub(super) stop_within: Option<Duration>,
}

/// What is known while one attends.
#[derive(Default)]
struct Course {
    /// Whether the job was made, if it had to be.
    made: bool,
    /// Whether it was asked to stop, and when this ends at the latest.
    stopping: Option<Option<Instant>>,
    /// What was last said of its state.
    said: String,
    shown: Arc<Mutex<Shown>>,
}

impl Attendance<'_> {
    /// Attends to the job until it has ended, or until it is asked to leave it.
    pub(super) async fn attend(&self) -> Result<End> {
        let mut signals = Signals::new()?;
        let mut course = Course::default();
        if let Some(text) = self.position.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) {
            course.shown = Arc::new(Mutex::new(serde_json::from_str(&text).unwrap_or_default()));
        }
        loop {
            // What was embedded by another command may have ended meanwhile.
            let embedded = Running::embedded(&self.context.state_dir, Span::from_secs(0)).await?;
            let outcome = self.attend_beside(&mut signals, &mut course).await;
            if let (Err(error), None) = (&outcome, &embedded)
                && has_gone(error)
            {
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => continue,
                    // Nobody is there whom the job could be stopped by.
                    _ = signals.next() => return Ok(End::Left),
                }
            }
            if let Some(running) = embedded {
                running.stop().await;
            }
            return outcome;
        }
    }

    /// The same, as long as there is the controller that there is.
    async fn attend_beside(&self, signals: &mut Signals, course: &mut Course) -> Result<End> {
        let client = self.context.client()?;
        client.ping().await?;
        self.make(&client, course).await?;
        if course.stopping.is_some() {
            // The controller that was told may have ended before it knew.
            self.suspend(&client).await?;
        }
        let end = loop {
            let output = Output {
                client: client.clone(),
                key: self.key.clone(),
                voice: self.voice.clone(),
                shown: course.shown.clone(),
                position: self.position.clone(),
            };
            let output = tokio::spawn(output.show());
            let end = self.follow(&client, signals, course).await;
            if let Ok(End::Finished(_)) = &end {
                let abort = output.abort_handle();
                let _ = tokio::time::timeout(LAST_OUTPUT, output).await;
                abort.abort();
            } else {
                output.abort();
            }
            match end {
                // Too slow for the changes there were: from the present state again.
                Err(error) if error.downcast_ref().is_some_and(ClientError::is_expired) => {}
                other => break other?,
            }
        };
        tokio::select! {
            done = self.conclude(&client, &end) => done?,
            // The job has ended; only the cluster was waited for.
            _ = signals.next() => self.voice.status("left at once; Rayconcile's agent may still be on the cluster"),
        }
        Ok(end)
    }

    /// Makes what is wanted and not there.
    async fn make(&self, client: &Client, course: &mut Course) -> Result<()> {
        self.keep_cluster(client).await?;
        if course.made {
            return Ok(());
        }
        let found = match client.get(Kind::AdaptDLJob, &self.key).await {
            Ok(found) => Some(found),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        match (found, &self.job) {
            (Some(_), _) if self.resume => {
                client.patch(Kind::AdaptDLJob, &self.key, &json!({"spec": {"suspend": false}})).await?;
            }
            (Some(_), _) => {}
            (None, Some(job)) => {
                input::send_packages(client, std::slice::from_ref(job), &self.packages).await?;
                client.apply(job, false).await?;
            }
            (None, None) => anyhow::bail!("nothing is left of the job {}", self.key.name),
        }
        course.made = true;
        Ok(())
    }

    async fn keep_cluster(&self, client: &Client) -> Result<()> {
        match client.get(Kind::RayCluster, &self.cluster.key()).await {
            Err(error) if error.is_not_found() => client.apply(&self.cluster, false).await?,
            // One that is just going is made again when it has gone.
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }

    /// Tells what becomes of the job until it has ended.
    async fn follow(&self, client: &Client, signals: &mut Signals, course: &mut Course) -> Result<End> {
        let started = jiff::Timestamp::now();
        let objects = client.watch(Kind::AdaptDLJob, Some(&self.key.namespace), None).await?;
        let selector = format!("involvedObject.name={}", self.key.name);
        let events = client.watch_events(Some(&self.key.namespace), &selector).await?;
        pin_mut!(objects, events);
        let mut look = tokio::time::interval(CLUSTER_LOOK);
        let mut ended: Option<(End, Instant)> = None;
        loop {
            let leave = course.stopping.flatten();
            let until = ended.as_ref().map(|(_, until)| *until);
            tokio::select! {
                biased;
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
                () = sleep_until(leave.unwrap_or_else(Instant::now)), if leave.is_some() => return Ok(End::Left),
                asked = signals.next() => match asked {
                    Asked::Stop if course.stopping.is_none() => {
                        course.stopping = Some(self.stop_within.map(|within| Instant::now() + within));
                        self.voice.status("the job saves its state and stops (asked again, this leaves at once)");
                        self.suspend(client).await?;
                    }
                    _ => return Ok(End::Left),
                },
                event = events.next() => {
                    let event = event.ok_or_else(gone)??;
                    if event.last_timestamp >= started {
                        self.voice.status(&short_line(&event));
                    }
                }
                change = objects.next() => match change.ok_or_else(gone)?? {
                    WatchEvent::Now(AnyObject::Job(job)) if job.metadata.key() == self.key => {
                        self.tell(&job.status, &mut course.said);
                        if ended.is_none() {
                            ended = how_it_ended(job).map(|end| (end, Instant::now() + LAST_WORDS));
                        }
                    }
                    WatchEvent::Gone(object) if object.key() == self.key => return Ok(End::Deleted),
                    _ => {}
                },
                _ = look.tick() => self.keep_cluster(client).await?,
            }
        }
        Ok(ended.map_or(End::Left, |(end, _)| end))
    }

    async fn suspend(&self, client: &Client) -> Result<()> {
        match client.patch(Kind::AdaptDLJob, &self.key, &json!({"spec": {"suspend": true}})).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// Says how the job is, if that is news.
    fn tell(&self, status: &AdaptDLJobStatus, said: &mut String) {
        let now = state(status);
        if *said != now && !status.phase.is_final() {
            self.voice.status(&format!("{} {now}", jiff::Zoned::now().strftime("%H:%M:%S")));
        }
        *said = now;
    }

    /// Says how it ended, and takes the cluster away if nobody else needs it.
    async fn conclude(&self, client: &Client, end: &End) -> Result<()> {
        let job = name(Kind::AdaptDLJob, &self.key);
        match end {
            End::Finished(finished) => {
                let status = &finished.status;
                self.voice.status(&format!(
                    "{job} has ended: {}: {}",
                    status.phase,
                    status.message.trim_end()
                ));
            }
            End::Stopped(Some(id)) => self.voice.status(&format!("{job} has stopped at checkpoint {id}")),
            End::Stopped(None) => self.voice.status(&format!("{job} has stopped; it had no checkpoint yet")),
            End::Deleted => self.voice.status(&format!("{job} was deleted")),
            End::Left => return Ok(()),
        }
        self.offer(client).await;
        if !self.is_cluster_needed(client).await? {
            let going = match client.delete(Kind::RayCluster, &self.cluster.key(), false).await {
                // Another that has ended was quicker.
                Err(error) if error.is_not_found() => return Ok(()),
                other => other?,
            };
            if tokio::time::timeout(GIVING_BACK, until_gone(client, &going)).await.is_err() {
                self.voice.status("the cluster has not let go of Rayconcile's agent; it is left there");
            }
        }
        Ok(())
    }

    /// Has the newest checkpoint found where it is looked for, if it is a file.
    async fn offer(&self, client: &Client) {
        let Some(link) = &self.offer else { return };
        let _ = std::fs::remove_file(link);
        let checkpoints = client.checkpoints(&self.key).await.unwrap_or_default();
        if let Some(newest) = checkpoints.last()
            && let Place::File(path) = Place::of(&self.context.state_dir, &newest.path)
            && let Err(error) = std::os::unix::fs::symlink(path, link)
        {
            tracing::warn!(%error, "the checkpoint cannot be offered");
        }
    }

    /// Whether another job wants the cluster.
    async fn is_cluster_needed(&self, client: &Client) -> Result<bool> {
        let cluster = self.cluster.key();
        let jobs = client.list(Kind::AdaptDLJob, Some(&cluster.namespace), None).await?;
        Ok(jobs.iter().any(|object| match object {
            AnyObject::Job(job) => {
                job.metadata.key() != self.key
                    && job.spec.cluster_ref.as_ref().is_some_and(|reference| reference.name == cluster.name)
                    && !job.status.phase.is_final()
                    && job.status.phase != JobPhase::Suspended
            }
            AnyObject::Cluster(_) => false,
        }))
    }
}

fn how_it_ended(job: Box<AdaptDLJob>) -> Option<End> {
    match job.status.phase {
        phase if phase.is_final() => Some(End::Finished(job)),
        JobPhase::Suspended if job.spec.suspend => {
            Some(End::Stopped(job.status.checkpoint.as_ref().map(|checkpoint| checkpoint.id)))
        }
        _ => None,
    }
}

/// How a job is, in a line.
fn state(status: &AdaptDLJobStatus) -> String {
    let message = status.message.lines().next().unwrap_or_default();
    let workers = format!("{} of {}", status.replicas, count(status.desired_replicas, "worker"));
    format!("{}, {workers}: {message}", status.phase).trim_end_matches(": ").to_owned()
}

async fn until_gone(client: &Client, cluster: &AnyObject) {
    while let Ok(Some(_)) = still_there(client, cluster).await {
        tokio::time::sleep(AGAIN).await;
    }
}

fn gone() -> ClientError {
    ClientError::Broken("it has ended".to_owned())
}

/// Whether there is no controller any more.
fn has_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::NoController { .. } | ClientError::Broken(_)))
}

/// Rank 0's output, as it comes.
struct Output {
    client: Client,
    key: ObjectKey,
    voice: Arc<Voice>,
    shown: Arc<Mutex<Shown>>,
    position: Option<PathBuf>,
}

impl Output {
    /// Shows what was not shown yet, until the job is over or the controller gone.
    async fn show(self) {
        let query = [("rank", "0".to_owned()), ("follow", "true".to_owned())];
        let Ok(pieces) = self.client.logs(&self.key, &query).await else { return };
        pin_mut!(pieces);
        let (mut group, mut read) = (0, 0);
        while let Some(Ok(piece)) = pieces.next().await {
            if group != piece.group.0 {
                (group, read) = (piece.group.0, 0);
            }
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(new) = unseen(&piece.text, group, read, *shown) {
                self.voice.output(new);
                *shown = Shown { group, bytes: read + piece.text.len() };
                let kept = self.position.as_ref().map(|path| std::fs::write(path, json!(*shown).to_string()));
                if let Some(Err(error)) = kept {
                    tracing::warn!(%error, "it cannot be kept how much of the output was shown");
                }
            }
            read += piece.text.len();
        }
    }
}

/// What of a piece that begins at a position of a group's output was not shown.
fn unseen(piece: &str, group: u64, begins: usize, shown: Shown) -> Option<&str> {
    let known = match group.cmp(&shown.group) {
        std::cmp::Ordering::Less => return None,
        std::cmp::Ordering::Equal => shown.bytes.saturating_sub(begins),
        std::cmp::Ordering::Greater => 0,
    };
    piece.get(known..).filter(|new| !new.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_goes_on_where_it_was() {
        let shown = Shown { group: 2, bytes: 6 };
        for (group, begins, new) in [
            (1, 0, None),
            (2, 0, Some("g")),
            (2, 5, Some("bcdefg")),
            (2, 6, Some("abcdefg")),
            (3, 0, Some("abcdefg")),
        ] {
            assert_eq!(unseen("abcdefg", group, begins, shown), new, "group {group} from {begins}");
        }
        assert_eq!(unseen("abc", 2, 0, shown), None);
    }
}
