//! The controller: observe, plan, keep, do. One loop for each cluster with its jobs, run whenever something
//! happens to it; everything it needs is in the store and in what is observed afresh.

#[cfg(feature = "ec2")]
pub mod adopt;
mod archive;
mod clean;
mod deliver;
mod execute;
mod observe;
mod pull;
mod queue;
mod reconcile;
mod review;
pub mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::api::ids::{IntentId, Uid};
use crate::api::meta::ObjectKey;
use crate::plan::snapshot::Settings;
use crate::provider::Directories;
use crate::store::feed::Change;
use crate::store::{Store, StoreError};
use observe::Watch;
use queue::Queue;

/// How often everything is planned even if nothing happens.
const RESYNC: Duration = Duration::from_secs(60);
/// How many clusters are planned at the same time. That is work for a CPU, and each plan holds all of its cluster; what
/// waits for others is done apart.
const CONCURRENCY: usize = 4;
/// How long to wait after a plan could not be kept.
const STORE_RETRY: Duration = Duration::from_secs(5);
/// How long what is being done may take to finish when the controller is to end.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// The controller. Clones share it.
#[derive(Clone)]
pub struct Controller {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    directories: Directories,
    settings: Settings,
    /// Tells this controller from others on the same cluster.
    id: String,
    queue: Arc<Queue>,
    watches: Mutex<BTreeMap<ObjectKey, Watch>>,
    in_flight: Mutex<BTreeSet<IntentId>>,
    pulls: Mutex<BTreeMap<Uid, pull::Pull>>,
    archives: Mutex<BTreeMap<Uid, archive::Archive>>,
    uploads: Semaphore,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Controller {
    /// A controller over a store. It does nothing before `run`.
    ///
    /// # Errors
    /// If the store fails.
    pub fn new(store: Store, state: PathBuf, settings: Settings) -> Result<Self, StoreError> {
        let id = id_of(&store)?;
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                directories: Directories { state },
                settings,
                id,
                queue: Arc::default(),
                watches: Mutex::default(),
                in_flight: Mutex::default(),
                pulls: Mutex::default(),
                archives: Mutex::default(),
                uploads: Semaphore::new(archive::AT_ONCE),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Where things are kept.
    pub fn directories(&self) -> &Directories {
        &self.inner.directories
    }

    /// Has a cluster, with its jobs, planned now.
    pub fn wake(&self, key: ObjectKey) {
        self.inner.queue.wake(key);
    }

    /// Runs until `stop`. Whatever trains goes on training after that.
    pub async fn run(&self) {
        let listening = self.inner.tasks.spawn(self.clone().follow_objects());
        let resyncing = self.inner.tasks.spawn(self.clone().resync());
        let cleaning = self.inner.tasks.spawn(self.clone().clean());
        let permits = Arc::new(Semaphore::new(CONCURRENCY));
        loop {
            let key = tokio::select! {
                key = self.inner.queue.next() => key,
                () = self.inner.stop.cancelled() => break,
            };
            let (controller, permits) = (self.clone(), permits.clone());
            self.inner.tasks.spawn(async move {
                let _permit = permits.acquire().await;
                // A defect must cost this one plan, and not every plan of this cluster from now on.
                let planned = AssertUnwindSafe(controller.reconcile_once(&key)).catch_unwind().await;
                if planned.is_err() {
                    tracing::error!(cluster = %key, "the planner panicked; it is tried again in a while");
                    controller.inner.queue.add(key.clone(), Instant::now() + RESYNC);
                }
                controller.inner.queue.done(&key);
            });
        }
        for task in [listening, resyncing, cleaning] {
            task.abort();
        }
        lock(&self.inner.watches).clear();
        // What is being done is finished, so that the next controller need not find out what came of it; but not
        // what waits for something far away, such as a dashboard that is still coming up.
        self.inner.tasks.close();
        if tokio::time::timeout(STOP_PATIENCE, self.inner.tasks.wait()).await.is_err() {
            tracing::info!("some effects are left to the next controller");
        }
    }

    /// Has `run` come to an end.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }

    async fn reconcile_once(&self, key: &ObjectKey) {
        match self.reconcile(key).await {
            Ok(Some(at)) => {
                let wait = at.duration_since(jiff::Timestamp::now()).unsigned_abs();
                let due = at > jiff::Timestamp::now();
                let wait = if due { wait } else { Duration::ZERO };
                self.inner.queue.add(key.clone(), Instant::now() + wait.min(RESYNC));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(cluster = %key, %error, "the plan could not be kept; nothing was done");
                self.inner.queue.add(key.clone(), Instant::now() + STORE_RETRY);
            }
        }
    }

    /// Wakes the plans of objects that were changed.
    async fn follow_objects(self) {
        let mut changes = self.inner.store.feed().subscribe();
        let mut seen = *changes.borrow_and_update();
        self.wake_all().await;
        while changes.changed().await.is_ok() {
            let newest = *changes.borrow_and_update();
            let clusters = |change: &Change| (!change.status_only).then(|| change.clusters.clone());
            match self.inner.store.feed().pick(seen, clusters) {
                Ok(new) => new.into_iter().flatten().for_each(|key| self.inner.queue.wake(key)),
                Err(crate::store::feed::Gone) => self.wake_all().await,
            }
            seen = newest;
        }
    }

    async fn wake_all(&self) {
        match self.inner.store.read(|tx| tx.domains()).await {
            Ok(keys) => keys.into_iter().for_each(|key| self.inner.queue.wake(key)),
            Err(error) => tracing::error!(%error, "cannot read what there is to plan"),
        }
    }

    async fn resync(self) {
        loop {
            tokio::time::sleep(RESYNC).await;
            self.wake_all().await;
        }
    }
}

/// What tells the controller of a state directory from others.
fn id_of(store: &Store) -> Result<String, StoreError> {
    store.write_now(|tx| tx.setting("controller", || Uuid::new_v4().to_string()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Dies here, if a test wants this process to die here. Not in the program that users have.
fn crash_point(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var("RAYCONCILE_CRASH_AT").is_ok_and(|wanted| wanted == name) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
