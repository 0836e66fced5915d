//! What is told of changes: versions, the feed for watchers, and events.

use jiff::Timestamp;
use rayconcile::api::event::{EventType, NewEvent};
use rayconcile::api::ids::Uid;
use rayconcile::api::object::Kind;
use rayconcile::store::feed::{ChangeType, Gone};
use rayconcile::store::{Applied, Store, StoreError};

use super::{apply, cluster, job, put};

fn event(object: &str, message: &str) -> NewEvent {
    NewEvent {
        kind: Kind::AdaptDLJob.into(),
        object: rayconcile::api::meta::ObjectKey::new("default", object),
        uid: Uid::from(object.to_owned()),
        event_type: EventType::Normal,
        reason: "Tested".to_owned(),
        message: message.to_owned(),
    }
}

#[test]
fn every_change_gets_a_version_of_its_own_and_is_told_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let news = store.feed().subscribe();
    let first = put(&store, job("a")).metadata().resource_version;
    let mut changed = job("a");
    changed.metadata_mut().labels.insert("x".to_owned(), "y".to_owned());
    let (applied, stored) = store
        .write_now(|tx| tx.apply(changed, Some(first), Uid::from("other".to_owned()), Timestamp::now()))
        .unwrap();
    assert_eq!(
        (applied, stored.metadata().generation, stored.uid().0.as_str()),
        (Applied::Configured, 1, "a")
    );
    let mut status = stored.status();
    status["phase"] = "Running".into();
    let set = || store.write_now(|tx| tx.set_status(stored.uid(), status.clone())).unwrap();
    assert_eq!((set(), set()), (true, false), "the same again is no change");
    store.write_now(|tx| tx.remove(stored.uid())).unwrap();
    let changes = store.feed().since(0).unwrap();
    let versions: Vec<u64> = changes.iter().map(|change| change.version).collect();
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    let types: Vec<ChangeType> = changes.iter().map(|change| change.change).collect();
    let (added, modified, deleted) = (ChangeType::Added, ChangeType::Modified, ChangeType::Deleted);
    assert_eq!(types, [added, modified, modified, deleted]);
    // Each carries the version that it is told under: the deletion too, so that it is not seen twice.
    for change in &changes {
        assert_eq!(change.object["metadata"]["resourceVersion"], change.version.to_string());
    }
    assert_eq!(*news.borrow(), *versions.last().unwrap());
    assert_eq!(store.feed().since(*versions.last().unwrap()).unwrap().len(), 0);
}

#[test]
fn what_fails_or_is_only_rehearsed_is_neither_kept_nor_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    put(&store, job("a"));
    let before = store.read_now(|tx| tx.newest_version()).unwrap();
    let failed = store.write_now(|tx| {
        apply(tx, job("b"));
        tx.record_event(&event("b", "made"), Timestamp::now())?;
        tx.apply(job("a"), Some(77), Uid::from("a".to_owned()), Timestamp::now())
    });
    assert!(matches!(failed, Err(StoreError::Conflict { expected: 77, .. })));
    let absent =
        store.write_now(|tx| tx.apply(job("c"), Some(1), Uid::from("c".to_owned()), Timestamp::now()));
    assert_eq!(absent.unwrap_err().to_string(), "AdaptDLJob default/c is not there any more");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let made = runtime.block_on(store.rehearse(|tx| Ok(apply(tx, job("b")))));
    assert_eq!(made.unwrap().metadata().resource_version, before + 1);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.write_now(|tx| -> Result<(), StoreError> {
            apply(tx, job("b"));
            panic!("in the middle")
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(store.feed().since(before).unwrap().len(), 0);
    let (jobs, events, version) = store
        .read_now(|tx| {
            Ok((tx.list(Kind::AdaptDLJob)?.len(), tx.events_since(0)?.len(), tx.newest_version()?))
        })
        .unwrap();
    assert_eq!((jobs, events, version), (1, 0, before));
    assert_eq!(put(&store, job("b")).metadata().resource_version, before + 1);
}

#[test]
fn who_is_too_far_behind_is_told_to_list_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let first = put(&store, cluster("c")).metadata().resource_version;
    assert_eq!(store.feed().since(first).unwrap().len(), 0);
    let many = |tx: &rayconcile::store::Tx<'_>| {
        (0..2100).for_each(|number| drop(apply(tx, job(&format!("j{number}")))));
        Ok(())
    };
    store.write_now(many).unwrap();
    assert_eq!(store.feed().since(first).unwrap_err(), Gone);
    let newest = store.read_now(|tx| tx.newest_version()).unwrap();
    assert_eq!(store.feed().since(newest - 2048).unwrap().len(), 2048);
    assert_eq!(store.feed().since(newest - 2049).unwrap_err(), Gone);
    assert!(store.feed().knows(newest - 2048) && !store.feed().knows(newest - 2049));
    drop(store);
    // After a restart only what comes then is known.
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.feed().since(newest - 1).unwrap_err(), Gone);
    assert_eq!(*store.feed().subscribe().borrow(), newest);
    let next = put(&store, job("next")).metadata().resource_version;
    assert_eq!((next, store.feed().since(newest).unwrap().len()), (newest + 1, 1));
}

#[test]
fn equal_events_are_counted_and_the_oldest_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let record = |object: &str, message: &str, times: u32| {
        let event = event(object, message);
        let all = |tx: &rayconcile::store::Tx<'_>| {
            (0..times).try_for_each(|_| tx.record_event(&event, Timestamp::now()))
        };
        store.write_now(all).unwrap();
    };
    let of = |object: &str| store.read_now(|tx| tx.events_of(&Uid::from(object.to_owned()))).unwrap();
    let mut news = store.newest_event();
    assert_eq!(*news.borrow_and_update(), 0);
    record("a", "it happened", 3);
    assert!(news.has_changed().unwrap(), "who watches is told");
    assert_eq!(*news.borrow_and_update(), 3);
    put(&store, job("j"));
    assert!(!news.has_changed().unwrap(), "of nothing but events");
    record("b", "it happened", 1);
    record("a", "it happened", 2);
    record("a", "it happened otherwise", 1);
    let (a, b) = (of("a"), of("b"));
    assert_eq!(a.iter().map(|event| event.count).collect::<Vec<_>>(), [5, 1]);
    assert_eq!(b[0].count, 1);
    assert!(a[0].version > b[0].version && a[0].first_seen < a[0].last_seen, "counted up, it is news again");
    assert_eq!(store.read_now(|tx| tx.events_since(b[0].version)).unwrap().len(), 2);
    let flood = |tx: &rayconcile::store::Tx<'_>| {
        (0..20_010).try_for_each(|number| tx.record_event(&event("c", &number.to_string()), Timestamp::now()))
    };
    store.write_now(flood).unwrap();
    let all = store.read_now(|tx| tx.events_since(0)).unwrap();
    assert_eq!((all.len(), all.last().unwrap().event.message.as_str()), (20_000, "20009"));
    assert_eq!(of("a").len(), 0);
    let newest = all.last().unwrap().version;
    assert_eq!(*store.newest_event().borrow(), newest);
    drop((news, store));
    assert_eq!(
        *Store::open(directory.path()).unwrap().newest_event().borrow(),
        newest,
        "also after a restart"
    );
}
