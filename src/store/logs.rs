//! The workers' output: brought from the cluster as it is written, kept in bounded, rotated files.
//!
//! A worker's output is a row of segments, each named by the position of its first byte, so that the end of what is
//! there can be read off the files, and a crash loses or repeats nothing. When there are too many the oldest goes. What
//! is to go to object storage, too, may stay longer, until it is there.

mod archived;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use archived::{Archived, OBJECT_BYTES, Portion, object_name};

use crate::api::bucket::BucketAddress;
use crate::api::ids::GroupNumber;
use crate::api::meta::ObjectMeta;
use crate::api::object::AdaptDLJob;

/// When a segment is full.
const SEGMENT_BYTES: u64 = 8 << 20;
/// How many segments of a worker are kept.
const SEGMENTS: usize = 4;
/// How many are kept of one whose output cannot be brought to object storage.
const SEGMENTS_AT_MOST: usize = 16;
/// How many groups' output is kept.
const GROUPS: usize = 20;
/// How many groups' is kept where it cannot be brought to object storage.
const GROUPS_AT_MOST: usize = 40;

/// A worker: its group and rank.
pub type WorkerId = (GroupNumber, u32);

/// The output of one job's workers.
#[derive(Clone, Debug)]
pub struct JobLogs {
    directory: PathBuf,
    /// Where it is to go from here.
    archive: Option<BucketAddress>,
}

impl JobLogs {
    /// The output of a job, kept in a state directory, and then where its manifest wants it.
    pub fn of_job(state: &Path, job: &AdaptDLJob) -> Self {
        Self { archive: job.spec.logs_place(&job.metadata), ..Self::of(state, &job.metadata) }
    }

    /// The output of a job that is kept in a state directory only.
    pub fn of(state: &Path, job: &ObjectMeta) -> Self {
        Self::new(&state.join("jobs").join(job.directory()))
    }

    fn new(job_directory: &Path) -> Self {
        Self { directory: job_directory.join("logs"), archive: None }
    }

    fn worker_directory(&self, (group, rank): WorkerId) -> PathBuf {
        self.directory.join(format!("group-{group}")).join(format!("rank-{rank}"))
    }

    /// The workers of which there is any output.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn workers(&self) -> std::io::Result<Vec<WorkerId>> {
        let mut workers = Vec::new();
        for group in numbered(&self.directory, "group-")? {
            workers.extend(self.workers_of(GroupNumber(group))?);
        }
        Ok(workers)
    }

    fn workers_of(&self, group: GroupNumber) -> std::io::Result<Vec<WorkerId>> {
        let ranks = numbered(&self.directory.join(format!("group-{group}")), "rank-")?;
        Ok(ranks.into_iter().map(|rank| (group, u32::try_from(rank).unwrap_or(u32::MAX))).collect())
    }

    /// The first group of which anything is here, if the output of others before may have had to go.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn gone_before(&self) -> std::io::Result<Option<GroupNumber>> {
        let groups = numbered(&self.directory, "group-")?;
        Ok(groups.first().filter(|_| groups.len() >= GROUPS).map(|first| GroupNumber(*first)))
    }

    /// Where the output that is kept begins and ends.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn range(&self, worker: WorkerId) -> std::io::Result<(u64, u64)> {
        let segments = segments(&self.worker_directory(worker))?;
        let start = segments.first_key_value().map_or(0, |(start, _)| *start);
        let end = match segments.last_key_value() {
            Some((start, path)) => start + fs::metadata(path)?.len(),
            None => 0,
        };
        Ok((start, end))
    }

    /// When something was added last to what a worker wrote, if there is anything.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn modified(&self, worker: WorkerId) -> std::io::Result<Option<SystemTime>> {
        let segments = segments(&self.worker_directory(worker))?;
        segments.last_key_value().map(|(_, path)| fs::metadata(path)?.modified()).transpose()
    }

    /// Adds what a worker wrote from a position on. What is there already is not added again. Says how many bytes had
    /// to go for it before they were in object storage, where they should be.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn append(&self, worker: WorkerId, position: u64, bytes: &[u8]) -> std::io::Result<u64> {
        let directory = self.worker_directory(worker);
        fs::create_dir_all(&directory)?;
        let (_, end) = self.range(worker)?;
        let known = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX);
        let bytes = bytes.get(known..).unwrap_or_default();
        let mut segments = segments(&directory)?;
        let last = segments.last_key_value().map(|(start, _)| *start);
        let start = match last {
            Some(start) if position <= end && end - start < SEGMENT_BYTES => start,
            _ => position.max(end),
        };
        let path = directory.join(format!("{start:016}.log"));
        File::options().create(true).append(true).open(&path)?.write_all(bytes)?;
        segments.insert(start, path);
        Ok(self.trim(worker, segments)? + self.trim_groups(worker.0)?)
    }

    /// Removes a worker's oldest segments.
    fn trim(&self, worker: WorkerId, mut segments: BTreeMap<u64, PathBuf>) -> std::io::Result<u64> {
        let mut lost = 0;
        let archived = match segments.len() > SEGMENTS {
            true => self.mark(worker)?,
            false => None,
        };
        let (there, settled) = archived.map_or((0, 0), |archived| (archived.end, archived.settled()));
        while segments.len() > SEGMENTS {
            let Some((start, oldest)) = segments.pop_first() else { break };
            let end = start + fs::metadata(&oldest)?.len();
            if self.archive.is_some() && end > settled {
                if segments.len() < SEGMENTS_AT_MOST {
                    break;
                }
                lost += end.saturating_sub(there.max(start));
            }
            fs::remove_file(oldest)?;
        }
        Ok(lost)
    }

    /// Removes the output of the oldest groups.
    fn trim_groups(&self, newest: GroupNumber) -> std::io::Result<u64> {
        let groups = numbered(&self.directory, "group-")?;
        let (surplus, mut lost) = (groups.len().saturating_sub(GROUPS), 0);
        let forced = groups.len().saturating_sub(GROUPS_AT_MOST);
        for (index, old) in groups.iter().take(surplus).enumerate().filter(|(_, old)| **old < newest.0) {
            let behind = match self.archive {
                Some(_) => self.unarchived_of(GroupNumber(*old))?,
                None => 0,
            };
            if behind == 0 || index < forced {
                fs::remove_dir_all(self.directory.join(format!("group-{old}")))?;
                lost += behind;
            }
        }
        Ok(lost)
    }

    /// Up to `size` bytes from a position on, and where they begin: later, if what was there is no longer kept.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn read(&self, worker: WorkerId, position: u64, size: usize) -> std::io::Result<(u64, Vec<u8>)> {
        let segments = segments(&self.worker_directory(worker))?;
        for (start, path) in &segments {
            let mut file = match File::open(path) {
                // It was the oldest, and has had to go meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let end = start + file.metadata()?.len();
            if position < end {
                let begin = position.max(*start);
                file.seek(SeekFrom::Start(begin - start))?;
                let mut bytes = Vec::new();
                file.take(size as u64).read_to_end(&mut bytes)?;
                return Ok((begin, bytes));
            }
        }
        Ok((position, Vec::new()))
    }
}

/// The numbers of the entries of a directory that are named by a prefix and a number, in order.
fn numbered(directory: &Path, prefix: &str) -> std::io::Result<Vec<u64>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        numbers.extend(
            name.to_str()
                .and_then(|name| name.strip_prefix(prefix))
                .and_then(|text| text.parse::<u64>().ok()),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The segments of a worker, by their first position.
fn segments(directory: &Path) -> std::io::Result<BTreeMap<u64, PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut segments = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(start) =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok())
        {
            segments.insert(start, path);
        }
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WORKER: WorkerId = (GroupNumber(3), 1);

    #[test]
    fn output_is_added_once_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let logs = JobLogs::new(directory.path());
        logs.append(WORKER, 0, b"one two ").unwrap();
        logs.append(WORKER, 4, b"two three").unwrap();
        assert_eq!(logs.read(WORKER, 0, 100).unwrap(), (0, b"one two three".to_vec()));
        assert_eq!(logs.read(WORKER, 8, 3).unwrap(), (8, b"thr".to_vec()));
        assert_eq!(logs.range(WORKER).unwrap(), (0, 13));
        assert_eq!(logs.workers().unwrap(), [WORKER]);
    }

    #[test]
    fn what_was_missed_is_skipped_and_the_newest_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let logs = JobLogs::new(directory.path());
        logs.append(WORKER, 0, b"early").unwrap();
        logs.append(WORKER, 100, b"late").unwrap();
        assert_eq!(logs.read(WORKER, 5, 100).unwrap(), (100, b"late".to_vec()));
        let piece = vec![b'x'; 1 << 20];
        for megabyte in 0..64 {
            logs.append(WORKER, 104 + (megabyte << 20), &piece).unwrap();
        }
        let (start, end) = logs.range(WORKER).unwrap();
        assert_eq!(end, 104 + (64 << 20));
        assert!(end - start <= SEGMENTS as u64 * (SEGMENT_BYTES + (1 << 20)) && end - start > 16 << 20);
    }
}
