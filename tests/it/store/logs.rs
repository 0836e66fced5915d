//! The workers' output: bounded, rotated, and whole after a write that was torn.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rayconcile::api::ids::{GroupNumber, Uid};
use rayconcile::api::meta::ObjectMeta;
use rayconcile::store::logs::JobLogs;

const MIB: u64 = 1 << 20;

fn job() -> ObjectMeta {
    ObjectMeta { uid: Uid::from("0123456789".to_owned()), ..ObjectMeta::named("default", "j") }
}

/// A job's logs in a directory of their own, and the files of its first worker, oldest first.
fn logs() -> (tempfile::TempDir, JobLogs, impl Fn() -> Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    let logs = JobLogs::of(directory.path(), &job());
    let of_worker = directory.path().join("jobs/default.j.01234567/logs/group-0/rank-0");
    let files = move || {
        let entries = fs::read_dir(&of_worker).into_iter().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    (directory, logs, files)
}

/// What a worker writes: every eight bytes tell where they are.
pub(super) fn output(from: u64, length: u64) -> Vec<u8> {
    let words: Vec<[u8; 8]> = (from / 8..(from + length).div_ceil(8)).map(u64::to_be_bytes).collect();
    words.as_flattened()[(from % 8) as usize..][..length as usize].to_vec()
}

const WORKER: (GroupNumber, u32) = (GroupNumber(0), 0);

#[test]
fn output_is_cut_into_segments_and_the_oldest_go() {
    let (_directory, logs, files) = logs();
    for megabyte in 0..36 {
        logs.append(WORKER, megabyte * MIB, &output(megabyte * MIB, MIB)).unwrap();
    }
    let sizes: Vec<u64> = files().iter().map(|path| path.metadata().unwrap().len()).collect();
    assert!(sizes.len() == 4 && sizes.iter().all(|size| *size <= 8 * MIB), "{sizes:?}");
    let (start, end) = logs.range(WORKER).unwrap();
    assert_eq!((end, end - start), (36 * MIB, sizes.iter().sum()));
    // What is there is read as it was written, over the ends of segments; what has gone is skipped.
    let (mut position, mut read) = logs.read(WORKER, 0, 1000).unwrap();
    assert_eq!(position, start);
    while !read.is_empty() {
        assert!(read == output(position, read.len() as u64), "other bytes from {position} on");
        (position, read) = logs.read(WORKER, position + read.len() as u64, 3 << 20).unwrap();
    }
    assert_eq!(position, end);
}

#[test]
fn a_torn_write_is_made_good() {
    let (_directory, logs, files) = logs();
    logs.append(WORKER, 0, &output(0, 9 * MIB)).unwrap();
    logs.append(WORKER, 9 * MIB, &output(9 * MIB, 1000)).unwrap();
    // Of what the controller wrote last, only a part reached the disk: any part, or none.
    for kept in [999, 1, 0] {
        let last = files().pop().unwrap();
        fs::File::options().write(true).open(&last).unwrap().set_len(kept).unwrap();
        let (_, end) = logs.range(WORKER).unwrap();
        assert_eq!(end, 9 * MIB + kept);
        // The rest is fetched again, from where what is there ends or from where it was fetched before.
        for from in [end, 9 * MIB] {
            logs.append(WORKER, from, &output(from, 9 * MIB + 1000 - from)).unwrap();
            let (position, read) = logs.read(WORKER, 9 * MIB, 5000).unwrap();
            assert!(position == 9 * MIB && read == output(9 * MIB, 1000), "kept {kept}, again from {from}");
        }
    }
}

#[test]
fn what_is_not_a_segment_is_left_alone() {
    let (directory, logs, files) = logs();
    logs.append(WORKER, 0, b"one").unwrap();
    let of_worker = files()[0].parent().unwrap().to_owned();
    fs::write(of_worker.join("notes.txt"), "mine").unwrap();
    fs::create_dir(of_worker.parent().unwrap().join("rank-x")).unwrap();
    fs::write(directory.path().join("jobs/default.j.01234567/logs/group-"), "").unwrap();
    logs.append(WORKER, 3, b"two").unwrap();
    assert_eq!(logs.read(WORKER, 0, 10).unwrap(), (0, b"onetwo".to_vec()));
    assert_eq!(logs.workers().unwrap(), [WORKER]);
    assert!(of_worker.join("notes.txt").exists());
}

#[test]
fn the_oldest_groups_go() {
    let (_directory, logs, _) = logs();
    for group in 0..50 {
        logs.append((GroupNumber(group), 0), 0, b"x").unwrap();
        logs.append((GroupNumber(group), 1), 0, b"y").unwrap();
    }
    let workers = logs.workers().unwrap();
    assert_eq!((workers.len(), workers[0]), (40, (GroupNumber(30), 0)));
    // The rest of an old group's output may come late; it does not push out newer ones.
    logs.append((GroupNumber(3), 0), 0, b"late").unwrap();
    assert!(logs.workers().unwrap().contains(&(GroupNumber(49), 0)));
}

#[test]
fn who_reads_is_not_hurt_by_what_goes_meanwhile() {
    let (_directory, logs, _) = logs();
    let writing = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let segment = vec![b'x'; 8 * MIB as usize];
            for number in 0..30 {
                logs.append(WORKER, number * 8 * MIB, &segment).unwrap();
            }
            writing.store(false, Ordering::Relaxed);
        });
        while writing.load(Ordering::Relaxed) {
            let (_, read) = logs.read(WORKER, 0, 100).unwrap();
            assert!(read.iter().all(|byte| *byte == b'x'));
        }
    });
}
