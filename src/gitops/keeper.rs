//! Keeps the objects of one source: looks when something has changed, decides, does it, and tells how it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::cache::{Cache, Changed, Looked};
use super::decide::{Id, Place};
use super::notice::{Notices, POLL};
use super::{Asked, Refusal, Shared, Source};
use crate::api::source::{
    OutOfSync, PendingPrune, SourceAction, SourceError, SourceRequest, SourceStatus, SyncState,
};
use crate::store::StoreError;
use crate::store::feed::Change;

mod fetching;
mod looking;
mod memory;
mod syncing;

use fetching::{Fetching, Revising};
use memory::Memory;

/// How often a directory is looked at even if no change was noticed.
const RESYNC: Duration = Duration::from_secs(60);
/// How long an object must be missing before it is believed: many programs empty a file before they write it.
const CONFIRMATION: Duration = Duration::from_secs(1);
/// How soon to look again at what is being written.
const UNSTEADY: Duration = Duration::from_millis(200);
/// How soon to try again when the store has failed.
const STORE_RETRY: Duration = Duration::from_secs(5);

/// Keeps one source.
pub(super) struct Keeper {
    name: String,
    root: PathBuf,
    shared: Arc<Shared>,
    asked: mpsc::Receiver<Asked>,
    notices: Notices,
    cache: Cache,
    memory: Memory,
    fetching: Option<Fetching>,
    revising: Revising,
    /// What the last look found.
    looked: Looked,
    place: Place,
    /// Directories in it that were file systems of their own, and are none and empty.
    unmounted: BTreeSet<String>,
    /// Why the directory could not be looked at.
    trouble: Option<String>,
    at: Timestamp,
    /// Objects that no file has any more, and since when.
    missing: BTreeMap<Id, Instant>,
    /// Whether another look must show that some of them really are.
    doubtful: bool,
    /// When the last look began.
    last_look: Instant,
    /// When it ended, if there was one.
    looked_at: Option<Instant>,
    /// How many went without being asked about, and when.
    recent: VecDeque<(Instant, usize)>,
    kept: BTreeSet<Id>,
    /// The versions that we wrote.
    written: BTreeMap<Id, u64>,
    /// What others may have changed in the store; anything, if this is none.
    touched: Option<BTreeSet<Id>>,
    seen: u64,
    feed: watch::Receiver<u64>,
    objects: usize,
    refused: Vec<SourceError>,
    /// What was changed by hand and left so.
    differing: BTreeMap<Id, OutOfSync>,
    /// What was deleted by hand.
    absent: Vec<OutOfSync>,
    /// Jobs that had been finished for as long as they are kept.
    finished: Vec<String>,
    blocked: Option<(PendingPrune, BTreeSet<Id>)>,
    failing: bool,
    /// Who wants to know how it is after the next fetch.
    waiting: Vec<oneshot::Sender<Result<SourceStatus, Refusal>>>,
}

/// What there is to do next.
enum Wake {
    Stop,
    Look(Changed),
    Store,
    Asked(Asked),
}

impl Keeper {
    pub(super) fn new(
        source: Source,
        shared: Arc<Shared>,
        asked: mpsc::Receiver<Asked>,
    ) -> Result<Self, StoreError> {
        let (name, root) = (source.name(), source.root(&shared.state));
        let memory = shared.store.read_now(|tx| Memory::load(tx, &name))?;
        let feed = shared.store.feed().subscribe();
        let seen = *feed.borrow();
        let fetching = match source {
            Source::Repository(remote) => Some(Fetching::new(remote, shared.settings.interval)),
            Source::Directory(_) => None,
        };
        Ok(Self {
            notices: Notices::new(&root, shared.settings.poll),
            cache: Cache::default(),
            revising: Revising::default(),
            looked: Looked::default(),
            place: Place::There,
            unmounted: BTreeSet::new(),
            trouble: None,
            at: Timestamp::now(),
            missing: BTreeMap::new(),
            doubtful: false,
            last_look: Instant::now(),
            looked_at: None,
            recent: VecDeque::new(),
            kept: BTreeSet::new(),
            written: BTreeMap::new(),
            touched: None,
            objects: 0,
            refused: Vec::new(),
            differing: BTreeMap::new(),
            absent: Vec::new(),
            finished: Vec::new(),
            blocked: None,
            failing: false,
            waiting: Vec::new(),
            name,
            root,
            shared,
            asked,
            memory,
            fetching,
            seen,
            feed,
        })
    }

    /// Keeps the source until the controller stops.
    pub(super) async fn run(mut self) {
        self.keep().await;
        if let Some(fetching) = self.fetching {
            fetching.end().await;
        }
    }

    async fn keep(&mut self) {
        let mut wake = Wake::Look(Changed::Anything);
        loop {
            let mut answer = None;
            match wake {
                Wake::Stop => return,
                Wake::Store => {}
                Wake::Look(changed) => self.look(changed).await,
                Wake::Asked(asked) => {
                    let granted = self.grant(&asked.request).await;
                    match asked.request.action == SourceAction::Now && granted.is_ok() {
                        true => self.waiting.push(asked.answer),
                        false => answer = Some((asked.answer, granted)),
                    }
                }
            }
            if self.shared.stop.is_cancelled() {
                return;
            }
            self.sync().await;
            let status = self.publish();
            // Whoever asked may have left.
            if !self.is_asked_to_fetch() {
                self.waiting.drain(..).for_each(|waiting| drop(waiting.send(Ok(status.clone()))));
            }
            if let Some((answer, granted)) = answer {
                let _ = answer.send(granted.map(|()| status));
            }
            wake = self.wait().await;
        }
    }

    async fn wait(&mut self) -> Wake {
        // Not from now on: where much happens in the store, there would be no look.
        let due = self.looked_at.unwrap_or_else(Instant::now) + self.pause();
        loop {
            let news = &self.shared.news[&self.name];
            tokio::select! {
                () = self.shared.stop.cancelled() => return Wake::Stop,
                asked = self.asked.recv() => return asked.map_or(Wake::Stop, Wake::Asked),
                () = self.notices.heard() => return Wake::Look(self.notices.take()),
                () = news.notified() => return Wake::Store,
                changed = self.feed.changed() => {
                    if changed.is_err() {
                        return Wake::Stop;
                    }
                    if self.follow() {
                        return Wake::Store;
                    }
                }
                fetched = Fetching::next(&mut self.fetching, &self.shared.state, self.memory.paused) => {
                    if fetched || (!self.waiting.is_empty() && !self.is_asked_to_fetch()) {
                        return Wake::Look(Changed::Anything);
                    }
                    // Others may wait to know what it has; and that it cannot be fetched is told.
                    return Wake::Store;
                }
                () = self.revising.finish() => drop(self.publish()),
                () = tokio::time::sleep_until(due) => {
                    let hurried = self.looked.unsteady || self.doubtful;
                    return Wake::Look(if hurried { self.notices.take() } else { Changed::Anything });
                }
            }
        }
    }

    /// Whether a fetch has not ended yet that somebody asked for.
    fn is_asked_to_fetch(&self) -> bool {
        self.fetching.as_ref().is_some_and(Fetching::is_asked)
    }

    /// How long to wait for something to happen after a look.
    fn pause(&self) -> Duration {
        let mut pause = self.notices.poll().unwrap_or(RESYNC).min(RESYNC);
        if self.failing {
            pause = pause.min(STORE_RETRY);
        }
        // What has vanished, or cannot be read, may come back where nobody tells of it.
        if self.place != Place::There || self.trouble.is_some() {
            pause = pause.min(POLL);
        }
        if self.doubtful {
            pause = pause.min(CONFIRMATION);
        }
        if self.looked.unsteady {
            pause = pause.min(UNSTEADY);
        }
        pause
    }

    /// Notes what others have changed of our objects; says whether there is any.
    fn follow(&mut self) -> bool {
        let newest = *self.feed.borrow_and_update();
        let ours = |change: &Change| {
            if change.status_only {
                return None;
            }
            let id = (change.kind, change.key.clone());
            let known = self.kept.contains(&id) || change.source.as_ref() == Some(&self.name);
            (known && self.written.get(&id) != Some(&change.version)).then_some(id)
        };
        let picked = self.shared.store.feed().pick(self.seen, ours);
        self.seen = newest;
        match (picked, &mut self.touched) {
            (Ok(ids), Some(touched)) => {
                let some = !ids.is_empty();
                touched.extend(ids);
                some
            }
            (Ok(_), None) => true,
            (Err(_), touched) => {
                *touched = None;
                true
            }
        }
    }

    async fn grant(&mut self, request: &SourceRequest) -> Result<(), Refusal> {
        let conflict = |message: String| Err(Refusal::Conflict(message));
        let paused =
            Refusal::Conflict(format!("{} is paused: `rayconcile sync resume` lets it go on", self.name));
        match request.action {
            SourceAction::Pause | SourceAction::Resume => {
                self.memory.paused = request.action == SourceAction::Pause;
                self.memory.changed = true;
                match self.memory.paused {
                    true => {
                        self.waiting.drain(..).for_each(|waiting| drop(waiting.send(Err(paused.clone()))))
                    }
                    false => {
                        self.touched = None;
                        self.look(Changed::Anything).await;
                    }
                }
                self.remember().await.map_err(|error| Refusal::Conflict(error.to_string()))
            }
            SourceAction::Now | SourceAction::Confirm if self.memory.paused => Err(paused),
            SourceAction::Now => {
                self.touched = None;
                match &mut self.fetching {
                    Some(fetching) => fetching.ask(),
                    None => self.look(Changed::Anything).await,
                }
                Ok(())
            }
            SourceAction::Confirm => match &self.blocked {
                None => conflict(format!("nothing of {} waits to be confirmed", self.name)),
                Some((pending, _)) if Some(&pending.digest) != request.digest.as_ref() => conflict(format!(
                    "other objects of {} would go by now: see `rayconcile sync status`",
                    self.name
                )),
                Some((_, ids)) => {
                    self.memory.condemn(ids.iter().cloned());
                    Ok(())
                }
            },
        }
    }

    /// What is wrong with it, and with its files.
    fn errors(&self) -> Vec<SourceError> {
        let source = |message: &String| SourceError { file: self.name.clone(), message: message.clone() };
        let of_files = self.looked.errors.iter().chain(&self.refused).cloned();
        self.trouble.iter().map(source).chain(of_files).collect()
    }

    /// Tells how the source is.
    pub(super) fn publish(&self) -> SourceStatus {
        let errors = self.errors();
        let fetch = self.fetching.as_ref().map(Fetching::status);
        let failed = !errors.is_empty() || fetch.as_ref().is_some_and(|fetch| fetch.error.is_some());
        let never = self.fetching.as_ref().is_some_and(Fetching::is_empty) && self.looked.files.is_empty();
        let state = match () {
            () if self.memory.paused => SyncState::Paused,
            () if self.blocked.is_some() => SyncState::AwaitingConfirmation,
            () if failed || self.failing => SyncState::Failed,
            () if never || self.looked_at.is_none() => SyncState::Unknown,
            () if !self.differing.is_empty() || !self.absent.is_empty() => SyncState::OutOfSync,
            () => SyncState::Synced,
        };
        let status = SourceStatus {
            directory: self.name.clone(),
            state,
            at: self.at,
            noticed_by: self.notices.words(),
            objects: u32::try_from(self.objects).unwrap_or(u32::MAX),
            self_heal: self.shared.settings.self_heal,
            revision: match &self.fetching {
                Some(fetching) => fetching.revision(),
                None => self.revising.found(),
            },
            fetch,
            errors,
            out_of_sync: self.absent.iter().chain(self.differing.values()).cloned().collect(),
            finished: self.finished.clone(),
            pending_prune: self.blocked.as_ref().map(|(pending, _)| pending.clone()),
        };
        self.shared.statuses.send_modify(|statuses| {
            match statuses.iter_mut().find(|other| other.directory == status.directory) {
                Some(known) => known.clone_from(&status),
                None => {
                    statuses.push(status.clone());
                    statuses.sort_by(|a, b| a.directory.cmp(&b.directory));
                }
            }
        });
        status
    }
}
