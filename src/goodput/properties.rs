//! Properties that hold for every hint that anyone could send.

#![allow(clippy::unwrap_used)]

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{BatchSize, Hints, Placement, Prediction};

const FIELDS: [&str; 9] = [
    "initBatchSize",
    "localBszBounds",
    "globalBatchSize",
    "maxBatchSize",
    "maxProfiledReplicas",
    "gradientAccumulation",
    "gradParams",
    "perfParams",
    "unknown",
];

const PARAMETERS: [&str; 9] =
    ["alpha_c", "beta_c", "alpha_n", "beta_n", "alpha_r", "beta_r", "gamma", "norm", "var"];

/// Numbers at the edges of types and of our bounds.
fn awkward_number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>().prop_map(|number| json!(number)),
        any::<u64>().prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
        prop::sample::select(vec![
            0.0, -0.0, 5e-324, 1e-300, 1e-9, 1e-8, 1.0, 1.5, 10.0, 86_400.0, 1e18, 1e80, 1e81, 1e300
        ])
        .prop_map(|number| json!(number)),
        prop::sample::select(vec![0_u64, 1, 2, 128, 65_536, 65_537, 1 << 30, (1 << 30) + 1, 1 << 53])
            .prop_map(|number| json!(number)),
    ]
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|flag| json!(flag)),
        awkward_number(),
        ".{0,60}".prop_map(|text| json!(text)),
        Just(json!("NaN")),
        Just(json!("Infinity")),
    ];
    leaf.prop_recursive(4, 64, 9, |inner| {
        let parameters = btree_map(prop::sample::select(PARAMETERS.to_vec()), inner.clone(), 0..10);
        prop_oneof![vec(inner, 0..4).prop_map(Value::from), parameters.prop_map(|fields| json!(fields))]
    })
}

fn arbitrary_hints() -> impl Strategy<Value = Value> {
    btree_map(prop::sample::select(FIELDS.to_vec()), arbitrary_json(), 0..10).prop_map(|fields| json!(fields))
}

/// A number from 0 to `max` of any magnitude, both ends included.
fn magnitude(max: f64) -> impl Strategy<Value = f64> {
    prop_oneof![
        1 => Just(0.0),
        1 => Just(max),
        8 => (-30.0..1.0).prop_map(move |exponent: f64| (max * 10f64.powf(exponent)).min(max)),
    ]
}

/// Hints of which every value is within bounds.
fn bounded_hints() -> impl Strategy<Value = Value> {
    let size = || {
        (0_u32..=30, 0.0..1.0).prop_map(|(bits, part)| ((1_u64 << bits) as f64 * (1.0 - part / 2.0)) as u64)
    };
    let sizes = vec(size(), 4).prop_map(|mut sizes| {
        sizes.iter_mut().for_each(|size| *size = (*size).max(1));
        sizes.sort_unstable();
        sizes
    });
    let perf = (vec(magnitude(86_400.0), 6), 1.0..=10.0);
    let grad = option::of((magnitude(1e80), magnitude(1e80)));
    let shape = (any::<[bool; 4]>(), 0_u32..=65_536);
    (sizes, perf, grad, shape).prop_map(|(sizes, (times, gamma), grad, (given, profiled))| {
        // Sorted: least local batch, the job's own, the greatest local and the greatest total in any order.
        let (largest_local, largest) = if given[3] { (sizes[2], sizes[3]) } else { (sizes[3], sizes[2]) };
        json!({
            "initBatchSize": sizes[1],
            "localBszBounds": [given[0].then_some(sizes[0]), given[1].then_some(largest_local)],
            "maxBatchSize": given[2].then_some(largest),
            "maxProfiledReplicas": profiled,
            "gradientAccumulation": given[3],
            "gradParams": grad.map(|(norm, var)| json!({"norm": norm, "var": var})),
            "perfParams": {
                "alpha_c": times[0], "beta_c": times[1], "alpha_n": times[2], "beta_n": times[3],
                "alpha_r": times[4], "beta_r": times[5], "gamma": gamma,
            },
        })
    })
}

fn placement() -> impl Strategy<Value = Placement> {
    let replicas = prop_oneof![4 => 1_u32..=64, 1 => 1..=Placement::MAX_REPLICAS];
    replicas
        .prop_flat_map(|replicas| (1..=replicas, Just(replicas)))
        .prop_map(|(nodes, replicas)| Placement::new(nodes, replicas).unwrap())
}

fn assert_sane(hints: &Hints, prediction: Prediction) {
    let replicas = prediction.placement.replicas();
    let (limits, batch) = (hints.limits, prediction.batch);
    for value in [prediction.throughput, prediction.efficiency, prediction.goodput] {
        assert!(value.is_finite() && value > 0.0, "{prediction:?}");
    }
    assert!(prediction.efficiency <= 1.0, "{prediction:?}");
    assert!(prediction.total_batch >= u64::from(limits.init().get()), "{prediction:?}");
    assert!(limits.local().min.is_none_or(|min| min.get() <= batch.atomic()), "{prediction:?}");
    assert!(limits.local().max.is_none_or(|max| batch.atomic() <= max.get()), "{prediction:?}");
    assert!(limits.accumulation() || batch.accumulation_steps() == 0, "{prediction:?}");
    if replicas <= limits.max_replicas() {
        // Rounding up adds less than a sample for each local batch of each replica.
        let rounding = u64::from(replicas) * (u64::from(batch.accumulation_steps()) + 1);
        let max = u64::from(limits.largest().get());
        assert!(prediction.total_batch < max + rounding, "{prediction:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn anything_may_be_sent(json in prop_oneof![arbitrary_json(), arbitrary_hints()], at in placement()) {
        match Hints::from_json(&json) {
            Ok(hints) => {
                hints.predict(at).into_iter().for_each(|prediction| assert_sane(&hints, prediction));
            }
            Err(error) => prop_assert!(error.to_string().len() < 1000),
        }
    }

    #[test]
    fn one_broken_value_is_refused_or_harmless(
        mut json in bounded_hints(),
        field in prop::sample::select(FIELDS.to_vec()),
        parameter in prop::sample::select(PARAMETERS.to_vec()),
        broken in arbitrary_json(),
        at in placement(),
    ) {
        let value = match field {
            "gradParams" | "perfParams" if json[field].is_object() => &mut json[field][parameter],
            _ => &mut json[field],
        };
        *value = broken;
        if let Ok(hints) = Hints::from_json(&json) {
            hints.predict(at).into_iter().for_each(|prediction| assert_sane(&hints, prediction));
        }
    }

    #[test]
    fn bounded_hints_give_sane_models(json in bounded_hints(), at in placement()) {
        let hints = Hints::from_json(&json).unwrap();
        assert_sane(&hints, hints.predict(at).unwrap());

        let speedups = hints.speedup_model().unwrap();
        prop_assert_eq!(speedups.speedup(1, 1), 1.0);
        let speedup = speedups.speedup(at.nodes(), at.replicas());
        prop_assert!(speedup.is_finite() && speedup > 0.0, "{}", speedup);
    }

    #[test]
    fn hints_survive_a_round_trip(json in bounded_hints()) {
        let hints = Hints::from_json(&json).unwrap();
        // Not through text: serde_json reads a float exactly only with its feature `float_roundtrip`.
        let value = serde_json::to_value(&hints).unwrap();
        prop_assert_eq!(serde_json::from_value::<Hints>(value).unwrap(), hints);
    }

    #[test]
    fn caps_grow_with_what_they_come_from(
        json in bounded_hints(),
        more_profiled in 0_u32..=65_536,
        more_batch in 1..=u64::from(BatchSize::MAX),
    ) {
        let hints = Hints::from_json(&json).unwrap();
        let caps = hints.max_useful_replicas();
        prop_assert!(caps.by_batch >= 1 && caps.by_profile >= 1);
        prop_assert_eq!(caps.lowest(), caps.by_batch.min(caps.by_profile));

        let more = Hints { max_profiled_replicas: hints.max_profiled_replicas.max(more_profiled), ..hints };
        prop_assert!(more.max_useful_replicas().by_profile >= caps.by_profile);

        let largest = more.limits.largest().get();
        let mut json = json;
        json["maxBatchSize"] = json!(more_batch.max(largest.into()));
        prop_assert!(Hints::from_json(&json).unwrap().max_useful_replicas().by_batch >= caps.by_batch);
        json["localBszBounds"][0] = json!(null);
        prop_assert!(Hints::from_json(&json).unwrap().max_useful_replicas().by_batch >= caps.by_batch);
    }
}
