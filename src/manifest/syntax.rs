//! What is wrong with text that is no YAML, in words for people who do not know YAML's grammar.

use std::sync::Arc;

use super::problem::Problem;
use super::source::Source;

/// The problem behind a parser's message, at the byte the parser complains about.
pub(super) fn problem(source: &Arc<Source>, at: usize, info: &str) -> Problem {
    let text = source.text.as_str();
    if let Some(tab) = tab(text, at).filter(|_| info.contains("tab") || is_indent(text, at)) {
        let problem = Problem::in_text(source, tab..tab + 1, "a tab cannot indent YAML");
        return problem.help("indent with spaces");
    }
    let (at, message, help) = explain(text, at, info);
    let length =
        text.get(at..).and_then(|rest| rest.chars().next()).filter(|c| *c != '\n').map_or(0, char::len_utf8);
    let problem = Problem::in_text(source, at..at + length, message);
    match help {
        "" => problem,
        help => problem.help(help),
    }
}

/// Where to point, what is wrong, and what to do about it.
fn explain(text: &str, at: usize, info: &str) -> (usize, String, &'static str) {
    let line = line_start(text, at);
    let before = text.get(line..at).unwrap_or_default();
    let found = text.get(at..).and_then(|rest| rest.chars().next());
    let says = |part: &str| info.contains(part);
    let (at, message, help) = if says("mapping values are not allowed") && before.contains(": ") {
        (at, "a second `:` on one line", "text with `: ` in it needs quotes")
    } else if says("mapping values are not allowed") {
        let key = line + (before.len() - before.trim_start().len());
        (key, "is indented as if it belonged to the line above", ALIGN)
    } else if says("did not find expected key") || says("expected '-' indicator") {
        (at, "does not line up with anything above", ALIGN)
    } else if says("block sequence entries are not allowed") {
        (at, "a list cannot begin here", "begin it on a line of its own, or write [a, b]")
    } else if says("flow sequence")
        || says("flow mapping")
        || says("flow construct")
        || says("placement of ':'")
    {
        (at, "a bracket above is not closed", "what begins with [ ends with ], and what begins with { with }")
    } else if says("expect ':'") {
        (text.get(..at).map_or(at, |before| before.trim_end().len()), "a key needs a `:` after it", "")
    } else if says("quoted scalar") && (says("indentation") || says("unexpected")) {
        (at, "the quotes that begin here are not closed", "")
    } else if says("unknown escape") {
        (at, "an unknown escape in double quotes", "write \\\\ for a backslash, or use single quotes")
    } else if says("trailing content") {
        (at, "nothing may follow the closing quote", "inside single quotes, write '' for a quote")
    } else if says("unknown anchor") || says("scanning an anchor") {
        (at, "refers to an anchor that is not there", "a text that begins with * or & needs quotes")
    } else if says("recursion limit") {
        (at, "is nested too deeply", "")
    } else if says("repetition limit") {
        (at, "has aliases that repeat too much", "")
    } else if says("for merging") || says("in merge") {
        (at, "`<<` can only merge mappings", "")
    } else if let Some(found) =
        found.filter(|_| says("unexpected character") || says("cannot start any token"))
    {
        return (at, format!("a text cannot begin with {found}"), "put it in quotes");
    } else {
        return (at, format!("is not YAML: {info}"), "");
    };
    (at, message.to_owned(), help)
}

const ALIGN: &str = "keys of one mapping, and items of one list, begin in the same column";

/// The first tab that indents a line, on the line of a byte or one of the next.
fn tab(text: &str, at: usize) -> Option<usize> {
    let mut start = line_start(text, at);
    for line in text.get(start..)?.split_inclusive('\n').take(3) {
        let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = line.get(..indent).and_then(|indent| indent.find('\t')) {
            return Some(start + tab);
        }
        start += line.len();
    }
    None
}

fn is_indent(text: &str, at: usize) -> bool {
    text.get(line_start(text, at)..at).is_some_and(|before| before.trim().is_empty())
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}
