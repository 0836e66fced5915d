//! What a job's program would do if it were real: how fast it trains, what it reports, and how it ends.

use crate::api::document::{Program, SlotKind};
use crate::goodput::Hints;

/// An argument with which a program ends with exit code 1 before it trains.
pub const FAIL_AT_START: &str = "--fail-at-start";
/// An argument with which a program ends with exit code 1 while it trains.
pub const FAIL_IN_TRAINING: &str = "--fail-in-training";
/// A key of a runtime environment that cannot be built.
pub const BROKEN_ENVIRONMENT: &str = "broken";

/// What a job's program would do.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Training steps until its work is done; `None`: it is never done.
    pub steps: Option<u64>,
    /// Steps a second of a lone worker.
    pub rate: f64,
    /// Its true performance. Without, it reports nothing, and several workers bring what their number promises.
    pub hints: Option<Hints>,
}

impl Default for Workload {
    fn default() -> Self {
        Self { steps: None, rate: 10.0, hints: None }
    }
}

impl Workload {
    /// Steps a second with so many replicas on so many nodes.
    pub fn speed(&self, nodes: u32, replicas: u32) -> f64 {
        let model = self.hints.as_ref().and_then(Hints::speedup_model);
        let speedup = model.map_or(f64::from(replicas), |model| model.speedup(nodes, replicas));
        self.rate * speedup.max(0.01)
    }

    /// What its workers report when they have measured themselves with so many replicas at most.
    pub(super) fn report(&self, profiled: u32) -> Option<String> {
        let hints = self.hints.as_ref()?;
        let hints =
            Hints { max_profiled_replicas: profiled.max(hints.max_profiled_replicas), ..hints.clone() };
        serde_json::to_string(&hints).ok()
    }
}

/// What a manifest makes of a program: read from its arguments, so that another manifest mends it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conduct {
    pub(super) fails_at_start: bool,
    pub(super) fails_in_training: bool,
    /// Whether it speaks AdaptDL's protocol: it waits before it trains, and saves when it is told to end.
    pub(super) speaks_adaptdl: bool,
}

impl Conduct {
    pub(super) fn of(program: &Program) -> Self {
        let has = |word: &str| program.args.iter().any(|argument| argument == word);
        Self {
            fails_at_start: has(FAIL_AT_START),
            fails_in_training: has(FAIL_IN_TRAINING),
            speaks_adaptdl: program.command.is_none(),
        }
    }
}

/// Whether a slot's runtime environment can be built.
pub(super) fn can_be_built(kind: &SlotKind) -> bool {
    !kind.runtime_env.contains_key(BROKEN_ENVIRONMENT)
}
