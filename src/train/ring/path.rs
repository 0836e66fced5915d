//! Which parts of the values go round the ring, and in which order: pure.
//!
//! A rank passes on each part after it has received it, and begins with its own. So what it sends is what it receives,
//! one part later: both are walks along one path of `parts`, in which part `i` of rank `r` is `r - i`.
//!
//! *Many values* are cut into as many parts as there are ranks. Each part goes round once while every rank adds its
//! own (reduce-scatter), and once more as the finished sum (all-gather): 2 (n - 1) parts are sent. What a rank computes
//! nobody computes differently, and so all have the same bits.
//!
//! *Few values* go round whole, as the rows of a table, and every rank adds up the rows in the order of ranks: n - 1
//! rows are sent, in half as many steps.
//!
//! Parts are cut into pieces, which are what is sent at a time: a piece can be passed on while the next one comes. Even
//! an empty part has a piece, so that ranks that do not mean the same sum find out.

use std::ops::Range;

/// What one rank sends and receives for one sum.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// The pieces, as indices of values: first those that begin here.
    pieces: Vec<Range<usize>>,
    /// How many of the pieces begin here: they are sent, and not received.
    own: usize,
    /// How many of the pieces end here: they are received, and not sent.
    last: usize,
    /// How many pieces, after its own, are added to the values here; the ones after them replace what is here.
    added: usize,
}

impl Path {
    /// The path of values that are cut into a part for each rank.
    pub(super) fn of_parts(rank: usize, size: usize, values: usize, piece: usize) -> Self {
        let bound = |part: usize| values / size * part + part.min(values % size);
        let parts = (0..2 * size - 1).map(|step| (rank + 2 * size - step) % size);
        Self::of(parts.map(|part| bound(part)..bound(part + 1)), size - 1, piece)
    }

    /// The path of values that go round whole, where every rank has a table with a row for each.
    pub(super) fn of_rows(rank: usize, size: usize, values: usize, piece: usize) -> Self {
        let rows = (0..size).map(|step| (rank + size - step) % size);
        Self::of(rows.map(|row| row * values..(row + 1) * values), 0, piece)
    }

    /// `added`: how many parts after the first are added.
    fn of(parts: impl Iterator<Item = Range<usize>>, added: usize, piece: usize) -> Self {
        let mut pieces = Vec::new();
        let mut ends = Vec::new();
        for part in parts {
            pieces.push(part.start..part.end.min(part.start + piece));
            pieces.extend(
                (part.start + piece..part.end).step_by(piece).map(|start| start..part.end.min(start + piece)),
            );
            ends.push(pieces.len());
        }
        let own = ends.first().copied().unwrap_or(0);
        let last = pieces.len() - ends.iter().rev().nth(1).copied().unwrap_or(0);
        let added = ends.get(added).copied().unwrap_or(0) - own;
        Self { pieces, own, last, added }
    }

    /// The piece that is sent after this many, once this many have been received.
    pub(super) fn outgoing(&self, sent: usize, received: usize) -> Option<Range<usize>> {
        (sent < self.to_send() && sent < self.own + received).then(|| self.pieces[sent].clone())
    }

    /// The piece that is received after this many, and whether it is added to what is here.
    pub(super) fn incoming(&self, received: usize) -> Option<(Range<usize>, bool)> {
        let piece = self.pieces.get(self.own + received)?;
        Some((piece.clone(), received < self.added))
    }

    /// How many pieces are sent.
    pub(super) fn to_send(&self) -> usize {
        self.pieces.len() - self.last
    }

    /// How many pieces are received.
    pub(super) fn to_receive(&self) -> usize {
        self.pieces.len() - self.own
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// All ranks in lockstep, without sockets: what `values` of each become.
    fn sums(size: usize, values: usize, piece: usize) -> Vec<Vec<u64>> {
        let paths: Vec<Path> = (0..size).map(|rank| Path::of_parts(rank, size, values, piece)).collect();
        let mut all: Vec<Vec<u64>> = (0..size)
            .map(|rank| (0..values).map(|index| ((index + 1) << (8 * rank)) as u64).collect())
            .collect();
        let (mut sent, mut received) = (vec![0; size], vec![0; size]);
        loop {
            let mut any = false;
            for rank in 0..size {
                let Some(piece) = paths[rank].outgoing(sent[rank], received[rank]) else { continue };
                let next = (rank + 1) % size;
                let (place, added) = paths[next].incoming(received[next]).unwrap();
                assert_eq!(place, piece, "what rank {rank} sends is what rank {next} expects");
                for index in piece {
                    let value = all[rank][index];
                    let here = &mut all[next][index];
                    *here = if added { *here + value } else { value };
                }
                sent[rank] += 1;
                received[next] += 1;
                any = true;
            }
            if !any {
                break;
            }
        }
        for rank in 0..size {
            assert_eq!((sent[rank], received[rank]), (paths[rank].to_send(), paths[rank].to_receive()));
        }
        all
    }

    #[test]
    fn parts_add_up_on_all_ranks() {
        for size in 2..=7 {
            for values in [0, 1, size - 1, size, size + 1, 29, 64] {
                for piece in [1, 3, 100] {
                    let expected: Vec<u64> = (1..=values as u64)
                        .map(|value| (0..size).map(|rank| value << (8 * rank)).sum())
                        .collect();
                    for found in sums(size, values, piece) {
                        assert_eq!(found, expected, "{size} ranks, {values} values, pieces of {piece}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_reach_everybody() {
        let path = Path::of_rows(1, 3, 2, 2);
        assert_eq!(path.outgoing(0, 0), Some(2..4), "its own row");
        assert_eq!(path.outgoing(1, 0), None, "that of rank 0 has not come");
        assert_eq!(path.incoming(0), Some((0..2, false)));
        assert_eq!(path.outgoing(1, 1), Some(0..2));
        assert_eq!(path.incoming(1), Some((4..6, false)));
        assert_eq!((path.outgoing(2, 2), path.incoming(2)), (None, None));
    }

    #[test]
    fn nothing_goes_round_too() {
        let path = Path::of_rows(0, 2, 0, 8);
        assert_eq!((path.to_send(), path.to_receive()), (1, 1));
        assert_eq!(path.outgoing(0, 0), Some(0..0));
    }
}
