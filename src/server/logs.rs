//! The workers' output, as far as it is here, and as it comes.

use std::time::{Duration, SystemTime};

use axum::extract::{Path, Query, State};
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::Api;
use super::error::ApiError;
use super::kubernetes::worker_of;
use super::query::{flag, number};
use super::stream::{Lines, stream, stream_lines};
use super::views::CONTAINER;
use crate::api::bucket::BucketAddress;
use crate::api::ids::GroupNumber;
use crate::api::meta::ObjectKey;
use crate::api::object::{AdaptDLJob, AnyObject, Kind};
use crate::api::units::Bytes;
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
    let job = find(&api, ObjectKey::new(namespace, name)).await?;
    let logs = JobLogs::of_job(&api.state, &job);
    let follower = |lines| Follower { api: api.clone(), job, logs, query, since: None, room: None, lines };
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
    let job = find(&api, key).await?;
    let logs = JobLogs::of_job(&api.state, &job);
    let mut group = None;
    if query.previous {
        let workers = logs.workers().unwrap_or_default();
        let mut groups = workers.iter().filter(|(_, of)| *of == rank).map(|(group, _)| group.0).rev();
        let before = groups.nth(1);
        group =
            Some(before.ok_or_else(|| ApiError::bad_request(format!("{name} had no group before this")))?);
    }
    let since =
        query.since_seconds.map(|seconds| SystemTime::now().checked_sub(Duration::from_secs(seconds)));
    let since = since.flatten().or_else(|| query.since_time.map(SystemTime::from));
    let tail_lines = query.tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let wanted = LogQuery { group, rank, follow: query.follow && !query.previous, tail_lines };
    let room = Some(query.limit_bytes.unwrap_or(u64::MAX));
    let follower = |lines| Follower { api: api.clone(), job, logs, query: wanted, since, room, lines };
    Ok(stream(api.clone(), "text/plain; charset=utf-8", |lines| follower(lines).run()))
}

/// The job of a name.
pub(super) async fn find(api: &Api, key: ObjectKey) -> Result<AdaptDLJob, ApiError> {
    let wanted = key.clone();
    match api.store.read(move |tx| tx.get(Kind::AdaptDLJob, &wanted)).await? {
        Some(AnyObject::Job(job)) => Ok(*job),
        _ => Err(ApiError::not_found(format!("there is no AdaptDLJob {key}"))),
    }
}

struct Follower {
    api: Api,
    job: AdaptDLJob,
    logs: JobLogs,
    query: LogQuery,
    /// Only of workers that have written something since then: when each line was written is not kept.
    since: Option<SystemTime>,
    /// If it is sent as it is: how many bytes more.
    room: Option<u64>,
    lines: Lines,
}

impl Follower {
    async fn run(mut self) -> Option<()> {
        let mut position: Option<(GroupNumber, u64)> = None;
        let mut tail = self.query.tail_lines;
        if tail.is_none() {
            self.tell_of_groups().await?;
        }
        loop {
            // Before reading: what comes in between is seen in the next round.
            let over = !self.query.follow || self.is_over().await;
            for (group, rank) in self.workers(position.map(|(group, _)| group)) {
                let start = position.filter(|(current, _)| *current == group).map_or(0, |(_, offset)| offset);
                let start = match tail.take() {
                    Some(lines) if self.is_last(group) => self.tail_start((group, rank), lines),
                    Some(lines) => {
                        tail = Some(lines);
                        continue;
                    }
                    None => start,
                };
                if start == 0 {
                    self.tell_of_beginning((group, rank)).await?;
                }
                let end = self.send((group, rank), start).await?;
                position = Some((group, end));
            }
            if over {
                return Some(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The workers of the wanted rank, from a group on.
    fn workers(&self, from: Option<GroupNumber>) -> Vec<WorkerId> {
        let workers = self.logs.workers().unwrap_or_default().into_iter();
        let wanted = workers.filter(|(group, rank)| {
            *rank == self.query.rank
                && self.query.group.is_none_or(|wanted| wanted == group.0)
                && from.is_none_or(|from| *group >= from)
                && self.since.is_none_or(|since| self.wrote_since((*group, *rank), since))
        });
        wanted.collect()
    }

    fn wrote_since(&self, worker: WorkerId, since: SystemTime) -> bool {
        self.logs.modified(worker).ok().flatten().is_some_and(|at| at >= since)
    }

    fn is_last(&self, group: GroupNumber) -> bool {
        self.workers(Some(group)).last().is_some_and(|(last, _)| *last == group)
    }

    /// Says that there were groups of which nothing is here any more, if any of them is asked for.
    async fn tell_of_groups(&self) -> Option<()> {
        let first = self.logs.gone_before().ok().flatten().map_or(0, |first| first.0);
        if first == 0 || self.query.group.is_some_and(|wanted| wanted >= first) {
            return Some(());
        }
        let place = self.job.spec.logs_place(&self.job.metadata);
        self.note((GroupNumber(0), self.query.rank), &gone_groups(first, place.as_ref())).await
    }

    /// Says that a worker's first output is not here any more, if it is not.
    async fn tell_of_beginning(&self, worker: WorkerId) -> Option<()> {
        let (start, _) = self.logs.range(worker).unwrap_or_default();
        if start == 0 {
            return Some(());
        }
        self.note(worker, &gone_beginning(worker, start, self.logs.place(worker).as_ref())).await
    }

    async fn note(&self, (group, rank): WorkerId, note: &str) -> Option<()> {
        self.lines.send(&json!({"group": group, "rank": rank, "text": "", "note": note})).await
    }

    /// Where the last lines of what there is begin.
    fn tail_start(&self, worker: WorkerId, lines: usize) -> u64 {
        let (start, end) = self.logs.range(worker).unwrap_or((0, 0));
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
        begins.iter().rev().nth(lines.saturating_sub(1)).or(begins.first()).copied().unwrap_or(end)
    }

    async fn send(&mut self, worker: WorkerId, from: u64) -> Option<u64> {
        let mut position = from;
        loop {
            let (begin, bytes) = self.logs.read(worker, position, PIECE).ok()?;
            if bytes.is_empty() {
                return Some(position);
            }
            // Up to the last line break, so that no character is cut in two; a piece without any goes as it is.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
            if let Some(room) = &mut self.room {
                let here = usize::try_from(*room).unwrap_or(usize::MAX).min(whole);
                *room -= here as u64;
                self.lines.text(bytes[..here].to_vec()).await?;
                if *room == 0 {
                    return None;
                }
            } else {
                let text = String::from_utf8_lossy(&bytes[..whole]);
                self.lines.send(&json!({"group": worker.0, "rank": worker.1, "text": text})).await?;
            }
            position = begin + whole as u64;
        }
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
