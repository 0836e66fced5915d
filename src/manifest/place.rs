//! Where the values of a document stand in its text.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;

use super::finding::Finding;
use super::path::{Path, Step};
use super::problem::{Position, Problem};
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
    /// The bytes of the value. What follows a block, such as comments, may be among them.
    pub(super) whole: Range<usize>,
    /// What is in it.
    pub(super) inner: Inner,
}

/// What is in a value.
#[derive(Clone, Debug, Default)]
pub(super) enum Inner {
    /// Nothing: it is a scalar, or an alias.
    #[default]
    Nothing,
    /// A mapping's values.
    Fields(BTreeMap<String, Place>),
    /// A list's items.
    Items(Vec<Place>),
}

impl Origin {
    /// The problems that findings are, in the order of the text, and `most` of them.
    pub(super) fn problems(&self, findings: Vec<Finding>, most: usize) -> Vec<Problem> {
        let place = |finding: &Finding| {
            let place = self.places.as_ref()?.nearest(&finding.path);
            Some(place.range(finding.at_key).start)
        };
        let mut findings = findings;
        findings.sort_by_cached_key(place);
        findings.into_iter().take(most).map(|finding| self.problem(finding)).collect()
    }

    fn problem(&self, finding: Finding) -> Problem {
        let Finding { path, at_key, message, help, also } = finding;
        let mut problem = match &self.places {
            Some(places) => Problem::in_text(&self.source, places.nearest(&path).range(at_key), message),
            None => Problem::of_file(self.source.name.clone(), message),
        };
        if let Some((path, label)) = also
            && let Some(place) = self.places.as_ref().and_then(|places| places.exact(&path))
        {
            problem = problem.also(place.at.clone(), label);
        }
        problem.field(path).help_if(help)
    }

    /// The origin of an item of a list of this.
    pub(super) fn item(&self, list: &str, index: usize) -> Self {
        let items = self.places.as_ref().and_then(|places| places.field(list));
        let item = items.and_then(|items| items.step(&Step::Item(index)).or(Some(items)));
        Self { source: Arc::clone(&self.source), places: item.cloned() }
    }

    /// The directory that relative paths in the object start from.
    pub(super) fn base(&self) -> Option<&FilePath> {
        self.source.base.as_deref()
    }
}

impl fmt::Display for Origin {
    /// The file, and the line if it has any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.places {
            Some(places) => write!(f, "{}:{}", self.source.name, places.line(&self.source)),
            None => f.write_str(&self.source.name),
        }
    }
}

impl Place {
    /// The line that it begins on.
    pub(super) fn line(&self, source: &Source) -> usize {
        Position::of(&source.text, self.whole.start).line
    }

    /// What a path leads to.
    fn exact(&self, path: &Path) -> Option<&Self> {
        path.steps().iter().try_fold(self, |place, step| place.step(step))
    }

    /// What a path leads to, or the last value on the way that the text has.
    fn nearest(&self, path: &Path) -> &Self {
        let mut place = self;
        for step in path.steps() {
            match place.step(step) {
                Some(next) => place = next,
                None => break,
            }
        }
        place
    }

    /// The bytes to point at.
    fn range(&self, at_key: bool) -> Range<usize> {
        match &self.key {
            Some(key) if at_key => key.clone(),
            _ => self.at.clone(),
        }
    }

    fn step(&self, step: &Step) -> Option<&Self> {
        match (&self.inner, step) {
            (Inner::Items(items), Step::Item(index)) => items.get(*index),
            (Inner::Fields(_), Step::Key(name)) => self.field(name).or_else(|| self.field("<<")),
            _ => None,
        }
    }

    /// The value of a key, if the mapping has it itself and not by a merge.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match &self.inner {
            Inner::Fields(fields) => fields.get(name),
            _ => None,
        }
    }
}
