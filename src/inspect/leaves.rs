//! From the tree of a pickle to a flat list: tensors, and values, each by the way to it.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::dtype::Dtype;
use super::pickle::{Id, Pickle, Value};
use super::tensor::{Place, Storage, Tensor};
use super::torch::Storages;

/// More than this is not listed. What is shared is listed wherever it is found, and a small pickle can have it found
/// very often.
pub(super) const MOST: usize = 200_000;
/// Deeper than this is not gone.
const DEEPEST: usize = 64;
/// An array of numpy's with no more numbers than this is a value.
const FEW: u64 = 16;
/// The longest name, and the longest text that is shown.
const LONGEST: usize = 300;

/// What was found in a file.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    pub(super) tensors: Vec<Tensor>,
    pub(super) values: Vec<(String, Json)>,
    /// Whether there is more than was listed.
    pub(super) cut: bool,
    seen: usize,
}

impl Leaves {
    /// Lists what is below a value.
    pub(super) fn walk(&mut self, pickle: &Pickle, storages: &Storages, id: Id, name: &str, depth: usize) {
        self.seen += 1;
        if self.seen > MOST || depth > DEEPEST {
            self.cut = true;
            return;
        }
        if let Some(tensor) = tensor(pickle, storages, id, name) {
            // What AdaptDL measures of gradients is in arrays of a few numbers.
            let is_array = pickle.call(id).is_some_and(|(function, ..)| function.starts_with("numpy."));
            return match numbers(&tensor).filter(|_| is_array) {
                Some(numbers) => self.value(name, Json::Array(numbers)),
                None => self.tensors.push(tensor),
            };
        }
        match pickle.value(id) {
            Value::Dict(entries) => {
                for (key, value) in entries {
                    let key = pickle.text(*key).map_or_else(|| pickle.shown(*key, LONGEST), str::to_owned);
                    self.walk(pickle, storages, *value, &below(name, &key), depth + 1);
                    if self.cut {
                        return;
                    }
                }
            }
            Value::Tuple(items) | Value::List(items) if !items.iter().all(|item| is_plain(pickle, *item)) => {
                for (index, item) in items.iter().enumerate() {
                    self.walk(pickle, storages, *item, &below(name, &index.to_string()), depth + 1);
                    if self.cut {
                        return;
                    }
                }
            }
            Value::Tuple(items) | Value::List(items) => {
                self.seen += items.len();
                let items: Vec<Json> = items.iter().take(MOST).map(|item| plain(pickle, *item)).collect();
                self.value(name, Json::Array(items));
            }
            Value::Call { state: Some(state), .. } if scalar(pickle, id).is_none() => {
                let shown = json!(pickle.shown(id, LONGEST));
                self.value(if name.is_empty() { "object" } else { name }, shown);
                self.walk(pickle, storages, *state, name, depth + 1);
            }
            // An empty dict or a missing object says nothing.
            Value::None => {}
            _ => self.value(name, plain(pickle, id)),
        }
    }

    fn value(&mut self, name: &str, value: Json) {
        let name = if name.is_empty() { "value" } else { name };
        self.values.push((name.to_owned(), value));
    }
}

/// The name of what is in something.
pub(super) fn below(name: &str, key: &str) -> String {
    let key: String =
        key.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(LONGEST).collect();
    let full = if name.is_empty() { key } else { format!("{name}.{key}") };
    match full.char_indices().nth(LONGEST) {
        Some((end, _)) => full[..end].to_owned(),
        None => full,
    }
}

/// Whether a value stands for itself, on one line.
fn is_plain(pickle: &Pickle, id: Id) -> bool {
    match pickle.value(id) {
        Value::None | Value::Bool(_) | Value::Int(_) | Value::Large(_) | Value::Float(_) | Value::Text(_) => {
            true
        }
        _ => scalar(pickle, id).is_some(),
    }
}

/// A value for programs. What JSON has not is told in words.
pub(super) fn plain(pickle: &Pickle, id: Id) -> Json {
    match pickle.value(id) {
        Value::None => Json::Null,
        Value::Bool(flag) => json!(flag),
        Value::Int(number) => json!(number),
        Value::Float(number) => float(*number),
        Value::Text(text) => json!(text.chars().take(LONGEST).collect::<String>()),
        _ => scalar(pickle, id).unwrap_or_else(|| json!(pickle.shown(id, LONGEST))),
    }
}

fn float(number: f64) -> Json {
    if number.is_finite() { json!(number) } else { json!(number.to_string()) }
}

/// A number of numpy's: `numpy.core.multiarray.scalar(dtype, bytes)`.
fn scalar(pickle: &Pickle, id: Id) -> Option<Json> {
    let (function, arguments, _) = pickle.call(id)?;
    let [kind, raw] = arguments else { return None };
    if !function.starts_with("numpy.") || !function.ends_with(".multiarray.scalar") {
        return None;
    }
    let (dtype, swapped) = numpy_type(pickle, *kind)?;
    let bytes = octets(pickle, *raw)?;
    let tensor = held(String::new(), dtype, vec![], bytes, swapped, false);
    numbers(&tensor)?.pop()
}

/// The numbers of a tensor that has few; none of one that has many.
fn numbers(tensor: &Tensor) -> Option<Vec<Json>> {
    let json = |number: f64| match &tensor.dtype {
        Dtype::Bool => json!(number != 0.0),
        Dtype::Int(_) | Dtype::Uint(_) => json!(number as i64),
        _ => float(number),
    };
    Some(tensor.numbers(FEW)?.into_iter().map(json).collect())
}

/// A tensor of torch's or an array of numpy's.
fn tensor(pickle: &Pickle, storages: &Storages, id: Id, name: &str) -> Option<Tensor> {
    let (function, arguments, state) = pickle.call(id)?;
    match (function, arguments) {
        ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [data, ..]) => {
            // A parameter of a parameter there is not.
            let (inner, ..) = pickle.call(*data)?;
            if inner.starts_with("torch._utils._rebuild_parameter") {
                return None;
            }
            tensor(pickle, storages, *data, name)
        }
        (
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
            [storage, offset, shape, strides, ..],
        ) => {
            let view = storages.named(pickle, *storage)?;
            Some(Tensor {
                name: name.to_owned(),
                dtype: view.dtype,
                shape: sizes(pickle, *shape)?,
                strides: sizes(pickle, *strides)?,
                offset: pickle.unsigned(*offset)?,
                storage: view.storage,
            })
        }
        ("torch._utils._rebuild_tensor_v3", [storage, offset, shape, strides, _, _, dtype, ..]) => {
            Some(Tensor {
                name: name.to_owned(),
                dtype: Dtype::named(pickle.text(*dtype)?.strip_prefix("torch.")?),
                shape: sizes(pickle, *shape)?,
                strides: sizes(pickle, *strides)?,
                offset: pickle.unsigned(*offset)?,
                storage: storages.named(pickle, *storage)?.storage,
            })
        }
        (function, _) if function.starts_with("numpy.") && function.ends_with("multiarray._reconstruct") => {
            let [_, shape, dtype, fortran, raw] = pickle.items(state?)? else { return None };
            let (dtype, swapped) = numpy_type(pickle, *dtype)?;
            let shape = pickle.numbers(*shape)?;
            let columns = *pickle.value(*fortran) == Value::Bool(true);
            Some(held(name.to_owned(), dtype, shape, octets(pickle, *raw)?, swapped, columns))
        }
        (function, [raw, dtype, shape, order])
            if function.starts_with("numpy.") && function.ends_with("._frombuffer") =>
        {
            let (dtype, swapped) = numpy_type(pickle, *dtype)?;
            let (shape, columns) = (pickle.numbers(*shape)?, pickle.text(*order) == Some("F"));
            Some(held(name.to_owned(), dtype, shape, octets(pickle, *raw)?, swapped, columns))
        }
        _ => None,
    }
}

/// A shape: a tuple, or a `torch.Size` of one.
fn sizes(pickle: &Pickle, id: Id) -> Option<Vec<u64>> {
    match pickle.call(id) {
        Some(("torch.Size", [inner], _)) => pickle.numbers(*inner),
        _ => pickle.numbers(id),
    }
}

/// An array that is in the pickle itself.
fn held(
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    bytes: Arc<[u8]>,
    swapped: bool,
    columns: bool,
) -> Tensor {
    let length = bytes.len() as u64;
    let storage = Ok(Storage { place: Place::Memory(bytes), length, swapped });
    Tensor::dense(name, dtype, shape, storage, columns)
}

/// A type of numpy's, `numpy.dtype("f8", ..)`, and whether the highest byte comes first.
fn numpy_type(pickle: &Pickle, id: Id) -> Option<(Dtype, bool)> {
    let ("numpy.dtype", [code, ..], state) = pickle.call(id)? else { return None };
    let dtype = match pickle.text(*code)? {
        "f8" => Dtype::Float64,
        "f4" => Dtype::Float32,
        "f2" => Dtype::Float16,
        "i8" => Dtype::Int(8),
        "i4" => Dtype::Int(4),
        "i2" => Dtype::Int(2),
        "i1" => Dtype::Int(1),
        "u8" => Dtype::Uint(8),
        "u4" => Dtype::Uint(4),
        "u2" => Dtype::Uint(2),
        "u1" => Dtype::Uint(1),
        "b1" => Dtype::Bool,
        "c8" => Dtype::Complex(8),
        "c16" => Dtype::Complex(16),
        other => Dtype::named(other),
    };
    let order = state.and_then(|state| pickle.items(state)?.get(1).copied());
    Some((dtype, order.and_then(|order| pickle.text(order)) == Some(">")))
}

/// Bytes, also those that can be changed.
fn octets(pickle: &Pickle, id: Id) -> Option<Arc<[u8]>> {
    match (pickle.value(id), pickle.call(id)) {
        (Value::Bytes(bytes), _) => Some(Arc::clone(bytes)),
        (_, Some(("builtins.bytearray", [inner, ..], _))) => match pickle.value(*inner) {
            Value::Bytes(bytes) => Some(Arc::clone(bytes)),
            _ => None,
        },
        _ => None,
    }
}
