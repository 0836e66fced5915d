//! A cluster that is not what it should be may report anything: no plan, and no status, may break on it.

use proptest::prelude::*;
use rayconcile::api::object::AnyObject;
use rayconcile::api::observed::Observed;
use rayconcile::api::wire::AgentState;
use rayconcile::controller::status::{cluster_status, job_status};
use rayconcile::plan::{Plan, Snapshot, plan};
use serde_json::{Value, json};

use super::region::snapshot;
use super::review::{JOB, LOCAL, soon, with};

/// What an agent reports of the job `ada`, which trains in group 0 on one node, with everything that there can be.
fn report(snapshot: &Snapshot) -> Value {
    let (_, agent) = snapshot.seen.agent.fresh().unwrap();
    let nodes = agent.nodes.iter().map(|node| {
        json!({
            "id": node.id, "address": node.address, "alive": true, "draining": false, "head": node.head,
            "resources": {"CPU": 2.0}, "labels": node.labels,
        })
    });
    let record = &snapshot.jobs[0].record;
    let group = record.groups.last().unwrap();
    let ranks = group.slots.iter().enumerate().map(|(rank, (slot, spec))| {
        json!({
            "rank": rank, "slot": slot, "node": spec.ray, "pid": 17, "arrived": true, "joined": true,
            "exit": {"code": 1, "signal": null},
        })
    });
    let slots = group
        .slots
        .iter()
        .map(|(slot, spec)| json!({"id": slot, "node": spec.ray, "state": "Ready", "message": null}));
    let (ranks, slots): (Vec<Value>, Vec<Value>) = (ranks.collect(), slots.collect());
    let hints = json!({"initBatchSize": 128, "maxBatchSize": 1024, "localBszBounds": [32, 256], "maxProfiledReplicas": 1});
    let group = |number: u64, phase: &str, outcome: Value| {
        json!({
            "number": number, "alone": "NodeLost", "phase": phase, "ranks": ranks, "times": {"released": 5.0},
            "outcome": outcome, "restored": {"group": 0, "number": 1}, "steps": 9, "firstStep": 4.0, "lastStep": 1.0,
            "epoch": 1, "progress": 0.5, "batchSize": 64, "hints": hints.to_string(), "hintsNumber": 1,
        })
    };
    let blob = |kind: &str| {
        json!({
            "kind": kind, "group": 0, "number": 3, "digest": "d".repeat(64), "size": 10, "files": 1, "steps": 8,
            "saveMs": 1.5, "at": 10.0,
        })
    };
    let failed = json!({"kind": "Failed", "rank": 0, "code": 1, "signal": null, "tail": "oh"});
    json!({
        "protocol": 3, "rayVersion": "2.60", "instance": "a", "version": 1, "head": agent.head,
        "nodes": nodes.collect::<Vec<_>>(), "requested": [{"resources": {"CPU": 1.0}, "count": 2}],
        "jobs": {"ada": {
            "ageMs": 1.0, "phase": "Active", "bridge": "outlook", "revision": record.document.as_ref().unwrap().revision,
            "slots": slots, "groups": [group(0, "Running", Value::Null), group(1, "Ended", failed)],
            "blobs": [blob("Checkpoint"), blob("Artifacts")],
            "notices": [{"node": agent.head, "kind": "SpotInterruption", "action": "terminate", "deadlineMs": 100.0}],
            "saveRequest": {"id": "w", "checkpoint": {"group": 0, "number": 3}},
            "notes": [{"number": 1, "type": "Warning", "reason": "R", "message": "m"}],
            "logs": [{"group": 0, "rank": 0, "end": 5}], "message": "gone",
        }},
    })
}

/// All places in a value.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            let step = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
            fields.iter().for_each(|(name, value)| places(value, &step(name), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| places(item, &format!("{at}/{index}"), found));
        }
        _ => {}
    }
}

/// What somebody could put there: the edges of numbers, words that mean something elsewhere, and anything else.
fn put() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "Running",
        "Prepared",
        "Ended",
        "Idle",
        "Dead",
        "Fencing",
        "Lost",
        "Ready",
        "Pending",
        "Succeeded",
        "outlook",
        "Checkpoint",
        "NaN",
        "{\"initBatchSize\": 1e999}",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![0, 1, 2, 7, u64::from(u32::MAX), i64::MAX as u64, u64::MAX])
            .prop_map(Value::from),
        prop::sample::select(vec![-1.0, -1e300, -0.0, 0.5, 1e12, 9.3e18, 1e300, f64::MAX])
            .prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!({"kind": "Succeeded"})),
        Just(json!({"kind": "Stopped", "saved": false})),
    ]
}

/// Plans, and says what is to be said, twice: what was taken down of it is met again.
fn survives(mut snapshot: Snapshot, state: AgentState) {
    snapshot.seen.agent = Observed::seen(snapshot.now, state);
    for _ in 0..2 {
        let Plan { record, jobs, report, intents, .. } = plan(&snapshot);
        if let Some(cluster) = &snapshot.cluster {
            let status = cluster_status(&snapshot, cluster, &record, &report.cluster);
            serde_json::to_string(&status).unwrap();
        }
        for view in &mut snapshot.jobs {
            let uid = view.job.metadata.uid.clone();
            view.record = jobs[&uid].clone();
        }
        for index in 0..snapshot.jobs.len() {
            let view = &snapshot.jobs[index];
            let said = report.jobs.get(&view.job.metadata.uid).cloned().unwrap_or_default();
            let status = job_status(&snapshot, &view.job, &view.record, &said);
            // It can be stored, and read again.
            let kept = serde_json::to_value(&status).unwrap();
            let object = AnyObject::from_parts(
                rayconcile::api::object::Kind::AdaptDLJob,
                view.job.metadata.clone(),
                serde_json::to_value(&view.job.spec).unwrap(),
                kept,
            );
            object.unwrap();
            let record = serde_json::to_string(&view.record).unwrap();
            serde_json::from_str::<rayconcile::api::record::JobRecord>(&record).unwrap();
            snapshot.jobs[index].job.status = status;
        }
        snapshot.record = record;
        snapshot.intents = intents;
        snapshot.now += jiff::SignedDuration::from_secs(5);
    }
}

proptest! {
    #[test]
    fn any_text_is_a_state_or_none(text in "\\PC{0,200}|[\\[{\"a:1,]{0,200}") {
        let _ = serde_json::from_str::<AgentState>(&text);
    }

    #[test]
    fn whatever_a_cluster_reports_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), put()), 1..5),
    ) {
        let snapshot = training();
        let mut report = report(&snapshot);
        for (at, value) in changes {
            let mut found = Vec::new();
            places(&report, "", &mut found);
            let at = &found[at.index(found.len())];
            *report.pointer_mut(at).unwrap() = value;
        }
        if let Ok(state) = serde_json::from_value::<AgentState>(report) {
            survives(snapshot, state);
        }
    }
}

fn training() -> Snapshot {
    static TRAINING: std::sync::LazyLock<Snapshot> =
        std::sync::LazyLock::new(|| soon(&with(snapshot(LOCAL), "ada", JOB)));
    TRAINING.clone()
}

#[test]
fn what_is_changed_at_random_is_a_state_to_begin_with() {
    let snapshot = training();
    let state = serde_json::from_value::<AgentState>(report(&snapshot)).unwrap();
    survives(snapshot, state);
}

#[test]
fn deep_nesting_ends_at_the_parser() {
    for text in [
        "[".repeat(1 << 20),
        "{\"jobs\":".repeat(1 << 18),
        format!("{}1{}", "[".repeat(200), "]".repeat(200)),
    ] {
        assert!(serde_json::from_str::<AgentState>(&text).is_err());
    }
}
