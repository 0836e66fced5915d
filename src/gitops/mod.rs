//! Directories and repositories as the truth: what their manifests say becomes what is wanted, again and again.
//!
//! ```text
//! notice ──> tree ──> cache ──> decide ──> keep ──> store
//!   ^                   files     pure       └──> told in `SourceStatus`
//!   └── repository: fetched by git, each revision in a directory of its own
//! ```
//!
//! Each look sees the whole directory, so it does not matter which changes were noticed; what has not changed costs
//! a stat. A file that cannot be read keeps its last good objects in force. What is no longer there goes only when
//! another look, a little later, does not find it either, and much of it at once only when somebody says so.
//!
//! Architecture invariant: what is to be done is decided in `decide`, which is pure.

mod cache;
mod decide;
mod filter;
mod git;
mod keep;
mod keeper;
mod mounts;
mod notice;
mod repository;
mod revision;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::source::{SourceRequest, SourceStatus};
use crate::store::{Store, StoreError};
use decide::Id;
pub use filter::Filter;
pub use repository::{Remote, RemoteError};

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory on this machine.
    Directory(PathBuf),
    /// A repository that is fetched.
    Repository(Remote),
}

impl Source {
    /// What it is called, and what the objects that come from it carry. Credentials are no part of it.
    pub fn name(&self) -> String {
        match self {
            Self::Directory(path) => path.display().to_string(),
            Self::Repository(remote) => remote.name(),
        }
    }

    /// Where its manifests are.
    fn root(&self, state: &Path) -> PathBuf {
        match self {
            Self::Directory(path) => path.clone(),
            Self::Repository(remote) => remote.root(state),
        }
    }
}

/// How sources are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which files count.
    pub filter: Filter,
    /// How often directories are looked at, if not when something changes.
    pub poll: Option<Duration>,
    /// Whether what is changed by hand is set back.
    pub self_heal: bool,
    /// Which share of a source's objects may go at once without being asked about.
    pub max_prune: f64,
    /// How often repositories are fetched.
    pub interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let filter = Filter::new(&[], &[]).unwrap_or_else(|_| unreachable!("no pattern is wrong"));
        Self { filter, poll: None, self_heal: true, max_prune: 0.5, interval: Duration::from_secs(60) }
    }
}

/// A request, and where the answer goes.
struct Asked {
    request: SourceRequest,
    answer: oneshot::Sender<Result<SourceStatus, Refusal>>,
}

/// Why a request is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such source.
    #[error("there is no source {0}")]
    Unknown(String),
    /// It is not like that.
    #[error("{0}")]
    Conflict(String),
}

/// The sources of a controller, for whoever wants to see them or asks something of them.
#[derive(Clone, Default)]
pub struct Sources {
    statuses: Option<watch::Receiver<Vec<SourceStatus>>>,
    doors: Arc<BTreeMap<String, mpsc::Sender<Asked>>>,
}

impl Sources {
    /// How they are.
    pub fn statuses(&self) -> Vec<SourceStatus> {
        self.statuses.as_ref().map(|statuses| statuses.borrow().clone()).unwrap_or_default()
    }

    /// Asks something of one; says how it is afterwards.
    ///
    /// # Errors
    /// If it is not there, or refuses.
    pub async fn ask(&self, request: SourceRequest) -> Result<SourceStatus, Refusal> {
        let unknown = Refusal::Unknown(request.source.clone());
        let Some(door) = self.doors.get(&request.source) else { return Err(unknown) };
        let (answer, answered) = oneshot::channel();
        door.send(Asked { request, answer }).await.map_err(|_| unknown.clone())?;
        answered.await.unwrap_or(Err(unknown))
    }
}

/// What the keepers of all sources share.
struct Shared {
    store: Store,
    state: PathBuf,
    settings: Settings,
    /// All sources.
    names: BTreeSet<String>,
    /// What each of them wants, and whom to tell when that is another.
    wants: Mutex<BTreeMap<String, BTreeSet<Id>>>,
    news: BTreeMap<String, Notify>,
    statuses: watch::Sender<Vec<SourceStatus>>,
    stop: CancellationToken,
}

impl Shared {
    /// What other sources want.
    fn wanted_elsewhere(&self, name: &str) -> BTreeSet<Id> {
        let wants = self.wants.lock().unwrap_or_else(PoisonError::into_inner);
        wants.iter().filter(|(other, _)| *other != name).flat_map(|(_, ids)| ids.iter().cloned()).collect()
    }

    /// A source of which it is not known yet what it wants.
    fn unseen(&self) -> Option<String> {
        let wants = self.wants.lock().unwrap_or_else(PoisonError::into_inner);
        self.names.iter().find(|name| !wants.contains_key(*name)).cloned()
    }

    /// Has the others look again at what they want.
    fn tell_others(&self, name: &str) {
        self.news.iter().filter(|(other, _)| *other != name).for_each(|(_, news)| news.notify_one());
    }
}

/// Keeps the objects of sources as their manifests have them, until `stop`.
///
/// # Errors
/// If the store fails.
pub fn start(
    sources: Vec<Source>,
    settings: Settings,
    store: &Store,
    state: &Path,
    stop: CancellationToken,
) -> Result<(Sources, Vec<JoinHandle<()>>), StoreError> {
    let names: BTreeSet<String> = sources.iter().map(Source::name).collect();
    let (statuses, seen) = watch::channel(Vec::new());
    let news = names.iter().map(|name| (name.clone(), Notify::new())).collect();
    let (store, state, wants) = (store.clone(), state.to_owned(), Mutex::default());
    let shared = Arc::new(Shared { store, state, settings, names, wants, news, statuses, stop });
    repository::forget_others(&shared.state, &sources);
    let mut doors = BTreeMap::new();
    let mut tasks = Vec::new();
    for source in sources {
        let name = source.name();
        if doors.contains_key(&name) {
            continue;
        }
        let (door, asked) = mpsc::channel(8);
        doors.insert(name, door);
        let keeper = keeper::Keeper::new(source, shared.clone(), asked)?;
        // From the first moment on it is known what is watched.
        keeper.publish();
        tasks.push(tokio::spawn(keeper.run()));
    }
    Ok((Sources { statuses: Some(seen), doors: Arc::new(doors) }, tasks))
}
