//! YAML that is no manifest, value by value, with what its text says of each: what `convert` reads.

use std::sync::Arc;

use serde_json::{Value, json};

use super::MAX_PROBLEMS;
use super::finding::Finding;
use super::object;
use super::old::{self, Translated};
use super::path::{Path, Step};
use super::place::{Inner, Origin, Place};
use super::problem::Problem;
use super::source::Source;
use super::words::found;
use super::yaml::{self, Document};
use crate::api::meta::DEFAULT_NAMESPACE;

/// A document of a format that is not ours.
#[derive(Debug)]
pub struct Foreign {
    value: Value,
    places: Place,
    source: Arc<Source>,
}

/// A value of such a document, and where it stands.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    document: &'a Foreign,
    value: &'a Value,
    place: &'a Place,
    /// Whether the place is its own, and not that of the alias or the merge that it comes from.
    own: bool,
    path: Path,
}

impl Foreign {
    /// Reads the one document of a text.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(source: Source) -> Result<Self, Vec<Problem>> {
        let source = Arc::new(source);
        let (documents, problems) = yaml::parse(&source);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut documents = documents.into_iter();
        let Some(Document { value, origin }) = documents.next() else {
            return Err(vec![Problem::of_file(source.name.clone(), "holds nothing")]);
        };
        if let Some(places) = documents.next().and_then(|second| second.origin.places) {
            let message = "begins a second document, and there can only be one";
            return Err(vec![Problem::in_text(&source, places.at, message)]);
        }
        let value = value.map_err(|findings| origin.problems(findings, MAX_PROBLEMS))?;
        Ok(Self { value, places: origin.places.unwrap_or_default(), source })
    }

    /// All of it.
    pub fn root(&self) -> Part<'_> {
        Part { document: self, value: &self.value, place: &self.places, own: true, path: Path::default() }
    }
}

/// What an old manifest says in our words.
#[derive(Debug)]
pub struct Ours<'a> {
    /// The object.
    pub value: Value,
    /// What has no meaning here, and why.
    pub lost: Vec<(Part<'a>, String)>,
    /// What could be meant in another way than it was understood.
    pub remarks: Vec<Problem>,
}

impl Foreign {
    /// What it says in our words, if it is a manifest of AdaptDL's own operator. A name that the operator would have made
    /// up is what it would have begun with, unless another is wanted.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn ours(&self, name: Option<&str>) -> Option<Result<Ours<'_>, Vec<Problem>>> {
        old::is_old(&self.value).then(|| self.translate(name))
    }

    fn translate(&self, name: Option<&str>) -> Result<Ours<'_>, Vec<Problem>> {
        let origin = Origin { source: Arc::clone(&self.source), places: Some(self.places.clone()) };
        let problems = |findings: Vec<Finding>| origin.problems(findings, MAX_PROBLEMS);
        let translated = old::translate(&self.value).map_err(problems)?;
        let mut value = translated.value.clone();
        let made = translated.prefix.as_deref().map(|prefix| prefix.trim_end_matches(['-', '.']));
        if let Some(name) = name.or(made) {
            value["metadata"]["name"] = name.into();
        }
        object::read(value.clone(), DEFAULT_NAMESPACE)
            .map_err(|findings| problems(translated.of_old(findings)))?;
        let Translated { warnings, remarks, .. } = translated;
        let lost = warnings.into_iter().map(|warning| (self.at(&warning.path), warning.message)).collect();
        Ok(Ours { value, lost, remarks: problems(remarks) })
    }

    /// The value that a path leads to, or the last on the way that there is.
    fn at(&self, path: &Path) -> Part<'_> {
        path.steps().iter().fold(self.root(), |part, step| {
            let inner = match step {
                Step::Key(name) => part.get(name),
                Step::Item(index) => part.items().into_iter().nth(*index),
            };
            inner.unwrap_or(part)
        })
    }
}

impl<'a> Part<'a> {
    /// The value.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// The way to it from the root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its key, if it is not an item of a list.
    pub fn name(&self) -> Option<&str> {
        match self.path.steps().last() {
            Some(Step::Key(name)) => Some(name),
            _ => None,
        }
    }

    /// The value of a key, if it has any.
    pub fn get(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(self.inner(&Step::Key(name.to_owned()), value))
    }

    /// The keys and values of a mapping, in the order of the text.
    pub fn fields(&self) -> Vec<(&'a str, Self)> {
        let fields = self.value.as_object().into_iter().flatten();
        let mut fields: Vec<_> = fields
            .map(|(name, value)| (name.as_str(), self.inner(&Step::Key(name.clone()), value)))
            .collect();
        fields.sort_by_key(|(_, part)| part.start());
        fields
    }

    /// The items of a list.
    pub fn items(&self) -> Vec<Self> {
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(|(index, value)| self.inner(&Step::Item(index), value)).collect()
    }

    /// Something wrong with it.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::in_text(&self.document.source, self.place.at.clone(), message).field(&self.path)
    }

    /// It should be something else.
    pub fn wrong(&self, wanted: &str) -> Problem {
        self.problem(format!("must be {wanted}, found {}", found(self.value)))
    }

    /// What the text says of it, from its key on, as it stands there; where that is the business of an alias or a
    /// merge, YAML that says the same.
    pub fn written(&self) -> String {
        let text = if self.own { self.lines() } else { None };
        text.unwrap_or_else(|| {
            let value = self.name().map_or_else(|| self.value.clone(), |name| json!({name: self.value}));
            yaml::to_yaml(&value).unwrap_or_else(|_| value.to_string()).trim_end().to_owned()
        })
    }

    fn inner(&self, step: &Step, value: &'a Value) -> Self {
        let (place, path) = match (&self.place.inner, step) {
            (Inner::Items(items), Step::Item(index)) => (items.get(*index), self.path.item(*index)),
            (_, Step::Item(index)) => (None, self.path.item(*index)),
            (_, Step::Key(name)) => (self.place.field(name), self.path.key(name)),
        };
        let own = self.own && place.is_some();
        let nearest = place.filter(|_| own).or_else(|| self.place.field("<<")).unwrap_or(self.place);
        Self { document: self.document, value, place: nearest, own, path }
    }

    fn start(&self) -> usize {
        self.place.key.as_ref().unwrap_or(&self.place.whole).start
    }

    /// The text from the key to the end of the value, with the indentation of its first line.
    fn lines(&self) -> Option<String> {
        let text = self.document.source.text.as_str();
        if has_alias(self.place, text) {
            return None;
        }
        let start = self.start();
        let line = text.get(..start)?.rfind('\n').map_or(0, |newline| newline + 1);
        let before = text.get(line..start)?;
        let mut end = end(self.place, text);
        if before.chars().all(|c| matches!(c, ' ' | '-')) {
            let rest = text.get(end..)?.lines().next().unwrap_or_default();
            if matches!(rest.trim_start().chars().next(), Some('#')) {
                end += rest.len();
            }
        }
        let width = before.chars().count();
        let undented = |line: &str| {
            let spaces = line.chars().take_while(|c| *c == ' ').count();
            line.get(spaces.min(width)..).unwrap_or_default().trim_end().to_owned()
        };
        let mut lines = text.get(start..end)?.trim_end().lines();
        let first = lines.next().unwrap_or_default().trim_end().to_owned();
        let lines: Vec<_> = std::iter::once(first).chain(lines.map(undented)).collect();
        Some(lines.join("\n"))
    }
}

/// Where a value ends: a block where the last value in it does, and what is in brackets with its bracket.
fn end(place: &Place, text: &str) -> usize {
    let own = place.whole.end;
    if text.get(place.whole.clone()).unwrap_or_default().trim().is_empty() {
        // A key without a value ends with its colon.
        let Some(key) = &place.key else { return own };
        let colon = text.get(key.end..).and_then(|rest| rest.find(':'));
        return colon.map_or(key.end, |colon| key.end + colon + 1);
    }
    let closing = match text.as_bytes().get(place.whole.start) {
        Some(b'[') => Some(']'),
        Some(b'{') => Some('}'),
        _ => None,
    };
    let last = match &place.inner {
        Inner::Nothing => return own,
        Inner::Fields(fields) => fields.values().map(|place| end(place, text)).max(),
        Inner::Items(items) => items.iter().map(|place| end(place, text)).max(),
    };
    let last = last.unwrap_or(place.whole.start + 1);
    closing.and_then(|closing| bracket(text, last, closing)).unwrap_or(if closing.is_some() {
        own
    } else {
        last
    })
}

/// Where the bracket ends that closes a list or mapping, from the end of its last value on.
fn bracket(text: &str, from: usize, closing: char) -> Option<usize> {
    let mut rest = text.get(from..)?.char_indices();
    while let Some((offset, c)) = rest.next() {
        match c {
            '#' => {
                rest.by_ref().find(|(_, c)| *c == '\n')?;
            }
            c if c == closing => return Some(from + offset + 1),
            c if c == ',' || c.is_whitespace() => {}
            _ => return None,
        }
    }
    None
}

/// Whether it says something by way of what is elsewhere.
fn has_alias(place: &Place, text: &str) -> bool {
    match &place.inner {
        Inner::Nothing => text.get(place.whole.start..).is_some_and(|value| value.starts_with('*')),
        Inner::Items(items) => items.iter().any(|item| has_alias(item, text)),
        Inner::Fields(fields) => {
            fields.contains_key("<<") || fields.values().any(|value| has_alias(value, text))
        }
    }
}
