//! Optimizers do what torch's do.

use std::process::Command;

use rayconcile::train::{Adam, Optimizer, Plan, Sgd, Training, Worker};
use tch::nn::{self, Init};
use tch::{Device, Kind, Tensor};

use crate::harness::repository;

/// Each with its arguments in Python.
fn optimizers() -> Vec<(Optimizer, &'static str)> {
    let sgd = Sgd { lr: 0.1, ..Sgd::default() };
    let adam = Adam { lr: 0.01, ..Adam::default() };
    vec![
        (sgd.into(), "SGD(lr=0.1)"),
        (
            Sgd { momentum: 0.9, weight_decay: 0.01, ..sgd }.into(),
            "SGD(lr=0.1, momentum=0.9, weight_decay=0.01)",
        ),
        (Sgd { momentum: 0.9, dampening: 0.5, ..sgd }.into(), "SGD(lr=0.1, momentum=0.9, dampening=0.5)"),
        (
            Sgd { momentum: 0.8, nesterov: true, weight_decay: 0.1, ..sgd }.into(),
            "SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1)",
        ),
        (adam.into(), "Adam(lr=0.01)"),
        (
            Adam { betas: (0.8, 0.95), eps: 1e-6, weight_decay: 0.1, ..adam }.into(),
            "AdamW(lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)",
        ),
    ]
}

/// What becomes of eight numbers, on the way to which the loss is each time another product with them.
fn ours(optimizer: Optimizer, data: &[Vec<f32>]) -> Vec<f64> {
    let mut store = nn::VarStore::new(Device::Cpu);
    let numbers = store.root().var("numbers", &[8], Init::Const(0.5));
    let mut plan = Plan::new(optimizer, data.len() as u64, 1, 1);
    plan.shuffle = false;
    let mut training = Training::<()>::start(Worker::from_env().unwrap(), &mut store, plan).unwrap();
    let data = Tensor::from_slice2(data);
    while training.next_epoch().unwrap().is_some() {
        while let Some(batch) = training.next_batch().unwrap() {
            let sample = data.index_select(0, &batch.indices()).squeeze();
            training.backward(&(&numbers * sample).sum(Kind::Float)).unwrap();
        }
    }
    Vec::try_from(numbers.to_kind(Kind::Double)).unwrap()
}

#[test]
fn they_step_as_torchs_do() {
    let mut random = fastrand::Rng::with_seed(7);
    let data: Vec<Vec<f32>> = (0..25).map(|_| (0..8).map(|_| random.f32() - 0.3).collect()).collect();
    let python = optimizers()
        .into_iter()
        .map(|(_, python)| format!("lambda of: torch.optim.{}", python.replacen('(', "(of, ", 1)));
    let code = format!(
        "import json, torch\ndata = torch.tensor(json.loads('{}'))\nfor make in [{}]:\n    \
         numbers = torch.full((8,), 0.5, requires_grad=True)\n    optimizer = make([numbers])\n    \
         for sample in data:\n        optimizer.zero_grad()\n        (numbers * sample).sum().backward()\n        \
         optimizer.step()\n    print(json.dumps(numbers.double().tolist()))\n",
        serde_json::to_string(&data).unwrap(),
        python.collect::<Vec<_>>().join(", "),
    );
    let output = Command::new(repository(".venv/bin/python")).args(["-c", &code]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = String::from_utf8(output.stdout).unwrap();
    assert_eq!(theirs.lines().count(), optimizers().len());
    for ((optimizer, name), theirs) in optimizers().into_iter().zip(theirs.lines()) {
        let theirs: Vec<f64> = serde_json::from_str(theirs).unwrap();
        for (ours, theirs) in ours(optimizer, &data).into_iter().zip(theirs) {
            assert!((ours - theirs).abs() < 2e-6, "{name}: {ours}, torch has {theirs}");
        }
    }
}
