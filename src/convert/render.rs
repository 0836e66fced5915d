//! The text of a manifest with its comments.

use serde_json::Value;

use super::tree::{Block, Entry, Line, Node, Note};
use crate::manifest::to_yaml;

/// How wide comments are.
const WIDTH: usize = 110;

/// What fits in so many characters is written on one line.
const SHORT: usize = 90;

/// What a comment begins with that stands for a setting.
const LOST: &str = "Not converted: ";

/// The text of a mapping.
pub(super) fn render(block: &Block<'_>) -> String {
    let mut text = String::new();
    lines(block, 0, &mut text);
    text
}

fn lines(block: &Block<'_>, indent: usize, text: &mut String) {
    for line in &block.lines {
        match line {
            Line::Note(note) => comment(note, indent, text),
            Line::Entry(line) => entry(line, indent, text),
        }
    }
}

fn entry(entry: &Entry<'_>, indent: usize, text: &mut String) {
    let margin = " ".repeat(indent);
    let Some(key) = entry.key() else { return item(&entry.node, indent, text) };
    let key = scalar(&Value::from(key));
    let short = short(&entry.node).filter(|short| indent + key.len() + 2 + short.len() <= SHORT);
    match (&entry.node, short) {
        (Node::Scalar(value), _) => {
            text.push_str(&format!("{margin}{key}: {}\n", indented(&scalar(value), indent)));
        }
        (_, Some(short)) => text.push_str(&format!("{margin}{key}: {short}\n")),
        (Node::Map(block) | Node::List(block), None) => {
            text.push_str(&format!("{margin}{key}:\n"));
            lines(block, indent + 2, text);
        }
    }
}

/// An item of a list. The comments that it begins with stand before it.
fn item(node: &Node<'_>, indent: usize, text: &mut String) {
    let margin = " ".repeat(indent);
    let body = match node {
        Node::Scalar(value) => indented(&scalar(value), indent),
        node if short(node).is_some_and(|short| indent + 2 + short.len() <= SHORT) => {
            short(node).unwrap_or_default()
        }
        Node::Map(block) | Node::List(block) => {
            let notes = block.lines.iter().take_while(|line| matches!(line, Line::Note(_))).count();
            let (notes, rest) = block.lines.split_at(notes);
            lines(&Block { lines: notes.to_vec() }, indent, text);
            let mut body = String::new();
            lines(&Block { lines: rest.to_vec() }, indent + 2, &mut body);
            body.trim().to_owned()
        }
    };
    text.push_str(&format!("{margin}- {body}\n"));
}

fn comment(note: &Note, indent: usize, text: &mut String) {
    let margin = format!("{}#", " ".repeat(indent));
    let said = if note.settings > 0 { format!("{LOST}{}", note.text) } else { note.text.clone() };
    let mut line = margin.clone();
    for word in said.split_whitespace() {
        if line.len() > margin.len() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(&format!("{}\n", safe(&line)));
            line.clone_from(&margin);
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > margin.len() {
        text.push_str(&format!("{}\n", safe(&line)));
    }
    for line in &note.lines {
        text.push_str(&format!("{}\n", safe(&format!("{margin}     {line}")).trim_end()));
    }
}

/// A text that does not end a comment: YAML has more line breaks than one, and characters that it refuses.
fn safe(text: &str) -> String {
    let plain = |c: char| match c {
        '\t' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' => {
            !matches!(c, '\u{2028}' | '\u{2029}')
        }
        c => c >= '\u{10000}',
    };
    text.chars().map(|c| if plain(c) { c } else { '\u{fffd}' }).collect()
}

/// A node on one line, if it has neither comments nor what would need care there.
fn short(node: &Node<'_>) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./+=@%".contains(c);
    match node {
        Node::Scalar(value) => {
            let text = scalar(value);
            let quoted = text.starts_with('\'') && text.ends_with('\'') && text.len() > 1;
            let simple = !text.starts_with('-') || text.starts_with("--");
            let good = (quoted && text.is_ascii() && !text.contains('\n'))
                || (!text.is_empty() && text.chars().all(plain) && simple);
            match value {
                _ if good => Some(text),
                Value::String(value) if value.chars().all(|c| (' '..='~').contains(&c)) => {
                    serde_json::to_string(value).ok()
                }
                _ => None,
            }
        }
        Node::Map(block) => {
            let fields: Option<Vec<_>> = block.lines.iter().map(short_field).collect();
            fields.map(|fields| format!("{{{}}}", fields.join(", ")))
        }
        Node::List(block) => {
            let items: Option<Vec<_>> = block.lines.iter().map(short_item).collect();
            items.map(|items| format!("[{}]", items.join(", ")))
        }
    }
}

/// An entry of a mapping on one line: lists in it would be hard to read.
fn short_field(line: &Line<'_>) -> Option<String> {
    let Line::Entry(entry) = line else { return None };
    let key = short(&Node::from(entry.key()?))?;
    match &entry.node {
        Node::List(_) => None,
        node => short(node).map(|value| format!("{key}: {value}")),
    }
}

/// An item of a list on one line, if it is a word.
fn short_item(line: &Line<'_>) -> Option<String> {
    match line {
        Line::Entry(Entry { node: node @ Node::Scalar(_), .. }) => {
            short(node).filter(|text| !text.contains(' '))
        }
        _ => None,
    }
}

fn scalar(value: &Value) -> String {
    to_yaml(value).unwrap_or_else(|_| value.to_string()).trim_end_matches('\n').to_owned()
}

/// A text whose lines but the first are indented further.
fn indented(text: &str, indent: usize) -> String {
    let margin = " ".repeat(indent);
    let mut lines = text.lines();
    let mut all = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        all.push('\n');
        if !line.is_empty() {
            all.push_str(&margin);
            all.push_str(line);
        }
    }
    all
}
