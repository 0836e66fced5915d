//! What holds for any snapshot, also for those that no world would give.

use fastrand::Rng;
use proptest::prelude::*;
use rayconcile::api::ids::{CheckpointId, GroupNumber, RayNodeId};
use rayconcile::api::wire::{AgentState, BridgePhase, BridgeReport, GroupPhase, Outcome};
use rayconcile::plan::{Plan, Snapshot, plan};
use rayconcile::simulate::Simulation;

use crate::simulate::{chance, options};

/// A snapshot from the midst of a history.
fn snapshot(seed: u64, at: u64) -> Option<Snapshot> {
    let mut world = Simulation::new(options(seed));
    chance::plot(seed, &mut world);
    world.run_until(at);
    let key = world.domains().into_iter().next()?;
    Some(world.snapshot(&key))
}

/// Makes a snapshot say what cannot be.
fn spoil(snapshot: &mut Snapshot, seed: u64) {
    let random = &mut Rng::with_seed(seed);
    if let Some((_, agent)) = &mut snapshot.seen.agent.last {
        spoil_agent(agent, random);
    }
    for view in &mut snapshot.jobs {
        let (record, spec) = (&mut view.record, &mut view.job.spec);
        match random.u32(0..8) {
            0 => record.groups.clear(),
            1 => record.document = None,
            2 => record.binding = None,
            3 => record.checkpoints.reverse(),
            4 => spec.max_replicas = random.u32(0..=64),
            5 => spec.min_replicas = random.u32(..),
            6 => record.revision = u64::MAX - 10,
            _ => record.groups.iter_mut().for_each(|group| group.slots.clear()),
        }
    }
    match random.u32(0..5) {
        0 => snapshot.record.nodes.clear(),
        1 => snapshot.record.agent = None,
        2 => snapshot.record.incarnation = None,
        3 => snapshot.cluster = None,
        _ => snapshot.intents.truncate(1),
    }
}

fn spoil_agent(agent: &mut AgentState, random: &mut Rng) {
    if random.bool() {
        agent.nodes.retain(|_| random.bool());
    }
    agent.nodes.iter_mut().for_each(|node| {
        node.resources.insert("CPU".to_owned(), [f64::NAN, -1.0, f64::INFINITY, 1e300][random.usize(..4)]);
    });
    agent.jobs.values_mut().for_each(|bridge| spoil_bridge(bridge, random));
}

fn spoil_bridge(bridge: &mut BridgeReport, random: &mut Rng) {
    bridge.age_ms = [f64::NAN, -1e300, f64::INFINITY, 1e18][random.usize(..4)];
    bridge.revision = random.bool().then(|| random.u64(..));
    let phases = [BridgePhase::Fencing, BridgePhase::Active, BridgePhase::Idle, BridgePhase::Dead];
    bridge.phase = phases[random.usize(..4)];
    for slot in &mut bridge.slots {
        slot.state = ["Pending", "Ready", "Lost", "Whatever"][random.usize(..4)].to_owned();
        slot.node = RayNodeId::from("nowhere".to_owned());
    }
    for group in &mut bridge.groups {
        group.number = GroupNumber(random.u64(..=u64::MAX - 10));
        group.phase = [GroupPhase::Running, GroupPhase::Ended, GroupPhase::Prepared][random.usize(..3)];
        group.outcome = random.bool().then_some(Outcome::Superseded);
        group.first_step = Some(f64::NEG_INFINITY);
        group.last_step = Some(f64::NAN);
        group.hints = Some(["{", "NaN", "[]", "{\"initBatchSize\": 1e400}"][random.usize(..4)].to_owned());
        group.hints_number = random.u64(..);
        if random.bool() {
            group.ranks.clear();
        }
    }
    for blob in &mut bridge.blobs {
        blob.at = f64::NAN;
        blob.id = CheckpointId { group: GroupNumber(random.u64(..)), number: random.u64(..) };
    }
}

/// What a plan says, as text.
fn told(plan: &Plan) -> String {
    format!("{plan:#?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_snapshot_gives_the_same_plan(seed in 0u64..10_000, at in 0u64..200_000) {
        if let Some(snapshot) = snapshot(seed, at) {
            prop_assert_eq!(told(&plan(&snapshot)), told(&plan(&snapshot)));
        }
    }

    #[test]
    fn the_order_of_jobs_does_not_matter(seed in 0u64..10_000, at in 0u64..200_000, by in 0usize..3) {
        if let Some(snapshot) = snapshot(seed, at) {
            let mut other = snapshot.clone();
            let count = other.jobs.len();
            other.jobs.rotate_left(by.min(count));
            prop_assert_eq!(essence(plan(&snapshot)), essence(plan(&other)));
        }
    }

    #[test]
    fn no_snapshot_makes_it_panic(seed in 0u64..10_000, at in 0u64..200_000, how in any::<u64>()) {
        if let Some(mut snapshot) = snapshot(seed, at) {
            for step in 0..3 {
                spoil(&mut snapshot, how.wrapping_add(step));
                let made = plan(&snapshot);
                prop_assert!(made.wake_at.is_none_or(|wake| wake > snapshot.now));
            }
        }
    }
}

/// What a plan decides, without the ids that it makes one after the other.
fn essence(plan: Plan) -> String {
    let records = plan.jobs.into_iter().map(|(uid, record)| {
        let groups =
            record.groups.iter().map(|group| (group.number, group.nodes.clone(), group.outcome.clone()));
        (uid, record.revision, groups.collect::<Vec<_>>(), record.trouble, record.binding)
    });
    let nodes = plan.record.nodes.into_iter().map(|(name, node)| (name, node.state.clone()));
    let mut events: Vec<String> = plan.events.iter().map(|event| format!("{event:?}")).collect();
    events.sort();
    let mut effects: Vec<&str> = plan.intents.iter().map(|intent| intent.effect.name()).collect();
    effects.sort_unstable();
    format!(
        "{:#?}\n{:#?}\n{:#?}\n{events:#?}\n{effects:?}\n{:?}",
        records.collect::<Vec<_>>(),
        nodes.collect::<Vec<_>>(),
        plan.report,
        plan.wake_at
    )
}
