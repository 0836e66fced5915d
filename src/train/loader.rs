//! Which samples a replica takes: each sample once in an epoch, however often the number of replicas changes.

use std::ops::Range;

use crate::goodput::LocalBatch;

/// Numbers that are the same on every machine and in every version: SplitMix64 (Steele, Lea and Flood, "Fast splittable
/// pseudorandom number generators", OOPSLA '14).
pub(super) struct Random(u64);

impl Random {
    /// A sequence of its own for each of these words.
    pub(super) fn new(words: &[u64]) -> Self {
        words.iter().fold(Self(0), |mut random, word| {
            let mixed = random.next() ^ word;
            Self(mixed)
        })
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound, each as likely as another, but for one in 2⁶⁴ divided by the bound.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// The order of the samples in an epoch.
pub(super) struct Order {
    samples: u64,
    /// Where they are shuffled; fewer than 2³² of them take half the memory.
    shuffled: Option<Vec<u32>>,
}

impl Order {
    /// The order of so many samples, which is a matter of the seed and the epoch alone.
    pub(super) fn new(samples: u64, shuffle: Option<u64>, epoch: u64) -> Self {
        let shuffled = shuffle.map(|seed| {
            let mut order: Vec<u32> = (0..samples as u32).collect();
            let mut random = Random::new(&[seed, epoch]);
            // Fisher and Yates, as Durstenfeld has it.
            for last in (1..order.len()).rev() {
                order.swap(last, random.below(last as u64 + 1) as usize);
            }
            order
        });
        Self { samples, shuffled }
    }

    /// How many samples there are.
    pub(super) fn len(&self) -> u64 {
        self.samples
    }

    /// The samples at these places.
    pub(super) fn at(&self, places: Range<u64>) -> Vec<i64> {
        match &self.shuffled {
            Some(order) => {
                order[places.start as usize..places.end as usize].iter().map(|it| i64::from(*it)).collect()
            }
            None => (places.start as i64..places.end as i64).collect(),
        }
    }
}

/// What one replica takes of a step of the optimizer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// How many samples all replicas take together.
    pub(super) total: u64,
    /// The places that this one takes, batch by batch. It may be none, at the end of an epoch.
    pub(super) batches: Vec<Range<u64>>,
    /// Whether all replicas take the same number of batches of the same size.
    pub(super) even: bool,
    /// Whether each replica takes something.
    pub(super) all: bool,
}

/// The share of a replica in the step that begins at a place of an epoch, of at most so many samples; `None` at its end.
pub(super) fn share(
    order: &Order,
    index: u64,
    most: u64,
    (rank, replicas): (u32, u32),
    local: LocalBatch,
) -> Option<Share> {
    let total = most.min(local.total(replicas)).min(order.len().saturating_sub(index));
    if total == 0 {
        return None;
    }
    // Split so that no two shares differ by more than a sample; the product of two large numbers is no problem then.
    let place = |rank: u32| index + (u128::from(total) * u128::from(rank) / u128::from(replicas)) as u64;
    let (start, end) = (place(rank), place(rank + 1));
    let atomic = u64::from(local.atomic());
    let batches = (start..end).step_by(local.atomic() as usize).map(|begin| begin..(begin + atomic).min(end));
    let each = total / u64::from(replicas);
    let even = total.is_multiple_of(u64::from(replicas)) && (each <= atomic || each.is_multiple_of(atomic));
    Some(Share { total, batches: batches.collect(), even, all: total >= u64::from(replicas) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn local(atomic: u32, accumulation_steps: u32) -> LocalBatch {
        LocalBatch::new(NonZeroU32::new(atomic).unwrap(), accumulation_steps)
    }

    proptest! {
        /// Whoever takes over in the middle of an epoch, with whatever batches: every sample comes once.
        #[test]
        fn each_sample_is_taken_once(
            samples in 1u64..500,
            seed in any::<Option<u64>>(),
            most in 1u64..200,
            groups in prop::collection::vec((1u32..6, 1u32..40, 0u32..3, 1u32..6), 1..8),
        ) {
            let mut seen = vec![0; samples as usize];
            let mut index = 0;
            for (replicas, atomic, accumulation, steps) in groups.iter().copied().cycle() {
                let order = Order::new(samples, seed, 7);
                for _ in 0..steps {
                    let mut total = 0;
                    for rank in 0..replicas {
                        let Some(share) = share(&order, index, most, (rank, replicas), local(atomic, accumulation)) else {
                            continue;
                        };
                        prop_assert!(share.batches.len() as u32 <= accumulation + 1);
                        for places in share.batches {
                            prop_assert!(!places.is_empty() && places.end - places.start <= u64::from(atomic));
                            order.at(places).into_iter().for_each(|sample| seen[sample as usize] += 1);
                        }
                        total = share.total;
                    }
                    index += total;
                }
                if index == samples {
                    break;
                }
            }
            prop_assert_eq!(seen, vec![1; samples as usize]);
        }
    }

    #[test]
    fn the_order_is_a_matter_of_seed_and_epoch() {
        let order = |seed, epoch| Order::new(100, Some(seed), epoch).at(0..100);
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        // The order of an epoch that has begun must be that of the next version of this program, too.
        assert_eq!(order(1, 0)[..6], [71, 48, 42, 9, 32, 12]);
        assert_eq!(Order::new(5, None, 3).at(1..4), [1, 2, 3]);
    }

    #[test]
    fn a_replica_may_have_nothing_to_do_at_the_end() {
        let order = Order::new(2, None, 0);
        let shares: Vec<_> =
            (0..3).map(|rank| share(&order, 0, 12, (rank, 3), local(4, 0)).unwrap()).collect();
        assert_eq!(shares.iter().map(|it| it.batches.len()).collect::<Vec<_>>(), [0, 1, 1]);
        assert!(shares.iter().all(|it| !it.even && !it.all && it.total == 2));
        assert_eq!(share(&order, 2, 12, (0, 3), local(4, 0)), None);
    }
}
