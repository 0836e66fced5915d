//! What torch and AdaptDL write is read without them, and says what they say.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{RAYCONCILE, python, repository};

fn save(what: &str, directory: &Path) -> Output {
    let mut command = Command::new(python());
    command.arg(repository("tests/live/saved.py")).args([what, directory.to_str().unwrap()]);
    command.env_clear().env("PATH", "/usr/bin:/bin").output().unwrap()
}

/// A look inside, without Python, a controller, or anything else.
fn inspect(arguments: &[&str]) -> (Value, i32) {
    let mut command = Command::new(RAYCONCILE);
    command.args(["checkpoint", "inspect", "-o", "json"]).args(arguments).env_clear();
    let output = command.output().unwrap();
    let told = serde_json::from_slice(&output.stdout);
    (told.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}")), output.status.code().unwrap())
}

/// What is named so in a list of things with names.
fn named<'t>(list: &'t Value, name: &str) -> &'t Value {
    let found = list.as_array().unwrap().iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {name} in {list}"))
}

fn close(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) else { return false };
    (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

#[test]
fn what_torch_saves_is_what_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let output = save("files", directory.path());
    assert!(output.status.success(), "{output:?}");
    let truth: serde_json::Map<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(truth.len() > 50, "{truth:?}");
    for (file, format) in [("all.pt", "torch"), ("old.pth", "torch-legacy")] {
        let (told, code) = inspect(&[&path(file)]);
        assert_eq!((code, &told["files"][0]["format"]), (0, &json!(format)));
        assert_eq!(told["tensors"].as_array().unwrap().len(), truth.len(), "{file}");
        for (name, truth) in &truth {
            let tensor = named(&told["tensors"], name);
            assert_eq!(
                (&tensor["type"], &tensor["shape"]),
                (&truth["type"], &truth["shape"]),
                "{file}: {name}"
            );
            if name == "eight" {
                assert_eq!(tensor["problem"], "numbers of type float8_e4m3fn are not read");
                continue;
            }
            assert_eq!((&tensor["nan"], &tensor["inf"]), (&truth["nan"], &truth["inf"]), "{file}: {name}");
            assert!(close(&tensor["norm"], &truth["norm"]), "{file}: {name}: {tensor} {truth}");
        }
        let values = &told["values"];
        assert_eq!(
            (&values["epoch"], &values["number"], &values["array"]),
            (&json!(5), &json!(2.5), &json!([0.0, 1.0, 2.0]))
        );
        assert_eq!(values["adam.param_groups.0.betas"], json!([0.9, 0.999]));
        assert_eq!(told["training"]["learningRate"], json!([0.1, 0.01]));
    }

    let (same, code) = inspect(&["--diff", &path("all.pt"), &path("old.pth")]);
    assert_eq!((code, &same["tensors"], &same["alike"]["tensors"]), (0, &json!([]), &json!(truth.len())));
    let (diff, code) = inspect(&["--diff", &path("all.pt"), &path("other.pt")]);
    assert_eq!((code, diff["tensors"].as_array().unwrap().len()), (1, 5), "{diff}");
    assert_eq!(diff["values"], json!([{"name": "epoch", "before": 5, "after": 6}]));
    let weight = named(&diff["tensors"], "model.0.weight");
    assert_eq!(weight["elements"], 600);
    assert!((weight["norm"].as_f64().unwrap() - 0.5 * 600_f64.sqrt()).abs() < 1e-4, "{weight}");
    let relative = weight["norm"].as_f64().unwrap() / truth["model.0.weight"]["norm"].as_f64().unwrap();
    assert!(close(&weight["relative"], &json!(relative)), "{weight}");
    let turned = named(&diff["tensors"], "views.transposed");
    assert!((turned["largest"].as_f64().unwrap() - 0.25).abs() < 1e-5, "{turned}");
    let changes = ["one", "none", "new"].map(|name| named(&diff["tensors"], name)["change"].clone());
    assert_eq!(changes, ["kind", "removed", "added"]);

    for file in ["hostile.pt", "hostile.pkl.pt"] {
        let (told, _) = inspect(&[&path(file)]);
        assert!(told["values"].to_string().contains("posix.system(\\\"touch"), "{told}");
    }
    assert!(!directory.path().join("ran").exists());
}

#[test]
fn what_adaptdl_saves_is_understood() {
    let directory = tempfile::tempdir().unwrap();
    let output = save("adaptdl", directory.path());
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    let (told, code) = inspect(&[directory.path().to_str().unwrap()]);
    assert_eq!((code, &told["source"]["group"]), (0, &json!(4)));
    let training = &told["training"];
    // The step in which it was asked to leave was its fourth of the third epoch, of eight steps each.
    let expected = [
        ("epoch", json!(2)),
        ("batchSize", json!(8)),
        ("learningRate", json!(0.125)),
        ("restarts", json!(4)),
    ];
    for (name, value) in expected {
        assert_eq!(training[name], value, "{name}: {training}");
    }
    let position = training["loaderPosition"].as_u64().unwrap();
    assert!(position > 0 && position.is_multiple_of(8), "{training}");
    let progress = training["progress"].as_f64().unwrap();
    assert!((16.0..=24.0).contains(&progress), "{training}");
    for measured in ["gradientSquaredNorm", "gradientVariance"] {
        assert!(training[measured].as_f64().unwrap() > 0.0, "{training}");
    }
    assert!(told["values"]["accumulator.None-0.results.sum"].as_f64().unwrap() > 0.0, "{told}");
    let names = ["model.weight", "model.bias", "optimizer.state.0.momentum_buffer"];
    for tensor in names.map(|name| named(&told["tensors"], name)) {
        assert!(tensor["norm"].as_f64().unwrap() > 0.0 && tensor["nan"] == 0, "{tensor}");
    }
    let files = told["files"].as_array().unwrap();
    assert!(files.iter().all(|file| file["format"] != "other" && file["problem"].is_null()), "{told}");
}
