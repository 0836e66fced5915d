//! Speedups: what the planner compares jobs by.

use std::sync::OnceLock;

use super::model::{GoodputModel, Placement};

/// Placements up to this many replicas are computed once per model. AdaptDL remembers 32.
const REMEMBERED_REPLICAS: usize = 64;

/// A job's goodput relative to its optimum with one replica on one node. Each placement is taken with the
/// batch that is best for it.
///
/// Deterministic: what has been asked before changes how fast an answer comes, never the answer.
#[derive(Debug, Clone)]
pub struct SpeedupModel(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Linear,
    Fitted(Box<Fitted>),
}

impl SpeedupModel {
    /// The speedup function of a job with this goodput.
    pub fn new(goodput: GoodputModel) -> Self {
        let base = goodput.optimize(Placement::ONE).goodput;
        Self(Kind::Fitted(Box::new(Fitted { goodput, base, one_node: memo(), more_nodes: memo() })))
    }

    /// Every replica counts fully: what AdaptDL's allocator assumes of a job that has reported no
    /// parameters (`_get_job_info`).
    pub fn linear() -> Self {
        Self(Kind::Linear)
    }

    /// The speedup on this many nodes and replicas: 1 for one replica, and 0 where nothing can train, which
    /// is where [`Placement::new`] gives `None`. Always finite, and above 0 for every placement.
    ///
    /// It can be below 1, where the network is slow; and it can exceed the number of replicas, because a
    /// lone replica without gradient accumulation keeps the job's own batch, and several may grow theirs.
    pub fn speedup(&self, nodes: u32, replicas: u32) -> f64 {
        let Some(placement) = Placement::new(nodes, replicas) else {
            return 0.0;
        };
        match &self.0 {
            Kind::Linear => f64::from(placement.replicas()),
            Kind::Fitted(fitted) => fitted.speedup(placement),
        }
    }
}

#[derive(Debug, Clone)]
struct Fitted {
    goodput: GoodputModel,
    /// Goodput of one replica on one node. Above zero: see [`GoodputModel::optimize`].
    base: f64,
    /// Speedups by number of replicas, on one node and on more; how many more makes no difference to the
    /// model.
    one_node: Memo,
    more_nodes: Memo,
}

type Memo = Box<[OnceLock<f64>]>;

fn memo() -> Memo {
    vec![OnceLock::new(); REMEMBERED_REPLICAS].into()
}

impl Fitted {
    fn speedup(&self, placement: Placement) -> f64 {
        let compute = || self.goodput.optimize(placement).goodput / self.base;
        let memo = if placement.nodes() == 1 { &self.one_node } else { &self.more_nodes };
        match memo.get(placement.replicas() as usize - 1) {
            Some(known) => *known.get_or_init(compute),
            None => compute(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::batch::{BatchLimits, BatchSize, LocalBounds};
    use super::super::params::{GradParams, Overlap, PerfParams, Seconds};
    use super::*;

    fn goodput() -> GoodputModel {
        let seconds = |value| Seconds::new(value).unwrap();
        let perf = PerfParams {
            alpha_c: seconds(0.1),
            beta_c: seconds(0.01),
            alpha_n: seconds(0.5),
            beta_n: seconds(0.02),
            alpha_r: seconds(0.05),
            beta_r: seconds(0.001),
            gamma: Overlap::new(1.5).unwrap(),
        };
        let limits =
            BatchLimits::new(BatchSize::new(64).unwrap(), BatchSize::new(4096), LocalBounds::default(), true);
        GoodputModel::new(perf, GradParams::default(), limits.unwrap())
    }

    #[test]
    fn one_replica_is_the_unit() {
        assert_eq!(SpeedupModel::new(goodput()).speedup(1, 1), 1.0);
        assert_eq!(SpeedupModel::linear().speedup(1, 1), 1.0);
    }

    #[test]
    fn nothing_trains_on_an_impossible_placement() {
        for (nodes, replicas) in [(0, 0), (0, 1), (1, 0), (3, 2), (1, u32::MAX)] {
            assert_eq!(SpeedupModel::new(goodput()).speedup(nodes, replicas), 0.0, "{nodes}, {replicas}");
            assert_eq!(SpeedupModel::linear().speedup(nodes, replicas), 0.0, "{nodes}, {replicas}");
        }
    }

    #[test]
    fn answers_are_the_same_whether_remembered_or_not() {
        let model = SpeedupModel::new(goodput());
        let base = goodput().optimize(Placement::ONE).goodput;
        for _ in 0..2 {
            for (nodes, replicas) in [(1, 2), (2, 2), (5, 64), (1, 64), (1, 65), (65, 65)] {
                let fresh = goodput().optimize(Placement::new(nodes, replicas).unwrap()).goodput / base;
                assert_eq!(model.speedup(nodes, replicas), fresh, "{nodes} nodes, {replicas} replicas");
            }
        }
    }

    #[test]
    fn only_one_node_or_more_makes_a_difference() {
        let model = SpeedupModel::new(goodput());
        assert!(model.speedup(1, 8) > model.speedup(2, 8));
        assert_eq!(model.speedup(2, 8), model.speedup(8, 8));
        assert_eq!(SpeedupModel::linear().speedup(2, 8), 8.0);
    }
}
