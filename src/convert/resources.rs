//! What a node offers to workers, and its labels: from `resources` and `labels` of its type, and from parameters of
//! `ray start`.

use serde_json::Value;

use super::input::{Fields, Findings, Text, number, text};
use super::lost::merge;
use super::start::{self, Start};
use super::tree::{Block, Node, Note};
use crate::api::units::Bytes;
use crate::manifest::Part;

/// Parameters of `ray start`, and the resources that they are.
const PARAMETERS: [(&str, &str); 4] = [
    ("num-cpus", "CPU"),
    ("num-gpus", "GPU"),
    ("memory", "memory"),
    ("object-store-memory", "object_store_memory"),
];

const UNREADABLE: &str = "it cannot be read.";

/// What a node offers, by the names of Ray's resources.
#[derive(Debug, Default)]
pub(super) struct Resources<'a> {
    given: Vec<(String, f64, Part<'a>)>,
}

impl<'a> Resources<'a> {
    /// Reads `resources`.
    pub(super) fn of(part: &Part<'a>, findings: &mut Findings) -> Self {
        let mut resources = Self::default();
        for part in Fields::of(part, findings).rest() {
            if let (Some(name), Some(amount)) = (part.name(), number(&part, findings)) {
                resources.add(name, amount, &part);
            }
        }
        resources
    }

    /// Takes what parameters of `ray start` say. What the node's type says counts more.
    pub(super) fn take(&mut self, start: &mut Start<'a>) {
        let mut unreadable = Vec::new();
        for (parameter, name) in PARAMETERS {
            let Some((text, from)) = start.take(parameter) else { continue };
            match text.parse::<f64>() {
                Ok(amount) if amount >= 0.0 => self.add(name, amount, &from),
                _ => unreadable.push((parameter, text, from)),
            }
        }
        if let Some((text, from)) = start.take("resources") {
            match serde_json::from_str::<std::collections::BTreeMap<String, f64>>(&text) {
                Ok(custom) => custom.iter().for_each(|(name, amount)| self.add(name, *amount, &from)),
                Err(_) => unreadable.push(("resources", text, from)),
            }
        }
        for (parameter, text, from) in unreadable {
            let note = Note::lost(&from, format!("`--{parameter}={text}`: {UNREADABLE}"));
            merge(&mut start.notes, note);
        }
    }

    /// Adds a resource, if it is not given already.
    fn add(&mut self, name: &str, amount: f64, from: &Part<'a>) {
        if self.given.iter().all(|(known, ..)| known != name) {
            self.given.push((name.to_owned(), amount, from.clone()));
        }
    }

    /// Whether there is a resource of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(known, ..)| known == name)
    }

    /// Writes `resources` of a node; gives the memory of its object store.
    pub(super) fn write(self, template: &mut Block<'a>) -> Option<Text<'a>> {
        let (mut resources, mut custom, mut store) = (Block::default(), Block::default(), None);
        for (name, amount, from) in self.given {
            match name.as_str() {
                "CPU" => resources.set("cpu", plain(amount), &from),
                "GPU" => resources.set("gpu", plain(amount), &from),
                "memory" => resources.set("memory", Bytes(amount as u64).to_string(), &from),
                "object_store_memory" => store = Some((Bytes(amount as u64).to_string(), from)),
                _ => custom.give(name, plain(amount), &from),
            }
        }
        resources.set_some("custom", Node::Map(custom));
        template.set_some("resources", Node::Map(resources));
        store
    }
}

/// Labels of a node.
pub(super) fn labels<'a>(
    part: Option<&Part<'a>>,
    start: &mut Start<'a>,
    findings: &mut Findings,
) -> Block<'a> {
    let mut labels = Block::default();
    let given = part.map(|part| Fields::of(part, findings).rest()).unwrap_or_default();
    for part in &given {
        if let (Some(name), Some((value, _))) = (part.name(), text(part, findings)) {
            labels.give(name, value, part);
        }
    }
    if let Some((text, from)) = start.take("labels") {
        let Some(more) = start::labels(&text) else {
            merge(&mut start.notes, Note::lost(&from, format!("`--labels={text}`: {UNREADABLE}")));
            return labels;
        };
        for (name, value) in more {
            if given.iter().all(|part| part.name() != Some(&name)) {
                labels.give(name, value, &from);
            }
        }
    }
    labels
}

/// A number without a fraction, if it has none.
fn plain(amount: f64) -> Value {
    if amount.fract() == 0.0 && amount < 1e15 { (amount as u64).into() } else { amount.into() }
}
