//! YAML as values with their places.
//!
//! saphyr says where things stand, serde_yaml what they are. Neither is given what it could choke on: saphyr
//! never sees an alias, so it expands none, and nothing that is nested too deeply for its recursion;
//! serde_yaml sees only what saphyr could read, and what its aliases expand to was counted before it is made.
//!
//! Anchors, aliases and merge keys (`<<`) are allowed; tags are not, nor are keys other than strings.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, ScanError, YamlData};
use serde::Deserialize;
use serde_json::{Map, Number, Value};
use serde_yaml::Value as Yaml;

use super::brackets::lift;
use super::count::Room;
use super::finding::Finding;
use super::path::Path;
use super::place::{Inner, Origin, Place};
use super::problem::Problem;
use super::source::Source;
use super::syntax;

/// How far a line may be indented, by spaces and by the `-`, `?` and `:` of nested blocks. It bounds how
/// deeply blocks can be nested, and with it saphyr's recursion; saphyr itself bounds the brackets.
const MAX_INDENT: usize = 256;

/// Enough for that recursion, whatever thread asks for it.
const STACK: usize = 16 << 20;

/// What saphyr sees in place of `*`, so that it takes an alias for a word.
const ALIAS: char = '\u{e000}';
/// What saphyr sees in place of the first letter of a key that is in its mapping already, so that it reads
/// on.
const COPIES: RangeInclusive<char> = '\u{e001}'..='\u{e010}';

/// What the aliases of a text expand to may be so many values more than it has letters.
const MAX_EXPANDED: usize = 200_000;
/// So complains serde_yaml, when it is much more.
const TOO_MUCH: &str = "repetition limit";

/// A text is read again, for what saphyr stumbles over and others do not, as long as no more letters are read so.
const MAX_REREAD: usize = 4 << 20;
/// A bracket that is indented too little is moved so often.
const MAX_LIFTS: usize = 64;

/// A document of a text.
#[derive(Debug)]
pub(super) struct Document {
    /// What it says, or what of it JSON cannot say.
    pub(super) value: Result<Value, Vec<Finding>>,
    /// Where it says so.
    pub(super) origin: Origin,
}

/// Reads all documents of a text but empty ones and those that are no YAML, which are problems.
pub(super) fn parse(source: &Arc<Source>) -> (Vec<Document>, Vec<Problem>) {
    if let Some(problem) = too_deep(source) {
        return (Vec::new(), vec![problem]);
    }
    let outcome = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn_scoped(scope, || documents(source)).map(std::thread::ScopedJoinHandle::join)
    });
    match outcome {
        Ok(Ok(read)) => read,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => {
            (Vec::new(), vec![Problem::of_file(source.name.clone(), format!("cannot be read: {error}"))])
        }
    }
}

fn documents(source: &Arc<Source>) -> (Vec<Document>, Vec<Problem>) {
    let text = source.text.as_str();
    let offsets = Offsets::of(text);
    if let Some(problem) = too_much(source) {
        return (Vec::new(), vec![problem]);
    }
    let trees = match trees(text) {
        Ok(trees) => trees,
        Err(error) => {
            let at = offsets.byte(error.marker().index());
            return (Vec::new(), vec![syntax::problem(source, at, error.info())]);
        }
    };
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for (tree, document) in trees.iter().zip(serde_yaml::Deserializer::from_str(text)) {
        let mut reader = Reader { source, offsets: &offsets, problems: Vec::new() };
        let places = reader.place(tree, None);
        let start = places.at.start;
        let origin = Origin { source: Arc::clone(source), places: Some(places) };
        let value = Yaml::deserialize(document).and_then(|mut value| value.apply_merge().map(|()| value));
        match value {
            _ if !reader.problems.is_empty() => problems.append(&mut reader.problems),
            Ok(Yaml::Null) => {}
            Ok(value) => {
                let mut findings = Vec::new();
                let value = json(value, &Path::default(), &mut findings);
                let value = if findings.is_empty() { Ok(value) } else { Err(findings) };
                documents.push(Document { value, origin });
            }
            Err(error) => {
                let at = error.location().map_or(start, |location| location.index());
                problems.push(syntax::problem(source, at, &error.to_string()));
                // What serde_yaml makes of the rest after an error is not to be relied on.
                break;
            }
        }
    }
    (documents, problems)
}

/// Writes a value as YAML that reads as the same value, keys `<<` aside, which are read as merges.
///
/// # Errors
/// None that JSON can cause.
pub fn to_yaml(value: &Value) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(value)
}

/// Refuses text that could be nested too deeply to be read safely.
fn too_deep(source: &Arc<Source>) -> Option<Problem> {
    let mut start = 0;
    for line in source.text.split_inclusive('\n') {
        let bytes = line.as_bytes();
        let indents = |(index, byte): (usize, &u8)| match byte {
            b' ' => true,
            b'-' | b'?' | b':' => bytes.get(index + 1) == Some(&b' '),
            _ => false,
        };
        let indent = bytes.iter().enumerate().take_while(|entry| indents(*entry)).count();
        if indent > MAX_INDENT {
            let message = format!("is indented by {indent} columns; {MAX_INDENT} is the most there may be");
            return Some(Problem::in_text(source, start + indent..start + indent, message));
        }
        start += line.len();
    }
    None
}

/// Refuses aliases that expand to much. What else is wrong is found later, and said better.
fn too_much(source: &Arc<Source>) -> Option<Problem> {
    let text = source.text.as_str();
    if !(text.contains('&') && text.contains('*')) {
        return None;
    }
    // There are fewer values than letters where there are no aliases.
    let room = Room::of(text.len() + MAX_EXPANDED);
    let error = serde_yaml::Deserializer::from_str(text).find_map(|document| room.take(document).err())?;
    let at = error.location().map_or(0, |location| location.index());
    room.is_over().then(|| syntax::problem(source, at, TOO_MUCH))
}

/// saphyr's trees of the text's documents, without its aliases.
fn trees(text: &str) -> Result<Vec<MarkedYaml<'static>>, ScanError> {
    let mut chars: Vec<char> = text.chars().map(|c| if c == '*' { ALIAS } else { c }).collect();
    let (mut copies, mut lifts) = (COPIES, MAX_LIFTS);
    let mut left = MAX_REREAD;
    loop {
        let error = match MarkedYaml::load_from_iter(chars.clone().into_iter()) {
            Err(error) if left < chars.len() => return Err(error),
            Err(error) if error.info() == "duplicated key in mapping" => error,
            Err(error) if error.info() == "invalid indentation" && lifts > 0 => {
                left -= chars.len();
                lifts -= 1;
                if lift(&mut chars, error.marker().index()) {
                    continue;
                }
                return Err(error);
            }
            result => return result,
        };
        // That a key is here twice is an error however it is told: to tell of several is worth a little only.
        left = left.saturating_sub(8 * chars.len());
        let start = error.marker().index();
        let quoted = matches!(chars.get(start), Some('"' | '\''));
        match (chars.get_mut(start + usize::from(quoted)), copies.next()) {
            (Some(c), Some(copy)) if c.is_alphanumeric() || *c == '_' => *c = copy,
            _ => return Err(error),
        }
    }
}

/// Turns saphyr's trees into places, and finds keys that appear twice.
struct Reader<'a> {
    source: &'a Arc<Source>,
    offsets: &'a Offsets,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// The place of a node. The recursion is as deep as saphyr's own.
    fn place(&mut self, node: &MarkedYaml<'_>, key: Option<Range<usize>>) -> Place {
        let whole = self.range(node);
        let inner = match &node.data {
            YamlData::Mapping(entries) => {
                let mut fields: BTreeMap<String, Place> = BTreeMap::new();
                for (key, value) in entries {
                    let at = self.range(key);
                    let (name, copy) = self.name(key, &at);
                    if let Some(Place { key: Some(first), .. }) = fields.get(&name).filter(|_| copy) {
                        let problem = Problem::in_text(self.source, at, format!("`{name}` is here twice"));
                        self.problems.push(problem.also(first.clone(), "here first"));
                        continue;
                    }
                    let place = self.place(value, Some(at));
                    fields.insert(name, place);
                }
                Inner::Fields(fields)
            }
            YamlData::Sequence(items) => {
                Inner::Items(items.iter().map(|item| self.place(item, None)).collect())
            }
            _ => Inner::Nothing,
        };
        Place { at: self.pointed(&whole, key.as_ref()), whole, key, inner }
    }

    /// A key's text, and whether it is a copy of another.
    fn name(&self, key: &MarkedYaml<'_>, at: &Range<usize>) -> (String, bool) {
        let written = self.source.text.get(at.clone()).unwrap_or_default();
        let YamlData::Value(Scalar::String(name)) = &key.data else {
            return (written.to_owned(), false);
        };
        let mut letters = name.chars();
        if letters.next().is_some_and(|first| COPIES.contains(&first)) {
            let first = written.chars().find(|c| !matches!(c, '"' | '\''));
            return (first.into_iter().chain(letters).collect(), true);
        }
        (name.replace(ALIAS, "*"), false)
    }

    /// The bytes of a node, with the bracket that ends it.
    fn range(&self, node: &MarkedYaml<'_>) -> Range<usize> {
        let (start, end) =
            (self.offsets.byte(node.span.start.index()), self.offsets.byte(node.span.end.index()));
        let text = self.source.text.as_bytes();
        let bracket =
            matches!((text.get(start), text.get(end)), (Some(b'['), Some(b']')) | (Some(b'{'), Some(b'}')));
        start..end.max(start) + usize::from(bracket)
    }

    /// What to point at for a value: a whole block would be drawn as many lines.
    fn pointed(&self, value: &Range<usize>, key: Option<&Range<usize>>) -> Range<usize> {
        let text = self.source.text.get(value.clone()).unwrap_or_default();
        match (text.lines().next().map(str::trim_end), key) {
            (Some(line), _) if !line.is_empty() && line.len() == text.trim_end().len() => {
                value.start..value.start + line.len()
            }
            (_, Some(key)) => key.clone(),
            (line, None) => value.start..value.start + line.map_or(0, str::len),
        }
    }
}

/// Where characters stand in a text, in bytes.
enum Offsets {
    /// Where they count the same.
    Ascii(usize),
    /// Of each character, and of the end.
    Of(Vec<usize>),
}

impl Offsets {
    fn of(text: &str) -> Self {
        match text.is_ascii() {
            true => Self::Ascii(text.len()),
            false => {
                let starts = text.char_indices().map(|(offset, _)| offset);
                Self::Of(starts.chain(std::iter::once(text.len())).collect())
            }
        }
    }

    fn byte(&self, index: usize) -> usize {
        match self {
            Self::Ascii(length) => index.min(*length),
            Self::Of(starts) => starts.get(index).or(starts.last()).copied().unwrap_or_default(),
        }
    }
}

/// The JSON that YAML stands for.
fn json(yaml: Yaml, path: &Path, findings: &mut Vec<Finding>) -> Value {
    match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::String(text) => Value::String(text),
        Yaml::Number(number) => {
            let whole = number.as_u64().map(Number::from).or_else(|| number.as_i64().map(Number::from));
            match whole.or_else(|| number.as_f64().and_then(Number::from_f64)) {
                Some(number) => Value::Number(number),
                None => {
                    findings.push(Finding::new(path.clone(), format!("must be finite, found {number}")));
                    Value::Null
                }
            }
        }
        Yaml::Sequence(items) => {
            let items = items.into_iter().enumerate();
            items.map(|(index, item)| json(item, &path.item(index), findings)).collect()
        }
        Yaml::Mapping(entries) => {
            let mut fields = Map::new();
            for (key, value) in entries {
                if let Some(name) = name(&key, path, findings) {
                    let value = json(value, &path.key(&name), findings);
                    fields.insert(name, value);
                }
            }
            Value::Object(fields)
        }
        Yaml::Tagged(tagged) => {
            let message = format!("has the tag `{}`, and tags have no meaning here", tagged.tag);
            findings
                .push(Finding::new(path.clone(), message).help("leave it out, or put the whole in quotes"));
            Value::Null
        }
    }
}

/// The name that a key is; only a string can be one.
fn name(key: &Yaml, path: &Path, findings: &mut Vec<Finding>) -> Option<String> {
    let name = match key {
        Yaml::String(name) => return Some(name.clone()),
        Yaml::Number(number) => number.to_string(),
        Yaml::Bool(value) => value.to_string(),
        Yaml::Null | Yaml::Sequence(_) | Yaml::Mapping(_) | Yaml::Tagged(_) => {
            let help = "what begins with a bracket, or is `~` or `null`, needs quotes to be a string";
            findings.push(Finding::new(path.clone(), "has a key that is no string").help(help));
            return None;
        }
    };
    let finding = Finding::new(path.key(&name), format!("a key must be a string, found {name}")).at_key();
    findings.push(finding.help(format!("write \"{name}\"")));
    None
}
