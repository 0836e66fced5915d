//! Watched directories: what their manifests say becomes what is wanted, again and again.
//!
//! Each look reads the whole directory, so it does not matter which changes were noticed. A file that cannot be
//! read keeps its last good objects in force; a directory that cannot be read changes nothing. What is no longer
//! there goes only when another look, a little later, does not find it either: many programs empty a file before
//! they write it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use notify::{RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{Debouncer, RecommendedCache, new_debouncer};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::Controller;
use crate::api::event::{EventType, NewEvent};
use crate::api::ids::Uid;
use crate::api::meta::{DEFAULT_NAMESPACE, ObjectKey, PRUNE, SOURCE, SOURCE_ERROR, SOURCE_FILE};
use crate::api::object::{AnyObject, Kind};
use crate::api::source::{SourceError, SourceStatus};
use crate::manifest::{self, Problem};
use crate::store::{StoreError, Tx};

/// Changes that come this close together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// How often a directory is looked at even if no change was noticed: not every file system tells.
const RESYNC: Duration = Duration::from_secs(60);
/// How long an object must be missing before it goes.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// The objects that a directory does not show any more, and since when.
type Missing = BTreeMap<(Kind, ObjectKey), Instant>;

/// What a look at a directory found.
struct Look {
    objects: Vec<AnyObject>,
    errors: Vec<SourceError>,
    /// The directories of programs, which are looked after too.
    working_dirs: BTreeSet<PathBuf>,
}

impl Controller {
    /// Keeps the objects of a directory as its manifests have them, for as long as the controller runs.
    pub async fn watch_directory(self, directory: PathBuf, statuses: watch::Sender<Vec<SourceStatus>>) {
        let (sender, mut noticed) = mpsc::channel(1);
        let mut watcher = Watcher::new(sender);
        let mut missing = Missing::new();
        loop {
            watcher.watch(&directory);
            let status = self.synchronise(&directory, &mut watcher, &mut missing).await;
            if !status.errors.is_empty() {
                tracing::warn!(directory = %directory.display(), errors = status.errors.len(), "manifests have errors");
            }
            statuses.send_modify(|statuses| {
                statuses.retain(|other| other.directory != status.directory);
                statuses.push(status);
            });
            let pause = if missing.is_empty() { RESYNC } else { CONFIRMATION };
            tokio::select! {
                _ = noticed.recv() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.inner.stop.cancelled() => return,
            }
        }
    }

    async fn synchronise(
        &self,
        directory: &Path,
        watcher: &mut Watcher,
        missing: &mut Missing,
    ) -> SourceStatus {
        let name = directory.display().to_string();
        let mut status =
            SourceStatus { directory: name, at: Timestamp::now(), objects: 0, errors: Vec::new() };
        let (path, packages) = (directory.to_owned(), self.inner.directories.packages());
        let look = match tokio::task::spawn_blocking(move || look(&path, &packages)).await {
            Ok(Ok(look)) => look,
            Ok(Err(error)) => {
                let message = format!("the directory cannot be read, so nothing is changed: {error}");
                status.errors.push(SourceError { file: status.directory.clone(), message });
                return status;
            }
            Err(error) => {
                status
                    .errors
                    .push(SourceError { file: status.directory.clone(), message: error.to_string() });
                return status;
            }
        };
        look.working_dirs.iter().for_each(|directory| watcher.watch(directory));
        status.objects = u32::try_from(look.objects.len()).unwrap_or(u32::MAX);
        status.errors.clone_from(&look.errors);
        let source = status.directory.clone();
        let before = missing.clone();
        match self.inner.store.write(move |tx| keep(tx, &source, look, &before)).await {
            Ok((refused, now_missing)) => {
                status.errors.extend(refused);
                *missing = now_missing;
            }
            Err(error) => {
                status.errors.push(SourceError { file: status.directory.clone(), message: error.to_string() })
            }
        }
        status
    }
}

/// Notices changes below some directories.
struct Watcher {
    debouncer: Option<Debouncer<RecommendedWatcher, RecommendedCache>>,
    watched: BTreeMap<PathBuf, Identity>,
}

/// Tells a directory from another one that has taken its place: numbers of files are used again.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(directory: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.created().ok()))
}

impl Watcher {
    fn new(sender: mpsc::Sender<()>) -> Self {
        // One waiting notice is enough: each look sees everything.
        let notice = move |_| {
            let _ = sender.try_send(());
        };
        let debouncer = new_debouncer(DEBOUNCE, None, notice);
        if let Err(error) = &debouncer {
            tracing::warn!(%error, "changes cannot be noticed; directories are looked at every minute");
        }
        Self { debouncer: debouncer.ok(), watched: BTreeMap::new() }
    }

    /// Watches a directory; again, if it was there before and is another one now.
    fn watch(&mut self, directory: &Path) {
        let Some(debouncer) = &mut self.debouncer else { return };
        let found = identity(directory);
        if self.watched.get(directory) == found.as_ref() {
            return;
        }
        if self.watched.remove(directory).is_some() {
            // What it was may be gone altogether.
            let _ = debouncer.unwatch(directory);
        }
        if let Some(found) = found
            && debouncer.watch(directory, RecursiveMode::Recursive).is_ok()
        {
            self.watched.insert(directory.to_owned(), found);
        }
    }
}

fn look(directory: &Path, packages: &Path) -> std::io::Result<Look> {
    // Whether it is there at all; what is wrong inside is said file by file.
    std::fs::read_dir(directory)?;
    let (sources, problems) = manifest::collect(&[directory.to_owned()], true);
    let loaded = manifest::read(sources, DEFAULT_NAMESPACE);
    let mut look = Look { objects: Vec::new(), errors: Vec::new(), working_dirs: BTreeSet::new() };
    // An empty directory is no error here: it wants nothing.
    let name = directory.display().to_string();
    if let Some(problem) = problems.iter().find(|problem| problem.unreadable && problem.file == name) {
        return Err(std::io::Error::other(problem.message.clone()));
    }
    look.note_all(directory, problems.into_iter().filter(|problem| problem.file != name));
    look.note_all(directory, loaded.problems.into_iter());
    for manifest in loaded.manifests {
        let file = relative(directory, &manifest.source().name);
        match manifest.accept(packages) {
            Ok(mut object) => {
                if let AnyObject::Job(job) = &object
                    && let Some(working_dir) = &job.spec.working_dir
                {
                    let base = manifest.source().base.clone().unwrap_or_else(|| directory.to_owned());
                    look.working_dirs.insert(base.join(working_dir));
                }
                let annotations = &mut object.metadata_mut().annotations;
                annotations.insert(SOURCE.to_owned(), directory.display().to_string());
                annotations.insert(SOURCE_FILE.to_owned(), file);
                look.objects.push(object);
            }
            Err(problems) => look.note_all(directory, problems.into_iter()),
        }
    }
    Ok(look)
}

impl Look {
    fn note_all(&mut self, directory: &Path, problems: impl Iterator<Item = Problem>) {
        let errors = problems.map(|problem| SourceError {
            file: relative(directory, &problem.file),
            message: problem.to_string(),
        });
        self.errors.extend(errors);
    }
}

fn relative(directory: &Path, file: &str) -> String {
    let path = Path::new(file);
    path.strip_prefix(directory).unwrap_or(path).display().to_string()
}

/// Brings the store to what a directory wants; says which of its objects were refused, and which are missing but
/// not yet asked to go.
fn keep(
    tx: &Tx<'_>,
    source: &str,
    look: Look,
    before: &Missing,
) -> Result<(Vec<SourceError>, Missing), StoreError> {
    let mut refused = Vec::new();
    let wanted: BTreeSet<(Kind, ObjectKey)> =
        look.objects.iter().map(|object| (object.kind(), object.key())).collect();
    for mut object in look.objects {
        tx.keep_wishes(&mut object)?;
        if let Some(message) = refusal(tx, source, &object)? {
            let file = object.metadata().annotations.get(SOURCE_FILE).cloned().unwrap_or_default();
            refused.push(SourceError { message: format!("{file}: {message}"), file });
        } else if !tx.get(object.kind(), &object.key())?.is_some_and(|stored| stored.metadata().is_deleting())
        {
            tx.apply(object, None, Uid(Uuid::new_v4().to_string()), Timestamp::now())?;
        }
    }
    let mut missing = Missing::new();
    for kind in Kind::ALL {
        for object in tx.list(kind)? {
            let id = (kind, object.key());
            if object.metadata().source() != Some(source) || wanted.contains(&id) {
                continue;
            }
            let annotations = &object.metadata().annotations;
            let file = annotations.get(SOURCE_FILE).map_or("", String::as_str);
            // The file, or a directory that it is in, cannot be read.
            let error = look.errors.iter().find(|error| Path::new(file).starts_with(&error.file));
            if let Some(error) = error {
                note_error(tx, object, &error.message)?;
            } else if annotations.get(PRUNE).is_some_and(|prune| prune == "false")
                || object.metadata().is_deleting()
            {
                continue;
            } else if before.get(&id).is_some_and(|since| since.elapsed() >= CONFIRMATION) {
                tx.delete(kind, &id.1, Timestamp::now())?;
            } else {
                let since = before.get(&id).copied().unwrap_or_else(Instant::now);
                missing.insert(id, since);
            }
        }
    }
    Ok((refused, missing))
}

/// Tells of an object that its file has become unreadable.
fn note_error(tx: &Tx<'_>, mut object: AnyObject, error: &str) -> Result<(), StoreError> {
    let annotations = &mut object.metadata_mut().annotations;
    if annotations.insert(SOURCE_ERROR.to_owned(), error.to_owned()).as_deref() == Some(error) {
        return Ok(());
    }
    let event = NewEvent {
        kind: object.kind(),
        object: object.key(),
        uid: object.uid().clone(),
        event_type: EventType::Warning,
        reason: "InvalidManifest".to_owned(),
        message: format!("the last good manifest stays in force: {error}"),
    };
    tx.record_event(&event, Timestamp::now())?;
    tx.update(object).map(|_| ())
}

/// Why an object is not this directory's to apply, or cannot become what its file says now.
fn refusal(tx: &Tx<'_>, source: &str, object: &AnyObject) -> Result<Option<String>, StoreError> {
    let Some(stored) = tx.get(object.kind(), &object.key())? else { return Ok(None) };
    let name = format!("{} {}", object.kind(), object.key());
    if let Some(other) = stored.metadata().source().filter(|other| *other != source) {
        return Ok(Some(format!("{name} already comes from {other}")));
    }
    Ok(stored.forbids(object).map(|(field, message)| format!("{name}: {field}: {message}")))
}
