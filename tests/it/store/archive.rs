//! Workers' output on its way to object storage: each byte once, whatever is repeated, lost or forgotten.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use rayconcile::api::bucket::BucketAddress;
use rayconcile::api::ids::GroupNumber;
use rayconcile::api::object::{AdaptDLJob, AnyObject};
use rayconcile::store::logs::{Archived, JobLogs, OBJECT_BYTES, WorkerId, object_name};
use serde_json::json;

use super::logs::output;

const MIB: u64 = 1 << 20;
const WORKER: WorkerId = (GroupNumber(0), 0);
const PLACE: &str = "s3://team/logs/default/j/0123456789/group-0/rank-0";

/// A job whose output goes to object storage.
fn job() -> AdaptDLJob {
    let job = json!({
        "apiVersion": "rayconcile.dev/v1", "kind": "AdaptDLJob",
        "metadata": {"name": "j", "namespace": "default", "uid": "0123456789"},
        "spec": {"entrypoint": "main.py", "logs": {"url": "s3://team/logs/"}},
    });
    match AnyObject::from_json(job).unwrap() {
        AnyObject::Job(job) => *job,
        AnyObject::Cluster(_) => unreachable!(),
    }
}

/// A state directory, and a bucket that is a map.
struct Region {
    state: tempfile::TempDir,
    logs: JobLogs,
    place: BucketAddress,
    objects: BTreeMap<String, Vec<u8>>,
    /// The position up to which everything was written by the worker.
    end: u64,
    /// From where on the cluster still has it.
    fetchable: u64,
    /// What had to go before it was there.
    lost: u64,
}

impl Region {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let logs = JobLogs::of_job(state.path(), &job());
        let place = logs.place(WORKER).unwrap();
        assert_eq!(place.to_string(), PLACE);
        Self { state, logs, place, objects: BTreeMap::new(), end: 0, fetchable: 0, lost: 0 }
    }

    fn write(&mut self, length: u64) {
        let (_, here) = self.logs.range(WORKER).unwrap();
        // What is not here is fetched again.
        let from = here.max(self.fetchable);
        self.end += length;
        self.lost += self.logs.append(WORKER, from, &output(from, self.end - from)).unwrap();
    }

    /// Brings one object there, as the controller does; says whether there was one.
    fn bring(&mut self, dies: bool) -> bool {
        let known = self.logs.archived(WORKER).unwrap().unwrap_or_else(|| {
            let behind = self.logs.look_behind(WORKER).unwrap();
            let last = self.objects.iter().next_back().filter(|(name, _)| **name > behind);
            Archived::of(&self.place, last.map(|(name, bytes)| (name.clone(), bytes.len() as u64)))
        });
        let Some(portion) = self.logs.portion(WORKER, &known).unwrap() else { return false };
        assert!(portion.bytes.len() <= OBJECT_BYTES);
        self.logs.note_archived(WORKER, &known.trying(&portion)).unwrap();
        let (name, size) = (object_name(portion.start), portion.bytes.len() as u64);
        let before = self.objects.insert(name.clone(), portion.bytes);
        assert!(before.is_none_or(|before| before.len() as u64 <= size), "an object never gets shorter");
        if !dies {
            self.logs.note_archived(WORKER, &Archived::of(&self.place, Some((name, size)))).unwrap();
        }
        true
    }

    /// Every byte that is there is what was written, and is there once; says how many are missing.
    fn check(&self) -> u64 {
        let (mut position, mut missing) = (0, 0);
        for (name, bytes) in &self.objects {
            let start: u64 = name.strip_suffix(".log").unwrap().parse().unwrap();
            assert!(start >= position, "{name} has what is there already, up to {position}");
            assert!(*bytes == output(start, bytes.len() as u64), "{name} has other bytes");
            missing += start - position;
            position = start + bytes.len() as u64;
        }
        missing + self.end - position
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64),
    Bring,
    /// It is brought there, but nobody writes that down.
    BringAndDie,
    /// The machine loses the end of what was written last.
    Tear(u64),
    /// The mark is gone, or cannot be read.
    Forget(bool),
    LoseState,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..3 * MIB).prop_map(Step::Write),
        3 => Just(Step::Bring),
        3 => Just(Step::BringAndDie),
        1 => (1..MIB).prop_map(Step::Tear),
        1 => any::<bool>().prop_map(Step::Forget),
        1 => Just(Step::LoseState),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_byte_comes_there_once(steps in prop::collection::vec(step(), 1..14)) {
        let mut region = Region::new();
        let mut whole = true;
        for step in steps {
            let of_worker = region.state.path().join("jobs/default.j.01234567/logs/group-0/rank-0");
            match step {
                Step::Write(length) => region.write(length),
                Step::Bring => { region.bring(false); }
                Step::BringAndDie => { region.bring(true); }
                Step::Tear(length) => {
                    let files = fs::read_dir(&of_worker).into_iter().flatten().map(|entry| entry.unwrap().path());
                    let last = files.filter(|path| path.extension().is_some_and(|it| it == "log")).max();
                    if let Some(last) = last {
                        let file = fs::File::options().write(true).open(&last).unwrap();
                        file.set_len(file.metadata().unwrap().len().saturating_sub(length)).unwrap();
                    }
                }
                Step::Forget(unreadable) => {
                    let mark = of_worker.join("archived.json");
                    if unreadable && mark.exists() { fs::write(&mark, "{").unwrap() } else { let _ = fs::remove_file(mark); }
                }
                Step::LoseState => {
                    let _ = fs::remove_dir_all(region.state.path().join("jobs"));
                    // What only this machine had is gone, but for the newest, which the cluster has.
                    region.fetchable = region.end.saturating_sub(2 * MIB);
                    whole = false;
                }
            }
            region.check();
        }
        region.write(1);
        while region.bring(false) {}
        let missing = region.check();
        prop_assert!(missing == 0 || !whole, "{missing} bytes are missing");
    }
}

#[test]
fn what_the_machine_lost_is_not_put_over_what_is_there() {
    let mut region = Region::new();
    region.write(10);
    region.bring(false);
    region.write(10);
    region.bring(true);
    let file = region.state.path().join("jobs/default.j.01234567/logs/group-0/rank-0").join(object_name(0));
    fs::File::options().write(true).open(file).unwrap().set_len(19).unwrap();
    assert!(!region.bring(false), "all of it is there");
    region.write(1);
    assert!(region.bring(false));
    assert_eq!(region.check(), 0);
}

#[test]
fn a_small_object_is_put_again_and_a_large_one_is_not() {
    let mut region = Region::new();
    region.write(1000);
    assert!(region.bring(false) && !region.bring(false));
    region.write(2 * MIB);
    assert!(region.bring(false));
    assert_eq!(region.objects.len(), 1, "it has grown");
    region.write(1000);
    assert!(region.bring(false));
    let names: Vec<&String> = region.objects.keys().collect();
    assert_eq!(names, [&object_name(0), &object_name(2 * MIB + 1000)]);
    assert_eq!(region.check(), 0);
    assert_eq!(region.logs.unarchived().unwrap(), []);
}

#[test]
fn what_is_not_there_yet_stays_longer_but_not_for_ever() {
    let mut region = Region::new();
    for _ in 0..100 {
        region.write(MIB);
    }
    let (start, end) = region.logs.range(WORKER).unwrap();
    assert_eq!((start, end, region.lost), (0, 100 * MIB, 0), "more than there would be otherwise");
    assert_eq!(region.logs.unarchived().unwrap(), [(WORKER, 100 * MIB)]);
    for _ in 0..100 {
        region.write(MIB);
    }
    let (start, end) = region.logs.range(WORKER).unwrap();
    assert!(
        end - start <= 17 * 8 * MIB && region.lost == start && start > 0,
        "{start} {end} {}",
        region.lost
    );
    // What is left comes there, and then the files here go as ever.
    let lost = region.lost;
    while region.bring(false) {}
    assert_eq!(region.check(), lost);
    region.write(MIB);
    assert_eq!(region.lost, lost);
    let (start, end) = region.logs.range(WORKER).unwrap();
    assert!(end - start <= 5 * 8 * MIB, "{start} {end}");
}

#[test]
fn groups_that_are_not_there_yet_stay_longer() {
    let logs = Region::new();
    for group in 0..60 {
        logs.logs.append((GroupNumber(group), 0), 0, b"x").unwrap();
    }
    let first = |logs: &JobLogs| logs.workers().unwrap()[0].0.0;
    assert_eq!(first(&logs.logs), 20, "forty are kept");
    for group in 20..50 {
        let worker = (GroupNumber(group), 0);
        let place = logs.logs.place(worker).unwrap();
        let done = Archived::of(&place, Some((object_name(0), 1)));
        logs.logs.note_archived(worker, &done).unwrap();
    }
    assert_eq!(logs.logs.append((GroupNumber(60), 0), 0, b"x").unwrap(), 0);
    assert_eq!(first(&logs.logs), 41, "twenty are kept of those that are there");
}
