//! Watched directories: where objects come from, and how those places are.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A watched directory, as it was when it was last looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The directory.
    pub directory: String,
    /// When it was last looked at.
    pub at: Timestamp,
    /// How many objects it holds.
    pub objects: u32,
    /// What is wrong with it or with its files. Their last good objects stay in force.
    pub errors: Vec<SourceError>,
}

/// What is wrong with a file of a watched directory, or with the directory itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceError {
    /// The file.
    pub file: String,
    /// What is wrong: `file:line:column: ...`.
    pub message: String,
}
