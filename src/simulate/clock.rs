//! The virtual clock: what happens when, and the only source of chance.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// Milliseconds since the simulation began.
pub(super) type Ms = u64;

/// When every simulation begins: the first moment of 2026.
const BEGINNING_MS: i64 = 1_767_225_600_000;

/// A moment of the simulation, as the planner sees it.
pub(super) fn timestamp(at: Ms) -> Timestamp {
    let millis = BEGINNING_MS.saturating_add(i64::try_from(at).unwrap_or(i64::MAX));
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

/// The moment of a timestamp that the planner gave, not before it: what is due then is due now.
pub(super) fn moment(at: Timestamp) -> Ms {
    let exact = i64::from(at.subsec_nanosecond() % 1_000_000 == 0);
    u64::try_from(at.as_millisecond() - BEGINNING_MS + 1 - exact).unwrap_or(0)
}

/// What is to happen, in the order in which it will. Of two things at one time the first put in comes first.
pub(super) struct Queue<E> {
    events: BTreeMap<(Ms, u64), E>,
    pushed: u64,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self { events: BTreeMap::new(), pushed: 0 }
    }

    pub(super) fn push(&mut self, at: Ms, event: E) {
        self.pushed += 1;
        self.events.insert((at, self.pushed), event);
    }

    /// The next event, if it is not after `limit`.
    pub(super) fn pop(&mut self, limit: Ms) -> Option<(Ms, E)> {
        let first = self.events.first_entry().filter(|first| first.key().0 <= limit)?;
        let ((at, _), event) = first.remove_entry();
        Some((at, event))
    }
}

/// Seeded chance: the same seed, the same answers.
pub(super) struct Random {
    source: fastrand::Rng,
    /// Nothing is left to chance: what takes from 1 to 3 seconds takes 2, and no fault happens.
    steady: bool,
}

impl Random {
    pub(super) fn new(seed: u64, steady: bool) -> Self {
        Self { source: fastrand::Rng::with_seed(seed), steady }
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        if self.steady { low.midpoint(high) } else { self.source.u64(low..=high.max(low)) }
    }

    /// Whether something happens that happens in this share of cases.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && !self.steady && self.source.f64() < share
    }

    /// One of several.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            return None;
        }
        let index = self.between(0, from.len() as u64 - 1);
        from.get(usize::try_from(index).unwrap_or(0))
    }

    /// For ids that must differ.
    pub(super) fn seed(&mut self) -> u64 {
        self.source.u64(..)
    }
}
