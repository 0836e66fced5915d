//! Kubernetes' JSONPath templates, for `-o jsonpath=`, `-o custom-columns=` and `--sort-by`.
//!
//! An expression between braces is a path (`{.status.phase}`), a text in quotes, or a `{range}` that goes on to its
//! `{end}`. Paths are what RFC 9535 says, but begin with a dot, and dots of a name are escaped: `.metadata.labels.a\.b`.

use std::cmp::Ordering;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::wrong;

/// A template: texts, paths, and what is repeated.
#[derive(Clone, Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Path(Path),
    Range(Path, Vec<Part>),
}

/// A path into a value.
#[derive(Clone, Debug)]
pub(super) struct Path {
    path: JsonPath,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut rest = text;
        let parts = parts(&mut rest, false)?;
        Ok(Self { parts })
    }

    /// What it makes of a value.
    pub(super) fn render(&self, value: &Value) -> String {
        let mut text = String::new();
        render(&self.parts, value, &mut text);
        text
    }
}

fn parts(rest: &mut &str, inside: bool) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    loop {
        let Some(open) = rest.find('{') else {
            if inside {
                return Err(wrong("a {range} of the template has no {end}"));
            }
            push(&mut parts, rest);
            *rest = "";
            return Ok(parts);
        };
        let (text, after) = rest.split_at(open);
        push(&mut parts, text);
        let close =
            closing(after).ok_or_else(|| wrong(format!("{after:?} of the template has no closing brace")))?;
        let expression = after.get(1..close).unwrap_or_default().trim();
        *rest = after.get(close + 1..).unwrap_or_default();
        if expression == "end" {
            if !inside {
                return Err(wrong("an {end} of the template has no {range}"));
            }
            return Ok(parts);
        } else if let Some(path) = expression.strip_prefix("range ") {
            let path = Path::parse(path)?;
            parts.push(Part::Range(path, self::parts(rest, true)?));
        } else if let Some(text) = literal(expression) {
            parts.push(Part::Text(text));
        } else {
            parts.push(Part::Path(Path::parse(expression)?));
        }
    }
}

fn push(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

/// Where the expression ends whose brace a text begins with: not in quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match (quote, c) {
            (_, '\\') => {
                characters.next();
            }
            (None, '}') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

/// What stands between quotes.
fn literal(expression: &str) -> Option<String> {
    let quote = expression.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = expression.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                other => text.push(other),
            },
            c => text.push(c),
        }
    }
    Some(text)
}

fn render(parts: &[Part], value: &Value, text: &mut String) {
    for part in parts {
        match part {
            Part::Text(literal) => text.push_str(literal),
            Part::Path(path) => {
                let found: Vec<String> = path.find(value).into_iter().map(plain).collect();
                text.push_str(&found.join(" "));
            }
            Part::Range(path, inner) => {
                path.find(value).into_iter().for_each(|item| render(inner, item, text));
            }
        }
    }
}

/// A value as scripts want it: texts without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

impl Path {
    /// Reads a path, with or without the braces, dollar or at sign that it may begin with.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let bare = text.trim();
        let bare = bare.strip_prefix('{').and_then(|bare| bare.strip_suffix('}')).unwrap_or(bare).trim();
        let steps = bare.strip_prefix(['$', '@']).unwrap_or(bare);
        let known = JsonPath::parse(&format!("${}", bracketed(steps)));
        match known {
            Ok(path) => Ok(Self { path }),
            Err(error) => Err(wrong(format!("{text:?} is no path, such as .status.phase: {error}"))),
        }
    }

    /// What it leads to.
    pub(super) fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        self.path.query(value).all()
    }

    /// What it leads to, as a cell of a table.
    pub(super) fn cell(&self, value: &Value) -> String {
        let found: Vec<String> =
            self.find(value).into_iter().map(plain).filter(|text| !text.is_empty()).collect();
        if found.is_empty() { "<none>".to_owned() } else { found.join(",") }
    }
}

/// A path with each name in brackets: dots and dashes of names mean nothing to RFC 9535 then.
fn bracketed(steps: &str) -> String {
    let mut text = String::new();
    let mut rest = steps;
    // The dot may be left out at the beginning.
    let begins = !rest.is_empty() && !rest.starts_with(['.', '[']);
    let owned = if begins { format!(".{rest}") } else { rest.to_owned() };
    rest = &owned;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            text.push_str("..");
            rest = after;
            if rest.starts_with(['[', '*']) {
                continue;
            }
            rest = name(rest, &mut text);
        } else if let Some(after) = rest.strip_prefix('.') {
            rest = match after.strip_prefix('*') {
                Some(after) => {
                    text.push_str("[*]");
                    after
                }
                // `.[0]`, and the dot alone that means everything.
                None if after.is_empty() || after.starts_with('[') => after,
                None => name(after, &mut text),
            };
        } else {
            let end = bracket(rest);
            text.push_str(rest.get(..end).unwrap_or(rest));
            rest = rest.get(end..).unwrap_or_default();
        }
    }
    text
}

/// Takes a name off the beginning.
fn name<'t>(rest: &'t str, text: &mut String) -> &'t str {
    let mut name = String::new();
    let mut characters = rest.char_indices();
    let mut end = rest.len();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => name.extend(characters.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    text.push_str(&format!("[{}]", Value::from(name)));
    rest.get(end..).unwrap_or_default()
}

/// Where a bracket ends: not in quotes, and not within another.
fn bracket(text: &str) -> usize {
    let (mut depth, mut quote) = (0usize, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth <= 1 => return at + 1,
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    text.len()
}

/// The columns of `-o custom-columns=NAME:.path,NAME:.path`.
pub(super) fn columns(text: &str) -> anyhow::Result<Vec<(String, Path)>> {
    let columns = text.split(',').map(|column| {
        let (name, path) = column.split_once(':').ok_or_else(|| {
            wrong(format!("{column:?} is no column: write NAME:.path, such as PHASE:.status.phase"))
        })?;
        Ok((name.trim().to_owned(), Path::parse(path)?))
    });
    columns.collect()
}

/// Which of two values comes first by a path: numbers by size, everything else as text; what has none comes first.
pub(super) fn compare(path: &Path, one: &Value, other: &Value) -> Ordering {
    let (one, other) = (path.find(one).into_iter().next(), path.find(other).into_iter().next());
    match (one.and_then(Value::as_f64), other.and_then(Value::as_f64)) {
        (Some(one), Some(other)) => one.total_cmp(&other),
        _ => one.map(plain).cmp(&other.map(plain)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn list() -> Value {
        json!({"items": [
            {"metadata": {"name": "a", "labels": {"example.com/team": "vision", "a-b": "c"}}, "status": {"phase": "Running", "replicas": 10}},
            {"metadata": {"name": "b"}, "status": {"phase": "Pending", "replicas": 9}},
        ]})
    }

    fn rendered(template: &str) -> String {
        Template::parse(template).unwrap().render(&list())
    }

    #[test]
    fn templates_are_read_as_kubectl_reads_them() {
        for (template, text) in [
            ("{.items[*].metadata.name}", "a b"),
            ("{$.items[0].status.phase}", "Running"),
            ("{.items[-1:].metadata.name}", "b"),
            ("{items[0].metadata.name}", "a"),
            (
                "{range .items[*]}{.metadata.name}{\"\\t\"}{.status.phase}{\"\\n\"}{end}",
                "a\tRunning\nb\tPending\n",
            ),
            ("{.items[?(@.status.phase=='Pending')].metadata.name}", "b"),
            ("{.items[?(@.status.replicas > 9)].metadata.name}", "a"),
            ("{.items[0].metadata.labels.example\\.com/team}", "vision"),
            ("{.items[0].metadata.labels['example.com/team']}", "vision"),
            ("{.items[0].metadata.labels.a-b}", "c"),
            ("{..phase}", "Running Pending"),
            ("{.items[0].status}", r#"{"phase":"Running","replicas":10}"#),
            ("{.nothing}", ""),
            ("name: {'{}'} {.items[0].metadata.name}", "name: {} a"),
            ("plain", "plain"),
        ] {
            assert_eq!(rendered(template), text, "{template}");
        }
        for wrong in ["{.a", "{range .items[*]}x", "{end}", "{.a[}", "{.items[?]}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn columns_and_order_are_by_paths() {
        let columns = columns("NAME:.metadata.name,TEAM:.metadata.labels.example\\.com/team").unwrap();
        let cells: Vec<String> = columns.iter().map(|(_, path)| path.cell(&list()["items"][1])).collect();
        assert_eq!(cells, ["b", "<none>"]);
        assert!(super::columns("NAME").is_err());
        let path = Path::parse("{.status.replicas}").unwrap();
        let items = list();
        assert_eq!(compare(&path, &items["items"][0], &items["items"][1]), Ordering::Greater);
    }

    proptest! {
        #[test]
        fn any_template_is_survived(text in "\\PC{0,40}|[{}.$@*\\[\\]'\"?()=a0 \\\\-]{0,40}") {
            if let Ok(template) = Template::parse(&text) {
                template.render(&list());
            }
        }
    }
}
