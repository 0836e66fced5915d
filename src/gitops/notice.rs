//! Notices that something has changed in directories: by inotify, or by looking again and again where that does not
//! tell (network file systems) or cannot be had; and that something was mounted or unmounted.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::sys::statfs::{FsType, statfs};
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::cache::Changed;
use super::mounts::Mounts;

/// Changes that come this close together are looked at together.
const QUIET: Duration = Duration::from_millis(100);
/// But not later than this after the first of them.
const MOST: Duration = Duration::from_secs(1);
/// How often a directory is looked at where nothing tells of changes.
pub(super) const POLL: Duration = Duration::from_secs(5);

/// File systems whose changes on other machines nobody tells (statfs(2), `f_type`).
const REMOTE: [(i64, &str); 11] = [
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x517b, "smb"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x7375_7245, "coda"),
];

/// What was heard and not yet looked at.
struct Inbox {
    /// The directory. Beside it, in its parent, much may happen that is of no interest.
    root: PathBuf,
    heard: Mutex<Option<Heard>>,
    bell: Notify,
}

struct Heard {
    places: BTreeSet<PathBuf>,
    /// Some changes were not told.
    missed: bool,
    first: Instant,
    last: Instant,
}

/// Notices changes.
pub(super) struct Notices {
    watches: Watches,
    inbox: Arc<Inbox>,
    mounts: Mounts,
    /// Whether watches may be lost, with what was unmounted.
    remounted: AtomicBool,
    /// How often to look, where that was asked for.
    asked: Option<Duration>,
    /// Why nobody tells.
    poll: Option<(Duration, String)>,
}

/// The directories that are watched. They are asked of file systems, which may hang.
#[derive(Default)]
pub(super) struct Watches {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<Identity, PathBuf>,
}

/// What came of it that directories were to be watched.
#[derive(Default)]
pub(super) struct Watched {
    /// Whether some are new.
    new: bool,
    /// Why nobody tells of changes, if nobody does.
    untold: Option<String>,
}

/// Tells a directory from another one that has taken its place: numbers of files are used again.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(directory: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(directory).ok()?;
    metadata.is_dir().then(|| (metadata.dev(), metadata.ino(), metadata.created().ok()))
}

impl Notices {
    pub(super) fn new(root: &Path, asked: Option<Duration>) -> Self {
        let (root, heard, bell) = (root.to_owned(), Mutex::default(), Notify::default());
        let mut notices = Self {
            watches: Watches::default(),
            inbox: Arc::new(Inbox { root, heard, bell }),
            mounts: Mounts::new(),
            remounted: AtomicBool::new(false),
            asked,
            poll: asked.map(|every| (every, "as asked".to_owned())),
        };
        if asked.is_none() {
            let inbox = notices.inbox.clone();
            match notify::recommended_watcher(move |event| inbox.hear(event)) {
                Ok(watcher) => notices.watches.watcher = Some(watcher),
                Err(error) => notices.poll = Some((POLL, short(&error))),
            }
        }
        notices
    }

    /// How changes are noticed, for people.
    pub(super) fn words(&self) -> String {
        match &self.poll {
            Some((every, why)) => format!("every {every:?} ({why})"),
            None => "inotify".to_owned(),
        }
    }

    /// How often to look without being told, if that is how it is.
    pub(super) fn poll(&self) -> Option<Duration> {
        self.poll.as_ref().map(|(every, _)| *every)
    }

    /// Lends what is watched, for a look.
    pub(super) fn lend(&mut self) -> Watches {
        if std::mem::take(self.remounted.get_mut()) {
            self.watches.watched.clear();
        }
        std::mem::take(&mut self.watches)
    }

    /// Takes it back.
    pub(super) fn take_back(&mut self, watches: Watches) {
        self.watches = watches;
    }

    /// Says whether directories are new, in which something may have happened since they were looked at.
    pub(super) fn is_new(&mut self, watched: Watched) -> bool {
        if self.watches.watcher.is_none() {
            return false;
        }
        let why = watched.untold;
        if why.is_some() != self.poll.is_some() {
            let directory = self.inbox.root.display();
            match &why {
                Some(why) => {
                    tracing::warn!(%directory, why, "changes are not told; it is looked at every few seconds")
                }
                None => tracing::info!(%directory, "changes are told again"),
            }
        }
        self.poll = why.map(|why| (self.asked.unwrap_or(POLL), why));
        watched.new
    }

    /// Waits for changes, and then until it is quiet for a moment; but not for ever.
    pub(super) async fn heard(&self) {
        loop {
            let bell = self.inbox.bell.notified();
            let due = {
                let heard = self.inbox.heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.as_ref().map(|heard| (heard.last + QUIET).min(heard.first + MOST))
            };
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::time::sleep_until(due).await,
                None => tokio::select! {
                    () = bell => {}
                    () = self.mounts.changed() => {
                        self.remounted.store(true, Ordering::Relaxed);
                        self.inbox.put(Vec::new(), true);
                    }
                },
            }
        }
    }

    /// What has changed since this was asked last.
    pub(super) fn take(&self) -> Changed {
        match self.inbox.heard.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(heard) if heard.missed => Changed::Anything,
            Some(heard) => Changed::In(heard.places),
            None => Changed::In(BTreeSet::new()),
        }
    }
}

impl Watches {
    /// Watches these directories and no others, and the place of the root.
    pub(super) fn watch(&mut self, root: &Path, directories: &BTreeSet<PathBuf>) -> Watched {
        let Some(watcher) = &mut self.watcher else { return Watched::default() };
        let root = root.to_owned();
        let remote = directories.iter().chain([&root]).find_map(|directory| remote(directory));
        // The root itself may be replaced.
        let parent = root.parent().map(Path::to_owned);
        let wanted: BTreeMap<Identity, &PathBuf> =
            directories.iter().chain(&parent).filter_map(|path| Some((identity(path)?, path))).collect();
        let old: Vec<(Identity, PathBuf)> = self
            .watched
            .iter()
            .filter(|(id, path)| wanted.get(*id) != Some(path))
            .map(|(id, path)| (*id, path.clone()))
            .collect();
        for (id, path) in old {
            // What it was may be gone altogether.
            let _ = watcher.unwatch(&path);
            self.watched.remove(&id);
        }
        let mut new = false;
        let mut failed = None;
        for (id, path) in wanted {
            if self.watched.contains_key(&id) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(id, path.clone());
                    new = true;
                }
                Err(error) if path.exists() => failed = Some(short(&error)),
                Err(_) => {}
            }
        }
        Watched { new, untold: remote.map(str::to_owned).or(failed) }
    }
}

impl Inbox {
    fn hear(&self, event: notify::Result<Event>) {
        let (places, missed) = match event {
            Ok(event) if event.need_rescan() => (Vec::new(), true),
            // Also our own reading is told.
            Ok(Event { kind: EventKind::Access(kind), .. })
                if kind != AccessKind::Close(AccessMode::Write) =>
            {
                return;
            }
            Ok(mut event) => {
                event.paths.retain(|path| path.parent() != self.root.parent() || *path == self.root);
                if event.paths.is_empty() {
                    return;
                }
                (event.paths, false)
            }
            Err(error) => {
                tracing::debug!(%error, "changes may have been missed");
                (Vec::new(), true)
            }
        };
        self.put(places, missed);
    }

    fn put(&self, places: Vec<PathBuf>, missed: bool) {
        let now = Instant::now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = heard.get_or_insert_with(|| Heard {
            places: BTreeSet::new(),
            missed: false,
            first: now,
            last: now,
        });
        heard.places.extend(places);
        heard.missed |= missed;
        heard.last = now;
        self.bell.notify_one();
    }
}

/// The network file system that a directory is on, if it is on one.
fn remote(directory: &Path) -> Option<&'static str> {
    let kind = statfs(directory).ok()?.filesystem_type();
    network_file_system(kind)
}

fn network_file_system(kind: FsType) -> Option<&'static str> {
    // The kernel's numbers have 32 bits, and some types hold them with a sign.
    #[allow(clippy::unnecessary_cast)] // another type on other machines
    let number = i64::from(kind.0 as u32);
    REMOTE.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

fn short(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => "the system has no inotify watches left".to_owned(),
        notify::ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::statfs::{
        BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, TMPFS_MAGIC,
    };

    use super::*;

    #[test]
    fn on_network_file_systems_nobody_waits_to_be_told() {
        let names = [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, FUSE_SUPER_MAGIC].map(network_file_system);
        assert_eq!(names, [Some("nfs"), Some("smb"), Some("fuse")]);
        // Of those that are negative where numbers have a sign.
        assert_eq!(network_file_system(FsType(0xff53_4d42_u32 as _)), Some("cifs"));
        for local in [EXT4_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC] {
            assert_eq!(network_file_system(local), None);
        }
    }
}
