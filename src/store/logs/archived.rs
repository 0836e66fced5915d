//! How far a worker's output has come to object storage, and what of it goes there next.
//!
//! It goes there as a row of objects, each named by the position of its first byte, like the segments here. The last
//! one is put again, longer, until it is large enough. So a try that is repeated, because of a crash or because nobody
//! knows what came of it, puts the same bytes under the same name.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{JobLogs, WorkerId};
use crate::api::bucket::BucketAddress;
use crate::api::ids::GroupNumber;

/// The most that is put at once.
pub const OBJECT_BYTES: usize = 8 << 20;
/// An object of at least this size is not put again.
const LARGE_ENOUGH: u64 = 1 << 20;
/// The file beside a worker's segments that says how far they have come.
const MARK: &str = "archived.json";

/// How far a worker's output has come: its last object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Archived {
    /// The directory of the worker's objects.
    place: String,
    /// The position of the object's first byte.
    start: u64,
    /// The position behind its last byte.
    pub end: u64,
    /// The position up to which there may be more, if a try was begun and nobody wrote down what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tried: Option<u64>,
}

impl Archived {
    /// A worker's last object in its directory, by its name and size; or that there is none.
    pub fn of(place: &BucketAddress, last: Option<(String, u64)>) -> Self {
        let last =
            last.and_then(|(name, size)| Some((name.strip_suffix(".log")?.parse::<u64>().ok()?, size)));
        let (start, size) = last.unwrap_or_default();
        Self { place: place.to_string(), start, end: start.saturating_add(size), tried: None }
    }

    /// The same, while a portion is being put.
    pub fn trying(&self, portion: &Portion) -> Self {
        Self { tried: Some(portion.start + portion.bytes.len() as u64), ..self.clone() }
    }

    /// The position up to which everything is there for good. What follows may be put again.
    pub(super) fn settled(&self) -> u64 {
        if self.end - self.start >= LARGE_ENOUGH { self.end } else { self.start }
    }
}

/// The next object of a worker's output.
#[derive(Debug, PartialEq, Eq)]
pub struct Portion {
    /// The position of its first byte.
    pub start: u64,
    /// What it contains.
    pub bytes: Vec<u8>,
}

/// The name of the object that begins at a position. As text the names have the order of the positions.
pub fn object_name(start: u64) -> String {
    format!("{start:016}.log")
}

impl JobLogs {
    /// The directory of a worker's objects, if its output is to be there.
    pub fn place(&self, (group, rank): WorkerId) -> Option<BucketAddress> {
        Some(self.archive.as_ref()?.join(&format!("group-{group}/rank-{rank}")))
    }

    /// How far a worker's output has come, if that can be told from here.
    ///
    /// It cannot if nothing is written down of this place, or if the end of what is there may have been put from bytes
    /// that are not here any more: they have had to go, or the machine lost them when it crashed.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn archived(&self, worker: WorkerId) -> std::io::Result<Option<Archived>> {
        let (start, end) = self.range(worker)?;
        let known = self.mark(worker)?;
        let known = known.filter(|known| start <= known.settled() || start == end);
        Ok(known.filter(|known| known.tried.is_none_or(|tried| tried <= end)))
    }

    /// What is written down of a worker.
    pub(super) fn mark(&self, worker: WorkerId) -> std::io::Result<Option<Archived>> {
        let Some(place) = self.place(worker) else { return Ok(None) };
        let text = match fs::read(self.mark_path(worker)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        // One that cannot be read says nothing; what is there can be asked.
        let known: Option<Archived> = serde_json::from_slice(&text).ok();
        Ok(known.filter(|known| known.place == place.to_string() && known.start <= known.end))
    }

    /// Writes down how far a worker's output has come, or is about to: that must outlive the machine's crash, which
    /// output that is here may not.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn note_archived(&self, worker: WorkerId, archived: &Archived) -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(self.worker_directory(worker))?;
        file.write_all(&serde_json::to_vec(archived)?)?;
        if archived.tried.is_some() {
            file.as_file().sync_data()?;
        }
        file.persist(self.mark_path(worker)).map_err(|error| error.error)?;
        Ok(())
    }

    fn mark_path(&self, worker: WorkerId) -> PathBuf {
        self.worker_directory(worker).join(MARK)
    }

    /// Where in the directory a worker's last object is looked for: behind this name. Whatever it begins with, none that
    /// reaches into what is here begins before.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn look_behind(&self, worker: WorkerId) -> std::io::Result<String> {
        let (start, _) = self.range(worker)?;
        // Without what all names end with: the object that begins there is behind it.
        Ok(format!("{:016}", start.saturating_sub(OBJECT_BYTES as u64)))
    }

    /// What is to be put next of a worker's output, if anything is.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn portion(&self, worker: WorkerId, archived: &Archived) -> std::io::Result<Option<Portion>> {
        let again = archived.settled();
        if again < archived.end {
            let portion = self.unbroken(worker, again)?;
            // It must go on where the object ends: after a gap, or with less than was here before, it does not.
            if portion.start == again && again + portion.bytes.len() as u64 > archived.end {
                return Ok(Some(portion));
            }
        }
        let portion = self.unbroken(worker, archived.end)?;
        Ok(Some(portion).filter(|portion| !portion.bytes.is_empty()))
    }

    /// What is here from a position on, or from the next that is, up to a gap.
    fn unbroken(&self, worker: WorkerId, position: u64) -> std::io::Result<Portion> {
        let (start, mut bytes) = self.read(worker, position, OBJECT_BYTES)?;
        while bytes.len() < OBJECT_BYTES {
            let end = start + bytes.len() as u64;
            let (next, more) = self.read(worker, end, OBJECT_BYTES - bytes.len())?;
            if next != end || more.is_empty() {
                break;
            }
            bytes.extend(more);
        }
        Ok(Portion { start, bytes })
    }

    /// The workers with output that has not come there yet, as far as is written down here, and how many bytes of each.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn unarchived(&self) -> std::io::Result<Vec<(WorkerId, u64)>> {
        let mut found = Vec::new();
        for worker in self.workers()? {
            let behind = self.behind(worker)?;
            if behind > 0 {
                found.push((worker, behind));
            }
        }
        Ok(found)
    }

    /// How many bytes of a group's output have not come there yet.
    pub(super) fn unarchived_of(&self, group: GroupNumber) -> std::io::Result<u64> {
        self.workers_of(group)?.into_iter().map(|worker| self.behind(worker)).sum()
    }

    fn behind(&self, worker: WorkerId) -> std::io::Result<u64> {
        let (start, end) = self.range(worker)?;
        let there = self.mark(worker)?.map_or(0, |known| known.end);
        Ok(end.saturating_sub(there.max(start)))
    }
}
