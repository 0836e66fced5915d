//! What a check finds, said of paths in an object: the checks know nothing of texts.

use super::path::Path;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Which field it is about.
    pub(super) path: Path,
    /// Whether to point at the field's key, not at its value.
    pub(super) at_key: bool,
    /// What is wrong.
    pub(super) message: String,
    /// What to do about it.
    pub(super) help: Option<String>,
    /// Another field to point at, and what to say there.
    pub(super) also: Option<(Path, String)>,
}

impl Finding {
    /// Something wrong with a field's value.
    pub(super) fn new(path: Path, message: impl Into<String>) -> Self {
        Self { path, at_key: false, message: message.into(), help: None, also: None }
    }

    /// The same, pointing at the field's key.
    pub(super) fn at_key(mut self) -> Self {
        self.at_key = true;
        self
    }

    /// The same, with what to do about it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, with what to do about it if that is known.
    pub(super) fn help_if(mut self, help: Option<impl Into<String>>) -> Self {
        self.help = help.map(Into::into);
        self
    }

    /// The same, pointing at another field too.
    pub(super) fn also(mut self, path: Path, label: impl Into<String>) -> Self {
        self.also = Some((path, label.into()));
        self
    }
}
