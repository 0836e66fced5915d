//! From what a look has found to the store: decided as a whole, done some objects at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::super::decide::{Decision, Facts, Id, Place, Wanted, claims, decide, name};
use super::super::keep;
use super::fetching::Fetching;
use super::{CONFIRMATION, Keeper};
use crate::api::source::{OutOfSync, SourceError};
use crate::store::{Cause, Departure, Origin, StoreError, Tx};

/// What goes within this time counts as going at once.
const AT_ONCE: Duration = Duration::from_secs(60);
/// So many objects are changed in one transaction: others want to write too.
const BATCH: usize = 100;

/// One change of the store.
enum Task {
    Apply(Id, Wanted, bool),
    Inspect(Id, Wanted),
    Hold(Id, String),
    Release(Id),
    Forget(Id),
    Delete(Id),
}

impl Keeper {
    /// Brings the store to what was found.
    pub(super) async fn sync(&mut self) {
        self.failing = match self.try_sync().await {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(source = self.name, %error, "what a source wants could not be kept");
                self.touched = None;
                true
            }
        };
    }

    async fn try_sync(&mut self) -> Result<(), StoreError> {
        let never = self.fetching.as_ref().is_some_and(Fetching::is_empty) && self.looked.files.is_empty();
        if never && self.place == Place::There {
            self.note_what_is_stored().await?;
            return self.tell_errors(&BTreeMap::new(), &BTreeMap::new()).await;
        }
        let touched = self.touched.replace(BTreeSet::new());
        let (origins, departed) = self.shared.store.read(|tx| Ok((tx.origins()?, tx.departures()?))).await?;
        let (wanted, doubles) = claims(&self.looked.files, &origins, &self.name);
        // Also of a paused source the others must know what it has.
        self.note_wants(&wanted);
        self.objects = wanted.len();
        if self.memory.paused {
            // What is missing by then must be seen to be so anew.
            self.missing.clear();
            self.doubtful = false;
            return Ok(());
        }
        let decision = self.decide(&wanted, &origins, &departed, touched.as_ref());
        let since = |id: &Id| self.missing.get(id).copied().unwrap_or(self.last_look);
        self.missing = decision.missing.iter().map(|id| (id.clone(), since(id))).collect();
        self.doubtful = self.missing.values().any(|since| !self.is_believed(*since));
        if !decision.condemn.is_empty() {
            self.recent.push_back((Instant::now(), decision.condemn.len()));
            self.memory.condemn(decision.condemn.iter().cloned());
        }
        self.memory.forget(|id| origins.contains_key(id) && !wanted.contains_key(id));
        let has_some = |directory: &String| {
            let ours = |origin: &&Origin| origin.source.as_ref() == Some(&self.name);
            origins.values().filter(ours).any(|origin| Path::new(&origin.file).starts_with(directory))
        };
        let forgotten: Vec<String> = self.unmounted.iter().filter(|it| !has_some(it)).cloned().collect();
        self.memory.forget_mounts(&forgotten);
        self.remember().await?;
        self.tell_blocked(&decision).await?;
        self.refused = doubles.into_iter().chain(decision.refused.iter().cloned()).collect();
        self.differing.retain(|id, _| wanted.contains_key(id));
        let differ = |id: &Id, message: &str| OutOfSync { object: name(id), message: message.to_owned() };
        self.absent = decision.absent.iter().map(|id| differ(id, "deleted by hand")).collect();
        let again = "being deleted; it is made again when it has gone";
        self.absent.extend(decision.going.iter().map(|id| differ(id, again)));
        self.finished = decision.finished.iter().map(name).collect();
        let released = !decision.release.is_empty();
        self.carry_out(decision, &wanted, &departed).await?;
        self.tell_errors(&origins, &wanted).await?;
        if released {
            self.shared.tell_others(&self.name);
        }
        Ok(())
    }

    fn decide(
        &mut self,
        wanted: &BTreeMap<Id, Wanted>,
        origins: &BTreeMap<Id, Origin>,
        departed: &BTreeMap<Id, Departure>,
        touched: Option<&BTreeSet<Id>>,
    ) -> Decision {
        while self.recent.front().is_some_and(|(at, _)| at.elapsed() > AT_ONCE) {
            self.recent.pop_front();
        }
        let mut unclear = self.looked.errors.clone();
        if self.place != Place::Vanished
            && let Some(trouble) = &self.trouble
        {
            // The empty path is above every file.
            unclear.push(SourceError { file: String::new(), message: trouble.clone() });
        }
        let missing = self.missing.iter().filter(|(_, since)| self.is_believed(**since));
        let believed = missing.map(|(id, _)| id.clone()).collect();
        decide(&Facts {
            source: &self.name,
            sources: &self.shared.names,
            place: self.place,
            unmounted: &self.unmounted,
            wanted,
            unclear: &unclear,
            unfit: &self.looked.unfit,
            foreign: &self.looked.foreign,
            elsewhere: &self.shared.wanted_elsewhere(&self.name),
            unseen: self.shared.unseen().as_deref(),
            origins,
            touched,
            departed,
            self_heal: self.shared.settings.self_heal,
            believed: &believed,
            condemned: &self.memory.condemned,
            recent: self.recent.iter().map(|(_, number)| number).sum(),
            max_prune: self.shared.settings.max_prune,
        })
    }

    /// Whether what has been missing since then is: a later look has not found it either.
    fn is_believed(&self, since: Instant) -> bool {
        self.last_look.duration_since(since) >= CONFIRMATION
    }

    /// Lets the other sources know what a repository had that cannot be fetched, or is not to be: they need not wait.
    async fn note_what_is_stored(&self) -> Result<(), StoreError> {
        let failing = self.fetching.as_ref().is_some_and(|fetching| fetching.status().error.is_some());
        if !failing && !self.memory.paused {
            self.shared.wants.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
            return Ok(());
        }
        let origins = self.shared.store.read(|tx| tx.origins()).await?;
        let ours = origins.into_iter().filter(|(_, origin)| origin.source.as_ref() == Some(&self.name));
        let ids: BTreeSet<Id> = ours.map(|(id, _)| id).collect();
        let mut wants = self.shared.wants.lock().unwrap_or_else(PoisonError::into_inner);
        let first = wants.insert(self.name.clone(), ids).is_none();
        drop(wants);
        if first {
            self.shared.tell_others(&self.name);
        }
        Ok(())
    }

    /// Lets the other sources know what this one wants. What it has wanted in files that are not right now, it wants.
    fn note_wants(&self, wanted: &BTreeMap<Id, Wanted>) {
        if self.trouble.is_some() {
            return;
        }
        let mut ids: BTreeSet<Id> = wanted.keys().cloned().collect();
        let mut wants = self.shared.wants.lock().unwrap_or_else(PoisonError::into_inner);
        let before = wants.remove(&self.name);
        let first = before.is_none();
        if self.looked.errors.iter().any(|error| !self.looked.foreign.contains(&error.file)) {
            ids.extend(before.into_iter().flatten());
        }
        wants.insert(self.name.clone(), ids);
        drop(wants);
        if first {
            self.shared.tell_others(&self.name);
        }
    }

    pub(super) async fn remember(&mut self) -> Result<(), StoreError> {
        if self.memory.changed {
            let (name, memory) = (self.name.clone(), self.memory.to_json());
            self.shared.store.write(move |tx| tx.put_source_memory(&name, &memory)).await?;
            self.memory.changed = false;
        }
        Ok(())
    }

    /// Keeps what waits to be confirmed, and tells its objects when that is news.
    async fn tell_blocked(&mut self, decision: &Decision) -> Result<(), StoreError> {
        let Some(pending) = &decision.blocked else {
            self.blocked = None;
            return Ok(());
        };
        let known = self.blocked.as_ref().is_some_and(|(known, _)| known.digest == pending.digest);
        let named = |id: &&Id| pending.objects.contains(&name(id));
        let ids: BTreeSet<Id> = decision.missing.iter().filter(named).cloned().collect();
        self.blocked = Some((pending.clone(), ids.clone()));
        if known {
            return Ok(());
        }
        tracing::warn!(source = self.name, reason = pending.reason, objects = ?pending.objects, "nothing is deleted before it is confirmed");
        let (source, pending) = (self.name.clone(), pending.clone());
        let ids: Vec<Id> = ids.into_iter().collect();
        self.shared.store.write(move |tx| keep::tell_pending(tx, &source, &ids, &pending)).await
    }

    /// Tells what is wrong with files, when it is news; also the objects that never were, for no other tells them.
    async fn tell_errors(
        &mut self,
        origins: &BTreeMap<Id, Origin>,
        wanted: &BTreeMap<Id, Wanted>,
    ) -> Result<(), StoreError> {
        let mut errors: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for error in self.errors() {
            errors.entry(error.file).or_default().push(error.message);
        }
        let fetch = self.fetching.as_ref().and_then(|fetching| fetching.status().error);
        // It is told when it begins to fail: what git says of one and the same trouble may have other times in it.
        errors.extend(fetch.iter().map(|_| (keep::FETCH.to_owned(), Vec::new())));
        let unseen = self.trouble.is_some() || self.fetching.as_ref().is_some_and(Fetching::is_empty);
        let news = self.memory.note_errors(&errors, unseen);
        if news.is_empty() {
            return self.remember().await;
        }
        let said = fetch.map(|error| vec![format!("it cannot be fetched: {error}")]);
        errors.extend(said.map(|said| (keep::FETCH.to_owned(), said)));
        errors.retain(|file, _| news.contains(file));
        let is_there = |id: &Id| origins.contains_key(id) || wanted.contains_key(id);
        let never = |(id, error): &(&Id, &SourceError)| !is_there(id) && news.contains(&error.file);
        let never = self.looked.unfit.iter().filter(never);
        let never: Vec<(Id, String)> = never.map(|(id, error)| (id.clone(), error.message.clone())).collect();
        let source = self.name.clone();
        self.shared.store.write(move |tx| keep::tell_errors(tx, &source, &errors, &never)).await?;
        self.remember().await
    }

    /// Does what was decided, some objects at a time.
    async fn carry_out(
        &mut self,
        decision: Decision,
        wanted: &BTreeMap<Id, Wanted>,
        departed: &BTreeMap<Id, Departure>,
    ) -> Result<(), StoreError> {
        let with = |id: Id| wanted.get(&id).cloned().map(|wanted| (id, wanted));
        let apply = decision.apply.into_iter().filter_map(with).map(|(id, wanted)| {
            let deleted = departed.get(&id).is_some_and(|departure| departure.cause == Cause::Deleted);
            Task::Apply(id, wanted, deleted)
        });
        let inspect =
            decision.inspect.into_iter().filter_map(with).map(|(id, wanted)| Task::Inspect(id, wanted));
        let hold = decision.hold.into_iter().map(|(id, error)| Task::Hold(id, error));
        let release = decision.release.into_iter().map(Task::Release);
        let forget = decision.forget.into_iter().map(Task::Forget);
        let delete = decision.delete.into_iter().map(Task::Delete);
        let mut tasks = apply
            .chain(inspect)
            .chain(hold)
            .chain(release)
            .chain(forget)
            .chain(delete)
            .collect::<Vec<_>>()
            .into_iter();
        loop {
            let batch: Vec<Task> = tasks.by_ref().take(BATCH).collect();
            if batch.is_empty() || self.shared.stop.is_cancelled() {
                return Ok(());
            }
            let (source, heal) = (self.name.clone(), self.shared.settings.self_heal);
            let done = self.shared.store.write(move |tx| {
                batch.iter().map(|task| task.carry_out(tx, &source, heal)).collect::<Result<Vec<_>, _>>()
            });
            for (id, kept) in done.await?.into_iter().flatten() {
                self.note(id, kept);
            }
        }
    }

    fn note(&mut self, id: Id, kept: keep::Kept) {
        match kept {
            keep::Kept::Synced(version) => {
                self.differing.remove(&id);
                self.written.insert(id.clone(), version);
                self.kept.insert(id);
            }
            keep::Kept::Refused(error) => self.refused.push(error),
            keep::Kept::Differs(difference) => drop(self.differing.insert(id, difference)),
            keep::Kept::Gone => {
                self.kept.remove(&id);
                self.written.remove(&id);
                self.missing.remove(&id);
            }
            keep::Kept::Moved => drop(self.touched.as_mut().map(|touched| touched.insert(id))),
        }
    }
}

impl Task {
    fn carry_out(
        &self,
        tx: &Tx<'_>,
        source: &str,
        heal: bool,
    ) -> Result<Option<(Id, keep::Kept)>, StoreError> {
        Ok(match self {
            Self::Apply(id, wanted, deleted) => {
                Some((id.clone(), keep::apply(tx, source, id, wanted, *deleted)?))
            }
            Self::Inspect(id, wanted) => Some((id.clone(), keep::inspect(tx, source, id, wanted, heal)?)),
            Self::Hold(id, error) => {
                keep::hold(tx, id, error)?.map(|version| (id.clone(), keep::Kept::Synced(version)))
            }
            Self::Release(id) => {
                tx.disown(id.0, &id.1)?;
                Some((id.clone(), keep::Kept::Gone))
            }
            Self::Forget(id) => {
                tx.forget_departure(id.0, &id.1)?;
                Some((id.clone(), keep::Kept::Gone))
            }
            Self::Delete(id) => {
                keep::delete(tx, source, id)?;
                Some((id.clone(), keep::Kept::Gone))
            }
        })
    }
}
