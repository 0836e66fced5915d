//! Tensors where they lie: how one is laid out in its storage, its numbers, and how two differ.
//!
//! Numbers are read in pieces, in the order in which they lie, and never held together, however large a tensor is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::dtype::Dtype;

/// As much of a storage is read at once.
const PIECE: u64 = 1 << 20;
/// Tensors that are laid out differently are compared in memory, up to this size.
const LARGEST_HELD: u64 = 256 << 20;
/// A view may have every number of its storage so many times.
const MOST_TIMES: u64 = 64;

/// Where numbers lie.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub(super) place: Place,
    /// How many bytes there are.
    pub(super) length: u64,
    /// Whether the highest byte of a number comes first.
    pub(super) swapped: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In a file, from there on.
    File(Arc<File>, u64),
    Memory(Arc<[u8]>),
}

impl Storage {
    fn read(&self, from: u64, bytes: &mut [u8]) -> io::Result<()> {
        match &self.place {
            Place::File(file, start) => file.read_exact_at(bytes, start.saturating_add(from)),
            Place::Memory(held) => {
                let from = usize::try_from(from).map_err(io::Error::other)?;
                let part = from.checked_add(bytes.len()).and_then(|end| held.get(from..end));
                bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    /// So many elements, each `stride` after the one before, one after the other.
    fn gather(
        &self,
        dtype: &Dtype,
        first: u64,
        stride: u64,
        count: u64,
        bytes: &mut Vec<u8>,
    ) -> io::Result<()> {
        let size = dtype.size().unwrap_or(1);
        bytes.resize((count * size) as usize, 0);
        let is_far = stride.saturating_mul(size) > PIECE || matches!(self.place, Place::Memory(_));
        if stride == 1 {
            self.read(first * size, bytes)?;
        } else if is_far {
            for (index, element) in bytes.chunks_exact_mut(size as usize).enumerate() {
                self.read((first + index as u64 * stride) * size, element)?;
            }
        } else {
            let mut span = vec![0; (((count - 1) * stride + 1) * size) as usize];
            self.read(first * size, &mut span)?;
            let elements = span.chunks_exact(size as usize).step_by(stride.max(1) as usize);
            let places = bytes.chunks_exact_mut(size as usize);
            places.zip(elements).for_each(|(place, element)| place.copy_from_slice(element));
        }
        if self.swapped {
            bytes.chunks_exact_mut(size as usize / dtype.parts()).for_each(<[u8]>::reverse);
        }
        Ok(())
    }
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// What it is called: the way to it.
    pub name: String,
    /// What its numbers are.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// How far apart neighbours lie, for each dimension.
    pub(super) strides: Vec<u64>,
    /// Where its first element lies.
    pub(super) offset: u64,
    /// Where its numbers lie, or why that is not known.
    pub(super) storage: Result<Storage, String>,
}

/// What the numbers of a tensor come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// The Euclidean norm of those that are finite.
    pub norm: f64,
    /// How many are not a number.
    pub nan: u64,
    /// How many are infinite.
    pub inf: u64,
}

/// How the numbers of a tensor differ from those of another of its shape and type.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// How many elements differ.
    pub elements: u64,
    /// The Euclidean norm of the difference, of the numbers that are finite in both.
    pub norm: f64,
    /// The largest absolute difference of these.
    pub largest: f64,
    /// How many elements differ of which one is not finite.
    pub not_finite: u64,
}

/// A dimension of one or two tensors: its length, and how far apart neighbours lie in each.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dimension {
    length: u64,
    a: u64,
    b: u64,
}

impl Tensor {
    /// One whose numbers lie one after the other, row by row or column by column.
    pub(super) fn dense(
        name: String,
        dtype: Dtype,
        shape: Vec<u64>,
        storage: Result<Storage, String>,
        columns: bool,
    ) -> Self {
        let mut strides = vec![0; shape.len()];
        let mut next = 1_u64;
        let mut place = |index: usize| {
            strides[index] = next;
            next = next.saturating_mul(shape[index]);
        };
        match columns {
            true => (0..shape.len()).for_each(&mut place),
            false => (0..shape.len()).rev().for_each(&mut place),
        }
        Self { name, dtype, shape, strides, offset: 0, storage }
    }

    /// Its shape, as Python has it.
    pub fn shape_text(&self) -> String {
        let lengths: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        format!("[{}]", lengths.join(", "))
    }

    /// Its numbers, in the order in which they lie, if they are no more than so many.
    pub(super) fn numbers(&self, most: u64) -> Option<Vec<f64>> {
        let elements = self.shape.iter().try_fold(1_u64, |count, length| count.checked_mul(*length))?;
        if elements == 0 || elements > most {
            return None;
        }
        let storage = self.checked().ok()?;
        let (dimensions, _) = dimensions(&self.shape, &self.strides, &self.strides);
        let (mut all, mut bytes, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        let read = pieces(&dimensions, self.dtype.size()?, |piece| {
            storage.gather(&self.dtype, self.offset + piece.a, piece.stride_a, piece.count, &mut bytes)?;
            self.dtype.decode(&bytes, &mut numbers);
            all.append(&mut numbers);
            Ok(())
        });
        read.is_ok().then_some(all)
    }

    /// What its numbers come to.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn stats(&self) -> Result<Stats, String> {
        let storage = self.checked()?;
        if self.shape.contains(&0) {
            return Ok(Stats::default());
        }
        let (dimensions, times) = dimensions(&self.shape, &self.strides, &self.strides);
        self.bounded(&dimensions, storage)?;
        let (mut stats, mut squares) = (Stats::default(), 0.0);
        let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
        pieces(&dimensions, self.dtype.size().unwrap_or(1), |piece| {
            storage.gather(&self.dtype, self.offset + piece.a, piece.stride_a, piece.count, &mut bytes)?;
            self.dtype.decode(&bytes, &mut numbers);
            for element in numbers.chunks(self.dtype.parts()) {
                if element.iter().any(|number| number.is_nan()) {
                    stats.nan = stats.nan.saturating_add(times);
                } else if element.iter().any(|number| number.is_infinite()) {
                    stats.inf = stats.inf.saturating_add(times);
                } else {
                    squares += element.iter().map(|number| number * number).sum::<f64>();
                }
            }
            Ok(())
        })?;
        stats.norm = (squares * times as f64).sqrt();
        Ok(stats)
    }

    /// How its numbers differ from another's, of the same shape and type.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub fn compare(&self, other: &Self) -> Result<Difference, String> {
        if self.shape.contains(&0) {
            return Ok(Difference::default());
        }
        let (mut a, mut b) = (self.clone(), other.clone());
        a.checked()?;
        b.checked()?;
        let (mut layout, mut times) = dimensions(&a.shape, &a.strides, &b.strides);
        if layout.iter().any(|dimension| dimension.a != dimension.b) {
            a.hold()?;
            b.hold()?;
            (layout, times) = dimensions(&a.shape, &a.strides, &b.strides);
        }
        let (from, to) = (a.checked()?, b.checked()?);
        a.bounded(&layout, if from.length > to.length { from } else { to })?;
        let (mut difference, mut squares) = (Difference::default(), 0.0);
        let (mut left, mut right, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let size = a.dtype.size().unwrap_or(1);
        pieces(&layout, size, |piece| {
            from.gather(&a.dtype, a.offset + piece.a, piece.stride_a, piece.count, &mut left)?;
            to.gather(&a.dtype, b.offset + piece.b, piece.stride_b, piece.count, &mut right)?;
            if left == right {
                return Ok(());
            }
            a.dtype.decode(&left, &mut before);
            a.dtype.decode(&right, &mut after);
            let parts = a.dtype.parts();
            let bytes = left.chunks_exact(size as usize).zip(right.chunks_exact(size as usize));
            let numbers = before.chunks(parts).zip(after.chunks(parts));
            for ((x, y), _) in numbers.zip(bytes).filter(|(_, (x, y))| x != y) {
                let is_float = !matches!(a.dtype, Dtype::Int(_) | Dtype::Uint(_));
                // Zeros of either sign are alike, and so are all that are no number.
                let alike = |(x, y): (&f64, &f64)| x == y || (x.is_nan() && y.is_nan());
                if is_float && x.iter().zip(y).all(alike) {
                    continue;
                }
                difference.elements = difference.elements.saturating_add(times);
                if x.iter().chain(y).all(|number| number.is_finite()) {
                    let square: f64 = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum();
                    squares += square;
                    difference.largest = difference.largest.max(square.sqrt());
                } else {
                    difference.not_finite = difference.not_finite.saturating_add(times);
                }
            }
            Ok(())
        })?;
        difference.norm = (squares * times as f64).sqrt();
        Ok(difference)
    }

    /// Whether another lies in the same way, in a storage of the same bytes: then they are alike, whatever these mean.
    pub(super) fn is_copy_of(&self, other: &Self) -> bool {
        let (Ok(a), Ok(b)) = (&self.storage, &other.storage) else { return false };
        let layout = |tensor: &Self| (tensor.strides.clone(), tensor.offset);
        if layout(self) != layout(other) || a.length != b.length || a.swapped != b.swapped {
            return false;
        }
        let (mut left, mut right) = (Vec::new(), Vec::new());
        (0..a.length.div_ceil(PIECE)).all(|piece| {
            let length = PIECE.min(a.length - piece * PIECE) as usize;
            left.resize(length, 0);
            right.resize(length, 0);
            let read = a.read(piece * PIECE, &mut left).and_then(|()| b.read(piece * PIECE, &mut right));
            read.is_ok() && left == right
        })
    }

    /// Its storage, which has all that it refers to.
    fn checked(&self) -> Result<&Storage, String> {
        let storage = self.storage.as_ref().map_err(String::clone)?;
        let size = self.dtype.size();
        let size = size.ok_or_else(|| format!("numbers of type {} are not read", self.dtype.name()))?;
        if self.strides.len() != self.shape.len() {
            return Err("its strides do not fit its shape".to_owned());
        }
        if self.shape.contains(&0) {
            return Ok(storage);
        }
        let spans =
            self.shape.iter().zip(&self.strides).map(|(length, stride)| (length - 1).checked_mul(*stride));
        let last = spans.into_iter().try_fold(self.offset, |last, span| last.checked_add(span?));
        match last.and_then(|last| last.checked_add(1)?.checked_mul(size)) {
            Some(end) if end <= storage.length => Ok(storage),
            _ => Err("it is larger than its storage".to_owned()),
        }
    }

    /// A few bytes can claim to be a view of very many elements.
    fn bounded(&self, dimensions: &[Dimension], storage: &Storage) -> Result<(), String> {
        let elements =
            dimensions.iter().try_fold(1_u64, |count, dimension| count.checked_mul(dimension.length));
        let most = storage.length.saturating_mul(MOST_TIMES);
        match elements {
            Some(elements) if elements <= most => Ok(()),
            _ => Err("it repeats its storage too often".to_owned()),
        }
    }

    /// Brings the part of the storage that it refers to into memory.
    fn hold(&mut self) -> Result<(), String> {
        let storage = self.checked()?;
        let size = self.dtype.size().unwrap_or(1);
        let spans =
            self.shape.iter().zip(&self.strides).map(|(length, stride)| length.saturating_sub(1) * stride);
        let length = (spans.sum::<u64>() + 1) * size;
        if length > LARGEST_HELD {
            return Err("the two are laid out differently, and too large for that".to_owned());
        }
        let mut bytes = vec![0; length as usize];
        storage.read(self.offset * size, &mut bytes).map_err(|error| error.to_string())?;
        let swapped = storage.swapped;
        self.storage = Ok(Storage { place: Place::Memory(bytes.into()), length, swapped });
        self.offset = 0;
        Ok(())
    }
}

/// The dimensions of what is to be read, those with the largest strides first, and those that lie as one made one; and
/// how many times all of it counts, for dimensions in which nothing moves.
fn dimensions(shape: &[u64], a: &[u64], b: &[u64]) -> (Vec<Dimension>, u64) {
    let all =
        shape.iter().zip(a.iter().zip(b)).map(|(length, (a, b))| Dimension { length: *length, a: *a, b: *b });
    let (still, mut moving): (Vec<Dimension>, Vec<Dimension>) = all
        .filter(|dimension| dimension.length != 1)
        .partition(|dimension| dimension.a == 0 && dimension.b == 0);
    let times = still.iter().fold(1, |times: u64, dimension| times.saturating_mul(dimension.length));
    moving.sort_by_key(|dimension| std::cmp::Reverse((dimension.a, dimension.b)));
    let mut merged: Vec<Dimension> = Vec::new();
    for inner in moving {
        match merged.last_mut() {
            Some(outer)
                if Some(outer.a) == inner.a.checked_mul(inner.length)
                    && Some(outer.b) == inner.b.checked_mul(inner.length)
                    && outer.length.checked_mul(inner.length).is_some() =>
            {
                *outer = Dimension { length: outer.length * inner.length, ..inner };
            }
            _ => merged.push(inner),
        }
    }
    // A number alone is a row of one.
    if merged.is_empty() {
        merged.push(Dimension { length: 1, a: 1, b: 1 });
    }
    (merged, times)
}

/// Some elements of one row, in one or two tensors.
struct Piece {
    a: u64,
    b: u64,
    stride_a: u64,
    stride_b: u64,
    count: u64,
}

/// Goes through all elements in pieces.
fn pieces(
    dimensions: &[Dimension],
    size: u64,
    mut each: impl FnMut(&Piece) -> io::Result<()>,
) -> Result<(), String> {
    let Some((row, outer)) = dimensions.split_last() else { return Ok(()) };
    let most = (PIECE / (row.a.max(row.b).max(1).saturating_mul(size))).max(1);
    let mut place = vec![0_u64; outer.len()];
    loop {
        let at = |stride: fn(&Dimension) -> u64| -> u64 {
            outer.iter().zip(&place).map(|(dimension, index)| stride(dimension) * index).sum()
        };
        let (a, b) = (at(|dimension| dimension.a), at(|dimension| dimension.b));
        let mut done = 0;
        while done < row.length {
            let count = most.min(row.length - done);
            let piece =
                Piece { a: a + done * row.a, b: b + done * row.b, stride_a: row.a, stride_b: row.b, count };
            each(&piece).map_err(|error| format!("its numbers cannot be read: {error}"))?;
            done += count;
        }
        let Some(next) = (0..outer.len()).rev().find(|index| place[*index] + 1 < outer[*index].length) else {
            return Ok(());
        };
        place[next] += 1;
        place[next + 1..].fill(0);
    }
}
