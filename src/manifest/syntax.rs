//! What is wrong with text that is no YAML, in words for people who do not know YAML's grammar.

use std::sync::Arc;

use super::problem::Problem;
use super::source::Source;

/// What is told about a complaint.
struct Explained {
    /// The byte to point at.
    at: usize,
    message: String,
    help: &'static str,
    /// Another byte to point at, and what to say there.
    also: Option<(usize, &'static str)>,
}

/// The problem behind a parser's complaint about a byte.
pub(super) fn problem(source: &Arc<Source>, at: usize, complaint: &str) -> Problem {
    let text = source.text.as_str();
    let Explained { at, message, help, also } = explain(text, at, complaint);
    let letter = |at: usize| {
        let found = text.get(at..).and_then(|rest| rest.chars().next()).filter(|c| *c != '\n');
        at..at + found.map_or(0, char::len_utf8)
    };
    let mut problem = Problem::in_text(source, letter(at), message);
    if let Some((at, label)) = also {
        problem = problem.also(letter(at), label);
    }
    match help {
        "" => problem,
        help => problem.help(help),
    }
}

/// Says in our words what is wrong.
fn explain(text: &str, at: usize, complaint: &str) -> Explained {
    let line = line_start(text, at);
    let before = text.get(line..at).unwrap_or_default();
    let found = text.get(at..).and_then(|rest| rest.chars().next());
    let says = |part: &str| complaint.contains(part);
    let told = |at: usize, message: &str, help: &'static str| Explained {
        at,
        message: message.to_owned(),
        help,
        also: None,
    };
    let tab = tab(text, line).filter(|_| says("tab") || before.trim().is_empty());
    if let Some(tab) = tab {
        told(tab, "a tab cannot indent YAML", "indent with spaces")
    } else if says("mapping values are not allowed") && before.contains(": ") {
        told(at, "a second `:` on one line", "a string with `: ` in it needs quotes")
    } else if says("mapping values are not allowed") {
        let key = line + (before.len() - before.trim_start().len());
        told(key, "is indented as if it belonged to the line above", ALIGN)
    } else if says("did not find expected key") || says("expected '-' indicator") {
        told(at, "does not line up with anything above", ALIGN)
    } else if says("block sequence entries are not allowed") {
        told(at, "a list cannot begin here", "begin it on a line of its own, or write [a, b]")
    } else if says("flow sequence")
        || says("flow mapping")
        || says("flow construct")
        || says("placement of ':'")
    {
        let open = open_bracket(text, at);
        let also = open.map(|open| (open, "this bracket is still open"));
        Explained { also, ..told(at, "a comma or a closing bracket is missing before this", "") }
    } else if says("expect ':'") {
        let end = text.get(..line).map_or(at, |before| before.trim_end().len());
        told(end, "a key needs a `:` after it", "")
    } else if says("quoted scalar") && (says("indentation") || says("unexpected")) {
        told(at, "the quotes that begin here are not closed", "")
    } else if says("escape") || says("hexadecimal") {
        let help = "write \\\\ for a backslash, or use single quotes";
        told(at, "has an escape in double quotes that YAML does not know", help)
    } else if says("trailing content") {
        told(at, "nothing may follow the closing quote", "inside single quotes, write '' for a quote")
    } else if says("unknown anchor") || says("an anchor") || says("an alias") {
        let start = before.ends_with(['*', '&']).then(|| at - 1);
        let help = "a string that begins with * or & needs quotes";
        told(start.unwrap_or(at), "refers to an anchor that is not there", help)
    } else if says("duplicated key") {
        told(at, "this key is here twice", "")
    } else if says("recursion limit") {
        told(at, "is nested too deeply", "")
    } else if says("repetition limit") {
        told(at, "has aliases that repeat too much", "")
    } else if says("for merging") || says("in merge") {
        let merge = text.get(at..).and_then(|rest| rest.find("<<"));
        told(at + merge.unwrap_or_default(), "`<<` can only merge mappings", "")
    } else if let Some(found) =
        found.filter(|_| says("unexpected character") || says("cannot start any token"))
    {
        told(at, &format!("a string cannot begin with {found}"), "put it in quotes")
    } else {
        let complaint = complaint.split(" at line ").next().unwrap_or(complaint);
        told(at, &format!("is not YAML: {complaint}"), "")
    }
}

const ALIGN: &str = "keys of one mapping, and items of one list, begin in the same column";

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
