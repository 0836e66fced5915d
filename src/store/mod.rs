//! What is remembered: objects, records, intents, observations, events, in one SQLite file.
//!
//! Every change is one transaction, synced before it counts, so a crash at any instruction leaves the state
//! before or after it. One process at a time has the store, by a file lock. Changes of objects are published
//! to whoever watches, after they are durable. What is too large for it is in files, or in object storage.

mod departures;
mod digests;
mod events;
pub mod feed;
pub mod logs;
mod objects;
mod origins;
pub mod places;
mod records;
mod schema;
mod tokens;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::watch;

pub use departures::{Cause, Departure};
use feed::{Change, Feed};
pub use objects::Applied;
pub use origins::Origin;
pub use records::{DomainRows, JobRow, ObservationRow};

/// The database's file in the state directory.
const DATABASE: &str = "rayconcile.db";
/// The file whose lock makes this process the only one.
const LOCK: &str = "lock";

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("the state directory {} is used by another controller{}", path.display(), pid_note(*holder))]
    Locked {
        /// The state directory.
        path: PathBuf,
        /// The process that has it, if it left its number.
        holder: Option<u32>,
    },
    /// It was written by a later version of Rayconcile.
    #[error(
        "the database {} has version {found}, but this rayconcile knows versions up to {known}; \
         use a newer rayconcile, or another --state-dir",
        path.display()
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version we know.
        known: i64,
    },
    /// It is no database of ours.
    #[error("{} is not a rayconcile database; use another --state-dir", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged.
    #[error(
        "the database {} is damaged ({detail}); restore it from a backup, or move it away to begin anew: \
         checkpoints and logs beside it are kept",
        path.display()
    )]
    Corrupted {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        detail: String,
    },
    /// It cannot be opened, though its directory can be used.
    #[error("cannot open the database {}: {reason}", path.display())]
    Unopened {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// There is no space left for it.
    #[error("no space is left for the database {}", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// The object was changed in the meantime.
    #[error("{object} was changed in the meantime: its resourceVersion is {found}, not {expected}")]
    Conflict {
        /// The object.
        object: String,
        /// Its version.
        found: u64,
        /// The version that was expected.
        expected: u64,
    },
    /// The object that was to be changed is not there.
    #[error("{object} is not there any more")]
    Vanished {
        /// The object.
        object: String,
    },
    /// The state directory cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What is stored does not fit what we know: a bug, or an edit by hand.
    #[error("cannot read a stored {what}: {source}")]
    Malformed {
        /// What is malformed.
        what: &'static str,
        /// How.
        source: serde_json::Error,
    },
    /// Anything else that SQLite says.
    #[error("database error: {0}")]
    Sqlite(#[source] rusqlite::Error),
}

fn pid_note(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// The store. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// Held by the task whose thread uses the connection, or waits for it.
    turn: Arc<tokio::sync::Mutex<()>>,
    feed: Feed,
    /// The version of the newest event.
    newest_event: watch::Sender<u64>,
    /// Held as long as the store is open. The descriptor closes on exec, so a process that is being launched
    /// when this one is killed holds the lock until it carries its own mark.
    _lock: Flock<File>,
}

/// A transaction. What is changed in it becomes visible when it is over.
pub struct Tx<'a> {
    sql: Transaction<'a>,
    changes: std::cell::RefCell<Vec<Change>>,
    /// The version of the last event that was recorded in it.
    recorded: std::cell::Cell<Option<u64>>,
}

impl Store {
    /// Opens the store of a state directory, making both if need be.
    ///
    /// # Errors
    /// If another process has it, or the database is too new, foreign or damaged.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { action, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(io("create", state_dir))?;
        let lock = lock(state_dir)?;
        let path = state_dir.join(DATABASE);
        // What SQLite makes beside its file gets the file's permissions.
        fs::File::options().create(true).append(true).mode(0o600).open(&path).map_err(io("open", &path))?;
        let connection = Connection::open(&path).map_err(|error| describe(error, &path))?;
        schema::prepare(&connection, &path).map_err(|error| match error {
            StoreError::Sqlite(error) => describe(error, &path),
            other => other,
        })?;
        // Only now, for now it is known to be ours.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(io("protect", &path))?;
        let store = Self {
            inner: Arc::new(Inner {
                path,
                connection: Mutex::new(connection),
                turn: Arc::default(),
                feed: Feed::new(),
                newest_event: watch::channel(0).0,
                _lock: lock,
            }),
        };
        let (newest, event) = store.read_now(|tx| Ok((tx.newest_version()?, tx.newest_event()?)))?;
        store.inner.feed.begin(newest);
        store.inner.newest_event.send_replace(event);
        Ok(store)
    }

    /// Whoever wants to hear of changes of objects.
    pub fn feed(&self) -> &Feed {
        &self.inner.feed
    }

    /// A receiver that is told the version of the newest event whenever there is one.
    pub fn newest_event(&self) -> watch::Receiver<u64> {
        self.inner.newest_event.subscribe()
    }

    /// Runs a transaction that changes something, on a thread that may block.
    ///
    /// # Errors
    /// Whatever the transaction gives; nothing of it is then kept.
    pub async fn write<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        self.blocking(move |store| store.write_now(work)).await
    }

    /// Runs a transaction that only looks, on a thread that may block.
    ///
    /// # Errors
    /// Whatever the transaction gives.
    pub async fn read<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        self.blocking(move |store| store.read_now(work)).await
    }

    /// `write`, on this thread.
    ///
    /// # Errors
    /// As `write`.
    pub fn write_now<R>(&self, work: impl FnOnce(&Tx<'_>) -> Result<R, StoreError>) -> Result<R, StoreError> {
        self.transact(TransactionBehavior::Immediate, true, work)
    }

    /// What a transaction would give, on a thread that may block; nothing of it is kept.
    ///
    /// # Errors
    /// As `write`.
    pub async fn rehearse<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        self.blocking(move |store| store.transact(TransactionBehavior::Immediate, false, work)).await
    }

    /// Runs what may block where it may, in its turn: there is one connection, and a thread for each of hundreds that
    /// wait for it would cost more than their work.
    async fn blocking<R: Send + 'static>(&self, work: impl FnOnce(&Self) -> R + Send + 'static) -> R {
        let turn = self.inner.turn.clone().lock_owned().await;
        let store = self.clone();
        let work = move || {
            let result = work(&store);
            drop(turn);
            result
        };
        blocking(work).await
    }

    /// `read`, on this thread.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_now<R>(&self, work: impl FnOnce(&Tx<'_>) -> Result<R, StoreError>) -> Result<R, StoreError> {
        self.transact(TransactionBehavior::Deferred, true, work)
    }

    fn transact<R>(
        &self,
        behavior: TransactionBehavior,
        keep: bool,
        work: impl FnOnce(&Tx<'_>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        let mut connection = self.inner.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let run = || {
            let sql = connection.transaction_with_behavior(behavior)?;
            let tx = Tx { sql, changes: Default::default(), recorded: Default::default() };
            let result = work(&tx)?;
            if !keep {
                return Ok((result, Vec::new(), None)); // What is not committed is rolled back.
            }
            tx.sql.commit()?;
            Ok((result, tx.changes.into_inner(), tx.recorded.into_inner()))
        };
        let (result, changes, event) = run().map_err(|error| match error {
            StoreError::Sqlite(error) => describe(error, &self.inner.path),
            other => other,
        })?;
        // Still under the lock, so that changes are published in their order.
        self.inner.feed.publish(changes);
        if let Some(event) = event {
            self.inner.newest_event.send_replace(event);
        }
        Ok(result)
    }
}

/// Runs what may block where it may. A panic in it is passed on.
pub(crate) async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn lock(state_dir: &Path) -> Result<Flock<File>, StoreError> {
    let path = state_dir.join(LOCK);
    let io = |action| {
        let path = path.clone();
        move |source| StoreError::Io { action, path, source }
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io("open"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(io("write"))?;
            Ok(lock)
        }
        Err((_, Errno::EWOULDBLOCK)) => {
            let holder = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            Err(StoreError::Locked { path: state_dir.to_owned(), holder })
        }
        Err((_, errno)) => Err(StoreError::Io { action: "lock", path, source: errno.into() }),
    }
}

/// Tells the errors of SQLite that a person can do something about.
fn describe(error: rusqlite::Error, path: &Path) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::Foreign { path },
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Corrupted { path, detail: error.to_string() },
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::CannotOpen) => {
            StoreError::Unopened { path, reason: "unable to open database file".to_owned() }
        }
        _ => StoreError::Sqlite(error),
    }
}
