//! Thousands of histories by chance.

use std::sync::atomic::{AtomicU64, Ordering};

use rayconcile::plan::guards::Guards;
use rayconcile::simulate::{Options, Simulation, Violation};

use super::honest::Sceptic;
use super::{chance, clouds, options};

const HISTORIES: u64 = 1_500;
/// Within this time after all troubles are over everything must be as wanted.
pub(super) const PATIENCE_MS: u64 = 3_600_000;
/// Lines of a failed history that are printed.
const TAIL: usize = 150;

/// How long a history may take after its troubles. On EC2 a group whose nodes keep failing is paused for up to an hour.
pub(super) fn patience_ms(seed: u64) -> u64 {
    if clouds::over(seed).is_some() { 3 * PATIENCE_MS } else { PATIENCE_MS }
}

/// Lets a history happen.
pub(super) fn live(options: Options) -> Simulation {
    let seed = options.seed;
    let mut world = Simulation::new(options);
    if seed.is_multiple_of(4) {
        world.watch(Sceptic);
    }
    let end = chance::plot(seed, &mut world);
    world.run_until(end + 1);
    world.converge(patience_ms(seed));
    world
}

/// The invariant that a history breaks, if any.
pub(super) fn broken(seed: u64, guards: Guards) -> Option<Violation> {
    live(Options { guards, ..options(seed) }).violation().cloned()
}

/// Has work done for numbers from 0 on, on all processors.
pub(super) fn for_each_seed(count: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    work(seed);
                }
            });
        }
    });
}

/// A history again, with its last words.
fn tell(seed: u64, lines: usize) -> String {
    let world = live(Options { transcript: lines, ..options(seed) });
    let outcome = world.violation().map_or("nothing is wrong".to_owned(), ToString::to_string);
    format!(
        "{}\nseed {seed}: {outcome}\nagain: RAYCONCILE_SEED={seed} cargo test --test it simulate::histories::one -- --nocapture",
        world.transcript()
    )
}

#[test]
fn histories() {
    let first = first_seed();
    let failed = std::sync::Mutex::new(Vec::new());
    for_each_seed(count(), |seed| {
        let seed = first + seed;
        let found = std::panic::catch_unwind(|| broken(seed, Guards::default()));
        match found {
            Ok(None) => {}
            Ok(Some(violation)) => failed.lock().unwrap().push((seed, violation.to_string())),
            Err(_) => failed.lock().unwrap().push((seed, "it panics".to_owned())),
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    let list: Vec<String> = failed.iter().map(|(seed, what)| format!("{seed}: {what}")).collect();
    if let Some((seed, _)) = failed.first() {
        panic!("{}\n{} histories fail:\n{}", tell(*seed, TAIL), failed.len(), list.join("\n"));
    }
}

/// One history in full: that of `RAYCONCILE_SEED`.
#[test]
#[allow(clippy::print_stdout, reason = "it is asked for")]
fn one() {
    let seed = std::env::var("RAYCONCILE_SEED").ok().and_then(|seed| seed.parse().ok());
    let told = tell(seed.unwrap_or(0), if seed.is_some() { 100_000 } else { TAIL });
    if seed.is_some() {
        println!("{told}");
    }
    assert!(told.contains("nothing is wrong"), "{told}");
}

fn first_seed() -> u64 {
    std::env::var("RAYCONCILE_FIRST").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0)
}

fn count() -> u64 {
    std::env::var("RAYCONCILE_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(HISTORIES)
}
