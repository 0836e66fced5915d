//! The changes of objects, for whoever watches: the newest two thousand, by resource version; fewer of large objects.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use crate::api::meta::ObjectKey;
use crate::api::object::Kind;

/// How many changes a watcher may be behind before it must list anew.
const KEPT: usize = 2048;
/// How many bytes the objects of those changes may have.
const BYTES: usize = 64 << 20;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeType {
    /// It is new.
    Added,
    /// It is another than before.
    Modified,
    /// It is gone.
    Deleted,
}

/// A change of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The resource version it got.
    pub version: u64,
    /// What happened.
    pub change: ChangeType,
    /// The object's kind.
    pub kind: Kind,
    /// The object's name.
    pub key: ObjectKey,
    /// The object, as the API gives it.
    pub object: Value,
    /// The source that keeps the object, if one does.
    pub source: Option<String>,
    /// The object's labels.
    pub labels: BTreeMap<String, String>,
    /// The labels it had before, if it was there.
    pub labels_before: Option<BTreeMap<String, String>>,
    /// Whether only its status is another.
    pub status_only: bool,
    /// The clusters that are planned with it.
    pub clusters: Vec<ObjectKey>,
}

/// The watcher is too far behind: it must list anew.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

/// A change, with its object as text: as values, thousands of objects are large.
struct Kept {
    change: Change,
    object: Box<str>,
}

impl Kept {
    fn new(mut change: Change) -> Self {
        let object = change.object.take().to_string().into_boxed_str();
        Self { change, object }
    }

    fn whole(&self) -> Change {
        let object = serde_json::from_str(&self.object).unwrap_or_default();
        Change { object, ..self.change.clone() }
    }
}

/// The changes that are kept, and how many bytes their objects have.
#[derive(Default)]
struct Newest {
    changes: VecDeque<Arc<Kept>>,
    bytes: usize,
}

impl Newest {
    fn push(&mut self, kept: Arc<Kept>) {
        self.bytes += kept.object.len();
        self.changes.push_back(kept);
    }

    /// Lets go of the oldest while there is too much, but not of the newest. Says up to which version.
    fn bound(&mut self) -> Option<u64> {
        let mut before = None;
        while self.changes.len() > KEPT || (self.bytes > BYTES && self.changes.len() > 1) {
            let dropped = self.changes.pop_front()?;
            self.bytes -= dropped.object.len();
            before = Some(dropped.change.version);
        }
        before
    }
}

/// The newest changes.
pub struct Feed {
    kept: Mutex<Newest>,
    newest: watch::Sender<u64>,
    /// Changes up to this version are not here.
    before: Mutex<u64>,
}

impl Feed {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::default(), newest: watch::channel(0).0, before: Mutex::new(0) }
    }

    /// Begins after what is stored already.
    pub(super) fn begin(&self, version: u64) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = version;
        self.newest.send_replace(version);
    }

    pub(super) fn publish(&self, changes: Vec<Change>) {
        let Some(newest) = changes.last().map(|change| change.version) else { return };
        let changes: Vec<_> = changes.into_iter().map(|change| Arc::new(Kept::new(change))).collect();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        changes.into_iter().for_each(|change| kept.push(change));
        if let Some(before) = kept.bound() {
            *self.before.lock().unwrap_or_else(PoisonError::into_inner) = before;
        }
        self.newest.send_replace(newest);
    }

    /// A receiver that is told whenever there are changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Whether all changes after a version are here.
    pub fn knows(&self, version: u64) -> bool {
        version >= *self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The changes after a version.
    ///
    /// # Errors
    /// If some of them are no longer here.
    pub fn since(&self, version: u64) -> Result<Vec<Change>, Gone> {
        Ok(self.after(version)?.iter().map(|kept| kept.whole()).collect())
    }

    /// What somebody wants to know of the changes after a version, without their objects.
    ///
    /// # Errors
    /// If some of them are no longer here.
    pub fn pick<T>(&self, version: u64, wanted: impl FnMut(&Change) -> Option<T>) -> Result<Vec<T>, Gone> {
        Ok(self.after(version)?.iter().map(|kept| &kept.change).filter_map(wanted).collect())
    }

    /// The changes after a version, to be read when nobody waits for them any more: who publishes holds the store.
    fn after(&self, version: u64) -> Result<Vec<Arc<Kept>>, Gone> {
        let changes = &self.kept.lock().unwrap_or_else(PoisonError::into_inner).changes;
        if !self.knows(version) {
            return Err(Gone);
        }
        let first = changes.partition_point(|kept| kept.change.version <= version);
        Ok(changes.range(first..).cloned().collect())
    }

    /// The newest change of an object that came no later than a version, if it is still here.
    pub fn latest(&self, kind: Kind, key: &ObjectKey, version: u64) -> Option<Change> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_object =
            kept.changes.iter().rev().filter(|kept| kept.change.kind == kind && kept.change.key == *key);
        let found = of_object.find(|kept| kept.change.version <= version).cloned();
        drop(kept);
        found.map(|kept| kept.whole())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_large_objects_fewer_changes_are_kept() {
        let feed = Feed::new();
        let key = ObjectKey::new("default", "c");
        let change = |version| Change {
            version,
            change: ChangeType::Modified,
            kind: Kind::RayCluster,
            key: key.clone(),
            object: Value::from("x".repeat(BYTES / 4)),
            source: None,
            labels: BTreeMap::new(),
            labels_before: None,
            status_only: false,
            clusters: Vec::new(),
        };
        (1..=8).for_each(|version| feed.publish(vec![change(version)]));
        assert_eq!(feed.since(4), Err(Gone));
        assert_eq!(feed.since(5).map(|changes| changes.len()), Ok(3));
    }
}
