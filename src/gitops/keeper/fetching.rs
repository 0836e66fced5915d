//! What goes on beside looking: a repository is fetched now and then, and Git asked at which revision a directory is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::repository::{Fetched, Remote};
use super::super::revision::revision;
use crate::api::source::{FetchStatus, SourceRevision};

/// How soon a fetch that has failed is tried again, at first.
const RETRY: Duration = Duration::from_secs(5);
/// The longest wait between two tries.
const SLOWEST: Duration = Duration::from_secs(600);

/// Fetches a repository again and again.
pub(super) struct Fetching {
    remote: Remote,
    interval: Duration,
    task: Option<JoinHandle<Result<Fetched, String>>>,
    due: Instant,
    /// Whether somebody asked for a fetch that has not begun, or not ended.
    asked: Option<Asked>,
    failures: u32,
    status: FetchStatus,
    revision: Option<SourceRevision>,
}

/// How far a fetch is that somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// It is to begin: one that was under way already may have missed what is meant.
    Waiting,
    Begun,
}

impl Fetching {
    pub(super) fn new(remote: Remote, interval: Duration) -> Self {
        Self {
            remote,
            interval,
            task: None,
            due: Instant::now(),
            asked: None,
            failures: 0,
            status: FetchStatus::default(),
            revision: None,
        }
    }

    /// Whether it was not fetched since the controller began.
    pub(super) fn is_empty(&self) -> bool {
        self.revision.is_none()
    }

    pub(super) fn status(&self) -> FetchStatus {
        self.status.clone()
    }

    pub(super) fn revision(&self) -> Option<SourceRevision> {
        self.revision.clone()
    }

    /// Waits for the end of a fetch, beginning it when it is due; says whether there is another revision.
    pub(super) async fn next(fetching: &mut Option<Self>, state: &Path, paused: bool) -> bool {
        match fetching {
            Some(fetching) if !paused || fetching.task.is_some() => {
                if fetching.task.is_none() {
                    tokio::time::sleep_until(fetching.due).await;
                }
                fetching.finish(state).await
            }
            _ => std::future::pending().await,
        }
    }

    /// Has a fetch begin as soon as possible.
    pub(super) fn ask(&mut self) {
        self.asked = Some(Asked::Waiting);
        self.due = Instant::now();
    }

    /// Whether a fetch has not ended yet that somebody asked for.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Ends a fetch that is under way.
    pub(super) async fn end(self) {
        if let Some(task) = self.task {
            task.abort();
            let _ = task.await;
        }
    }

    async fn finish(&mut self, state: &Path) -> bool {
        let task = self.task.get_or_insert_with(|| {
            self.asked = self.asked.map(|_| Asked::Begun);
            tokio::spawn(self.remote.clone().fetch(state.to_owned()))
        });
        let outcome = task.await.unwrap_or_else(|error| Err(error.to_string()));
        self.task = None;
        // Here, where nobody is looking: each look sees one revision, or the other.
        let outcome = outcome.and_then(|fetched| fetched.put_in_force().map(|()| fetched));
        let pause = match &outcome {
            Ok(_) => self.interval,
            Err(_) => (RETRY * 2_u32.saturating_pow(self.failures.min(10))).min(SLOWEST.max(self.interval)),
        };
        self.due = Instant::now();
        if self.asked != Some(Asked::Waiting) {
            self.asked = None;
            self.due += pause;
        }
        self.status.next = Timestamp::now().checked_add(pause).ok();
        match outcome {
            Ok(fetched) => {
                self.failures = 0;
                self.status.error = None;
                self.status.at = Some(Timestamp::now());
                self.status.note = fetched.note;
                let first = self.revision.replace(fetched.revision).is_none();
                fetched.new || first
            }
            Err(error) => {
                tracing::warn!(repository = ?self.remote, error, "cannot be fetched; the last revision stays in force");
                self.failures += 1;
                self.status.error = Some(error);
                false
            }
        }
    }
}

/// Asks Git at which revision a directory is.
#[derive(Default)]
pub(super) struct Revising {
    task: Option<JoinHandle<Option<SourceRevision>>>,
    found: Option<SourceRevision>,
    asked: bool,
}

impl Revising {
    /// Has Git asked, if something has changed; `git` is its own directory, if there is one.
    pub(super) fn look(&mut self, root: &Path, git: Option<PathBuf>, changed: bool) {
        match git {
            None => self.found = None,
            Some(git) => {
                if (changed || !self.asked) && self.task.is_none() {
                    self.asked = true;
                    self.task = Some(tokio::spawn(revision(root.to_owned(), git)));
                }
            }
        }
    }

    /// Waits for the answer.
    pub(super) async fn finish(&mut self) {
        match &mut self.task {
            Some(task) => {
                self.found = task.await.ok().flatten();
                self.task = None;
            }
            None => std::future::pending().await,
        }
    }

    pub(super) fn found(&self) -> Option<SourceRevision> {
        self.found.clone()
    }
}
