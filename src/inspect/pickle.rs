//! Reads pickles into trees of values, and runs nothing of what they ask for: a call stays a call.
//!
//! All opcodes of protocols 0 to 5 are known. Whatever is read, memory and time are bounded.

mod machine;

use std::io::BufRead;
use std::sync::Arc;

use machine::Machine;

/// Tensors have no more dimensions than this: torch's and numpy's have at most 64.
const MOST_DIMENSIONS: usize = 64;

/// Where a value is found among those of its pickle.
pub(super) type Id = u32;

/// What a pickle may hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number beyond 64 bits, in words.
    Large(String),
    Float(f64),
    Text(String),
    Bytes(Arc<[u8]>),
    /// Bytes that were too many to be kept.
    Skipped(u64),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A function or class, by its full name.
    Name(String),
    /// A call that is not made, and what the object is then given.
    Call {
        function: Id,
        arguments: Id,
        state: Option<Id>,
    },
    /// What is kept outside of the pickle, by its description.
    Outside(Id),
}

/// How much may be read of the pickles of one file together.
#[derive(Debug)]
pub(super) struct Budget {
    /// A value, a link or a place on the stack takes a step each.
    steps: u64,
    /// Texts and bytes that are kept.
    kept: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { steps: 4 << 20, kept: 64 << 20 }
    }
}

/// Why something is no pickle, or one that is not read.
#[derive(Debug, thiserror::Error)]
#[error("{what}, {at} bytes into its pickle")]
pub(super) struct PickleError {
    what: String,
    at: u64,
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    pub(super) root: Id,
}

impl Pickle {
    /// Reads one pickle, and nothing of what comes after it.
    pub(super) fn read(input: &mut impl BufRead, budget: &mut Budget) -> Result<Self, PickleError> {
        let mut machine = Machine::new(input, budget);
        let root = machine.run().map_err(|what| PickleError { what, at: machine.at })?;
        Ok(Self { values: machine.values, root })
    }

    /// All that is kept outside of it, with the descriptions.
    pub(super) fn outside(&self) -> impl Iterator<Item = (Id, Id)> {
        self.values.iter().zip(0..).filter_map(|(value, id)| match value {
            Value::Outside(description) => Some((id, *description)),
            _ => None,
        })
    }

    pub(super) fn value(&self, id: Id) -> &Value {
        self.values.get(id as usize).unwrap_or(&Value::None)
    }

    /// The items of a list or tuple.
    pub(super) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// What a dict has under a key.
    pub(super) fn entry(&self, id: Id, key: &str) -> Option<Id> {
        let Value::Dict(entries) = self.value(id) else { return None };
        entries.iter().find(|(name, _)| self.text(*name) == Some(key)).map(|(_, value)| *value)
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Text(text) | Value::Name(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn unsigned(&self, id: Id) -> Option<u64> {
        match self.value(id) {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The numbers of a list or tuple: a shape, or strides.
    pub(super) fn numbers(&self, id: Id) -> Option<Vec<u64>> {
        let items = self.items(id).filter(|items| items.len() <= MOST_DIMENSIONS)?;
        items.iter().map(|item| self.unsigned(*item)).collect()
    }

    /// A call's function, its arguments, and what the object is then given.
    pub(super) fn call(&self, id: Id) -> Option<(&str, &[Id], Option<Id>)> {
        let Value::Call { function, arguments, state } = self.value(id) else { return None };
        Some((self.text(*function)?, self.items(*arguments).unwrap_or_default(), *state))
    }

    /// A value as Python would write it, as far as there is room.
    pub(super) fn shown(&self, id: Id, room: usize) -> String {
        let mut text = String::new();
        self.write(id, room, 0, &mut text);
        match text.char_indices().nth(room) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }

    fn write(&self, id: Id, room: usize, depth: usize, text: &mut String) {
        const DEEPEST: usize = 8;
        if text.len() > room * 4 || depth > DEEPEST {
            return text.push('…');
        }
        let all = |open: &str, items: &[Id], close: &str, text: &mut String| {
            text.push_str(open);
            for (index, item) in items.iter().enumerate().take_while(|(index, _)| *index <= room) {
                text.push_str(if index > 0 { ", " } else { "" });
                self.write(*item, room, depth + 1, text);
                if text.len() > room * 4 {
                    break;
                }
            }
            text.push_str(close);
        };
        match self.value(id) {
            Value::None => text.push_str("None"),
            Value::Bool(flag) => text.push_str(if *flag { "True" } else { "False" }),
            Value::Int(number) => text.push_str(&number.to_string()),
            Value::Float(number) => text.push_str(&number.to_string()),
            Value::Large(number) | Value::Name(number) => text.extend(number.chars().take(room)),
            Value::Text(words) => {
                text.push_str(&format!("{:?}", words.chars().take(room).collect::<String>()));
            }
            Value::Bytes(bytes) => text.push_str(&format!("<{} bytes>", bytes.len())),
            Value::Skipped(length) => text.push_str(&format!("<{length} bytes>")),
            Value::Tuple(items) => all("(", items, ")", text),
            Value::List(items) => all("[", items, "]", text),
            Value::Set(items) => all("{", items, "}", text),
            Value::Dict(entries) => text.push_str(&format!("<dict of {}>", entries.len())),
            Value::Call { function, arguments, .. } => {
                self.write(*function, room, depth + 1, text);
                all("(", self.items(*arguments).unwrap_or_default(), ")", text);
            }
            Value::Outside(_) => text.push_str("<storage>"),
        }
    }
}
