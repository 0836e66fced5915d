//! A writer that is killed at any moment leaves every transaction whole, and none that it was told was kept is lost.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use rayconcile::action::{Effect, Intent, IntentState};
use rayconcile::api::event::{EventType, NewEvent};
use rayconcile::api::ids::IntentId;
use rayconcile::api::meta::ObjectKey;
use rayconcile::api::object::Kind;
use rayconcile::api::record::JobRecord;
use rayconcile::store::{Store, StoreError, Tx};

use super::{apply, job};

/// Names the state directory to a process that is to write until it is killed.
const WRITE_TO: &str = "RAYCONCILE_TEST_WRITE_TO";
const ROUNDS: usize = 8;

/// What belongs together: an object, what was decided for it, what is to be done, and what is told of it.
fn write(tx: &Tx<'_>, number: usize) -> Result<(), StoreError> {
    let (name, cluster, now) = (format!("j{number:06}"), ObjectKey::new("default", "c"), Timestamp::now());
    let object = apply(tx, job(&name));
    tx.put_job_record(object.uid(), &JobRecord { revision: number as u64, ..JobRecord::default() })?;
    tx.put_intent(&Intent {
        id: IntentId::from(name),
        cluster,
        effect: Effect::RemoveBridge { job: object.uid().clone(), keep: false },
        created: now,
        attempts: 0,
        not_before: now,
        last_error: None,
        state: IntentState::Pending,
    })?;
    let event = NewEvent {
        kind: Kind::AdaptDLJob.into(),
        object: object.key(),
        uid: object.uid().clone(),
        event_type: EventType::Normal,
        reason: "Written".to_owned(),
        message: String::new(),
    };
    tx.record_event(&event, now)
}

/// No test: the process that is killed. It says each number that it was told was kept.
#[test]
fn writer() {
    let Some(state) = std::env::var_os(WRITE_TO) else { return };
    let store = Store::open(Path::new(&state)).unwrap();
    let begin = store.read_now(|tx| tx.list(Kind::AdaptDLJob)).unwrap().len();
    for number in begin.. {
        store.write_now(|tx| write(tx, number)).unwrap();
        writeln!(std::io::stderr(), "kept {number}").unwrap();
    }
}

/// Runs a writer, kills it a moment after it has kept some, and gives the newest that it says was kept.
fn killed_writer(state: &Path, after: usize, moment: Duration) -> Option<usize> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "store::crashes::writer", "--nocapture", "--test-threads=1"])
        .env(WRITE_TO, state);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut kept =
        lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("kept ")?.parse::<usize>().ok());
    let mut newest = kept.by_ref().take(after).last();
    std::thread::sleep(moment);
    child.kill().unwrap();
    child.wait().unwrap();
    newest = kept.last().or(newest);
    newest
}

#[test]
fn a_killed_writer_leaves_whole_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let state: PathBuf = directory.path().join("state");
    let mut newest = None;
    for round in 0..ROUNDS {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        let (after, moment) = ((high % 20) as usize, Duration::from_micros(low % 8000));
        newest = killed_writer(&state, after, moment).or(newest);
        let store = Store::open(&state).unwrap();
        let (objects, intents, events, version) = store
            .read_now(|tx| {
                let objects = tx.list(Kind::AdaptDLJob)?;
                for (number, object) in objects.iter().enumerate() {
                    assert_eq!(tx.job_record(object.uid())?.revision, number as u64);
                }
                let intents = tx.intents(&ObjectKey::new("default", "c"))?;
                Ok((objects, intents, tx.events_since(0)?, tx.newest_version()?))
            })
            .unwrap();
        let context = format!("round {round}, killed {moment:?} after {after}");
        assert!(newest.is_none_or(|newest| objects.len() > newest), "{context}: what was kept is lost");
        let names: BTreeSet<String> = objects.iter().map(|object| object.key().name).collect();
        assert_eq!(names, intents.into_iter().map(|intent| intent.id.to_string()).collect(), "{context}");
        assert_eq!(names, events.into_iter().map(|event| event.event.object.name).collect(), "{context}");
        assert_eq!(version, objects.len() as u64, "{context}");
        assert!(objects.iter().all(|object| object.metadata().resource_version <= version), "{context}");
    }
    assert!(newest.is_some());
}
