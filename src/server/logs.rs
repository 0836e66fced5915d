//! The workers' output, as far as it is here, and as it comes.

use std::io;
use std::time::{Duration, SystemTime};

use axum::extract::{Path, Query, State};
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::error::ApiError;
use super::kubernetes::worker_of;
use super::objects;
use super::query::{flag, number};
use super::stream::{Lines, stream, stream_lines};
use super::views::CONTAINER;
use crate::api::bucket::BucketAddress;
use crate::api::ids::GroupNumber;
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject};
use crate::api::units::Bytes;
use crate::store::blocking;
use crate::store::logs::{JobLogs, WorkerId};

/// How often new output is looked for while somebody follows.
const POLL: Duration = Duration::from_millis(300);
/// How far back the last lines are looked for.
const TAIL: u64 = 4 << 20;
/// How much is read at once.
const PIECE: usize = 256 << 10;

/// What is asked of output.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LogQuery {
    /// Only of this group; else of all, one after the other.
    group: Option<u64>,
    /// Of which rank.
    rank: u32,
    /// Go on as it comes, until the job is over.
    #[serde(deserialize_with = "flag")]
    follow: bool,
    /// Only the last so many lines of what there is.
    tail_lines: Option<usize>,
}

/// Lines of JSON: `{"group", "rank", "text"}`, and with a `note` where something is not here any more.
pub(super) async fn log(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<LogQuery>,
) -> Result<Response, ApiError> {
    let job = objects::job(&api, &ObjectKey::new(namespace, name)).await?;
    let logs = JobLogs::of_job(&api.state, &job);
    let LogQuery { group, rank, follow, tail_lines } = query;
    let output = Output { logs, group, rank, since: None };
    let follower = |lines| Follower { api: api.clone(), job, output, follow, tail_lines, room: None, lines };
    Ok(stream_lines(api.clone(), |lines| follower(lines).run()))
}

/// What is asked of a Pod's output.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodLogQuery {
    container: Option<String>,
    #[serde(deserialize_with = "flag")]
    follow: bool,
    /// Of the group before the newest one.
    #[serde(deserialize_with = "flag")]
    previous: bool,
    #[serde(deserialize_with = "number")]
    tail_lines: Option<u64>,
    #[serde(deserialize_with = "number")]
    since_seconds: Option<u64>,
    since_time: Option<Timestamp>,
    #[serde(deserialize_with = "flag")]
    timestamps: bool,
    #[serde(deserialize_with = "number")]
    limit_bytes: Option<u64>,
}

/// A Pod's output, as it is: that of its rank in all groups, one after the other.
pub(super) async fn of_pod(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<PodLogQuery>,
) -> Result<Response, ApiError> {
    if let Some(other) = query.container.as_deref().filter(|name| !["", CONTAINER].contains(name)) {
        let message = format!("there is no container {other} in {name}: its only one is {CONTAINER}");
        return Err(ApiError::bad_request(message));
    }
    if query.timestamps {
        return Err(ApiError::bad_request("when each line was written is not kept; leave out timestamps"));
    }
    let (key, rank) = worker_of(&api, &namespace, &name).await?;
    let job = objects::job(&api, &key).await?;
    let logs = JobLogs::of_job(&api.state, &job);
    let mut group = None;
    if query.previous {
        let of_job = logs.clone();
        let workers = blocking(move || of_job.workers()).await.unwrap_or_default();
        let mut groups = workers.iter().filter(|(_, of)| *of == rank).map(|(group, _)| group.0).rev();
        let before = groups.nth(1);
        group =
            Some(before.ok_or_else(|| ApiError::bad_request(format!("{name} had no group before this")))?);
    }
    let since =
        query.since_seconds.map(|seconds| SystemTime::now().checked_sub(Duration::from_secs(seconds)));
    let since = since.flatten().or_else(|| query.since_time.map(SystemTime::from));
    let tail_lines = query.tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let follow = query.follow && !query.previous;
    let output = Output { logs, group, rank, since };
    let room = Some(query.limit_bytes.unwrap_or(u64::MAX));
    let follower = |lines| Follower { api: api.clone(), job, output, follow, tail_lines, room, lines };
    Ok(stream(api.clone(), "text/plain; charset=utf-8", |lines| follower(lines).run()))
}

struct Follower {
    api: Api,
    job: AdaptDLJob,
    output: Output,
    follow: bool,
    /// Only the last so many lines of what there is.
    tail_lines: Option<usize>,
    /// If it is sent as it is, with no notes: how many bytes more.
    room: Option<u64>,
    lines: Lines,
}

impl Follower {
    async fn run(mut self) -> Option<()> {
        let mut place = None;
        match self.tail_lines {
            Some(lines) => place = self.look(move |output| output.last(lines)).await,
            None => self.tell_of_groups().await?,
        }
        loop {
            // Before reading: what comes in between is seen in the next round.
            let over = !self.follow || self.is_over().await;
            while let Some(piece) = self.look(move |output| output.next(place)).await.ok()? {
                place = Some((piece.worker.0, piece.begin + piece.bytes.len() as u64));
                self.send(piece).await?;
            }
            if over {
                return Some(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Looks at files, on a thread that may block.
    async fn look<R: Send + 'static>(&self, look: impl FnOnce(&Output) -> R + Send + 'static) -> R {
        let output = self.output.clone();
        blocking(move || look(&output)).await
    }

    /// Says that there were groups of which nothing is here any more, if any of them is asked for.
    async fn tell_of_groups(&self) -> Option<()> {
        let first = self.look(|output| output.logs.gone_before().ok().flatten()).await;
        let first = first.map_or(0, |first| first.0);
        if first == 0 || self.output.group.is_some_and(|wanted| wanted >= first) {
            return Some(());
        }
        let place = self.job.spec.logs_place(&self.job.metadata);
        self.note((GroupNumber(0), self.output.rank), &gone_groups(first, place.as_ref())).await
    }

    async fn note(&self, (group, rank): WorkerId, note: &str) -> Option<()> {
        if self.room.is_some() {
            return Some(());
        }
        self.lines.send(&json!({"group": group, "rank": rank, "text": "", "note": note})).await
    }

    async fn send(&mut self, piece: Piece) -> Option<()> {
        let Piece { worker, begin, mut bytes, is_first } = piece;
        if is_first && begin > 0 {
            let place = self.output.logs.place(worker);
            self.note(worker, &gone_beginning(worker, begin, place.as_ref())).await?;
        }
        let Some(room) = &mut self.room else {
            let text = String::from_utf8_lossy(&bytes);
            return self.lines.send(&json!({"group": worker.0, "rank": worker.1, "text": text})).await;
        };
        bytes.truncate(usize::try_from(*room).unwrap_or(usize::MAX));
        *room -= bytes.len() as u64;
        let is_full = *room == 0;
        self.lines.text(bytes).await.filter(|()| !is_full)
    }

    /// Whether no more output will come: the job is over, or gone.
    async fn is_over(&self) -> bool {
        let uid = self.job.metadata.uid.clone();
        match self.api.store.read(move |tx| tx.get_by_uid(&uid)).await {
            Ok(Some(AnyObject::Job(job))) => job.status.phase.is_final(),
            Ok(_) => true,
            Err(_) => false,
        }
    }
}

/// What is wanted of a job's output, in files.
#[derive(Clone)]
struct Output {
    logs: JobLogs,
    /// Only of this group.
    group: Option<u64>,
    rank: u32,
    /// Only of workers that have written something since then: when each line was written is not kept.
    since: Option<SystemTime>,
}

/// Up to where output was read: in which group, and how many bytes of it.
type Place = (GroupNumber, u64);

/// A piece of output that ends with a line, if there is an end of a line in it.
struct Piece {
    worker: WorkerId,
    begin: u64,
    bytes: Vec<u8>,
    /// Whether nothing of its worker was read before.
    is_first: bool,
}

impl Output {
    /// The next piece after a place, if there is more.
    fn next(&self, after: Option<Place>) -> io::Result<Option<Piece>> {
        for worker in self.workers(after.map(|(group, _)| group)) {
            let position = after.filter(|(group, _)| *group == worker.0).map(|(_, position)| position);
            let (begin, mut bytes) = self.logs.read(worker, position.unwrap_or(0), PIECE)?;
            if bytes.is_empty() {
                continue;
            }
            // Up to the last line break, so that no character is cut in two; a piece without any goes as it is.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
            bytes.truncate(whole);
            return Ok(Some(Piece { worker, begin, bytes, is_first: position.is_none() }));
        }
        Ok(None)
    }

    /// The workers of the wanted rank, from a group on.
    fn workers(&self, from: Option<GroupNumber>) -> Vec<WorkerId> {
        let workers = self.logs.workers().unwrap_or_default().into_iter();
        let wanted = workers.filter(|(group, rank)| {
            *rank == self.rank
                && self.group.is_none_or(|wanted| wanted == group.0)
                && from.is_none_or(|from| *group >= from)
                && self.since.is_none_or(|since| self.wrote_since((*group, *rank), since))
        });
        wanted.collect()
    }

    fn wrote_since(&self, worker: WorkerId, since: SystemTime) -> bool {
        self.logs.modified(worker).ok().flatten().is_some_and(|at| at >= since)
    }

    /// Where the last lines of what there is begin; nowhere, if there is nothing yet.
    fn last(&self, lines: usize) -> Option<Place> {
        let worker = self.workers(None).pop()?;
        let (start, end) = self.logs.range(worker).unwrap_or((0, 0));
        let Some(before) = lines.checked_sub(1) else { return Some((worker.0, end)) };
        let mut position = end.saturating_sub(TAIL).max(start);
        let mut begins = vec![position];
        while let Ok((from, piece)) = self.logs.read(worker, position, PIECE) {
            if piece.is_empty() {
                break;
            }
            let breaks = piece.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            begins.extend(breaks.map(|(at, _)| from + at as u64 + 1));
            position = from + piece.len() as u64;
        }
        // After the last line break no line has begun.
        begins.retain(|begin| *begin < end);
        let begin = begins.iter().rev().nth(before).or(begins.first()).copied().unwrap_or(end);
        Some((worker.0, begin))
    }
}

/// What is said of the groups before the first of which anything is here.
fn gone_groups(first: u64, place: Option<&BucketAddress>) -> String {
    let groups = if first == 1 { "group 0".to_owned() } else { format!("groups 0 to {}", first - 1) };
    format!("nothing of {groups} is here any more{}", elsewhere(place))
}

/// What is said of the output of a worker before where what is here begins.
fn gone_beginning((group, rank): WorkerId, start: u64, place: Option<&BucketAddress>) -> String {
    let size = Bytes(start).rounded();
    format!("the first {size} of rank {rank} in group {group} is not here any more{}", elsewhere(place))
}

fn elsewhere(place: Option<&BucketAddress>) -> String {
    place.map_or_else(String::new, |place| format!("; what was fetched of it is in {place}/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_where_the_rest_is() {
        let place: BucketAddress = "s3://team/logs/default/j/u".parse().unwrap();
        assert_eq!(gone_groups(1, None), "nothing of group 0 is here any more");
        assert_eq!(
            gone_groups(5, Some(&place)),
            "nothing of groups 0 to 4 is here any more; what was fetched of it is in s3://team/logs/default/j/u/"
        );
        assert_eq!(
            gone_beginning((GroupNumber(3), 1), 24 << 20, Some(&place.join("group-3/rank-1"))),
            "the first 24.0 MiB of rank 1 in group 3 is not here any more; what was fetched of it is in \
             s3://team/logs/default/j/u/group-3/rank-1/"
        );
    }
}
