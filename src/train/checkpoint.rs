//! Checkpoints: tensors in safetensors files, all else in a small JSON file. Nothing in them depends on the number of
//! replicas.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use super::TrainError;
use super::noise::Noise;
use super::profile::Profile;

/// The layout of what is saved. What reads one of another number would have to guess.
pub(super) const FORMAT: u32 = 1;
/// How AdaptDL, and with it the slots, begin the name of a checkpoint's directory; the group's number follows.
const PREFIX: &str = "checkpoint-";
const STATE: &str = "training.json";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// What is left on a disk that could not take more: torch says of a file only that it could not be written.
const NEARLY_FULL_BYTES: u64 = 1 << 20;

/// Everything that is no tensor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State<S> {
    pub(super) format: u32,
    /// The group that has saved it.
    pub(super) group: u64,
    /// The epoch, from 0.
    pub(super) epoch: u64,
    /// How many of the epoch's samples were taken, in the order that the seed and the epoch give.
    pub(super) index: u64,
    /// How many samples an epoch has.
    pub(super) samples_per_epoch: u64,
    /// Where random numbers begin; with the steps, where they go on.
    pub(super) seed: u64,
    /// Steps of the optimizer.
    pub(super) steps: u64,
    /// Samples that were taken, over all epochs.
    pub(super) samples: u64,
    /// Progress in scale-invariant iterations.
    pub(super) progress: f64,
    /// Samples in a step, of all replicas together.
    pub(super) batch_size: u64,
    /// Each group's learning rate, before it is scaled.
    pub(super) rates: Vec<f64>,
    pub(super) noise: Noise,
    pub(super) profile: Profile,
    /// The program's own.
    pub(super) own: S,
}

/// Tensors by name.
pub(super) type Tensors = BTreeMap<String, Tensor>;

/// What was saved.
pub(super) struct Saved<S> {
    pub(super) path: PathBuf,
    pub(super) state: State<S>,
    pub(super) model: Tensors,
    pub(super) optimizer: Tensors,
}

/// Makes `checkpoint-GROUP` in a directory: first under another name, then whole and on the disk, by a rename.
pub(super) fn save<S: Serialize + DeserializeOwned>(
    directory: &Path,
    state: &State<S>,
    model: &[(String, Tensor)],
    optimizer: &[(String, Tensor)],
) -> Result<(), TrainError> {
    let target = directory.join(format!("{PREFIX}{}", state.group));
    let part = directory.join(format!(".{PREFIX}{}.part", state.group));
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| TrainError::File { path, source }
    };
    remove(&part).map_err(file(&part))?;
    fs::create_dir_all(&part).map_err(file(&part))?;
    let text = written(state).map_err(|reason| TrainError::Own { reason })?;
    fs::write(part.join(STATE), text).map_err(file(&part.join(STATE)))?;
    for (name, tensors) in [(MODEL, model), (OPTIMIZER, optimizer)] {
        Tensor::write_safetensors(tensors, part.join(name))?;
    }
    for name in [STATE, MODEL, OPTIMIZER] {
        sync(&part.join(name)).map_err(file(&part.join(name)))?;
    }
    sync(&part).map_err(file(&part))?;
    // Only without a slot is there one of this group already: moved away first, for a rename replaces no full directory.
    let old = directory.join(format!(".{PREFIX}{}.old", state.group));
    remove(&old).map_err(file(&old))?;
    if target.exists() {
        fs::rename(&target, &old).map_err(file(&target))?;
    }
    fs::rename(&part, &target).map_err(file(&target))?;
    sync(directory).map_err(file(directory))?;
    remove(&old).map_err(file(&old))
}

/// The checkpoint of the highest group in a directory, if there is one.
pub(super) fn restore<S: DeserializeOwned>(directory: &Path) -> Result<Option<Saved<S>>, TrainError> {
    let Some(path) =
        newest(directory).map_err(|source| TrainError::File { path: directory.to_owned(), source })?
    else {
        return Ok(None);
    };
    let damaged = |name: &str, reason: String| TrainError::Checkpoint { path: path.join(name), reason };
    let text = fs::read(path.join(STATE)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged("", format!("it has no {STATE}: another program has saved it")),
        _ => damaged(STATE, error.to_string()),
    })?;
    let format = |text| serde_json::from_slice::<serde_json::Value>(text).ok()?.get("format")?.as_u64();
    if let Some(found) = format(&text).filter(|found| *found != u64::from(FORMAT)) {
        return Err(damaged(STATE, format!("its format is {found}, expected {FORMAT}")));
    }
    let state = serde_json::from_slice(&text).map_err(|error| damaged(STATE, error.to_string()))?;
    let tensors = |name: &str| {
        let read = Tensor::read_safetensors(path.join(name)).map(|tensors| tensors.into_iter().collect());
        read.map_err(|error: TchError| damaged(name, error.to_string()))
    };
    let (model, optimizer) = (tensors(MODEL)?, tensors(OPTIMIZER)?);
    Ok(Some(Saved { path, state, model, optimizer }))
}

/// Whether an error comes of a disk on which nothing more fits.
pub(super) fn is_full(directory: &Path, error: &TrainError) -> bool {
    if let TrainError::File { source, .. } = error {
        return matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    }
    let existing = directory.ancestors().find(|it| it.exists());
    let disk = existing.and_then(|it| nix::sys::statvfs::statvfs(it).ok());
    disk.is_some_and(|disk| disk.blocks_available() * disk.fragment_size() < NEARLY_FULL_BYTES)
}

fn newest(directory: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut newest = None;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        // One that was moved away counts as long as none has taken its place.
        let moved =
            |name: &str| name.strip_prefix('.')?.strip_suffix(".old")?.strip_prefix(PREFIX)?.parse().ok();
        let found = name.to_str().and_then(|name| match name.strip_prefix(PREFIX) {
            Some(group) => Some((group.parse::<u64>().ok()?, true)),
            None => Some((moved(name)?, false)),
        });
        newest = newest.max(found.map(|found| (found, entry.path())));
    }
    Ok(newest.map(|(_, path)| path))
}

/// A state as text that can be read back. JSON has no infinite numbers, nor keys that are no text: what has them would
/// be saved, and never restored.
pub(super) fn written<S: Serialize + DeserializeOwned>(state: &S) -> Result<Vec<u8>, String> {
    let text = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    let read: Result<S, _> = serde_json::from_slice(&text);
    read.map(|_| text).map_err(|error| format!("{error}; numbers must be finite"))
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
