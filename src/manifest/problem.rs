//! What is wrong with a manifest, and where: for a line of a log, and drawn for a person.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents, ThemeCharacters, ThemeStyles,
};

use super::source::Source;
use crate::api::meta::ObjectKey;
use crate::api::object::Kind;

/// Lines longer than this are not drawn: they are no help, and fill the screen.
const MAX_LINE: usize = 200;

/// One thing that is wrong with a manifest.
///
/// `Display` gives one line: `file:line:column: spec.minReplicas: what is wrong`.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What the source is called.
    pub file: String,
    /// Where in the source, if it is in its text.
    pub position: Option<Position>,
    /// Which field, such as `spec.env[2].name`; empty if it is about no field.
    pub field: String,
    /// What is wrong: what was found, and what is allowed.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The object that it is about, if that can be told.
    pub object: Option<(Kind, ObjectKey)>,
    /// Whether it is a file or a directory that could not be read, so that nobody knows what is in it.
    pub unreadable: bool,
    snippet: Option<Snippet>,
}

/// A place in a text, counted from 1 and in characters, as editors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// How problems are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// How wide lines may be.
    pub width: usize,
    /// Whether the terminal shows colours.
    pub colour: bool,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
}

/// The places in a text that a problem is about.
#[derive(Clone, Debug)]
struct Snippet {
    source: Arc<Source>,
    at: Range<usize>,
    also: Vec<(Range<usize>, String)>,
}

impl Problem {
    /// A problem with a source as a whole, or with what is not in its text.
    pub(super) fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        let (file, message) = (file.into(), message.into());
        Self {
            file,
            position: None,
            field: String::new(),
            message,
            help: None,
            object: None,
            unreadable: false,
            snippet: None,
        }
    }

    /// A problem with some bytes of a source's text.
    pub(super) fn in_text(source: &Arc<Source>, at: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            position: Some(Position::of(&source.text, at.start)),
            snippet: Some(Snippet { source: Arc::clone(source), at, also: Vec::new() }),
            ..Self::of_file(source.name.clone(), message)
        }
    }

    /// The same, about a field.
    pub(super) fn field(mut self, field: impl fmt::Display) -> Self {
        self.field = field.to_string();
        self
    }

    /// The same, about an object if that can be told.
    pub(super) fn about(mut self, object: Option<(Kind, ObjectKey)>) -> Self {
        self.object = object;
        self
    }

    /// The same, with what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, with what to do about it if that is known.
    pub(super) fn help_if(mut self, help: Option<impl Into<String>>) -> Self {
        self.help = help.map(Into::into);
        self
    }

    /// The same, pointing at another place in the same text too.
    pub(super) fn also(mut self, at: Range<usize>, label: impl Into<String>) -> Self {
        if let Some(snippet) = &mut self.snippet {
            snippet.also.push((at, label.into()));
        }
        self
    }

    /// Draws the problem, with the lines it is about.
    pub fn render(&self, look: Look) -> String {
        let theme = GraphicalTheme {
            characters: if look.unicode { ThemeCharacters::unicode() } else { ThemeCharacters::ascii() },
            styles: if look.colour { ThemeStyles::ansi() } else { ThemeStyles::none() },
        };
        let mut drawn = String::new();
        let outcome = GraphicalReportHandler::new_themed(theme)
            .with_wrap_lines(false)
            .with_context_lines(1)
            .without_syntax_highlighting()
            .render_report(&mut drawn, &Drawing { problem: self, width: look.width });
        match outcome {
            Ok(()) => drawn,
            Err(fmt::Error) => format!("{self}\n"),
        }
    }

    fn headline(&self) -> String {
        match self.field.as_str() {
            "" => self.message.clone(),
            field => format!("{field}: {}", self.message),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        let separator = if self.file.is_empty() { "" } else { ": " };
        write!(f, "{separator}{}", self.headline())
    }
}

impl std::error::Error for Problem {}

impl Position {
    /// The place of a byte.
    pub(super) fn of(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Self { line, column: before.get(line_start..).unwrap_or_default().chars().count() + 1 }
    }
}

/// A problem as miette draws it: it writes file, line and column itself. Lines are wrapped here, for miette
/// breaks paths.
struct Drawing<'a> {
    problem: &'a Problem,
    width: usize,
}

impl fmt::Debug for Drawing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

impl fmt::Display for Drawing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headline = match self.snippet() {
            Some(_) => self.problem.headline(),
            None => self.problem.to_string(),
        };
        f.write_str(&wrapped(&headline, self.width.saturating_sub("  x ".len())))
    }
}

impl std::error::Error for Drawing<'_> {}

impl Diagnostic for Drawing<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.problem.help.as_ref()?;
        Some(Box::new(wrapped(help, self.width.saturating_sub("  help: ".len()))))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.snippet().map(|snippet| snippet as _)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let snippet = self.snippet()?;
        let primary = LabeledSpan::new_primary_with_span(None, snippet.at.clone());
        let also = snippet
            .also
            .iter()
            .map(|(at, label)| LabeledSpan::new_with_span(Some(label.clone()), at.clone()));
        Some(Box::new(std::iter::once(primary).chain(also)))
    }
}

impl Drawing<'_> {
    fn snippet(&self) -> Option<&Snippet> {
        self.problem.snippet.as_ref().filter(|snippet| snippet.is_drawable())
    }
}

/// A text with line breaks in place of spaces, where its lines are too long.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.split('\n') {
        let mut current = String::new();
        for word in line.split(' ') {
            if !current.trim().is_empty() && current.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut current));
            } else if !current.is_empty() || word.is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
        lines.push(current);
    }
    lines.join("\n")
}

impl Snippet {
    /// Whether the lines it is about, and those around them, are short enough.
    fn is_drawable(&self) -> bool {
        std::iter::once(&self.at).chain(self.also.iter().map(|(at, _)| at)).all(|at| {
            let (before, rest) = self.source.text.split_at_checked(at.start).unwrap_or_default();
            let before = before.rsplit('\n').take(2).map(str::len);
            let after = rest.split('\n').take(2).map(str::len);
            before.chain(after).all(|length| length <= MAX_LINE)
        })
    }
}

impl SourceCode for Snippet {
    /// As the text's own, with the file's name, and columns counted in characters.
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let contents = self.source.text.read_span(span, lines_before, lines_after)?;
        let start = Position::of(&self.source.text, contents.span().offset());
        Ok(Box::new(MietteSpanContents::new_named(
            self.source.name.clone(),
            contents.data(),
            *contents.span(),
            start.line - 1,
            start.column - 1,
            contents.line_count(),
        )))
    }
}
