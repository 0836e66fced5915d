//! What is wrong with text that is no YAML, in words for people who do not know YAML's grammar.

use std::ops::Range;
use std::sync::Arc;

use super::problem::Problem;
use super::source::Source;

/// What the parsers complain about where they point at it, what that means, and what to do about it.
const COMPLAINTS: [(&str, &str, &str); 14] = [
    ("did not find expected key", "does not line up with anything above", ALIGN),
    ("expected '-' indicator", "does not line up with anything above", ALIGN),
    (
        "block sequence entries are not allowed",
        "a list cannot begin here",
        "begin it on a line of its own, or write [a, b]",
    ),
    ("indentation in quoted scalar", "the quotes that begin here are not closed", ""),
    ("unexpected end of stream", "the quotes that begin here are not closed", ""),
    ("unexpected document indicator", "the quotes that begin here are not closed", ""),
    ("escape", "has an escape in double quotes that YAML does not know", BACKSLASH),
    ("hexadecimal", "has an escape in double quotes that YAML does not know", BACKSLASH),
    (
        "trailing content",
        "nothing may follow the closing quote",
        "inside single quotes, write '' for a quote",
    ),
    ("unknown anchor", "refers to an anchor that is not there", STAR),
    ("an anchor", "refers to an anchor that is not there", STAR),
    ("duplicated key", "this key is here twice", ""),
    ("recursion limit", "is nested too deeply", ""),
    ("repetition limit", "has aliases that repeat too much", ""),
];

const ALIGN: &str = "keys of one mapping, and items of one list, begin in the same column";
const BACKSLASH: &str = "write \\\\ for a backslash, or use single quotes";
const STAR: &str = "a string that begins with * or & needs quotes";

/// The problem behind a parser's complaint about a byte.
pub(super) fn problem(source: &Arc<Source>, at: usize, complaint: &str) -> Problem {
    let text = source.text.as_str();
    let told = |at: usize, message: &str, help: &str| {
        let problem = Problem::in_text(source, letter(text, at), message);
        if help.is_empty() { problem } else { problem.help(help) }
    };
    let says = |part: &str| complaint.contains(part);
    let line = line_start(text, at);
    let before = text.get(line..at).unwrap_or_default();
    let found = text.get(at..).and_then(|rest| rest.chars().next());
    if let Some(tab) = tab(text, line).filter(|_| says("tab") || before.trim().is_empty()) {
        return told(tab, "a tab cannot indent YAML", "indent with spaces");
    }
    if says("mapping values are not allowed") {
        let (at, message, help) = misplaced_colon(text, line, before, at);
        return told(at, message, help);
    }
    if ["flow sequence", "flow mapping", "flow construct", "placement of ':'"].iter().any(|part| says(part)) {
        let problem = told(at, "a comma or a closing bracket is missing before this", "");
        return match open_bracket(text, at) {
            Some(open) => problem.also(letter(text, open), "this bracket is still open"),
            None => problem,
        };
    }
    if says("expect ':'") {
        let end = text.get(..line).map_or(at, |above| above.trim_end().len());
        return told(end, "a key needs a `:` after it", "");
    }
    if says("trailing content") && matches!(found, Some('"' | '\'')) {
        return told(at, "a comma is missing before this", "");
    }
    if says("an alias") && before.ends_with('*') {
        return told(at - 1, "refers to an anchor that is not there", STAR);
    }
    if says("valid YAML whitespace") && before.ends_with('\t') {
        return told(at - 1, "a tab cannot follow here", "put a space in its place");
    }
    if says("for merging") || says("in merge") {
        let merge = text.get(at..).and_then(|rest| rest.find("<<")).unwrap_or_default();
        return told(at + merge, "`<<` can only merge mappings", "");
    }
    if let Some((_, message, help)) = COMPLAINTS.iter().find(|(part, ..)| says(part)) {
        return told(at, message, help);
    }
    match found {
        Some(found) if says("unexpected character") || says("cannot start any token") => {
            told(at, &format!("a string cannot begin with {found}"), "put it in quotes")
        }
        _ => {
            let complaint = complaint.split(" at line ").next().unwrap_or(complaint);
            told(at, &format!("is not YAML: {complaint}"), "")
        }
    }
}

/// A `:` where no mapping can be: there is one on its line already, or its line is indented too far, or the
/// line above is no `key: value`. Where to point, what is wrong, and what to do about it.
fn misplaced_colon(text: &str, line: usize, before: &str, at: usize) -> (usize, &'static str, &'static str) {
    if before.contains(": ") {
        return (at, "a second `:` on one line", "a string with `: ` in it needs quotes");
    }
    let above = text.get(..line).unwrap_or_default().trim_end();
    let start = line_start(text, above.len());
    let indent = |line: &str| line.len() - line.trim_start().len();
    match indent(above.get(start..).unwrap_or_default()) < indent(before) {
        true => (line + indent(before), "is indented as if it belonged to the line above", ALIGN),
        false => (start, "this line is no `key: value`", "a `:` needs a space after it"),
    }
}

/// The letter at a byte, if the line has one there.
fn letter(text: &str, at: usize) -> Range<usize> {
    let found = text.get(at..).and_then(|rest| rest.chars().next()).filter(|c| *c != '\n');
    at..at + found.map_or(0, char::len_utf8)
}

/// The bracket that is still open at a byte, as far as brackets in strings do not mislead.
fn open_bracket(text: &str, at: usize) -> Option<usize> {
    let mut closed = 0;
    text.get(..at)?.rmatch_indices(['[', ']', '{', '}']).find_map(|(index, bracket)| {
        match bracket {
            "]" | "}" => closed += 1,
            _ if closed > 0 => closed -= 1,
            _ => return Some(index),
        }
        None
    })
}

/// The first tab that indents a line, on the line that begins at a byte or one of the next two.
fn tab(text: &str, line: usize) -> Option<usize> {
    let mut start = line;
    for line in text.get(start..)?.split_inclusive('\n').take(3) {
        let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = line.get(..indent).and_then(|indent| indent.find('\t')) {
            return Some(start + tab);
        }
        start += line.len();
    }
    None
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}
