//! Why the controller did not do what it was asked.

use std::path::PathBuf;

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No controller answers for this state directory.
    #[error("no controller is running for the state directory {}", state.display())]
    NoController {
        /// The state directory.
        state: PathBuf,
    },
    /// The controller refuses.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// Why, as a word.
        reason: String,
        /// Why, for a person.
        message: String,
    },
    /// The connection broke, or what came is not what was expected.
    #[error("the controller does not answer as expected: {0}")]
    Broken(String),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl ClientError {
    /// Whether a watch fell behind the changes that are remembered.
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Refused { code: 410, .. })
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }
}
