//! Bringing the workers' output from here to object storage, for jobs whose manifest wants it there.
//!
//! What is written down here of how far that is, and what is there already, tells where to go on: `store::logs`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Controller, crash_point, lock};
use crate::api::bucket::BucketAddress;
use crate::api::event::{EventType, NewEvent};
use crate::api::ids::{GroupNumber, Uid};
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, Kind};
use crate::api::observed::Archiving;
use crate::store::DomainRows;
use crate::store::logs::{Archived, JobLogs, OBJECT_BYTES, WorkerId, object_name};
use crate::store::places::s3;

/// How often what a worker writes is brought there: an object that grows is put again as a whole.
const INTERVAL: Duration = Duration::from_secs(30);
/// How often it is when its group has ended.
const AT_THE_END: Duration = Duration::from_secs(1);
/// The first wait after a failure; each that follows is twice as long, up to the longest.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How many objects of all jobs are put at the same time: as many are in memory.
pub(super) const AT_ONCE: usize = 4;

/// What is known of one job's output on its way.
#[derive(Default)]
pub(super) struct Archive {
    /// Where it goes.
    place: Option<BucketAddress>,
    /// Whether all that is here was looked through.
    looked: bool,
    /// Whether some is being brought there at this moment.
    running: bool,
    /// What is not there yet.
    behind: BTreeMap<WorkerId, Behind>,
    /// What is being brought there.
    going: BTreeMap<WorkerId, Behind>,
    /// Why it cannot be.
    error: Option<String>,
    failures: u32,
    /// Nothing is tried before.
    not_before: Option<Instant>,
}

/// Output that is not there yet.
#[derive(Clone, Copy)]
struct Behind {
    bytes: u64,
    /// Since when there is any.
    since: Instant,
}

impl Archive {
    fn note(&mut self, worker: WorkerId, new: Behind) {
        let behind = self.behind.entry(worker).or_insert(Behind { bytes: 0, since: new.since });
        behind.bytes += new.bytes;
        behind.since = behind.since.min(new.since);
    }

    /// What is due now, and when the next is.
    fn due(&self, now: Instant, has_ended: impl Fn(GroupNumber) -> bool) -> (Vec<WorkerId>, Option<Instant>) {
        let at = |(worker, behind): (&WorkerId, &Behind)| {
            let pause = if has_ended(worker.0) { AT_THE_END } else { INTERVAL };
            let full = behind.bytes >= OBJECT_BYTES as u64;
            (*worker, if full { now } else { behind.since + pause })
        };
        let all: Vec<_> = self.behind.iter().map(at).collect();
        let due = all.iter().filter(|(_, at)| *at <= now).map(|(worker, _)| *worker).collect();
        (due, all.iter().map(|(_, at)| *at).min())
    }

    /// Takes note of what came of a try; says what people should hear of it.
    fn settle(&mut self, result: Result<(), String>) -> Option<(EventType, &'static str, String)> {
        self.running = false;
        for (worker, behind) in std::mem::take(&mut self.going) {
            self.note(worker, behind);
        }
        match result {
            Ok(()) => {
                (self.failures, self.not_before) = (0, None);
                self.error.take()?;
                Some((EventType::Normal, "LogsKept", "its workers' output is kept again".to_owned()))
            }
            Err(error) => {
                let pause = RETRY * 2u32.saturating_pow(self.failures);
                self.not_before = Some(Instant::now() + pause.min(LONGEST_RETRY));
                self.failures = (self.failures + 1).min(16);
                let first = self.error.is_none();
                let message = format!("its workers' output cannot be kept: {error}");
                self.error = Some(error);
                first.then_some((EventType::Warning, "LogsNotKept", message))
            }
        }
    }
}

/// A job whose output goes to object storage.
#[derive(Clone)]
struct Subject {
    uid: Uid,
    key: ObjectKey,
    cluster: ObjectKey,
    logs: JobLogs,
}

impl Controller {
    /// How the output of some jobs gets to object storage, as far as is known.
    pub(super) fn archiving<'a>(&self, jobs: impl Iterator<Item = &'a Uid>) -> BTreeMap<Uid, Archiving> {
        let archives = lock(&self.inner.archives);
        let looked = jobs.filter_map(|uid| Some((uid, archives.get(uid).filter(|archive| archive.looked)?)));
        let known = looked.map(|(uid, archive)| {
            let all = archive.behind.values().chain(archive.going.values());
            let behind = all.map(|behind| behind.bytes).sum();
            (uid.clone(), Archiving { behind, error: archive.error.clone() })
        });
        known.collect()
    }

    /// Begins to bring what is due of the output of a cluster's jobs; has the cluster planned again when the next is.
    pub(super) fn archive_logs(&self, cluster: &ObjectKey, rows: &DomainRows) {
        let now = Instant::now();
        for row in &rows.jobs {
            let uid = &row.job.metadata.uid;
            let place = row.job.spec.logs_place(&row.job.metadata);
            let mut archives = lock(&self.inner.archives);
            if place.is_none() {
                archives.remove(uid);
                continue;
            }
            let archive = archives.entry(uid.clone()).or_default();
            if archive.running {
                continue;
            }
            if archive.place != place {
                *archive = Archive { place, ..Archive::default() };
            }
            let has_ended = |group| {
                row.record.binding.is_none()
                    || row.record.group(group).is_none_or(|group| group.outcome.is_some())
            };
            let (due, next) = archive.due(now, has_ended);
            let blocked = archive.not_before.filter(|at| *at > now);
            if blocked.is_some() || (archive.looked && due.is_empty()) {
                blocked.or(next).into_iter().for_each(|at| self.inner.queue.add(cluster.clone(), at));
                continue;
            }
            archive.running = true;
            let subject = Subject {
                uid: uid.clone(),
                key: row.job.metadata.key(),
                cluster: cluster.clone(),
                logs: JobLogs::of_job(&self.inner.directories.state, &row.job),
            };
            self.inner.tasks.spawn(self.clone().archive(subject, due));
        }
    }

    /// Forgets a job that is gone.
    pub(super) fn forget_archive(&self, uid: &Uid) {
        lock(&self.inner.archives).remove(uid);
    }

    /// Takes note of output that has come here, and of what had to go for it before it was there.
    pub(super) async fn note_output(&self, job: &AdaptDLJob, worker: WorkerId, bytes: u64, lost: u64) {
        if let Some(archive) = lock(&self.inner.archives).get_mut(&job.metadata.uid) {
            archive.note(worker, Behind { bytes, since: Instant::now() });
        }
        if lost > 0 {
            let (group, rank) = worker;
            // Always the same words, so that it is counted and not repeated.
            let message = format!(
                "output is lost: it came while it could not be kept, until there was too much of it here; the last was \
                 of rank {rank} in group {group}"
            );
            let key = job.metadata.key();
            self.tell(&job.metadata.uid, key, EventType::Warning, "LogsLost", message).await;
        }
    }

    async fn archive(self, subject: Subject, due: Vec<WorkerId>) {
        let result = tokio::select! {
            result = self.bring(&subject, due) => result,
            () = self.inner.stop.cancelled() => return,
        };
        let told = lock(&self.inner.archives).get_mut(&subject.uid).and_then(|it| it.settle(result));
        if let Some((event_type, reason, message)) = told {
            self.tell(&subject.uid, subject.key, event_type, reason, message).await;
        }
        self.inner.queue.wake(subject.cluster);
    }

    async fn tell(&self, uid: &Uid, key: ObjectKey, event_type: EventType, reason: &str, message: String) {
        let uid = uid.clone();
        let event = NewEvent {
            kind: Kind::AdaptDLJob.into(),
            object: key,
            uid,
            event_type,
            reason: reason.to_owned(),
            message,
        };
        let written = self.inner.store.write(move |tx| tx.record_event(&event, Timestamp::now())).await;
        if let Err(error) = written {
            tracing::warn!(%error, "an event could not be kept");
        }
    }

    /// Brings the output of some workers there, and looks for more if nobody has.
    async fn bring(&self, subject: &Subject, mut due: Vec<WorkerId>) -> Result<(), String> {
        let with = |work: &mut dyn FnMut(&mut Archive)| {
            lock(&self.inner.archives).get_mut(&subject.uid).map(work);
        };
        let (mut looked, since) = (true, Instant::now());
        with(&mut |archive| looked = archive.looked);
        if !looked {
            let found = blocking(subject, |logs| logs.unarchived()).await?;
            due = found.iter().map(|(worker, _)| *worker).collect();
            with(&mut |archive| {
                archive.looked = true;
                found
                    .iter()
                    .for_each(|(worker, bytes)| archive.note(*worker, Behind { bytes: *bytes, since }));
            });
        }
        // What is written from now on is noted anew.
        with(&mut |archive| {
            for worker in &due {
                archive.going.extend(archive.behind.remove(worker).map(|behind| (*worker, behind)));
            }
        });
        for worker in due {
            self.bring_worker(subject, worker).await?;
            with(&mut |archive| {
                archive.going.remove(&worker);
            });
        }
        Ok(())
    }

    /// Brings all that there is now of a worker's output.
    async fn bring_worker(&self, subject: &Subject, worker: WorkerId) -> Result<(), String> {
        let Some(place) = subject.logs.place(worker) else { return Ok(()) };
        let ((_, end), mut archived) =
            blocking(subject, move |logs| Ok((logs.range(worker)?, logs.archived(worker)?))).await?;
        while archived.as_ref().is_none_or(|archived| archived.end < end) {
            let Ok(_permit) = self.inner.uploads.acquire().await else { return Ok(()) };
            let known = match archived.take() {
                Some(known) => known,
                None => {
                    let behind = blocking(subject, move |logs| logs.look_behind(worker)).await?;
                    Archived::of(&place, in_time(s3::last(&place, &behind)).await?)
                }
            };
            let from = known.clone();
            let Some(portion) = blocking(subject, move |logs| logs.portion(worker, &from)).await? else {
                break;
            };
            let last = (object_name(portion.start), portion.bytes.len() as u64);
            let trying = known.trying(&portion);
            blocking(subject, move |logs| logs.note_archived(worker, &trying)).await?;
            in_time(s3::put(&place.join(&last.0), portion.bytes)).await?;
            crash_point("archived");
            let done = Archived::of(&place, Some(last));
            archived = Some(done.clone());
            blocking(subject, move |logs| logs.note_archived(worker, &done)).await?;
        }
        Ok(())
    }
}

/// Something with files, where it may block.
async fn blocking<T: Send + 'static>(
    subject: &Subject,
    work: impl FnOnce(&JobLogs) -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let logs = subject.logs.clone();
    match tokio::task::spawn_blocking(move || work(&logs)).await {
        Ok(done) => done.map_err(|error| format!("the files in the state directory cannot be used: {error}")),
        Err(error) => Err(error.to_string()),
    }
}

async fn in_time<T>(
    call: impl Future<Output = Result<T, crate::store::places::PlaceError>>,
) -> Result<T, String> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("there was no answer within {} seconds", CALL_TIMEOUT.as_secs())),
    }
}
