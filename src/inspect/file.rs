//! One file of a checkpoint: what it is, by its first bytes, and what is in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::sync::Arc;

use safetensors::Dtype as Safe;
use safetensors::tensor::Metadata;
use sha2::{Digest as _, Sha256};

use super::dtype::Dtype;
use super::json;
use super::leaves::Leaves;
use super::pickle::{Budget, Pickle};
use super::states;
use super::tensor::{Place, Storage, Tensor};
use super::torch::{Storages, is_legacy, read_legacy, read_zip};

/// The longest header of a safetensors file.
const LONGEST_HEADER: u64 = 64 << 20;
/// So many pickles one after the other are read; AdaptDL has up to eight in a file.
const MOST_PICKLES: usize = 64;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What `torch.save` writes.
    Torch,
    /// What `torch.save` wrote before torch 1.6.
    TorchLegacy,
    /// What `pickle.dump` writes.
    Pickle,
    /// Tensors alone.
    Safetensors,
    /// An object in JSON.
    Json,
    /// Something else.
    Other,
}

impl Format {
    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Torch => "torch",
            Self::TorchLegacy => "torch-legacy",
            Self::Pickle => "pickle",
            Self::Safetensors => "safetensors",
            Self::Json => "json",
            Self::Other => "other",
        }
    }
}

/// The digest of a file, and what is in it.
pub(super) struct Read {
    pub(super) sha256: String,
    pub(super) format: Format,
    pub(super) leaves: Leaves,
    /// Why not all of it was read.
    pub(super) problem: Option<String>,
}

/// Reads a file that is called `name` within its checkpoint, and gives `prefix` to the names of what is in it.
pub(super) fn read(file: File, name: &str, prefix: &str) -> std::io::Result<Read> {
    let sha256 = digest(&file)?;
    let mut input = BufReader::new(file.try_clone()?);
    input.rewind()?;
    let start: Vec<u8> = input.fill_buf()?.iter().take(9).copied().collect();
    let mut leaves = Leaves::default();
    let (format, read) = match start.as_slice() {
        [b'P', b'K', 3, 4, ..] => zip(&file, name, prefix, &mut leaves),
        [0x80, 0..=5, ..] => pickles(&file, name, prefix, &mut leaves, &mut input),
        [_, _, _, _, _, _, 0, 0, b'{'] => {
            (Format::Safetensors, tensors(&file, prefix, &mut leaves, &mut input))
        }
        [b'{', ..] if name.ends_with(".json") => (Format::Json, json::list(&file, name, prefix, &mut leaves)),
        _ => (Format::Other, Ok(())),
    };
    if leaves.cut && read.is_ok() {
        let problem = Some("it has more in it than is listed".to_owned());
        return Ok(Read { sha256, format, leaves, problem });
    }
    Ok(Read { sha256, format, leaves, problem: read.err() })
}

fn digest(file: &File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut input = BufReader::with_capacity(1 << 20, file.try_clone()?);
    loop {
        let piece = input.fill_buf()?;
        if piece.is_empty() {
            return Ok(format!("{:x}", hasher.finalize()));
        }
        hasher.update(piece);
        let length = piece.len();
        input.consume(length);
    }
}

type Outcome = (Format, Result<(), String>);

fn zip(file: &File, name: &str, prefix: &str, leaves: &mut Leaves) -> Outcome {
    let read = file.try_clone().map_err(|error| error.to_string()).and_then(|file| read_zip(&Arc::new(file)));
    match read {
        Ok(Some((pickle, storages))) => {
            states::list(name, prefix, &[pickle], &storages, leaves);
            (Format::Torch, Ok(()))
        }
        Ok(None) => (Format::Other, Ok(())),
        Err(problem) => (Format::Torch, Err(problem)),
    }
}

fn pickles(
    file: &File,
    name: &str,
    prefix: &str,
    leaves: &mut Leaves,
    input: &mut BufReader<File>,
) -> Outcome {
    let (mut found, mut budget, mut problem) = (Vec::new(), Budget::default(), None);
    while found.len() < MOST_PICKLES
        && problem.is_none()
        && input.fill_buf().is_ok_and(|rest| !rest.is_empty())
    {
        match Pickle::read(input, &mut budget) {
            Ok(pickle) if found.is_empty() && is_legacy(&pickle) => {
                let read = file.try_clone().map_err(|error| error.to_string());
                let read = read.and_then(|file| read_legacy(&Arc::new(file), input, &mut budget)).map(
                    |(pickle, storages)| {
                        states::list(name, prefix, &[pickle], &storages, leaves);
                    },
                );
                return (Format::TorchLegacy, read);
            }
            Ok(pickle) => found.push(pickle),
            Err(error) => problem = Some(error.to_string()),
        }
    }
    states::list(name, prefix, &found, &Storages::default(), leaves);
    (Format::Pickle, problem.map_or(Ok(()), Err))
}

/// The tensors of a safetensors file: a header in JSON, and their numbers after it.
fn tensors(
    file: &File,
    prefix: &str,
    leaves: &mut Leaves,
    input: &mut BufReader<File>,
) -> Result<(), String> {
    let mut length = [0; 8];
    input.read_exact(&mut length).map_err(|error| error.to_string())?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Err(format!("its header is longer than {} MiB", LONGEST_HEADER >> 20));
    }
    let mut header = Vec::new();
    input.take(length).read_to_end(&mut header).map_err(|error| error.to_string())?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| format!("its header is broken: {error}"))?;
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let file = Arc::new(file.try_clone().map_err(|error| error.to_string())?);
    for (key, value) in metadata.metadata().iter().flatten().collect::<BTreeMap<_, _>>() {
        leaves.values.push((super::leaves::below(prefix, key), value.as_str().into()));
    }
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        let start = (info.data_offsets.0 as u64).saturating_add(8 + length);
        let bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
        let storage = if start.saturating_add(bytes) <= size {
            Ok(Storage { place: Place::File(Arc::clone(&file), start), length: bytes, swapped: false })
        } else {
            Err("the file is cut off before its end".to_owned())
        };
        let shape: Vec<u64> = info.shape.iter().map(|length| *length as u64).collect();
        let tensor =
            Tensor::dense(super::leaves::below(prefix, &name), dtype(info.dtype), shape, storage, false);
        leaves.tensors.push(tensor);
    }
    Ok(())
}

fn dtype(dtype: Safe) -> Dtype {
    match dtype {
        Safe::F64 => Dtype::Float64,
        Safe::F32 => Dtype::Float32,
        Safe::F16 => Dtype::Float16,
        Safe::BF16 => Dtype::Bfloat16,
        Safe::I64 => Dtype::Int(8),
        Safe::I32 => Dtype::Int(4),
        Safe::I16 => Dtype::Int(2),
        Safe::I8 => Dtype::Int(1),
        Safe::U64 => Dtype::Uint(8),
        Safe::U32 => Dtype::Uint(4),
        Safe::U16 => Dtype::Uint(2),
        Safe::U8 => Dtype::Uint(1),
        Safe::BOOL => Dtype::Bool,
        Safe::C64 => Dtype::Complex(8),
        other => Dtype::Other(other.to_string().to_lowercase()),
    }
}
