//! Teach a small convolutional network to read handwritten digits, on any number of replicas.
//!
//! What `examples/digits/main.py` does, in Rust: the same images, network, distortions and schedule, and the same
//! records on standard output. Training is elastic through `rayconcile::train`: after any step the replicas may save
//! a checkpoint and leave, and another number of them go on from there.

#![allow(clippy::print_stdout)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use rayconcile::train::{Adaptive, Goal, Plan, Sgd, Training, Worker};
use serde::{Deserialize, Serialize};
use tch::nn::{self, Init, Module, Path};
use tch::{Device, Kind, Tensor, no_grad};

/// The digits that come with scikit-learn; `data/digits.py` writes them.
const DIGITS: &str = include_str!("data/digits.txt");
const MODEL: &str = "model.safetensors";

/// Teach a small convolutional network to read handwritten digits, on any number of replicas.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 90)]
    epochs: u64,
    /// At --batch-size; AdaScale scales it
    #[arg(long, default_value_t = 0.005)]
    lr: f64,
    /// Of all replicas together, to begin with
    #[arg(long, default_value_t = 64)]
    batch_size: u32,
    /// Let the batch size follow what the gradients say; the default
    #[arg(long, overrides_with = "no_autoscale_bsz")]
    autoscale_bsz: bool,
    /// Keep the batch size
    #[arg(long)]
    no_autoscale_bsz: bool,
    /// Of all replicas together
    #[arg(long, default_value_t = 256)]
    max_batch_size: u32,
    /// What one replica takes at a time
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"], default_values_t = [8, 96])]
    local_bsz_bounds: Vec<u32>,
    /// Make up larger batches than the replicas can take at a time; the default
    #[arg(long, overrides_with = "no_gradient_accumulation")]
    gradient_accumulation: bool,
    /// Never do
    #[arg(long)]
    no_gradient_accumulation: bool,
    /// Pixels a side, as the network sees them
    #[arg(long, default_value_t = 16)]
    image_size: i64,
    /// Channels of the first layers; a multiple of 8
    #[arg(long, default_value_t = 64)]
    width: i64,
    /// Steps between two records
    #[arg(long, default_value_t = 10)]
    log_every: u64,
    /// Of the first weights, the order and the distortions
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Append which samples were trained with: epoch, step, group and rank, and their numbers, a line a batch
    #[arg(long)]
    seen: Option<PathBuf>,
}

/// What is kept over restarts, beside the training's own: losses of the first replica's share.
#[derive(Default, Serialize, Deserialize)]
struct Own {
    /// A moving average.
    loss: Option<f64>,
    /// The sum over the samples of this epoch, and their number.
    sum: f64,
    trained: f64,
}

impl Own {
    fn add(&mut self, loss: f64, samples: usize) {
        self.loss = Some(self.loss.map_or(loss, |before| 0.95 * before + 0.05 * loss));
        self.sum += loss * samples as f64;
        self.trained += samples as f64;
    }
}

/// Images and their labels.
pub(crate) struct Digits {
    pub(crate) images: Tensor,
    pub(crate) labels: Tensor,
}

impl Digits {
    /// Reads lines of a label and an image's pixels, a letter each.
    fn parse(lines: &str) -> Self {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for (label, image) in lines.lines().filter_map(|line| line.split_once(' ')) {
            labels.extend(label.bytes().map(|label| i64::from(label - b'0')));
            pixels.extend(image.bytes().map(|pixel| f32::from(pixel - b'a') / 16.0));
        }
        let images = Tensor::from_slice(&pixels).view([-1, 1, 8, 8]);
        Self { images, labels: Tensor::from_slice(&labels) }
    }

    fn to_device(&self, device: Device) -> Self {
        Self { images: self.images.to_device(device), labels: self.labels.to_device(device) }
    }

    fn pick(&self, indices: &Tensor) -> Self {
        Self { images: self.images.index_select(0, indices), labels: self.labels.index_select(0, indices) }
    }

    fn len(&self) -> i64 {
        self.labels.size()[0]
    }
}

/// The digits to train on, and those to validate with.
pub(crate) fn load_data() -> Result<(Digits, Digits)> {
    let (train, valid) = DIGITS.split_once("\n\n").context("data/digits.txt is not in two parts")?;
    Ok((Digits::parse(train), Digits::parse(valid)))
}

/// The images at `size` pixels a side.
pub(crate) fn enlarge(images: &Tensor, size: i64) -> Tensor {
    images.upsample_bilinear2d([size, size], false, None, None)
}

/// The same, but each one turned, scaled and moved at random.
pub(crate) fn distort(images: &Tensor, size: i64) -> Tensor {
    let count = images.size()[0];
    let uniform = |limit: f64| (Tensor::rand([count], (Kind::Float, images.device())) * 2 - 1) * limit;
    let (angle, scale): (Tensor, Tensor) = (uniform(20f64.to_radians()), 1 + uniform(0.2));
    let (cos, sin) = (&scale * angle.cos(), &scale * angle.sin());
    let (right, down) = (uniform(0.25), uniform(0.25));
    let transform = Tensor::stack(&[&cos, &-&sin, &right, &sin, &cos, &down], 1).view([-1, 2, 3]);
    let grid = Tensor::affine_grid_generator(&transform, [count, 1, size, size], false);
    // Bilinear, with zeros around the image.
    images.grid_sampler(&grid, 0, 0, false)
}

/// As PyTorch begins: both its linear and its convolutional layers.
fn init(fan_in: i64) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

fn convolution(at: &Path, inputs: i64, outputs: i64) -> nn::Sequential {
    let config = nn::ConvConfig { padding: 1, bias: false, ws_init: init(inputs * 9), ..Default::default() };
    // Normalised over groups of channels, not over the batch: replicas take batches of any size.
    nn::seq()
        .add(nn::conv2d(at / 0, inputs, outputs, 3, config))
        .add(nn::group_norm(at / 1, 4, outputs, Default::default()))
        .add_fn(Tensor::relu)
}

fn stage(at: &Path, inputs: i64, outputs: i64) -> nn::Sequential {
    nn::seq()
        .add(convolution(&(at / 0), inputs, outputs))
        .add(convolution(&(at / 1), outputs, outputs))
        .add(convolution(&(at / 2), outputs, outputs))
}

/// The network. Its variables have the names that PyTorch gives them in `main.py`.
pub(crate) fn make_network(at: &Path, width: i64) -> nn::Sequential {
    let wide = width * 3 / 2;
    let flat = wide * 4 * 4;
    let config = nn::LinearConfig { ws_init: init(flat), ..Default::default() };
    nn::seq()
        .add(stage(&(at / 0), 1, width))
        .add_fn(|images| images.max_pool2d_default(2))
        .add(stage(&(at / 2), width, wide))
        .add_fn(|images| images.adaptive_avg_pool2d([4, 4]).flatten(1, -1))
        .add(nn::linear(at / 5, flat, 10, config))
}

fn plan(args: &Args, samples: u64) -> Plan {
    let bounds = (args.local_bsz_bounds[0], args.local_bsz_bounds[1]);
    let adaptive = (!args.no_autoscale_bsz).then_some(Adaptive {
        max_batch_size: args.max_batch_size,
        local_bounds: Some(bounds),
        accumulation: !args.no_gradient_accumulation,
    });
    let optimizer = Sgd { lr: args.lr, momentum: 0.9, weight_decay: 5e-4, ..Sgd::default() };
    let plan =
        Plan { adaptive, seed: args.seed, ..Plan::new(optimizer, samples, args.batch_size, args.epochs) };
    match adaptive {
        // With larger batches a pass over the samples brings less: then it takes more of them, as in AdaptDL.
        Some(_) => Plan { goal: Goal::Iterations(args.epochs as f64 * steps(args, samples)), ..plan },
        None => plan,
    }
}

/// How many steps at `--batch-size` pass over the samples once.
fn steps(args: &Args, samples: u64) -> f64 {
    samples as f64 / f64::from(args.batch_size)
}

/// The learning rate: along a cosine, and the same for as long as one pass at `--batch-size` takes.
fn rate(args: &Args, training: &Training<Own>, samples: u64) -> f64 {
    let epochs = if args.no_autoscale_bsz {
        training.epoch() as f64
    } else {
        (training.progress() / steps(args, samples)).floor()
    };
    let done = (epochs / args.epochs as f64).min(1.0);
    args.lr * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0
}

/// The part of the images that is read rightly, over all replicas.
fn validate(
    training: &mut Training<Own>,
    network: &nn::Sequential,
    valid: &Digits,
    size: i64,
) -> Result<f64> {
    let share = training.share(valid.len());
    let (start, length) = (share.start, share.end - share.start);
    let (images, labels) = (valid.images.narrow(0, start, length), valid.labels.narrow(0, start, length));
    let guesses = no_grad(|| network.forward(&enlarge(&images, size)).argmax(1, false));
    let right = guesses.eq_tensor(&labels).sum(Kind::Int64).int64_value(&[]);
    let sums = training.sum(&[right as f64, length as f64])?;
    Ok(sums[0] / sums[1])
}

/// Where it is written which samples were trained with.
struct Seen(Option<File>);

impl Seen {
    fn open(path: Option<&PathBuf>) -> Result<Self> {
        let open = |path: &PathBuf| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.with_context(|| format!("cannot write {}", path.display()))
        };
        Ok(Self(path.map(open).transpose()?))
    }

    fn add(&mut self, training: &Training<Own>, step: u64, samples: &[i64]) -> Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let mut line = format!("{} {step} {} {}", training.epoch(), training.group(), training.rank());
        samples.iter().for_each(|sample| line.push_str(&format!(" {sample}")));
        line.push('\n');
        // In one piece: other replicas write the same file.
        Ok(file.write_all(line.as_bytes())?)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut seen = Seen::open(args.seen.as_ref())?;
    let (train, valid) = load_data()?;
    let worker = Worker::from_env()?;
    tch::manual_seed(args.seed as i64);
    let mut variables = nn::VarStore::new(Device::Cpu);
    let network = make_network(&variables.root(), args.width);
    let samples = train.len() as u64;
    let mut training = Training::<Own>::start(worker, &mut variables, plan(&args, samples))?;
    let (train, valid) = (train.to_device(training.device()), valid.to_device(training.device()));
    let (first, replicas) = (training.is_first(), training.replicas());

    while let Some(epoch) = training.next_epoch()? {
        while let Some(batch) = training.next_batch()? {
            training.set_lr(rate(&args, &training, samples));
            let step = training.steps();
            let picked = train.pick(&batch.indices());
            let guesses = network.forward(&distort(&picked.images, args.image_size));
            let loss = guesses.cross_entropy_for_logits(&picked.labels);
            let stepped = training.backward(&loss)?;

            seen.add(&training, step, batch.samples())?;
            training.own.add(loss.double_value(&[]), batch.len());
            if first && stepped && training.steps().is_multiple_of(args.log_every) {
                println!(
                    "step={} epoch={epoch} loss={:.4} replicas={replicas} batch={} samples={}",
                    training.steps(),
                    training.own.loss.unwrap_or(f64::NAN),
                    training.batch_size(),
                    training.samples(),
                );
            }
        }

        // Nothing below runs twice in an epoch: a restart can come only where the next batch is asked for.
        let accuracy = validate(&mut training, &network, &valid, args.image_size)?;
        let loss = training.own.sum / training.own.trained;
        (training.own.sum, training.own.trained) = (0.0, 0.0);
        if first {
            println!(
                "epoch={epoch} step={} loss={loss:.4} accuracy={accuracy:.4} replicas={replicas} batch={}",
                training.steps(),
                training.batch_size(),
            );
        }
    }

    let accuracy = validate(&mut training, &network, &valid, args.image_size)?;
    if first {
        variables.save(MODEL)?;
        println!("done accuracy={accuracy:.4} model={MODEL}");
    }
    Ok(())
}
