//! What can be added up, and the vectors of it while they are.

use std::ops::{AddAssign, Range};
use std::sync::mpsc;

use zerocopy::IntoBytes as _;

use super::frame::{Kind, PIECE};
use super::path::Path;

/// A vector with fewer bytes goes round whole: waiting for others takes longer than sending it all.
const FEW: usize = 16 << 10;

mod sealed {
    use super::{AddAssign, Kind};

    /// What the ring needs to know of values.
    pub trait Value:
        Copy
        + Default
        + Send
        + AddAssign
        + zerocopy::FromBytes
        + zerocopy::IntoBytes
        + zerocopy::Immutable
        + 'static
    {
        /// How it is called on the way.
        const KIND: Kind;
    }

    impl Value for f32 {
        const KIND: Kind = Kind::F32;
    }

    impl Value for f64 {
        const KIND: Kind = Kind::F64;
    }
}

/// What a ring can add up: `f32` and `f64`.
pub trait Element: sealed::Value {}

impl Element for f32 {}

impl Element for f64 {}

// Values travel as they lie in memory.
const _: () =
    assert!(cfg!(target_endian = "little"), "the ring's values travel with their lowest byte first");

/// A vector that is to be added up, of whatever type. Ranges are indices of values.
pub(super) trait Task: Send {
    /// Of what type the values are.
    fn kind(&self) -> Kind;
    /// How many there are.
    fn values(&self) -> usize;
    /// Makes room for what will come, and says what that will be.
    fn begin(&mut self, rank: usize, size: usize) -> Path;
    /// How many bytes these values have.
    fn width(&self, range: &Range<usize>) -> usize;
    /// What is here.
    fn bytes(&self, range: Range<usize>) -> &[u8];
    /// Where a piece is to be written that comes in, either to be added or to replace what is here.
    fn place(&mut self, range: Range<usize>, added: bool) -> &mut [u8];
    /// All of a piece has been written where `place` said.
    fn placed(&mut self, range: Range<usize>, added: bool);
    /// All pieces have come.
    fn finish(self: Box<Self>);
}

/// A vector of one type, and who waits for its sum.
pub(super) struct Sum<T> {
    /// The values, or the rows of all ranks.
    values: Vec<T>,
    /// How many values there are.
    count: usize,
    /// A piece that is to be added, while it comes.
    coming: Vec<T>,
    done: mpsc::SyncSender<Vec<T>>,
}

impl<T: Element> Sum<T> {
    /// Nobody needs to wait for it: then the sum is thrown away.
    pub(super) fn new(values: Vec<T>, done: mpsc::SyncSender<Vec<T>>) -> Self {
        Self { count: values.len(), values, coming: Vec::new(), done }
    }
}

impl<T: Element> Task for Sum<T> {
    fn kind(&self) -> Kind {
        T::KIND
    }

    fn values(&self) -> usize {
        self.count
    }

    fn begin(&mut self, rank: usize, size: usize) -> Path {
        let piece = PIECE / size_of::<T>();
        if self.count * size_of::<T>() >= FEW {
            self.coming = vec![T::default(); piece.min(self.count)];
            return Path::of_parts(rank, size, self.count, piece);
        }
        let mut table = vec![T::default(); size * self.count];
        table[rank * self.count..(rank + 1) * self.count].copy_from_slice(&self.values);
        self.values = table;
        Path::of_rows(rank, size, self.count, piece)
    }

    fn width(&self, range: &Range<usize>) -> usize {
        range.len() * size_of::<T>()
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.values[range].as_bytes()
    }

    fn place(&mut self, range: Range<usize>, added: bool) -> &mut [u8] {
        match added {
            true => self.coming[..range.len()].as_mut_bytes(),
            false => self.values[range].as_mut_bytes(),
        }
    }

    fn placed(&mut self, range: Range<usize>, added: bool) {
        if added {
            add(&mut self.values[range], &self.coming);
        }
    }

    fn finish(mut self: Box<Self>) {
        let (sum, rows) = self.values.split_at_mut(self.count);
        if self.count > 0 {
            rows.chunks_exact(self.count).for_each(|row| add(sum, row));
        }
        self.values.truncate(self.count);
        // Whoever asked may not wait any more.
        let _ = self.done.send(self.values);
    }
}

/// Adds as many values as the sum has.
fn add<T: AddAssign + Copy>(sum: &mut [T], values: &[T]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += *value;
    }
}
