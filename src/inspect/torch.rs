//! What `torch.save` writes: a zip archive with a pickle and raw storages, or, as it was before torch 1.6, pickles with
//! the storages after them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Seek, SeekFrom};
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::dtype::Dtype;
use super::pickle::{Budget, Id, Pickle, Value};
use super::tensor::{Place, Storage};

/// What the first pickle of the old format is.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// The largest record beside the pickle and the storages.
const LONGEST_RECORD: u64 = 64;

/// The storages of a file, by their keys.
#[derive(Debug, Default)]
pub(super) struct Storages {
    by_key: HashMap<String, Result<Storage, String>>,
}

/// A view of a storage that a pickle describes.
pub(super) struct View {
    pub(super) dtype: Dtype,
    pub(super) storage: Result<Storage, String>,
}

impl Storages {
    /// The storage that a pickle names: `("storage", type, key, device, count)`.
    pub(super) fn named(&self, pickle: &Pickle, id: Id) -> Option<View> {
        let Value::Outside(description) = pickle.value(id) else { return None };
        let [word, kind, key, rest @ ..] = pickle.items(*description)? else { return None };
        if pickle.text(*word) != Some("storage") {
            return None;
        }
        let kind = pickle.text(*kind)?.rsplit('.').next()?.strip_suffix("Storage")?.to_lowercase();
        let dtype = match kind.as_str() {
            "complexfloat" => Dtype::Complex(8),
            "complexdouble" => Dtype::Complex(16),
            "untyped" => Dtype::Uint(1),
            other => Dtype::named(other),
        };
        let key = key_text(pickle, *key);
        // Before torch 0.4 a storage could be a part of another.
        if rest.get(2).is_some_and(|part| *pickle.value(*part) != Value::None) {
            return Some(View { dtype, storage: Err("its storage is a part of another".to_owned()) });
        }
        let missing = || Err(format!("its storage {key:?} is missing: the file is cut off"));
        Some(View { dtype, storage: self.by_key.get(&key).cloned().unwrap_or_else(missing) })
    }
}

/// Reads an archive of `torch.save`; none if it is another archive.
pub(super) fn read_zip(file: &Arc<File>) -> Result<Option<(Pickle, Storages)>, String> {
    let broken = |error: zip::result::ZipError| format!("its zip archive is broken or cut off: {error}");
    let reader = BufReader::new(file.try_clone().map_err(|error| error.to_string())?);
    let mut archive = ZipArchive::new(reader).map_err(broken)?;
    let names = archive.file_names().map(|name| name.map(|name| name.into_owned()));
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(broken)?;
    let roots = names.iter().filter_map(|name| name.strip_suffix("data.pkl"));
    let Some(root) = roots.min_by_key(|root| root.len()).map(str::to_owned) else { return Ok(None) };
    let size_of_file = file.metadata().map_err(|error| error.to_string())?.len();
    let mut order = String::new();
    if let Ok(record) = archive.by_name(&format!("{root}byteorder")) {
        // What cannot be read is as torch has always had it.
        let _ = record.take(LONGEST_RECORD).read_to_string(&mut order);
    }
    let mut by_key = HashMap::new();
    for name in &names {
        let Some(key) = name.strip_prefix(&format!("{root}data/")) else { continue };
        let entry = archive.by_name(name).map_err(broken)?;
        let storage = match (entry.compression(), entry.data_start()) {
            (CompressionMethod::Stored, Some(start)) => Ok(Storage {
                place: Place::File(Arc::clone(file), start),
                // An archive may promise more than it has.
                length: entry.size().min(size_of_file.saturating_sub(start)),
                swapped: order.trim() == "big",
            }),
            _ => Err("its storage is compressed".to_owned()),
        };
        by_key.insert(key.to_owned(), storage);
    }
    let pickle = archive.by_name(&format!("{root}data.pkl")).map_err(broken)?;
    let pickle = Pickle::read(&mut BufReader::new(pickle), &mut Budget::default())
        .map_err(|error| error.to_string())?;
    Ok(Some((pickle, Storages { by_key })))
}

/// Whether a pickle is the first of the old format.
pub(super) fn is_legacy(pickle: &Pickle) -> bool {
    matches!(pickle.value(pickle.root), Value::Large(number) if *number == MAGIC.to_string())
}

/// Reads what comes after the first pickle of the old format.
pub(super) fn read_legacy(
    file: &Arc<File>,
    input: &mut (impl BufRead + Seek),
    budget: &mut Budget,
) -> Result<(Pickle, Storages), String> {
    let mut next = || Pickle::read(input, budget).map_err(|error| error.to_string());
    let (_protocol, system, pickle, keys) = (next()?, next()?, next()?, next()?);
    let little = system.entry(system.root, "little_endian").map(|id| system.value(id).clone());
    let swapped = little == Some(Value::Bool(false));
    let sizes = element_sizes(&pickle);
    let size_of_file = file.metadata().map_err(|error| error.to_string())?.len();
    let mut by_key = HashMap::new();
    for key in keys.items(keys.root).unwrap_or_default() {
        let key = key_text(&keys, *key);
        let mut count = [0; 8];
        // What is cut off is missed by the tensors that lie there.
        let Ok(()) = input.read_exact(&mut count) else { break };
        let start = input.stream_position().map_err(|error| error.to_string())?;
        let size =
            sizes.get(&key).copied().ok_or_else(|| format!("its storage {key:?} is of no known type"))?;
        let length = u64::from_le_bytes(count).saturating_mul(size);
        let storage = match start.checked_add(length) {
            Some(end) if end <= size_of_file => {
                input.seek(SeekFrom::Start(end)).map_err(|error| error.to_string())?;
                Ok(Storage { place: Place::File(Arc::clone(file), start), length, swapped })
            }
            _ => break,
        };
        by_key.insert(key, storage);
    }
    Ok((pickle, Storages { by_key }))
}

/// How large the elements of each storage are that a pickle names.
fn element_sizes(pickle: &Pickle) -> HashMap<String, u64> {
    let none = Storages::default();
    let named = pickle.outside().filter_map(|(id, description)| {
        let [_, _, key, ..] = pickle.items(description)? else { return None };
        let key = key_text(pickle, *key);
        Some((key, none.named(pickle, id)?.dtype.size()?))
    });
    named.collect()
}

fn key_text(pickle: &Pickle, key: Id) -> String {
    const ROOM: usize = 32;
    match pickle.text(key) {
        Some(text) => text.chars().take(ROOM).collect(),
        None => pickle.shown(key, ROOM),
    }
}
