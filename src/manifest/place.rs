//! Where the values of a document stand in its text.

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use super::finding::Finding;
use super::path::{Path, Step};
use super::problem::Problem;
use super::source::Source;

/// Where an object comes from: what turns findings into problems.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The text, and what it is called.
    pub(super) source: Arc<Source>,
    /// The places in the text; none if the object came as JSON.
    pub(super) places: Option<Place>,
}

/// Where a value stands, with the values in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// The bytes of its key, if it has one.
    pub(super) key: Option<Range<usize>>,
    /// The bytes to point at for the value: its own if it fits on a line, else its key's or its first line's.
    pub(super) at: Range<usize>,
    /// What is in it.
    pub(super) inner: Inner,
}

/// What is in a value.
#[derive(Clone, Debug, Default)]
pub(super) enum Inner {
    /// Nothing: it is a scalar, or an alias.
    #[default]
    Nothing,
    /// A mapping's values by key, in the order of the text.
    Fields(Vec<(String, Place)>),
    /// A list's items.
    Items(Vec<Place>),
}

impl Origin {
    /// The problem that a finding is, with its place in the text.
    pub(super) fn problem(&self, finding: Finding) -> Problem {
        let Finding { path, at_key, message, help, also } = finding;
        let problem = match &self.places {
            Some(places) => Problem::in_text(&self.source, places.range(&path, at_key), message),
            None => Problem::of_file(self.source.name.clone(), message),
        };
        let problem = match (&self.places, also) {
            (Some(places), Some((path, label))) => problem.also(places.range(&path, false), label),
            _ => problem,
        };
        let problem = problem.field(path);
        match help {
            Some(help) => problem.help(help),
            None => problem,
        }
    }

    /// All of them, in the order of the text.
    pub(super) fn problems(&self, findings: Vec<Finding>) -> Vec<Problem> {
        let mut problems: Vec<_> = findings.into_iter().map(|finding| self.problem(finding)).collect();
        problems.sort_by_key(|problem| problem.position);
        problems
    }

    /// The directory that relative paths in the object start from.
    pub(super) fn base(&self) -> Option<&FilePath> {
        self.source.base.as_deref()
    }
}

impl Place {
    /// The bytes to point at for what a path leads to, or for the last value on the way that the text has.
    fn range(&self, path: &Path, at_key: bool) -> Range<usize> {
        let mut place = self;
        for step in path.steps() {
            match place.step(step) {
                Some(next) => place = next,
                // What the text does not have is said of what should have it.
                None => return place.at.clone(),
            }
        }
        match &place.key {
            Some(key) if at_key => key.clone(),
            _ => place.at.clone(),
        }
    }

    fn step(&self, step: &Step) -> Option<&Self> {
        match (&self.inner, step) {
            (Inner::Items(items), Step::Item(index)) => items.get(*index),
            (Inner::Fields(_), Step::Key(name)) => self.field(name).or_else(|| self.field("<<")),
            _ => None,
        }
    }

    /// The value of a key.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match &self.inner {
            Inner::Fields(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, place)| place),
            _ => None,
        }
    }
}
