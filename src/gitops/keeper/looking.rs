//! A look at a source. File systems may be slow, and hang: they are asked on a thread of their own.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tokio::time::Instant;

use super::super::cache::{Cache, Changed, Looked};
use super::super::decide::Place;
use super::super::filter::Filter;
use super::super::notice::{Notices, Watched, Watches};
use super::super::revision::git_directory;
use super::super::tree::{self, Tree};
use super::Keeper;
use super::fetching::Fetching;

/// What is needed for a look, and comes back from it.
struct Eye {
    root: PathBuf,
    filter: Filter,
    packages: PathBuf,
    changed: Changed,
    cautious: bool,
    /// Whether it may be that nothing is there because nothing was fetched yet.
    unfetched: bool,
    /// Whether Git may know of the directory.
    in_git: bool,
    cache: Cache,
    watches: Watches,
}

/// What was seen.
struct Seen {
    tree: io::Result<Tree>,
    looked: Option<Looked>,
    git: Option<PathBuf>,
    watched: Watched,
}

impl Eye {
    fn look(mut self) -> (Self, Option<Seen>) {
        if self.unfetched && !self.root.exists() {
            return (self, None);
        }
        let mut tree = tree::look(&self.root, &self.filter);
        let mut directories = BTreeSet::new();
        let looked = tree.as_mut().ok().map(|tree| {
            let looked = self.cache.read(tree, &self.changed, self.cautious, &self.packages);
            directories.append(&mut tree.directories);
            directories.extend(looked.programs.iter().cloned());
            looked
        });
        let git = if self.in_git { git_directory(&self.root) } else { None };
        // When something is committed, another revision is shown.
        directories.extend(git.clone());
        let watched = self.watches.watch(&self.root, &directories);
        (self, Some(Seen { tree, looked, git, watched }))
    }
}

impl Keeper {
    /// Looks at the directory.
    pub(super) async fn look(&mut self, changed: Changed) {
        (self.at, self.last_look) = (Timestamp::now(), Instant::now());
        let quiet = matches!(&changed, Changed::In(places) if places.is_empty());
        let first = self.looked.files.is_empty();
        let eye = Eye {
            root: self.root.clone(),
            filter: self.shared.settings.filter.clone(),
            packages: self.shared.state.join("packages"),
            changed,
            cautious: self.notices.poll().is_some() && !first,
            unfetched: self.fetching.as_ref().is_some_and(Fetching::is_empty),
            in_git: self.fetching.is_none(),
            cache: std::mem::take(&mut self.cache),
            watches: self.notices.lend(),
        };
        let looking = tokio::task::spawn_blocking(move || eye.look());
        let done = tokio::select! {
            done = looking => done,
            // Nobody waits for a file system that may never answer.
            () = self.shared.stop.cancelled() => return,
        };
        self.looked_at = Some(Instant::now());
        // A panic costs what was remembered, and this look.
        let Ok((eye, seen)) = done else {
            self.trouble = Some("it could not be looked at: a defect, told of in the log".to_owned());
            self.notices = Notices::new(&self.root, self.shared.settings.poll);
            return;
        };
        self.cache = eye.cache;
        self.notices.take_back(eye.watches);
        if let Some(seen) = seen {
            self.take_in(seen, quiet);
        }
    }

    fn take_in(&mut self, seen: Seen, quiet: bool) {
        match (seen.tree, seen.looked) {
            (Ok(tree), Some(looked)) => {
                self.place = match self.memory.device {
                    Some(device) if device != tree.device => Place::Elsewhere,
                    _ => Place::There,
                };
                if self.memory.device != Some(tree.device) && !looked.files.is_empty() {
                    self.memory.device = Some(tree.device);
                    self.memory.changed = true;
                }
                let has_objects = |directory: &str| {
                    let in_it = |(file, objects): (&String, &Vec<_>)| {
                        !objects.is_empty() && Path::new(file).starts_with(directory)
                    };
                    looked.files.iter().any(in_it)
                };
                self.unmounted = self.memory.note_mounts(&tree.mounts, has_objects);
                self.trouble = None;
                if looked.errors != self.looked.errors
                    && let Some(first) = looked.errors.first()
                {
                    let errors = looked.errors.len();
                    tracing::warn!(
                        source = self.name,
                        errors,
                        first = first.message,
                        "manifests have errors"
                    );
                }
                self.looked = looked;
            }
            (Err(error), _) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.place = Place::Vanished;
                self.trouble = Some("the directory is not there, so nothing is changed".to_owned());
                self.looked = Looked::default();
            }
            (Err(error), _) => {
                self.trouble = Some(format!("the directory cannot be read, so nothing is changed: {error}"));
            }
            (Ok(_), None) => {}
        }
        if self.fetching.is_none() {
            self.revising.look(&self.root, seen.git, self.looked.read || !quiet);
        }
        if self.notices.is_new(seen.watched) {
            // What happened before they were watched was not told.
            self.looked.unsteady = true;
        }
    }
}
