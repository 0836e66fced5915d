//! What is to be written: values, each with the part of the text that it comes from, and comments between them.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::manifest::Part;

/// What a remark begins with that asks for something.
const TO_DO: &str = "TO DO: ";

/// What has a value that is nobody's business.
pub(super) const SECRETS: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// A value to be written.
#[derive(Clone, Debug)]
pub(super) enum Node<'a> {
    /// A scalar.
    Scalar(Value),
    /// A mapping.
    Map(Block<'a>),
    /// A list.
    List(Block<'a>),
}

/// The entries of a mapping or a list, and the comments between them.
#[derive(Clone, Debug, Default)]
pub(super) struct Block<'a> {
    pub(super) lines: Vec<Line<'a>>,
}

/// An entry or a comment.
#[derive(Clone, Debug)]
pub(super) enum Line<'a> {
    /// A comment.
    Note(Note),
    /// An entry.
    Entry(Entry<'a>),
}

/// An entry of a mapping or a list.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    /// Its key; none in a list.
    pub(super) name: Option<&'static str>,
    /// A key that is not ours, such as a label's.
    pub(super) given: Option<String>,
    /// Its value.
    pub(super) node: Node<'a>,
    /// What says so.
    pub(super) from: Option<Part<'a>>,
    /// Whether there is no manifest without it.
    pub(super) needed: bool,
}

/// A comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// How many settings it stands for.
    pub(super) settings: usize,
    /// Why they are not converted; or what else there is to say.
    pub(super) text: String,
    /// The settings, as they were.
    pub(super) lines: Vec<String>,
    /// Where they are.
    pub(super) place: String,
}

impl Note {
    /// What is said of something that is converted.
    pub(super) fn remark(text: impl Into<String>) -> Self {
        Self { settings: 0, text: text.into(), lines: Vec::new(), place: String::new() }
    }

    /// What has to be done by hand.
    pub(super) fn to_do(text: impl fmt::Display) -> Self {
        Self::remark(format!("{TO_DO}{text}"))
    }

    /// A setting that has no equivalent, and why, or what to do instead.
    pub(super) fn lost(part: &Part<'_>, why: impl Into<String>) -> Self {
        let (place, written) = (part.path().to_string(), part.written());
        let upper = written.to_uppercase();
        if SECRETS.iter().chain(&["--REDIS-PASSWORD"]).any(|name| upper.contains(name)) {
            return Self::hidden(part, why);
        }
        let mut lines: Vec<_> = written.lines().map(str::to_owned).collect();
        match (part.name(), lines.as_mut_slice()) {
            (Some(_), _) => {}
            (None, [line]) => *line = format!("{place}: {line}"),
            (None, more) => {
                more.iter_mut().for_each(|line| line.insert_str(0, "  "));
                lines.insert(0, format!("{place}:"));
            }
        }
        Self { settings: 1, text: why.into(), lines, place }
    }

    /// The same, of a setting whose value is nobody's business.
    pub(super) fn hidden(part: &Part<'_>, why: impl Into<String>) -> Self {
        let place = part.path().to_string();
        Self { settings: 1, text: why.into(), lines: vec![format!("{place}: ...")], place }
    }
}

impl<'a> Block<'a> {
    /// Adds a value that a part of the text asks for.
    pub(super) fn set(&mut self, name: &'static str, node: impl Into<Node<'a>>, from: &Part<'a>) {
        self.add(Some(name), node.into(), Some(from), false);
    }

    /// The same, of one without which there is no manifest.
    pub(super) fn need(&mut self, name: &'static str, node: impl Into<Node<'a>>, from: &Part<'a>) {
        self.add(Some(name), node.into(), Some(from), true);
    }

    /// Adds a value that is ours.
    pub(super) fn say(&mut self, name: &'static str, node: impl Into<Node<'a>>) {
        self.add(Some(name), node.into(), None, true);
    }

    /// Adds a value under a key that is not ours. Of two under one key the last counts.
    pub(super) fn give(&mut self, name: impl Into<String>, node: impl Into<Node<'a>>, from: &Part<'a>) {
        let name = Some(name.into());
        self.lines.retain(|line| !matches!(line, Line::Entry(entry) if entry.given == name));
        self.add(None, node.into(), Some(from), false);
        if let Some(Line::Entry(entry)) = self.lines.last_mut() {
            entry.given = name;
        }
    }

    /// Adds an item to a list.
    pub(super) fn push(&mut self, node: impl Into<Node<'a>>, from: &Part<'a>) {
        self.add(None, node.into(), Some(from), false);
    }

    /// The same, of one without which there is no manifest.
    pub(super) fn push_needed(&mut self, node: impl Into<Node<'a>>, from: &Part<'a>) {
        self.add(None, node.into(), Some(from), true);
    }

    /// Adds an item of ours to a list.
    pub(super) fn push_ours(&mut self, node: impl Into<Node<'a>>) {
        self.add(None, node.into(), None, true);
    }

    /// Adds a list or mapping, or, if there is nothing in it, only its comments.
    pub(super) fn set_some(&mut self, name: &'static str, node: Node<'a>) {
        match node {
            Node::Map(block) | Node::List(block) if block.is_empty() => self.lines.extend(block.lines),
            node => self.add(Some(name), node, None, false),
        }
    }

    /// Adds a comment.
    pub(super) fn note(&mut self, note: Note) {
        self.lines.push(Line::Note(note));
    }

    /// Adds comments.
    pub(super) fn notes(&mut self, notes: impl IntoIterator<Item = Note>) {
        self.lines.extend(notes.into_iter().map(Line::Note));
    }

    /// Whether it has nothing but comments.
    pub(super) fn is_empty(&self) -> bool {
        !self.lines.iter().any(|line| matches!(line, Line::Entry(_)))
    }

    /// How many settings its comments stand for.
    pub(super) fn settings(&self) -> usize {
        let settings = |line: &Line<'_>| match line {
            Line::Note(note) => note.settings,
            Line::Entry(Entry { node: Node::Map(block) | Node::List(block), .. }) => block.settings(),
            Line::Entry(_) => 0,
        };
        self.lines.iter().map(settings).sum()
    }

    /// Leaves out what was said before, of the same thing, such as what all nodes are told.
    pub(super) fn without_repetition(&mut self, said: &mut BTreeSet<(String, String)>) {
        self.lines.retain_mut(|line| match line {
            Line::Note(note) => {
                note.text.starts_with(TO_DO) || said.insert((note.place.clone(), note.text.clone()))
            }
            Line::Entry(Entry { node: Node::Map(block) | Node::List(block), .. }) => {
                block.without_repetition(said);
                true
            }
            Line::Entry(_) => true,
        });
    }

    fn add(&mut self, name: Option<&'static str>, node: Node<'a>, from: Option<&Part<'a>>, needed: bool) {
        self.lines.push(Line::Entry(Entry { name, given: None, node, from: from.cloned(), needed }));
    }
}

impl Entry<'_> {
    /// Its key, if it has one.
    pub(super) fn key(&self) -> Option<&str> {
        self.name.or(self.given.as_deref())
    }
}

impl<T: Into<Value>> From<T> for Node<'_> {
    fn from(value: T) -> Self {
        Self::Scalar(value.into())
    }
}
