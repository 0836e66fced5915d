//! The programs that replicas run: this very file, in processes of their own.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use rayconcile::train::{Adam, Adaptive, Goal, Optimizer, Plan, Sgd, TrainError, Training, Worker};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::nn::{self, Module};
use tch::{Device, Kind, Tensor};

/// What a test wants of a program.
#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Options {
    directory: PathBuf,
    samples: u64,
    batch_size: u32,
    epochs: u64,
    iterations: Option<f64>,
    /// The most samples in a step, where they may become more.
    max_batch_size: Option<u32>,
    double: bool,
    adam: bool,
    /// Where the model is cut.
    cuts: bool,
    /// Whether it says of a variable that it belongs to a stage to which it does not.
    bad_cut: bool,
    /// How long each batch takes at least, ms.
    pause: u64,
    /// Whether the rate is set for each batch.
    rates: bool,
    /// Whether it adds up with each batch, which not all replicas have.
    sums: bool,
    /// Whether it keeps a number that cannot be kept.
    infinite: bool,
    /// Gradients are not longer than this.
    clip: Option<f64>,
    /// Which replica dies, and after how many of its batches.
    panic: Option<(u32, u64)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            samples: 250,
            batch_size: 60,
            epochs: 2,
            iterations: None,
            max_batch_size: None,
            double: false,
            adam: false,
            cuts: false,
            bad_cut: false,
            pause: 0,
            rates: false,
            sums: false,
            infinite: false,
            clip: None,
            panic: None,
        }
    }
}

/// What the programs keep.
#[derive(Default, Serialize, Deserialize)]
struct Own {
    losses: Vec<f64>,
    best: f64,
}

/// Runs the program that the environment names, if it names one: a test starts this as a replica.
#[test]
fn program() {
    let Ok(name) = std::env::var("TRAIN_PROGRAM") else { return };
    let options: Options = serde_json::from_str(&std::env::var("TRAIN_OPTIONS").unwrap()).unwrap();
    let done = match name.as_str() {
        "network" => network(&options),
        "noise" => noise(&options),
        other => panic!("there is no program {other}"),
    };
    if let Err(error) = done {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

impl Options {
    fn plan(&self, optimizer: impl Into<Optimizer>) -> Plan {
        let adaptive = |max_batch_size| Adaptive { max_batch_size, local_bounds: None, accumulation: true };
        let plan = Plan::new(optimizer, self.samples, self.batch_size, self.epochs);
        let goal = self.iterations.map_or(plan.goal, Goal::Iterations);
        let adaptive = self.max_batch_size.map(adaptive);
        Plan { goal, adaptive, seed: 3, max_gradient_norm: self.clip, ..plan }
    }

    /// Appends a line to a file, which many processes do.
    fn note(&self, name: &str, line: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.directory.join(name)).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Fits a small network, in two stages, to a function of its inputs. What it was given, and lost, is noted.
fn network(options: &Options) -> Result<(), TrainError> {
    let kind = if options.double { Kind::Double } else { Kind::Float };
    // Replicas begin with what the first one has.
    tch::manual_seed(Worker::from_env()?.rank().into());
    let mut store = nn::VarStore::new(Device::Cpu);
    let first = nn::linear(store.root() / "first", 8, 16, Default::default());
    let second = nn::linear(store.root() / "second", 16, 16, Default::default());
    let last = nn::linear(store.root() / "last", 16, 1, Default::default());
    if options.double {
        store.double();
    }
    let numbers = Tensor::arange(options.samples as i64 * 8, (kind, Device::Cpu));
    let inputs = (numbers * 0.7).sin().view([-1, 8]);
    let targets = inputs.square().sum_dim_intlist(1, true, kind);
    let optimizer: Optimizer = if options.adam {
        Adam { lr: 0.01, weight_decay: 0.1, ..Adam::default() }.into()
    } else {
        Sgd { lr: 0.02, momentum: 0.9, weight_decay: 1e-4, ..Sgd::default() }.into()
    };
    let mut training = Training::<Own>::start(Worker::from_env()?, &mut store, options.plan(optimizer))?;
    let rank = training.rank();
    if options.infinite {
        training.own.best = f64::INFINITY;
    }
    let mut batches = 0;
    while let Some(epoch) = training.next_epoch()? {
        let mut loss = 0.0;
        while let Some(batch) = training.next_batch()? {
            batches += 1;
            if options.panic == Some((rank, batches)) {
                std::process::abort();
            }
            if options.rates {
                training.set_lr(0.02 / (1.0 + training.steps() as f64));
            }
            options.note("seen", &format!("{epoch} {:?}", batch.samples()));
            let picked = batch.indices();
            let mut hidden = first.forward(&inputs.index_select(0, &picked)).tanh();
            if options.cuts {
                hidden =
                    training.cut(if options.bad_cut { &["first", "second"] } else { &["first"] }, hidden);
            }
            hidden = second.forward(&hidden).tanh();
            if options.cuts {
                hidden = training.cut(&["second"], hidden);
            }
            let error =
                last.forward(&hidden).mse_loss(&targets.index_select(0, &picked), tch::Reduction::Mean);
            std::thread::sleep(Duration::from_millis(options.pause));
            training.backward(&error)?;
            loss += error.double_value(&[]) * batch.len() as f64;
            if options.sums {
                training.sum(&[1.0])?;
            }
        }
        let loss = training.sum(&[loss])?[0];
        training.own.losses.push(loss);
    }
    if training.is_first() {
        store.save(options.directory.join("final.safetensors"))?;
        let own = serde_json::to_value(&training.own).unwrap_or(Value::Null);
        options.note("own", &own.to_string());
        options.note("done", &format!("{} {} {}", training.steps(), training.samples(), training.progress()));
    }
    Ok(())
}

/// A loss whose gradient is the mean of the samples, whatever was learnt: what is known of its noise depends on nothing
/// else. There are two groups of variables.
fn noise(options: &Options) -> Result<(), TrainError> {
    let mut store = nn::VarStore::new(Device::Cpu);
    let root = store.root();
    let one = root.zeros("one", &[5]);
    let other = root.sub("group").set_group(1);
    let other = other.zeros("other", &[3]);
    let data = std::fs::read(options.directory.join("data.json")).unwrap();
    let data: Vec<Vec<f32>> = serde_json::from_slice(&data).unwrap();
    let data = Tensor::from_slice2(&data);
    let mut plan = options.plan(Sgd { lr: 0.1, ..Sgd::default() });
    plan.shuffle = false;
    let mut training = Training::<Own>::start(Worker::from_env()?, &mut store, plan)?;
    while let Some(epoch) = training.next_epoch()? {
        while let Some(batch) = training.next_batch()? {
            options.note("seen", &format!("{epoch} {:?}", batch.samples()));
            options.note("steps", &format!("{} {:?}", training.steps(), batch.samples()));
            std::thread::sleep(Duration::from_millis(options.pause));
            let mean = data.index_select(0, &batch.indices()).mean_dim(0, false, Kind::Float);
            let loss = (&one * mean.narrow(0, 0, 5)).sum(Kind::Float)
                + (&other * mean.narrow(0, 5, 3)).sum(Kind::Float);
            if training.backward(&loss)? && training.is_first() {
                let (sqr, var) = training.gradient_noise().unwrap_or((f64::NAN, f64::NAN));
                options.note("noise", &format!("{sqr:e} {var:e}"));
            }
        }
    }
    Ok(())
}
