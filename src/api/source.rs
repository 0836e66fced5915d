//! Watched directories and repositories: where objects come from, and how those places are.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A source, as it was when it was last looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// What it is called: the directory, or `URL#BRANCH:PATH` of a repository.
    pub directory: String,
    /// Whether its objects are as it says.
    #[serde(default)]
    pub state: SyncState,
    /// When it was last looked at.
    pub at: Timestamp,
    /// How changes of it are noticed: `inotify`, or `every 5s` with the reason.
    #[serde(default)]
    pub noticed_by: String,
    /// How many objects it holds.
    pub objects: u32,
    /// Whether what is changed by hand is set back.
    #[serde(default)]
    pub self_heal: bool,
    /// What Git has of it, if it is in a work tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<SourceRevision>,
    /// How the repository was last fetched, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<FetchStatus>,
    /// What is wrong with it or with its files. Their last good objects stay in force.
    pub errors: Vec<SourceError>,
    /// Objects that are not as their files say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_sync: Vec<OutOfSync>,
    /// Jobs that it has, which had been finished for as long as they are kept: `adaptdljob/default/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finished: Vec<String>,
    /// Objects that would go, and do not before somebody confirms it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_prune: Option<PendingPrune>,
}

/// Whether a source's objects are as it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncState {
    /// It was not looked at yet.
    #[default]
    Unknown,
    /// They are.
    Synced,
    /// Some are not, and will be soon or have been left so.
    OutOfSync,
    /// It, or a file of it, cannot be read or is not right.
    Failed,
    /// Many of its objects are gone at once, and it waits for somebody to say that this is meant.
    AwaitingConfirmation,
    /// It was paused: nothing of it is applied.
    Paused,
}

impl SyncState {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "Unknown",
            Self::Synced => "Synced",
            Self::OutOfSync => "OutOfSync",
            Self::Failed => "Failed",
            Self::AwaitingConfirmation => "AwaitingConfirmation",
            Self::Paused => "Paused",
        }
    }
}

/// What is wrong with a file of a source, or with the source itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceError {
    /// The file.
    pub file: String,
    /// What is wrong: `file:line:column: ...`.
    pub message: String,
}

/// What Git has of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRevision {
    /// The commit's short hash.
    pub commit: String,
    /// The branch, if one is checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The first line of the commit's message, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Whether there are changes that are not committed, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
}

/// How a repository was fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchStatus {
    /// When it was last fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// When it is fetched next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// Why it could not be fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is in it that is not fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// An object that is not as its file says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutOfSync {
    /// The object: `adaptdljob/default/name`.
    pub object: String,
    /// In what.
    pub message: String,
}

/// Objects that would go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingPrune {
    /// Why somebody is asked.
    pub reason: String,
    /// The objects: `adaptdljob/default/name`.
    pub objects: Vec<String>,
    /// How many the source has had.
    pub of: u32,
    /// Tells this set from another.
    pub digest: String,
}

/// What somebody asks of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRequest {
    /// Which source.
    pub source: String,
    /// What.
    pub action: SourceAction,
    /// The digest of the set whose deletion is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What can be asked of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceAction {
    /// Apply nothing of it until it is resumed.
    Pause,
    /// Go on.
    Resume,
    /// Look, and fetch, now.
    Now,
    /// Let the objects go that wait for it.
    Confirm,
}
