//! How two checkpoints differ.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::Checkpoint;
use super::tensor::{Difference, Tensor};

/// How one checkpoint differs from another.
#[derive(Debug, Default)]
pub struct Diff {
    /// Values that differ, by name.
    pub values: Vec<ValueChange>,
    /// Tensors that differ, by name.
    pub tensors: Vec<TensorDiff>,
    /// How many values are alike.
    pub same_values: usize,
    /// How many tensors are alike.
    pub same_tensors: usize,
}

/// A value that differs.
#[derive(Debug)]
pub struct ValueChange {
    /// The way to it.
    pub name: String,
    /// What it is in the first; nothing if it is not there.
    pub before: Option<Json>,
    /// What it is in the second; nothing if it is not there.
    pub after: Option<Json>,
}

/// A tensor that differs.
#[derive(Debug)]
pub struct TensorDiff {
    /// The way to it.
    pub name: String,
    /// In what it differs.
    pub change: TensorChange,
}

/// In what a tensor differs.
#[derive(Debug)]
pub enum TensorChange {
    /// Only the first has it.
    OnlyBefore(String),
    /// Only the second has it.
    OnlyAfter(String),
    /// Its type or shape is another.
    Kind(String, String),
    /// Its numbers are others.
    Numbers {
        /// How they differ.
        difference: Difference,
        /// The norm in the first.
        norm: f64,
    },
    /// Its numbers cannot be compared, and why.
    Unread(String),
}

impl Diff {
    /// Whether there is any difference.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.tensors.is_empty()
    }

    pub(super) fn between(a: &Checkpoint, b: &Checkpoint) -> Self {
        let mut diff = Self::default();
        let values = |checkpoint: &Checkpoint| checkpoint.values.iter().cloned().collect::<BTreeMap<_, _>>();
        let (before, mut after) = (values(a), values(b));
        for (name, before) in before {
            match after.remove(&name) {
                Some(after) if after == before => diff.same_values += 1,
                after => diff.values.push(ValueChange { name, before: Some(before), after }),
            }
        }
        let new =
            after.into_iter().map(|(name, after)| ValueChange { name, before: None, after: Some(after) });
        diff.values.extend(new);

        let mut others: BTreeMap<&str, &Tensor> = b.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        for tensor in &a.tensors {
            let change = match others.remove(tensor.name.as_str()) {
                None => Some(TensorChange::OnlyBefore(kind(tensor))),
                Some(other) => change(tensor, other),
            };
            match change {
                None => diff.same_tensors += 1,
                Some(change) => diff.tensors.push(TensorDiff { name: tensor.name.clone(), change }),
            }
        }
        for tensor in b.tensors.iter().filter(|tensor| others.contains_key(tensor.name.as_str())) {
            let change = TensorChange::OnlyAfter(kind(tensor));
            diff.tensors.push(TensorDiff { name: tensor.name.clone(), change });
        }
        diff
    }
}

fn change(before: &Tensor, after: &Tensor) -> Option<TensorChange> {
    if before.dtype != after.dtype || before.shape != after.shape {
        return Some(TensorChange::Kind(kind(before), kind(after)));
    }
    match before.compare(after).and_then(|difference| Ok((difference, before.stats()?.norm))) {
        Ok((difference, _)) if difference.elements == 0 => None,
        Ok((difference, norm)) => Some(TensorChange::Numbers { difference, norm }),
        Err(_) if before.is_copy_of(after) => None,
        Err(problem) => Some(TensorChange::Unread(problem)),
    }
}

/// A tensor's type and shape: `float32 [10, 3]`.
fn kind(tensor: &Tensor) -> String {
    format!("{} {}", tensor.dtype.name(), tensor.shape_text())
}
