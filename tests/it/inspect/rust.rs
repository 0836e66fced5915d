//! What `train` saves.

use rayconcile::inspect::{Checkpoint, Format};
use serde_json::{Value, json};

fn state(epoch: u64) -> Value {
    json!({
        "format": 1, "group": 4, "epoch": epoch, "index": 640, "samplesPerEpoch": 1437, "seed": 3, "steps": 120,
        "samples": 9000, "progress": 131.5, "batchSize": 128, "rates": [0.05], "own": {"loss": 0.25},
        "noise": {
            "sqr": {"value": [1.5, -0.5], "biased": [0.1, 0.1], "unbias": 0.1},
            "var": {"value": [4.0, 0.0], "biased": [0.1, 0.1], "unbias": 0.1},
            "differenced": false, "known": true,
        },
        "profile": [{"nodes": 1, "replicas": 1, "atomic": 64, "added": [0, 0], "stepped": [1, 2], "waited": 0}],
    })
}

fn saved(state: &str) -> (tempfile::TempDir, Checkpoint) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint-4");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("training.json"), state).unwrap();
    let header = r#"{"layer.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let mut model = (header.len() as u64).to_le_bytes().to_vec();
    model.extend_from_slice(header.as_bytes());
    model.extend([1f32, f32::NAN].iter().flat_map(|number| number.to_le_bytes()));
    std::fs::write(path.join("model.safetensors"), model).unwrap();
    let checkpoint = Checkpoint::read(directory.path()).unwrap();
    (directory, checkpoint)
}

#[test]
fn a_checkpoint_of_a_program_in_rust_says_how_far_it_was() {
    let (_directory, checkpoint) = saved(&state(5).to_string());
    assert_eq!(checkpoint.group, Some(4));
    let training: Vec<_> =
        checkpoint.training.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        training,
        [
            "epoch=5",
            "progress=131.5",
            "steps=120",
            "loaderPosition=640",
            "batchSize=128",
            "learningRate=0.05",
            "gradientSquaredNorm=1.5",
            "gradientVariance=4.000001",
            "restarts=4",
        ]
    );
    assert_eq!(checkpoint.files[1].format, Format::Json);
    assert!(checkpoint.values.contains(&("own.loss".to_owned(), json!(0.25))));
    assert!(checkpoint.values.contains(&("profiles".to_owned(), json!(1))));
    assert_eq!(checkpoint.tensors[0].name, "model.layer.weight");
    let (_other_directory, other) = saved(&state(6).to_string());
    let diff = checkpoint.diff(&other);
    assert_eq!(diff.values.iter().map(|change| &change.name[..]).collect::<Vec<_>>(), ["epoch"]);
}

#[test]
fn json_that_is_none_is_said_to_be_none() {
    let (_directory, checkpoint) = saved("{\"epoch\": 5, ");
    let problem = checkpoint.files[1].problem.as_deref().unwrap();
    assert!(problem.contains("EOF"), "{problem}");
    assert_eq!(checkpoint.tensors.len(), 1, "the rest is read");
    // Deeper than anybody writes by hand.
    let (_directory, checkpoint) = saved(&format!("{{\"a\": {}", "[".repeat(100_000)));
    assert!(checkpoint.files[1].problem.is_some());
}
