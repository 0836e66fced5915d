//! The queue of what is to be planned: each key once, the earliest time wins, and no key twice at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::meta::ObjectKey;

/// The queue. Its keys are the names of clusters.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    due: BTreeMap<ObjectKey, Instant>,
    running: BTreeSet<ObjectKey>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a key to be planned at a time, or earlier if that was asked before.
    pub(super) fn add(&self, key: ObjectKey, at: Instant) {
        {
            let mut state = self.state();
            let due = state.due.entry(key).or_insert(at);
            *due = (*due).min(at);
        }
        self.changed.notify_one();
    }

    /// Asks for a key to be planned now.
    pub(super) fn wake(&self, key: ObjectKey) {
        self.add(key, Instant::now());
    }

    /// The next key that is due and not being planned already. It counts as being planned until `done`.
    pub(super) async fn next(&self) -> ObjectKey {
        loop {
            // Before looking: what is added while looking must be noticed.
            let changed = self.changed.notified();
            let soonest = {
                let mut state = self.state();
                let State { due, running } = &*state;
                let next = due.iter().filter(|(key, _)| !running.contains(*key)).min_by_key(|(_, at)| **at);
                let next = next.map(|(key, at)| (key.clone(), *at));
                match next {
                    Some((key, at)) if at <= Instant::now() => {
                        state.due.remove(&key);
                        state.running.insert(key.clone());
                        return key;
                    }
                    other => other.map(|(_, at)| at),
                }
            };
            match soonest {
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// Says that a key is not being planned any more.
    pub(super) fn done(&self, key: &ObjectKey) {
        self.state().running.remove(key);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", name)
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_wins_and_keys_are_not_repeated() {
        let queue = Queue::default();
        let now = Instant::now();
        queue.add(key("a"), now + Duration::from_secs(10));
        queue.add(key("a"), now + Duration::from_secs(2));
        queue.add(key("a"), now + Duration::from_secs(5));
        queue.add(key("b"), now + Duration::from_secs(3));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(now.elapsed(), Duration::from_secs(2));
        assert_eq!(queue.next().await, key("b"));
        assert_eq!(now.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_being_planned_waits() {
        let queue = Queue::default();
        queue.wake(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.wake(key("a"));
        queue.wake(key("b"));
        assert_eq!(queue.next().await, key("b"));
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.next()).await.is_err());
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
    }
}
