#![allow(clippy::unwrap_used)]
use std::str::FromStr;

use proptest::prelude::*;
use serde_json::json;

use super::super::schema::schema;
use super::*;
use crate::api::object::Kind;

/// The keywords that the checks read, and those that mean nothing to them. `pattern` says in general what
/// `format` does, and of a digest what the rules of a job do.
const KEYWORDS: [&str; 19] = [
    "additionalProperties",
    "const",
    "enum",
    "format",
    "items",
    "maximum",
    "minItems",
    "minimum",
    "oneOf",
    "properties",
    "required",
    "type",
    "$schema",
    "default",
    "description",
    "examples",
    "pattern",
    "title",
    "uniqueItems",
];

fn each(schema: &Value, see: &mut impl FnMut(&Map<String, Value>)) {
    let Value::Object(keywords) = schema else { return };
    see(keywords);
    for schema in schema["properties"].as_object().into_iter().flatten().map(|(_, schema)| schema) {
        each(schema, see);
    }
    each(&schema["items"], see);
    each(&schema["additionalProperties"], see);
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        each(variant, see);
    }
}

#[test]
fn the_schemas_use_no_other_keywords() {
    for kind in Kind::ALL {
        each(schema(kind), &mut |keywords| {
            for keyword in keywords.keys() {
                assert!(KEYWORDS.contains(&keyword.as_str()), "{keyword}");
            }
        });
    }
}

fn unit<T: FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

fn validator(kind: Kind) -> jsonschema::Validator {
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft7)
        .should_validate_formats(true)
        .with_format("cpu", unit::<MilliCpu>)
        .with_format("bytes", unit::<Bytes>)
        .with_format("duration", unit::<Span>)
        .build(schema(kind))
        .unwrap()
}

fn objects() -> Vec<(Kind, Value)> {
    let object = |kind: Kind, spec: Value| {
        let metadata = json!({"name": "x", "labels": {"a": "b"}});
        (kind, json!({"apiVersion": "rayconcile.dev/v1", "kind": kind, "metadata": metadata, "spec": spec}))
    };
    vec![
        object(
            Kind::RayCluster,
            json!({
                "provider": {"local": {"python": "x", "dashboardPort": 8265}},
                "auth": {"mode": "token"},
                "workerGroups": [{
                    "name": "a",
                    "maxNodes": 2,
                    "idleTimeout": "5m",
                    "template": {"resources": {"cpu": 1, "memory": "1Gi", "custom": {"x": 1.5}}},
                }],
            }),
        ),
        object(
            Kind::RayCluster,
            json!({
                "provider": {"aws": {
                    "region": "us-west-2",
                    "subnets": ["subnet-0"],
                    "tags": {"team": "vision"},
                    "access": {"address": "private"},
                    "orphanTimeout": "30m",
                    "gcsPort": 6379,
                }},
                "head": {"instance": {"types": ["m6i.large"], "image": {"id": "ami-0"}}},
                "workerGroups": [{
                    "name": "a",
                    "maxNodes": 2,
                    "market": {"spot": {"maxPrice": "1.75", "onDemandFallback": true}},
                    "template": {"instance": {
                        "types": ["g5.xlarge"],
                        "image": {"parameter": "/x"},
                        "blockDevices": [{"deviceName": "/dev/sdf", "size": "1Gi", "volumeType": "gp3"}],
                        "docker": {"image": "x", "runOptions": ["-i"]},
                        "fileSystems": [{"id": "fs-0", "mountPath": "/efs"}],
                        "rayStart": {"no-monitor": "true"},
                        "env": [{"name": "A", "value": "b"}],
                    }},
                }],
            }),
        ),
        object(
            Kind::AdaptDLJob,
            json!({
                "entrypoint": "main.py",
                "args": ["a"],
                "env": [{"name": "A", "valueFrom": {"env": "B"}}],
                "runtimeEnv": {"pip": ["x"]},
                "priority": -1,
                "scaling": {"policy": "Fixed", "replicas": 2, "minEfficiency": 0.5},
                "checkpoint": {"keep": 2, "interval": "10m", "storage": {}},
            }),
        ),
    ]
}

/// All places in a value.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| places(value, &format!("{at}/{name}"), found));
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(index, value)| places(value, &format!("{at}/{index}"), found));
        }
        _ => {}
    }
}

fn replacement() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(2.0),
        json!(0.5),
        json!(70_000),
        json!(5_000_000_000_u64),
        json!(""),
        json!("Fixed"),
        json!("none"),
        json!("io2"),
        json!("private"),
        json!("10m"),
        json!("1Gi"),
        json!("1.5h"),
        json!("8GB"),
        json!([]),
        json!(["a"]),
        json!([1]),
        json!([{}]),
        json!({}),
        json!({"name": "x"}),
        json!({"local": {}}),
        json!({"existing": {"address": "x"}}),
        json!({"local": {}, "existing": {"address": "x"}}),
        json!({"aws": {"region": "x", "subnets": []}}),
        json!({"onDemand": {}}),
        json!({"onDemand": {}, "spot": {}}),
        json!({"id": "x"}),
        json!({"id": "x", "parameter": "x"}),
        json!({"unknown": 1}),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// What the published schemas say is what the reader does, null aside.
    #[test]
    fn it_agrees_with_a_validator(
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::option::of(replacement())),
            0..3,
        ),
        which in 0_usize..3,
    ) {
        let (kind, mut object) = objects().swap_remove(which);
        for (pick, new) in changes {
            let mut found = Vec::new();
            places(&object, "", &mut found);
            let place = &found[pick.index(found.len())];
            match (place.rsplit_once('/'), new) {
                (_, Some(new)) => *object.pointer_mut(place).unwrap() = new,
                (Some((parent, name)), None) => match object.pointer_mut(parent).unwrap() {
                    Value::Object(fields) => fields.remove(name).map(|_| ()).unwrap_or_default(),
                    Value::Array(items) => items.clear(),
                    _ => {}
                },
                (None, None) => {}
            }
        }
        let validator = validator(kind);
        let expected: Vec<_> = validator.iter_errors(&object).map(|error| error.to_string()).collect();
        // What is no object never comes so far; what stands for version and kind is looked at before.
        prop_assume!(object.is_object());
        let findings = check(&mut object.clone(), schema(kind));
        let envelope = |text: &String| text.contains("was expected");
        prop_assert_eq!(
            findings.is_empty(),
            expected.iter().all(envelope),
            "{} {:?} {:?}", object, findings, expected
        );
    }
}
