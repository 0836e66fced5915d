//! Manifests of AdaptDL's own operator: what is read from each file of `old/`, and what is said of it.

use std::fs;
use std::path::Path;

use rayconcile::api::object::AnyObject;
use rayconcile::convert::convert;
use rayconcile::manifest::{self, Loaded, Source};

use super::repository;

fn read(name: &str) -> Loaded {
    manifest::read(vec![source(name)], "default")
}

fn source(name: &str) -> Source {
    let text = fs::read_to_string(repository("tests/it/manifest/old").join(name)).unwrap();
    Source::new(name, text, None)
}

/// What an object says beside the defaults.
fn said(object: &AnyObject) -> String {
    let plain = "
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata: {name: plain}
spec: {command: [x]}
";
    let plain = manifest::read(vec![Source::new("", plain, None)], "default").manifests.remove(0).object;
    let (defaults, mut spec) = (plain.spec(), object.spec());
    spec.as_object_mut().unwrap().retain(|name, value| defaults[name] != *value);
    format!("{} {:?}\n{}", object.key(), object.metadata().labels, manifest::to_yaml(&spec).unwrap())
}

#[test]
fn old_manifests_are_read_with_a_warning_for_what_has_no_meaning() {
    for name in ["beside.yaml", "everything.yaml", "other-program.yaml", "wrong.yaml"] {
        let loaded = read(name);
        let mut told = String::new();
        for manifest in &loaded.manifests {
            told += &said(&manifest.object);
            manifest.warnings().iter().for_each(|warning| told += &format!("warning: {warning}\n"));
        }
        for problem in &loaded.problems {
            told += &format!("error: {problem}\n");
            told += &problem.help.as_ref().map_or_else(String::new, |help| format!("  help: {help}\n"));
        }
        insta::assert_snapshot!(name.trim_end_matches(".yaml"), told);
    }
}

#[test]
fn a_name_is_made_up_where_one_is_wanted_and_nowhere_else() {
    let names: Vec<String> = (0..2).map(|_| read("generated.yaml").manifests[0].object.key().name).collect();
    assert_ne!(names[0], names[1]);
    assert!(names.iter().all(|name| name.len() == "digits-".len() + 5 && name.starts_with("digits-")));
    let manifest = &read("generated.yaml").manifests[0];
    assert!(manifest.admit(Path::new("/nowhere")).is_ok());
    // What is read again and again would make another job each time.
    let problems = manifest.accept(Path::new("/nowhere")).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "generated.yaml:4:3: metadata.generateName: must not be here",
        "{problems:?}"
    );
    assert!(problems[0].help.as_ref().unwrap().contains("write metadata.name"));
}

#[test]
fn old_manifests_are_converted() {
    for name in ["generated.yaml", "everything.yaml"] {
        let conversion = convert(source(name), None).unwrap();
        let again = manifest::read(vec![Source::new("again", conversion.manifest.clone(), None)], "default");
        assert!(again.problems.is_empty(), "{:?}\n{}", again.problems, conversion.manifest);
        assert!(again.manifests[0].warnings().is_empty());
        assert_eq!(again.manifests[0].object.spec(), read(name).manifests[0].object.spec());
        let told = format!(
            "{}\n# {} comments\n{}",
            conversion.manifest,
            conversion.comments,
            conversion.advice.join("\n")
        );
        insta::assert_snapshot!(format!("convert-{}", name.trim_end_matches(".yaml")), told);
    }
    let named = convert(source("generated.yaml"), Some("other")).unwrap();
    assert!(named.manifest.contains("name: other"), "{}", named.manifest);
    for metadata in ["hello", "[hello]", "3"] {
        let text = format!(
            "apiVersion: adaptdl.petuum.com/v1\nkind: AdaptDLJob\nmetadata: {metadata}\n\
             spec: {{template: {{spec: {{containers: [{{command: [\"true\"]}}]}}}}}}\n"
        );
        let problems = convert(Source::new("old", text, None), Some("other")).unwrap_err();
        assert!(problems[0].to_string().contains("metadata: must be a mapping, found"), "{problems:?}");
    }
}
