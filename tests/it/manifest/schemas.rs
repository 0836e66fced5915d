//! The schemas in `schemas/`, and the samples in `manifests/`.

use std::collections::BTreeSet;
use std::fs;

use rayconcile::manifest;
use serde_json::Value;

use super::{lines, repository};

#[test]
fn the_schemas_are_current() {
    let mut names = BTreeSet::new();
    for (name, schema) in manifest::schemas() {
        let file = fs::read_to_string(repository("schemas").join(&name)).unwrap_or_default();
        let current = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        assert!(file == current, "schemas/{name} is out of date; `make schemas` writes it");
        names.insert(name);
    }
    let files = fs::read_dir(repository("schemas")).unwrap();
    let files: BTreeSet<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, names);
}

#[test]
fn the_samples_are_right() {
    // The `workingDir` of those whose program is in Rust: `make demo-rust` builds it.
    fs::create_dir_all(repository("target/demo-rust")).unwrap();
    let (sources, problems) = manifest::collect(&[repository("manifests")], false);
    assert!(problems.is_empty() && sources.len() >= 9);
    let schemas: std::collections::BTreeMap<_, _> = manifest::schemas().into_iter().collect();
    let any = validator(&schemas["all.json"]);
    for source in sources {
        assert!(
            source.text.starts_with("# yaml-language-server: $schema=../schemas/all.json\n"),
            "{}",
            source.name
        );
        for document in serde_yaml::Deserializer::from_str(&source.text) {
            let value: Value = serde::Deserialize::deserialize(document).unwrap();
            let one =
                validator(&schemas[&format!("{}.json", value["kind"].as_str().unwrap().to_lowercase())]);
            for validator in [&any, &one] {
                let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{}: {errors:?}", source.name);
            }
        }
        let stated = |line: &str| line.split('#').next().is_some_and(|stated| stated.contains("s3://"));
        let in_s3 = source.text.lines().any(stated);
        let loaded = manifest::read(vec![source], "default");
        let told = lines(&loaded.problems, &repository(""));
        if cfg!(feature = "s3") || !in_s3 {
            assert_eq!(told, "");
        } else {
            let reason = "this rayconcile was built without S3 (its feature `s3`)";
            assert!(!told.is_empty() && told.lines().all(|line| line.ends_with(reason)), "{told}");
        }
        for manifest in loaded.manifests {
            assert_eq!(lines(&manifest.validate(), &repository("")), "");
        }
    }
}

#[test]
fn the_samples_show_every_field() {
    let text = |name: &str| fs::read_to_string(repository("manifests").join(name)).unwrap();
    let job = text("adaptdljob.yaml");
    let cluster = text("local-cluster.yaml") + &text("existing-cluster.yaml") + &text("aws-cluster.yaml");
    for (name, schema) in manifest::schemas() {
        let sample = match name.as_str() {
            "adaptdljob.json" => &job,
            "raycluster.json" => &cluster,
            _ => continue,
        };
        let mut fields = BTreeSet::new();
        collect(&schema["properties"]["spec"], &mut fields);
        assert!(fields.len() > 15);
        let missing: Vec<_> = fields.iter().filter(|field| !sample.contains(&format!("{field}:"))).collect();
        assert!(missing.is_empty(), "{name}: {missing:?}");
    }
}

#[test]
fn the_schema_of_any_kind_knows_the_kinds_apart() {
    let schemas: std::collections::BTreeMap<_, _> = manifest::schemas().into_iter().collect();
    let any = validator(&schemas["all.json"]);
    let object = |kind: &str, spec: Value| {
        serde_json::json!({
            "apiVersion": "rayconcile.dev/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec,
        })
    };
    let local = serde_json::json!({"provider": {"local": {}}});
    let job = serde_json::json!({"entrypoint": "main.py"});
    assert!(any.is_valid(&object("RayCluster", local.clone())));
    assert!(any.is_valid(&object("AdaptDLJob", job.clone())));
    assert!(!any.is_valid(&object("AdaptDLJob", local)));
    assert!(!any.is_valid(&object("RayCluster", job.clone())));
    assert!(!any.is_valid(&object("Pod", job)));
}

fn validator(schema: &Value) -> jsonschema::Validator {
    jsonschema::draft7::new(schema).unwrap()
}

/// The names of all fields of a schema.
fn collect(schema: &Value, fields: &mut BTreeSet<String>) {
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        fields.insert(name.clone());
        collect(schema, fields);
    }
    for part in schema["oneOf"].as_array().into_iter().flatten().chain([&schema["items"]]) {
        if part.is_object() {
            collect(part, fields);
        }
    }
}
