//! Where text goes: the only place that writes to standard output and standard error.

use std::io::{IsTerminal as _, Write as _};

use super::text::{cut, folded};
use crate::client::ClientError;
use crate::manifest::{Look, Problem};
use crate::store::StoreError;

/// Writes for people and for programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printer {
    /// Whether standard output is a terminal.
    pub(super) terminal: bool,
    /// Whether what is done goes on when nobody reads any more.
    persistent: bool,
    talk_terminal: bool,
    colour: bool,
    /// Whether data has colours.
    data_colour: bool,
}

impl Printer {
    pub(super) fn new() -> Self {
        let talk_terminal = std::io::stderr().is_terminal();
        // https://no-color.org: set and not empty means none.
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let terminal = std::io::stdout().is_terminal();
        // https://bixense.com/clicolors: where it is wanted, also into a pipe.
        let forced =
            std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
        Self {
            terminal,
            persistent: false,
            talk_terminal,
            colour: colour && (talk_terminal || forced),
            data_colour: colour && (terminal || forced),
        }
    }

    /// One whose data goes into a pipe, wherever the test is run.
    #[cfg(test)]
    pub(super) fn piped() -> Self {
        Self { terminal: false, persistent: false, talk_terminal: false, colour: false, data_colour: false }
    }

    /// The same, for what goes on when nobody reads any more.
    pub(super) fn persistent(self) -> Self {
        Self { persistent: true, ..self }
    }

    /// Data, with a line break. When nobody reads any more that is the end, not an error.
    pub(super) fn data(&self, text: &str) {
        self.raw(&format!("{}\n", text.trim_end_matches('\n')));
    }

    /// A table: on a terminal no line is longer than the screen, for wrapped lines are no table.
    pub(super) fn table(&self, text: &str) {
        self.data(&cut(text, self.screen()));
    }

    /// Prose, and tables that fit: on a terminal words are not broken at its edge.
    pub(super) fn page(&self, text: &str) {
        self.data(&folded(text, self.screen()));
    }

    /// Data as it is.
    pub(super) fn raw(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(_) if self.persistent => {}
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => {
                self.talk(&format!("{} cannot write the output: {error}", self.paint("1;31", "error:")));
                std::process::exit(1);
            }
        }
    }

    /// Talk, with a line break.
    pub(super) fn talk(&self, text: &str) {
        // Nobody can be told that nobody can be told.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Something that should not be, but is no error.
    pub(super) fn warn(&self, text: &str) {
        self.talk(&format!("{} {text}", self.paint("33", "warning:")));
    }

    /// An error with its causes, and what to do about it if that is known.
    pub(super) fn error(&self, error: &anyhow::Error) {
        if let Some(invalid) = error.downcast_ref::<super::input::InvalidManifests>() {
            return self.problems(&invalid.problems);
        }
        let mut text = error.to_string();
        for cause in error.chain().skip(1) {
            let cause = cause.to_string();
            if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        self.talk(&format!("{} {text}", self.paint("1;31", "error:")));
        if let Some(hint) = hint(error) {
            self.talk(&format!("\n{} {hint}", self.paint("1;36", "hint:")));
        }
    }

    /// What is wrong with manifests, each with its place in the source.
    pub(super) fn problems(&self, problems: &[Problem]) {
        let unicode = self.talk_terminal && is_utf8();
        let look = Look { width: self.width(), colour: self.colour, unicode };
        for problem in problems {
            self.talk(problem.render(look).trim_end());
            self.talk("");
        }
        let count = problems.len();
        let summary = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
        self.talk(&format!("{} {summary}; nothing was changed", self.paint("1;31", "error:")));
    }

    /// How wide lines may be.
    fn width(self) -> usize {
        let terminal = terminal_size::terminal_size_of(std::io::stderr()).filter(|_| self.talk_terminal);
        terminal.map_or(100, |(width, _)| usize::from(width.0)).clamp(40, 120)
    }

    /// How wide lines of data may be that are read as prose.
    pub(super) fn data_width(self) -> usize {
        self.screen().unwrap_or(100).min(120)
    }

    /// How wide the screen is that shows data; none if a program reads it.
    pub(super) fn screen(self) -> Option<usize> {
        let terminal = terminal_size::terminal_size_of(std::io::stdout()).filter(|_| self.terminal);
        terminal.map(|(width, _)| usize::from(width.0).max(40))
    }

    fn paint(&self, style: &str, text: &str) -> String {
        styled(self.colour, style, text)
    }

    /// A piece of data in a colour, if it may have any.
    pub(super) fn tint(&self, style: &str, text: &str) -> String {
        styled(self.data_colour, style, text)
    }
}

fn styled(colour: bool, style: &str, text: &str) -> String {
    if colour { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
}

fn is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    locale.is_some_and(|locale| locale.to_lowercase().contains("utf"))
}

/// What to do about an error, if that is known.
fn hint(error: &anyhow::Error) -> Option<String> {
    for cause in error.chain() {
        if let Some(super::Hinted { hint, .. }) = cause.downcast_ref() {
            return Some(hint.clone());
        }
        if let Some(ClientError::NoController { state }) = cause.downcast_ref() {
            let logs = state.join("jobs");
            let kept = if logs.exists() {
                format!("; the logs of its jobs are in {}", logs.display())
            } else {
                String::new()
            };
            return Some(format!(
                "start one with `rayconcile controller`, or use `apply --start-controller` or `run`{kept}"
            ));
        }
        if let Some(ClientError::Refused { code: 401 | 403, .. }) = cause.downcast_ref() {
            let how =
                "the token is read from `api-token` in the state directory; is --state-dir the controller's?";
            return Some(how.to_owned());
        }
        if let Some(StoreError::Locked { .. }) = cause.downcast_ref() {
            return Some("use that controller (`rayconcile status`), or another --state-dir".to_owned());
        }
    }
    None
}
