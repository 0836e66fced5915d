//! What goes on beside looking: a repository is fetched now and then, and Git asked at which revision a directory is.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::repository::{Fetched, Remote};
use super::super::revision::{git_directory, revision};
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
    failures: u32,
    status: FetchStatus,
    revision: Option<SourceRevision>,
}

impl Fetching {
    pub(super) fn new(remote: Remote, interval: Duration) -> Self {
        Self {
            remote,
            interval,
            task: None,
            due: Instant::now(),
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

    /// Fetches now.
    pub(super) async fn now(&mut self, state: &Path) {
        self.finish(state).await;
    }

    async fn finish(&mut self, state: &Path) -> bool {
        let task = self.task.get_or_insert_with(|| tokio::spawn(self.remote.clone().fetch(state.to_owned())));
        let outcome = task.await.unwrap_or_else(|error| Err(error.to_string()));
        self.task = None;
        let pause = match &outcome {
            Ok(_) => self.interval,
            Err(_) => (RETRY * 2_u32.saturating_pow(self.failures.min(10))).min(SLOWEST.max(self.interval)),
        };
        self.due = Instant::now() + pause;
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
    /// Has Git asked, if something has changed; its own directory is to be watched too.
    pub(super) fn look(
        &mut self,
        root: &Path,
        changed: bool,
        directories: &mut BTreeSet<std::path::PathBuf>,
    ) {
        match git_directory(root) {
            None => self.found = None,
            Some(git) => {
                directories.insert(git);
                if (changed || !self.asked) && self.task.is_none() {
                    self.asked = true;
                    let root = root.to_owned();
                    self.task = Some(tokio::spawn(async move { revision(&root).await }));
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
