//! A look inside checkpoints: AdaptDL's, and what `torch.save` and safetensors leave.
//!
//! Here is what reads them, without torch and without Python, and compares them. Nothing that a file asks for is run,
//! and whatever it says, memory is bounded: tensors are read where they lie, a piece at a time.

mod diff;
mod dtype;
mod file;
mod json;
mod leaves;
mod pickle;
mod states;
mod tensor;
mod torch;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use leaves::Leaves;

pub use diff::{Diff, TensorChange, TensorDiff, ValueChange};
pub use dtype::Dtype;
pub use file::Format;
pub use tensor::{Difference, Stats, Tensor};

/// More files are not a checkpoint.
const MOST_FILES: usize = 10_000;
/// Once there is more than this, what is in further files is not listed.
const MOST_LISTED: usize = 1_000_000;
/// How AdaptDL begins the name of a checkpoint's directory.
const PREFIX: &str = "checkpoint-";
/// How the name of an archive ends.
const ARCHIVE: &str = "tar";

/// Why a checkpoint cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no checkpoint: {reason}", path.display())]
    NoCheckpoint {
        /// The file or directory.
        path: PathBuf,
        /// What it is.
        reason: String,
    },
}

/// A file of a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointFile {
    /// Its name within the checkpoint.
    pub name: String,
    /// Its size.
    pub size: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// What it is.
    pub format: Format,
    /// Why not all of it could be read.
    pub problem: Option<String>,
}

/// What is in a checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// The directory or file that was read.
    pub path: PathBuf,
    /// The group that saved it, if that is known.
    pub group: Option<u64>,
    /// Its files, by name.
    pub files: Vec<CheckpointFile>,
    /// How far training was: what is known of AdaptDL's states.
    pub training: Vec<(&'static str, Json)>,
    /// Everything that is no tensor, by the way to it.
    pub values: Vec<(String, Json)>,
    /// Its tensors, in the order of the files.
    pub tensors: Vec<Tensor>,
    /// What an archive was unpacked into.
    _unpacked: Option<tempfile::TempDir>,
}

impl Checkpoint {
    /// Looks into a directory as AdaptDL leaves it, one file, or an archive as checkpoints are stored.
    ///
    /// # Errors
    /// If it cannot be read, or is no checkpoint. What cannot be read of one of several files is said there.
    pub fn read(path: &Path) -> Result<Self, InspectError> {
        let io = |source| InspectError::Io { path: path.to_owned(), source };
        let kind = std::fs::metadata(path).map_err(io)?;
        if kind.is_dir() {
            return Self::directory(path, &newest(path).map_err(io)?);
        }
        if !kind.is_file() {
            let reason = "it is neither a file nor a directory".to_owned();
            return Err(InspectError::NoCheckpoint { path: path.to_owned(), reason });
        }
        if path.extension().is_some_and(|end| end == ARCHIVE) {
            return Self::archive(path);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let prefix = if name.contains("adaptdl-") { states::prefix(&name) } else { String::new() };
        let parent = path.parent().and_then(group);
        let checkpoint = Self::files(path, parent, &[(name, prefix, path.to_owned())])?;
        match checkpoint.files.first() {
            Some(CheckpointFile { problem: Some(reason), .. }) if checkpoint.is_empty() => {
                Err(InspectError::NoCheckpoint { path: path.to_owned(), reason: reason.clone() })
            }
            Some(CheckpointFile { format: Format::Other, .. }) => {
                let reason = "it is none of torch's files, no pickle and no safetensors file".to_owned();
                Err(InspectError::NoCheckpoint { path: path.to_owned(), reason })
            }
            _ => Ok(checkpoint),
        }
    }

    /// How another checkpoint differs from this one.
    pub fn diff(&self, other: &Self) -> Diff {
        Diff::between(self, other)
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.tensors.is_empty()
    }

    fn directory(asked: &Path, path: &Path) -> Result<Self, InspectError> {
        let mut found = Vec::new();
        list(path, "", &mut found).map_err(|source| InspectError::Io { path: path.to_owned(), source })?;
        found.sort();
        if found.is_empty() || found.len() > MOST_FILES {
            let reason = match found.len() {
                0 => "it has no files".to_owned(),
                _ => format!("it has more than {MOST_FILES} files"),
            };
            return Err(InspectError::NoCheckpoint { path: asked.to_owned(), reason });
        }
        let files: Vec<_> =
            found.into_iter().map(|(name, path)| (name.clone(), states::prefix(&name), path)).collect();
        let checkpoint = Self::files(path, group(path), &files)?;
        if checkpoint.files.iter().all(|file| matches!(file.format, Format::Other | Format::Json)) {
            let reason = "none of its files is one of torch's, a pickle or a safetensors file".to_owned();
            return Err(InspectError::NoCheckpoint { path: asked.to_owned(), reason });
        }
        Ok(checkpoint)
    }

    fn archive(path: &Path) -> Result<Self, InspectError> {
        let io = |source| InspectError::Io { path: path.to_owned(), source };
        let unpacked = tempfile::tempdir().map_err(io)?;
        let mut archive = tar::Archive::new(File::open(path).map_err(io)?);
        unpack(&mut archive, unpacked.path()).map_err(|error| {
            let reason = format!("it cannot be unpacked: {error}");
            InspectError::NoCheckpoint { path: path.to_owned(), reason }
        })?;
        let inside = newest(unpacked.path()).map_err(io)?;
        Ok(Self { path: path.to_owned(), _unpacked: Some(unpacked), ..Self::directory(path, &inside)? })
    }

    fn files(
        path: &Path,
        group: Option<u64>,
        files: &[(String, String, PathBuf)],
    ) -> Result<Self, InspectError> {
        let mut checkpoint = Self {
            path: path.to_owned(),
            group,
            files: Vec::new(),
            training: Vec::new(),
            values: Vec::new(),
            tensors: Vec::new(),
            _unpacked: None,
        };
        for (name, prefix, path) in files {
            let io = |source| InspectError::Io { path: path.clone(), source };
            let opened = File::open(path).map_err(io)?;
            let size = opened.metadata().map_err(io)?.len();
            let file::Read { sha256, format, mut leaves, mut problem } =
                file::read(opened, name, prefix).map_err(io)?;
            if checkpoint.values.len() + checkpoint.tensors.len() > MOST_LISTED {
                leaves = Leaves::default();
                problem = Some("it is not listed: the files before it have too much in them".to_owned());
            }
            checkpoint.files.push(CheckpointFile { name: name.clone(), size, sha256, format, problem });
            checkpoint.values.extend(leaves.values);
            checkpoint.tensors.extend(leaves.tensors);
        }
        unique(checkpoint.values.iter_mut().map(|(name, _)| name));
        unique(checkpoint.tensors.iter_mut().map(|tensor| &mut tensor.name));
        checkpoint.training = states::training(&checkpoint.values, group);
        Ok(checkpoint)
    }
}

/// Unpacks files and directories; a link could lead out of there.
fn unpack(archive: &mut tar::Archive<File>, directory: &Path) -> io::Result<()> {
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_dir() {
            entry.unpack_in(directory)?;
        }
    }
    Ok(())
}

/// Gives each a name of its own: keys that are different to Python may be written alike.
fn unique<'n>(names: impl Iterator<Item = &'n mut String>) {
    let mut known = HashSet::new();
    for (index, name) in names.enumerate() {
        if !known.insert(name.clone()) {
            name.push_str(&format!("#{index}"));
            known.insert(name.clone());
        }
    }
}

/// The checkpoint that a directory is, or the newest that it has, as AdaptDL looks for it.
fn newest(path: &Path) -> io::Result<PathBuf> {
    let mut newest = None;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?.path();
        newest = newest.max(group(&entry).filter(|_| entry.is_dir()).map(|group| (group, entry)));
    }
    Ok(newest.map_or_else(|| path.to_owned(), |(_, path)| path))
}

/// The number of the group that saved a directory, by its name.
fn group(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

/// The files below a directory, with their names. Links to directories are not followed: they may lead in a circle.
fn list(directory: &Path, within: &str, found: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name =
            format!("{within}{}", entry.file_name().to_string_lossy()).replace(char::is_control, "\u{fffd}");
        if found.len() > MOST_FILES {
            return Ok(());
        }
        match entry.file_type()? {
            kind if kind.is_dir() => list(&entry.path(), &format!("{name}/"), found)?,
            _ if entry.path().is_file() => found.push((name, entry.path())),
            _ => {}
        }
    }
    Ok(())
}
