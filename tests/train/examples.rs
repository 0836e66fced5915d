//! The examples have the data and the networks of their twins in Python.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tch::nn::{Module, VarStore};
use tch::{Device, Tensor, no_grad};

#[allow(dead_code)]
#[path = "../../examples/digits_tch.rs"]
mod digits_tch;
#[allow(dead_code)]
#[path = "../../examples/transformer_tch.rs"]
mod transformer_tch;

use transformer_tch::{Shape, Text, Transformer, uncut};

/// What the twin of an example has made, with its weights in place of those in `variables`.
fn twin(example: &str, variables: &mut VarStore) -> HashMap<String, Tensor> {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".venv/bin/python");
        assert!(python.exists(), "{} is not there: run `make python`", python.display());
        let mut command = Command::new(python);
        command.env("PYTHONWARNINGS", "ignore").arg("-B").arg(root.join("tests/train/twins.py"));
        assert!(command.arg(directory.path()).status().unwrap().success());
        directory
    });
    let path = made.path().join(format!("{example}.safetensors"));
    let theirs: HashMap<String, Tensor> = Tensor::read_safetensors(&path).unwrap().into_iter().collect();
    let mut names: Vec<_> = theirs.keys().filter(|name| !name.starts_with("of.")).cloned().collect();
    let mut ours: Vec<_> = variables.variables().into_keys().collect();
    names.sort();
    ours.sort();
    assert_eq!(ours, names);
    for (name, variable) in variables.variables() {
        assert_eq!(variable.size(), theirs[&name].size(), "{name}");
    }
    variables.load(&path).unwrap();
    theirs
}

fn assert_near(ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.size(), theirs.size());
    let apart = (ours - theirs).abs().max().double_value(&[]);
    assert!(apart < 1e-5, "{apart}");
}

#[test]
fn digits_are_those_of_python() {
    let mut variables = VarStore::new(Device::Cpu);
    let network = digits_tch::make_network(&variables.root(), 64);
    let theirs = twin("digits", &mut variables);
    let (train, valid) = digits_tch::load_data().unwrap();
    for (name, digits) in [("of.train", &train), ("of.valid", &valid)] {
        assert_eq!(digits.images, theirs[name]);
        assert_eq!(digits.labels, theirs[&format!("{name}.labels")]);
    }
    let outputs = no_grad(|| network.forward(&digits_tch::enlarge(&valid.images, 16)));
    assert_near(&outputs, &theirs["of.outputs"]);
    tch::manual_seed(2);
    assert_near(&digits_tch::distort(&valid.images, 16), &theirs["of.distorted"]);
}

#[test]
fn the_transformer_is_that_of_python() {
    let shape = Shape { context: 64, width: 64, layers: 4, heads: 4 };
    let text = Text::read(shape.context);
    let mut variables = VarStore::new(Device::Cpu);
    let network = Transformer::new(&variables.root(), text.letters(), shape);
    let theirs = twin("transformer", &mut variables);
    assert_eq!(text.train, theirs["of.train"]);
    assert_eq!(text.valid, theirs["of.valid"]);
    let windows = text.valid.narrow(0, 0, 8);
    let outputs = no_grad(|| network.forward(&windows.narrow(1, 0, shape.context), uncut));
    assert_near(&outputs, &theirs["of.outputs"]);
    assert_near(&no_grad(|| transformer_tch::loss(&network, &windows, uncut)), &theirs["of.loss"]);
}
