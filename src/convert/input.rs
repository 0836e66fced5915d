//! Reading the other format: what is taken from a mapping is known, and what is left in it is not.

use serde_json::Value;

use crate::manifest::{Part, Problem};

/// A text, and where it stands.
pub(super) type Text<'a> = (String, Part<'a>);

/// What is found on the way, beside the manifest itself.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What is wrong with the text.
    pub(super) problems: Vec<Problem>,
    /// What has to be done by hand.
    pub(super) advice: Vec<String>,
}

/// What is left of a mapping.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields<'a> {
    left: Vec<(&'a str, Part<'a>)>,
}

impl<'a> Fields<'a> {
    /// All of a mapping. A key without a value says nothing.
    pub(super) fn of(part: &Part<'a>, findings: &mut Findings) -> Self {
        if !part.value().is_object() {
            findings.problems.push(part.wrong("a mapping"));
        }
        Self { left: part.fields().into_iter().filter(|(_, part)| !part.value().is_null()).collect() }
    }

    /// Takes the value of a key.
    pub(super) fn take(&mut self, name: &str) -> Option<Part<'a>> {
        let index = self.left.iter().position(|(known, _)| *known == name)?;
        Some(self.left.remove(index).1)
    }

    /// Looks at the value of a key, and leaves it.
    pub(super) fn peek(&self, name: &str) -> Option<&Part<'a>> {
        self.left.iter().find(|(known, _)| *known == name).map(|(_, part)| part)
    }

    /// Takes a text.
    pub(super) fn text(&mut self, name: &str, findings: &mut Findings) -> Option<Text<'a>> {
        self.take(name).and_then(|part| text(&part, findings))
    }

    /// Takes a mapping.
    pub(super) fn fields(&mut self, name: &str, findings: &mut Findings) -> Self {
        self.take(name).map(|part| Self::of(&part, findings)).unwrap_or_default()
    }

    /// Takes all that is left.
    pub(super) fn rest(&mut self) -> Vec<Part<'a>> {
        std::mem::take(&mut self.left).into_iter().map(|(_, part)| part).collect()
    }
}

/// A text that is one, and not a number or a list.
pub(super) fn text<'a>(part: &Part<'a>, findings: &mut Findings) -> Option<Text<'a>> {
    let Some(text) = part.value().as_str() else {
        findings.problems.push(part.wrong("a string"));
        return None;
    };
    Some((text.to_owned(), part.clone()))
}

/// A list of texts.
pub(super) fn texts<'a>(part: &Part<'a>, findings: &mut Findings) -> Vec<Text<'a>> {
    if !part.value().is_array() {
        findings.problems.push(part.wrong("a list"));
    }
    part.items().iter().filter_map(|item| text(item, findings)).collect()
}

/// A text, or what is one for EC2.
pub(super) fn scalar<'a>(part: &Part<'a>, findings: &mut Findings) -> Option<Text<'a>> {
    match part.value() {
        Value::Number(number) => Some((number.to_string(), part.clone())),
        Value::Bool(value) => Some((value.to_string(), part.clone())),
        _ => text(part, findings),
    }
}

/// A whole number.
pub(super) fn whole(part: &Part<'_>, findings: &mut Findings) -> Option<u64> {
    let number = part.value().as_u64();
    if number.is_none() {
        findings.problems.push(part.wrong("a whole number"));
    }
    number
}

/// A number that is not negative.
pub(super) fn number(part: &Part<'_>, findings: &mut Findings) -> Option<f64> {
    let number = part.value().as_f64().filter(|number| *number >= 0.0);
    if number.is_none() {
        findings.problems.push(part.wrong("a number, 0 or more"));
    }
    number
}

/// Yes or no.
pub(super) fn flag(part: &Part<'_>, findings: &mut Findings) -> Option<bool> {
    let flag = part.value().as_bool();
    if flag.is_none() {
        findings.problems.push(part.wrong("true or false"));
    }
    flag
}

/// Whether a value says nothing: it is empty, or no.
pub(super) fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}
