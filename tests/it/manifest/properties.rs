//! What holds for any input.

use proptest::option;
use proptest::prelude::*;
use rayconcile::manifest;
use serde_json::{Map, Value, json};

use super::{PLAIN, read, repository};

/// Reads and draws; what matters is that it ends.
fn survives(text: &str) {
    for problem in read(text).problems {
        let drawn = problem.render(PLAIN);
        assert!(
            !drawn.is_empty() && !drawn.contains("Failed to read") && !drawn.contains('\u{e000}'),
            "{drawn}"
        );
        assert!(!problem.to_string().contains('\n'), "{problem}");
    }
}

/// Values of every type that JSON has.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[-+.0-9eEinfaxo_:~]{0,6}".prop_map(Value::from),
        "(yes|no|on|off|true|false|null|~|<<|=|0x1F|0o7|1_000|1e3|2026-01-01|\\s|\n|# x|- x|a: b|\\*a|&a|!a)"
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(
                "\\PC{0,8}|[-+.0-9eEinfaxo_:~ ]{0,4}|true|no|null|=|# x|&a",
                inner,
                0..5
            )
            .prop_map(|fields| Value::Object(
                fields.into_iter().filter(|(key, _)| key != "<<").collect::<Map<_, _>>()
            )),
        ]
    })
}

/// The text of a sample.
fn sample() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["adaptdljob", "local-cluster", "existing-cluster", "aws-cluster", "two-jobs"])
        .prop_map(|name| {
            std::fs::read_to_string(repository("manifests").join(format!("{name}.yaml"))).unwrap()
        })
}

/// A cluster on EC2 with all that its rules look into.
fn ec2_cluster() -> Value {
    let instance = json!({
        "types": ["g5.xlarge", "g5.2xlarge"],
        "image": {"id": "ami-0"},
        "blockDevices": [{"deviceName": "/dev/sdf", "size": "100Gi", "iops": 3000, "throughput": 125}],
        "dataPath": "/data",
        "docker": {"image": "ray", "runOptions": ["-v", "/a:/b", "--init"]},
        "fileSystems": [{"id": "fs-0", "mountPath": "/efs", "path": "/"}],
        "setupCommands": ["true"],
        "rayStart": {"no-monitor": "true"},
        "env": [{"name": "A", "value": "b"}],
    });
    json!({
        "apiVersion": "rayconcile.dev/v1",
        "kind": "RayCluster",
        "metadata": {"name": "x"},
        "spec": {
            "provider": {"aws": {
                "region": "us-west-2",
                "subnets": ["subnet-0", "subnet-1"],
                "iamInstanceProfile": "ray",
                "keyName": "key",
                "tags": {"team": "vision"},
                "access": {"address": "public", "controllerCidr": "203.0.113.7/32"},
                "orphanTimeout": "30m",
                "gcsPort": 6379,
            }},
            "head": {"instance": instance},
            "workerGroups": [{
                "name": "a",
                "maxNodes": 1,
                "market": {"spot": {"maxPrice": "1.5"}},
                "template": {"instance": instance},
            }],
        },
    })
}

/// A job of AdaptDL's own operator with all that its translation looks into.
fn old_job() -> Value {
    json!({
        "apiVersion": "adaptdl.petuum.com/v1",
        "kind": "AdaptDLJob",
        "metadata": {"name": "x", "generateName": "x-", "labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {"minReplicas": 1, "maxReplicas": 4, "preemptible": false, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {
                "nodeSelector": {"a": "b"},
                "volumes": [{"name": "data", "hostPath": {"path": "/mnt"}}],
                "containers": [{
                    "name": "main", "image": "x", "workingDir": "/app", "command": ["python3", "-u", "/app/main.py"],
                    "args": ["--a"],
                    "env": [{"name": "A", "value": "b"}, {"name": "C", "valueFrom": {"secretKeyRef": {"optional": true}}}],
                    "envFrom": [],
                    "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": 2}, "requests": {"memory": "1Gi", "x/y": 1}},
                    "volumeMounts": [{"name": "data", "mountPath": "/mnt"}],
                }],
            },
        }},
    })
}

/// All places in a value.
fn walk(value: &Value, at: &str, places: &mut Vec<String>) {
    places.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            let step = |name: &str| format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
            fields.iter().for_each(|(name, value)| walk(value, &step(name), places));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| walk(value, &format!("{at}/{index}"), places));
        }
        _ => {}
    }
}

/// Texts of the kinds that the rules take apart.
fn tricky() -> impl Strategy<Value = String> {
    prop_oneof![
        "-{0,3}[a-zé]{0,3}[ =]{0,2}[-/:a-zé]{0,6}",
        "[/.~a-zé]{0,8}",
        "(/(dev|usr|data|\\.|\\.\\.|é)){0,3}/?",
        "[0-9a-f.:]{0,12}/?[-+0-9]{0,4}",
        "(arn:aws:iam::1:(role|instance-profile)/|subnet-|ami-|fs-|us-|m6i\\.)?[-0-9a-zé/]{0,8}",
        "[-$+]?[0-9.]{0,30}(e[0-9]{1,3})?",
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let (sources, problems) = manifest::collect(&[file.path().to_owned()], false);
        prop_assert_eq!(sources.len() + problems.len(), 1);
        for source in sources {
            survives(&source.text);
        }
    }

    #[test]
    fn any_text_is_survived(text in "\\PC*") {
        survives(&text);
    }

    #[test]
    fn anything_like_yaml_is_survived(
        text in "((  ){0,4}(- |\\? |: |[a-z]{1,3}: ?|&[ab] |\\*[ab] |!!?[a-z]+ |<<: |[\\[\\]{},'\"|>%@`#]|[0-9.~x]|\\t|---|\\.\\.\\.|é)*\n){0,12}"
    ) {
        survives(&text);
    }

    #[test]
    fn a_damaged_manifest_is_survived(
        sample in sample(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4, "[\\PC\n\t]{0,3}"), 1..6),
    ) {
        let mut text: Vec<char> = sample.chars().collect();
        for (at, length, new) in cuts {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, new.chars());
        }
        survives(&text.into_iter().collect::<String>());
    }

    #[test]
    fn what_is_written_reads_the_same(value in value()) {
        let object = json!({
            "apiVersion": "rayconcile.dev/v1",
            "kind": "AdaptDLJob",
            "metadata": {"name": "x"},
            "spec": {"command": ["x"], "runtimeEnv": {"any": value}},
        });
        let direct = manifest::read_json(object.clone(), "default", None).unwrap().object;
        let loaded = read(&manifest::to_yaml(&object).unwrap());
        let problems: Vec<_> = loaded.problems.iter().map(ToString::to_string).collect();
        prop_assert_eq!(problems, Vec::<String>::new());
        prop_assert_eq!(&loaded.manifests[0].object, &direct);
    }

    #[test]
    fn any_value_in_any_place_is_survived(value in value(), pick in any::<prop::sample::Index>()) {
        let mut object = json!({
            "apiVersion": "rayconcile.dev/v1",
            "kind": "RayCluster",
            "metadata": {"name": "x", "labels": {"a": "b"}},
            "spec": {"provider": {"local": {"python": "x"}}, "workerGroups": [{"name": "a", "maxNodes": 1}]},
        });
        let places = [
            "/apiVersion", "/kind", "/metadata", "/metadata/name", "/metadata/labels", "/metadata/labels/a",
            "/spec", "/spec/provider", "/spec/provider/local", "/spec/provider/local/python", "/spec/workerGroups",
            "/spec/workerGroups/0", "/spec/workerGroups/0/maxNodes",
        ];
        *object.pointer_mut(places[pick.index(places.len())]).unwrap() = value;
        survives(&manifest::to_yaml(&object).unwrap());
        let _ = manifest::read_json(object, "default", None);
    }

    #[test]
    fn any_value_in_any_place_of_an_ec2_cluster_is_survived(
        (value, text) in (value(), option::of(tricky())),
        pick in any::<prop::sample::Index>(),
    ) {
        let mut object = ec2_cluster();
        let mut places = Vec::new();
        walk(&object, "", &mut places);
        *object.pointer_mut(&places[pick.index(places.len())]).unwrap() = text.map_or(value, Value::from);
        survives(&manifest::to_yaml(&object).unwrap());
        let _ = manifest::read_json(object, "default", None);
    }

    #[test]
    fn any_value_in_any_place_of_an_old_job_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), value(), option::of(tricky())), 1..4),
    ) {
        let mut object = old_job();
        for (pick, value, text) in changes {
            let mut places = Vec::new();
            walk(&object, "", &mut places);
            *object.pointer_mut(&places[pick.index(places.len())]).unwrap() = text.map_or(value, Value::from);
        }
        let text = manifest::to_yaml(&object).unwrap();
        survives(&text);
        for manifest in read(&text).manifests {
            manifest.warnings().iter().for_each(|warning| assert!(warning.position.is_some(), "{warning}"));
        }
        let _ = rayconcile::convert::convert(manifest::Source::new("old.yaml", text, None), None);
    }

    #[test]
    fn nul_and_other_control_characters_are_refused_or_kept(text in "[a-z: \n\\x00-\\x1f\u{7f}\u{85}\u{2028}\u{feff}]{0,60}") {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let (sources, _) = manifest::collect(&[file.path().to_owned()], false);
        sources.iter().for_each(|source| survives(&source.text));
        survives(&text);
    }
}
