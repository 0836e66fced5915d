//! The control page: a file that a worker and its slot both map, in which each reads what the other has done.
//!
//! It has 4,096 bytes, in words of eight, in the machine's byte order. The slot's side is in the agent's `worker.py`.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapRaw;
use nix::time::{ClockId, clock_gettime};

const BYTES: usize = 4096;

/// The words of the page, by their index.
#[derive(Clone, Copy)]
pub(super) enum Word {
    /// Batches that were processed.
    Steps = 0,
    /// When the last of them was.
    LastStep = 1,
    /// When the first of them was.
    FirstStep = 2,
    /// The epoch, counted from one.
    Epoch = 3,
    /// Progress in scale-invariant iterations: an `f64`.
    Progress = 4,
    /// Samples in a step of the optimizer, of all replicas together.
    Batch = 5,
    /// The number of the save that the slot asks for.
    SaveAsked = 6,
    /// The number of the newest save.
    Saves = 7,
    /// How long that took.
    SaveTime = 8,
    /// How many batches had been processed then.
    SaveSteps = 9,
    /// When the worker last got on, with whatever.
    Active = 10,
    /// Whether it has saved and trains no more.
    Leaving = 11,
    /// How often it could not save, for a disk was full.
    SaveFails = 12,
}

/// The worker's side of the page.
pub(super) struct Control {
    page: MmapRaw,
}

impl Control {
    /// Maps the page at a path.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < BYTES as u64 {
            // Touching what is not there would kill this process.
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than a control page"));
        }
        let page = memmap2::MmapOptions::new().len(BYTES).map_raw(&file)?;
        Ok(Self { page })
    }

    /// The value of a word.
    pub(super) fn get(&self, word: Word) -> u64 {
        self.word(word).load(Ordering::Acquire)
    }

    /// Sets a word.
    pub(super) fn set(&self, word: Word, value: u64) {
        self.word(word).store(value, Ordering::Release);
    }

    #[expect(unsafe_code, reason = "no safe interface shares memory with another process")]
    fn word(&self, word: Word) -> &AtomicU64 {
        // SAFETY: the page is mapped as long as `self` lives, begins at a multiple of eight and has room for all words,
        // and whoever else maps it writes whole words only.
        unsafe { AtomicU64::from_ptr(self.page.as_mut_ptr().cast::<u64>().add(word as usize)) }
    }

    /// A batch was processed.
    pub(super) fn step_done(&self, epoch: u64, progress: f64, batch: u64) {
        let now = now_ns();
        if self.get(Word::FirstStep) == 0 {
            self.set(Word::FirstStep, now);
        }
        self.set(Word::Active, now);
        self.set(Word::Epoch, epoch + 1);
        self.set(Word::Progress, progress.to_bits());
        self.set(Word::Batch, batch);
        self.set(Word::LastStep, now);
        self.set(Word::Steps, self.get(Word::Steps) + 1);
    }

    /// The worker gets on, though it processes no batch.
    pub(super) fn active(&self) {
        self.set(Word::Active, now_ns());
    }

    /// Whether the slot asks for a save.
    pub(super) fn save_wanted(&self) -> bool {
        self.get(Word::SaveAsked) > self.get(Word::Saves)
    }

    /// The number of the next save.
    pub(super) fn next_save(&self) -> u64 {
        (self.get(Word::Saves) + 1).max(self.get(Word::SaveAsked))
    }

    /// A save is whole, which was begun at that time.
    pub(super) fn saved(&self, started_ns: u64) {
        self.set(Word::SaveTime, now_ns().saturating_sub(started_ns));
        self.set(Word::SaveSteps, self.get(Word::Steps));
        // Last: the slot takes a save for complete when this number has grown.
        self.set(Word::Saves, self.next_save());
    }

    /// A save was not possible, for a disk is full.
    pub(super) fn not_saved(&self) {
        self.set(Word::SaveAsked, self.get(Word::Saves));
        self.set(Word::SaveFails, self.get(Word::SaveFails) + 1);
    }
}

/// The kernel's monotonic clock, which all processes of a machine share, in nanoseconds.
pub(super) fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn words_are_where_the_slot_looks_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        fs::write(&path, [0; BYTES]).unwrap();
        let control = Control::open(&path).unwrap();
        control.step_done(3, 1.5, 64);
        control.step_done(3, 2.5, 64);
        let page = fs::read(&path).unwrap();
        let word = |index: usize| u64::from_ne_bytes(page[8 * index..8 * index + 8].try_into().unwrap());
        assert_eq!((word(0), word(3), f64::from_bits(word(4)), word(5)), (2, 4, 2.5, 64));
        assert!(0 < word(2) && word(2) <= word(1) && word(1) == word(10));
    }

    #[test]
    fn a_save_that_is_asked_for_has_the_number_that_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        fs::write(&path, [0; BYTES]).unwrap();
        let (worker, slot) = (Control::open(&path).unwrap(), Control::open(&path).unwrap());
        assert!(!worker.save_wanted());
        slot.set(Word::SaveAsked, 3);
        assert!(worker.save_wanted());
        assert_eq!(worker.next_save(), 3);
        worker.saved(now_ns());
        assert_eq!((slot.get(Word::Saves), worker.save_wanted(), worker.next_save()), (3, false, 4));
        slot.set(Word::SaveAsked, 4);
        worker.not_saved();
        assert_eq!((worker.save_wanted(), slot.get(Word::SaveFails), slot.get(Word::Saves)), (false, 1, 3));
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        fs::write(&path, [0; 100]).unwrap();
        assert!(Control::open(&path).is_err());
    }
}
