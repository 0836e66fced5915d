//! JSON in a checkpoint: what a program that trains in Rust saves beside its tensors (`train`).

use std::fs::File;
use std::io::{BufReader, Seek as _};

use serde_json::{Value as Json, json};

use super::leaves::{Leaves, MOST, below};

/// Beyond this size a file is not read: such a program's has a few kilobytes.
const LARGEST: u64 = 16 << 20;
/// The name that `train` gives its file.
const TRAINING: &str = "training.json";

/// Lists what is in a file, whose first byte is that of an object.
pub(super) fn list(mut file: &File, name: &str, prefix: &str, leaves: &mut Leaves) -> Result<(), String> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    if size > LARGEST {
        return Err(format!("it has more than {} MiB", LARGEST >> 20));
    }
    file.rewind().map_err(|error| error.to_string())?;
    let value = serde_json::from_reader(BufReader::new(file)).map_err(|error| error.to_string())?;
    walk(value, if name == TRAINING { "" } else { prefix }, leaves);
    Ok(())
}

fn walk(value: Json, name: &str, leaves: &mut Leaves) {
    if leaves.values.len() >= MOST {
        leaves.cut = true;
        return;
    }
    match value {
        Json::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                walk(value, &below(name, &key), leaves);
            }
        }
        // How long steps took, with each number of replicas and each batch.
        Json::Array(profile) if name == "profile" => {
            leaves.values.push(("profiles".to_owned(), json!(profile.len())))
        }
        value => leaves.values.push((name.to_owned(), value)),
    }
}
