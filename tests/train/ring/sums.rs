//! What comes of adding up.

use std::fmt::Debug;
use std::thread;
use std::time::Duration;

use rayconcile::train::{Element, Ring, RingError};

use super::{config, on_ranks};

/// What a rank gives for one of the sums: the same on each call.
fn given<T: From<f32>>(rank: usize, sum: usize, count: usize) -> Vec<T> {
    let mut random = fastrand::Rng::with_seed((rank * 1000 + sum) as u64);
    (0..count).map(|_| T::from(random.f32() - 0.5)).collect()
}

/// Asks for sums of all these counts at once, and looks whether all ranks have the same bits, and the right values.
fn check<T: Element + From<f32> + Into<f64> + Debug>(size: usize, counts: &[usize], tolerance: f64) {
    let counts = counts.to_vec();
    let asked = counts.clone();
    let all = on_ranks(
        size,
        |_| {},
        move |ring: &Ring, rank| {
            assert_eq!(ring.size(), size);
            let pending: Vec<_> = asked
                .iter()
                .enumerate()
                .map(|(sum, count)| ring.sum::<T>(given(rank, sum, *count)))
                .collect();
            pending.into_iter().map(|pending| pending.wait().unwrap()).collect::<Vec<_>>()
        },
    );
    let bits = |sums: &[T]| sums.iter().map(|value| (*value).into().to_bits()).collect::<Vec<u64>>();
    for (sum, count) in counts.iter().enumerate() {
        let first = &all[0][sum];
        assert_eq!(first.len(), *count);
        for (rank, sums) in all.iter().enumerate() {
            assert!(bits(&sums[sum]) == bits(first), "{count} values are others on rank {rank} of {size}");
        }
        let mut expected = vec![0.0; *count];
        for rank in 0..size {
            for (total, value) in expected.iter_mut().zip(given::<T>(rank, sum, *count)) {
                *total += value.into();
            }
        }
        for (found, expected) in first.iter().zip(&expected) {
            let found: f64 = (*found).into();
            assert!(
                (found - expected).abs() < tolerance,
                "{found} for {expected}: {count} values, {size} ranks"
            );
        }
    }
}

/// Counts about where something changes: nothing, the number of ranks, whole or cut, and pieces.
fn counts(size: usize) -> Vec<usize> {
    let mut counts =
        vec![0, 1, size - 1, size, size + 1, 13, 2047, 2048, 2049, 4095, 4096, 4099, 32_768, 131_071];
    counts.extend([size * 32_768, size * 32_768 + 1, 1_000_003, 3, 0]);
    counts
}

#[test]
fn one_rank_gets_what_it_gives() {
    let mut config = config(0, 1, 1);
    config.secret.clear();
    let ring = Ring::connect(config).unwrap();
    assert_eq!((ring.size(), ring.sum(vec![1.5_f32]).wait()), (1, Ok(vec![1.5])));
    check::<f32>(1, &counts(1), 1e-9);
}

#[test]
fn two_ranks() {
    check::<f32>(2, &counts(2), 1e-6);
    check::<f64>(2, &counts(2), 1e-14);
}

#[test]
fn three_ranks() {
    check::<f32>(3, &counts(3), 1e-6);
    check::<f64>(3, &counts(3), 1e-14);
}

#[test]
fn four_ranks() {
    check::<f32>(4, &counts(4), 1e-6);
    check::<f64>(4, &counts(4), 1e-14);
}

#[test]
fn seven_ranks() {
    check::<f32>(7, &counts(7), 2e-6);
    check::<f64>(7, &counts(7), 1e-14);
}

#[test]
fn hundreds_are_queued_and_made_in_order() {
    let all = on_ranks(
        3,
        |_| {},
        |ring, rank| {
            let pending: Vec<_> =
                (0..500).map(|sum| ring.sum(vec![(sum * (rank + 1)) as f64; sum % 7 * 1000])).collect();
            pending.into_iter().map(|pending| pending.wait().unwrap()).collect::<Vec<_>>()
        },
    );
    for sums in all {
        for (sum, values) in sums.into_iter().enumerate() {
            assert_eq!(values, vec![(sum * 6) as f64; sum % 7 * 1000]);
        }
    }
}

#[test]
fn types_take_turns_in_one_ring() {
    let all = on_ranks(
        2,
        |_| {},
        |ring, _| {
            let (single, double) = (ring.sum(vec![0.25_f32; 9]), ring.sum(vec![0.1_f64; 50_000]));
            (single.wait().unwrap(), double.wait().unwrap())
        },
    );
    assert!(all.iter().all(|sums| *sums == (vec![0.5; 9], vec![0.2; 50_000])));
}

/// Beats go on while nothing is to be added up, and while one rank waits for a large sum and others compute.
#[test]
fn a_rank_may_take_its_time() {
    let silence = Duration::from_secs(1);
    let all = on_ranks(
        3,
        |config| config.silence = Duration::from_secs(1),
        move |ring, rank| {
            let before = ring.sum(vec![rank as f32]).wait();
            thread::sleep(silence * 3);
            if rank == 1 {
                thread::sleep(silence * 3);
            }
            (before, ring.sum(vec![1.0_f32; 3_000_000]).wait())
        },
    );
    for (before, sum) in all {
        assert_eq!(before.unwrap(), [3.0]);
        assert!(sum.unwrap().iter().all(|value| *value == 3.0));
    }
}

/// The errors of two ranks of three, which give what the third does not.
fn mismatch<T: Element, U: Element>(most: fn() -> Vec<T>, one: fn() -> Vec<U>) {
    let errors = on_ranks(
        3,
        |_| {},
        move |ring, rank| {
            // A rank may hear of the end of the next sum before it has made this one.
            let before = ring.sum(vec![1.0_f32]).wait();
            assert!(before.is_err() || before == Ok(vec![3.0]));
            let failed = if rank == 2 { ring.sum(one()).wait().err() } else { ring.sum(most()).wait().err() };
            let again = ring.sum(vec![1.0_f32]).wait().unwrap_err();
            (failed.unwrap(), again)
        },
    );
    for (error, again) in errors {
        assert_eq!(error, again, "once ended, it stays so");
        let RingError::Mismatch { first, second, given } = &error else { panic!("{error}") };
        assert!(first.rank == 2 || second.rank == 2, "{error}");
        assert_ne!(given.0, given.1);
        assert!(error.to_string().contains("for sum 1"), "{error}");
    }
}

#[test]
fn ranks_that_do_not_mean_the_same_are_told() {
    mismatch(|| vec![1.0_f32; 4], || vec![1.0_f32; 5]);
    mismatch(|| vec![1.0_f32; 4], || vec![1.0_f64; 2]);
    mismatch(|| vec![1.0_f64; 4], Vec::<f64>::new);
    mismatch(|| vec![1.0_f32; 10], || vec![1.0_f32; 1_000_000]);
    mismatch(|| vec![1.0_f32; 1_000_000], || vec![1.0_f32; 1_000_001]);
    mismatch(|| vec![1.0_f64; 500_000], || vec![1.0_f32; 1_000_000]);
}
