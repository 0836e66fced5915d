//! Teach a small transformer to write like Jane Austen, a character at a time, on any number of replicas.
//!
//! Training is elastic through `rayconcile::train`: after any step the replicas may save a checkpoint and leave, and
//! another number of them go on from there. Gradients of a block are averaged while those of the blocks before it are
//! still computed.

#![allow(clippy::print_stdout)]

use anyhow::Result;
use clap::Parser;
use rayconcile::train::{Adam, Adaptive, Goal, Plan, Training, Worker};
use serde::{Deserialize, Serialize};
use tch::nn::{self, Init, Module, Path};
use tch::{Device, Kind, Tensor, no_grad};

/// The first chapters of "Pride and Prejudice": see `data/README.md`.
const TEXT: &str = include_str!("data/pride_and_prejudice.txt");
const MODEL: &str = "model.safetensors";
/// The part of the text, at its end, that is not trained with.
const HELD_BACK: f64 = 0.1;
/// The part of the training in which the learning rate rises.
const WARM_UP: f64 = 0.05;

/// Teach a small transformer to write like Jane Austen, a character at a time, on any number of replicas.
#[derive(Parser)]
struct Args {
    /// Passes over the text, if the batch size stays as it is
    #[arg(long, default_value_t = 14)]
    epochs: u64,
    /// The highest, at --batch-size; AdaScale scales it
    #[arg(long, default_value_t = 0.005)]
    lr: f64,
    /// Of all replicas together, to begin with
    #[arg(long, default_value_t = 16)]
    batch_size: u32,
    /// Let the batch size follow what the gradients say; the default
    #[arg(long, overrides_with = "no_autoscale_bsz")]
    autoscale_bsz: bool,
    /// Keep the batch size
    #[arg(long)]
    no_autoscale_bsz: bool,
    /// Of all replicas together
    #[arg(long, default_value_t = 128)]
    max_batch_size: u32,
    /// What one replica takes at a time
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"], default_values_t = [4, 64])]
    local_bsz_bounds: Vec<u32>,
    #[command(flatten)]
    shape: Shape,
    /// Steps between two records
    #[arg(long, default_value_t = 10)]
    log_every: u64,
    /// Characters to write at the end
    #[arg(long, default_value_t = 300)]
    write: usize,
    /// Of the first weights and the order
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// How large the network is.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Shape {
    /// Characters that it sees at a time
    #[arg(long, default_value_t = 64)]
    pub(crate) context: i64,
    /// Channels
    #[arg(long, default_value_t = 64)]
    pub(crate) width: i64,
    #[arg(long, default_value_t = 4)]
    pub(crate) layers: i64,
    #[arg(long, default_value_t = 4)]
    pub(crate) heads: i64,
}

/// What is kept over restarts, beside the training's own.
#[derive(Default, Serialize, Deserialize)]
struct Own {
    /// A moving average, over the first replica's share.
    loss: Option<f64>,
}

/// A text in numbers, one for each of its characters.
pub(crate) struct Text {
    /// The characters, in order; what they are at is their number.
    alphabet: Vec<char>,
    /// A window a row, each with one character more: the first of the next.
    pub(crate) train: Tensor,
    pub(crate) valid: Tensor,
}

impl Text {
    pub(crate) fn read(context: i64) -> Self {
        let mut alphabet: Vec<char> = TEXT.chars().collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        let number = |character| alphabet.partition_point(|other| *other < character) as i64;
        let numbers: Vec<i64> = TEXT.chars().map(number).collect();
        let numbers = Tensor::from_slice(&numbers);
        let held_back = (numbers.size1().unwrap_or(0) as f64 * HELD_BACK) as i64;
        let parts = numbers.split_with_sizes([numbers.numel() as i64 - held_back, held_back], 0);
        let [train, valid] =
            [&parts[0], &parts[1]].map(|part| part.unfold(0, context + 1, context).contiguous());
        Self { alphabet, train, valid }
    }

    pub(crate) fn letters(&self) -> i64 {
        self.alphabet.len() as i64
    }
}

fn normal(deviation: f64) -> Init {
    Init::Randn { mean: 0.0, stdev: deviation }
}

fn linear(at: Path, inputs: i64, outputs: i64, deviation: f64) -> nn::Linear {
    let config = nn::LinearConfig {
        ws_init: normal(deviation),
        bs_init: Some(Init::Const(0.0)),
        ..Default::default()
    };
    nn::linear(at, inputs, outputs, config)
}

fn norm(at: Path, width: i64) -> nn::LayerNorm {
    nn::layer_norm(at, vec![width], Default::default())
}

/// Attention to what came before, then two layers for each character by itself; each normalised before, not after.
struct Block {
    heads: i64,
    norm1: nn::LayerNorm,
    attend: nn::Linear,
    join: nn::Linear,
    norm2: nn::LayerNorm,
    widen: nn::Linear,
    narrow: nn::Linear,
}

impl Block {
    fn new(at: &Path, shape: Shape) -> Self {
        let width = shape.width;
        // What is added to the stream grows with the layers that add to it.
        let added = 0.02 / (2.0 * shape.layers as f64).sqrt();
        Self {
            heads: shape.heads,
            norm1: norm(at / "norm1", width),
            attend: linear(at / "attend", width, 3 * width, 0.02),
            join: linear(at / "join", width, width, added),
            norm2: norm(at / "norm2", width),
            widen: linear(at / "widen", width, 4 * width, 0.02),
            narrow: linear(at / "narrow", 4 * width, width, added),
        }
    }

    fn attention(&self, stream: &Tensor) -> Tensor {
        let (batch, length, width) = stream.size3().unwrap_or_default();
        let three = self.attend.forward(&self.norm1.forward(stream));
        let three = three.view([batch, length, 3, self.heads, width / self.heads]).permute([2, 0, 3, 1, 4]);
        let parts = three.unbind(0);
        let none: Option<Tensor> = None;
        let seen = Tensor::scaled_dot_product_attention(
            &parts[0], &parts[1], &parts[2], none, 0.0, true, None, false,
        );
        self.join.forward(&seen.transpose(1, 2).reshape([batch, length, width]))
    }

    fn forward(&self, stream: &Tensor) -> Tensor {
        let stream = stream + self.attention(stream);
        let wide = self.widen.forward(&self.norm2.forward(&stream)).gelu("none");
        stream + self.narrow.forward(&wide)
    }
}

/// The network. Its variables have the names that PyTorch gives them in `tests/bench/transformer.py`.
pub(crate) struct Transformer {
    tokens: nn::Embedding,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: nn::LayerNorm,
    head: nn::Linear,
}

impl Transformer {
    pub(crate) fn new(at: &Path, letters: i64, shape: Shape) -> Self {
        let config = nn::EmbeddingConfig { ws_init: normal(0.02), ..Default::default() };
        Self {
            tokens: nn::embedding(at / "tokens", letters, shape.width, config),
            positions: at.var("positions", &[shape.context, shape.width], normal(0.02)),
            blocks: (0..shape.layers).map(|layer| Block::new(&(at / "blocks" / layer), shape)).collect(),
            norm: norm(at / "norm", shape.width),
            head: linear(at / "head", shape.width, letters, 0.02),
        }
    }

    /// What each next character may be. `cut` is told which variables are done with up to there.
    pub(crate) fn forward(&self, numbers: &Tensor, mut cut: impl FnMut(&[&str], Tensor) -> Tensor) -> Tensor {
        let length = numbers.size()[1];
        let stream = self.tokens.forward(numbers) + self.positions.narrow(0, 0, length);
        let mut stream = cut(&["tokens", "positions"], stream);
        for (layer, block) in self.blocks.iter().enumerate() {
            stream = cut(&[&format!("blocks.{layer}")], block.forward(&stream));
        }
        self.head.forward(&self.norm.forward(&stream))
    }
}

/// The mean loss over all characters of some windows.
pub(crate) fn loss(
    network: &Transformer,
    windows: &Tensor,
    cut: impl FnMut(&[&str], Tensor) -> Tensor,
) -> Tensor {
    let length = windows.size()[1] - 1;
    let logits = network.forward(&windows.narrow(1, 0, length), cut);
    let targets = windows.narrow(1, 1, length).reshape([-1]);
    logits.flatten(0, 1).cross_entropy_for_logits(&targets)
}

/// For networks that nothing is averaged of.
pub(crate) fn uncut(_: &[&str], stream: Tensor) -> Tensor {
    stream
}

fn plan(args: &Args, samples: u64) -> Plan {
    let adaptive = (!args.no_autoscale_bsz).then_some(Adaptive {
        max_batch_size: args.max_batch_size,
        local_bounds: Some((args.local_bsz_bounds[0], args.local_bsz_bounds[1])),
        accumulation: true,
    });
    let optimizer = Adam { lr: args.lr, betas: (0.9, 0.99), weight_decay: 0.1, ..Adam::default() };
    Plan {
        adaptive,
        goal: Goal::Iterations(goal(args, samples)),
        seed: args.seed,
        ..Plan::new(optimizer, samples, args.batch_size, args.epochs)
    }
}

/// In steps at `--batch-size`.
fn goal(args: &Args, samples: u64) -> f64 {
    (args.epochs * samples) as f64 / f64::from(args.batch_size)
}

/// The learning rate: up along a line, and down to a tenth along a cosine.
fn rate(args: &Args, done: f64) -> f64 {
    let falling = ((done - WARM_UP) / (1.0 - WARM_UP)).clamp(0.0, 1.0);
    let cosine = 0.55 + 0.45 * (std::f64::consts::PI * falling).cos();
    args.lr * cosine * ((done + 0.001) / WARM_UP).min(1.0)
}

/// The mean loss over the windows that are not trained with, over all replicas.
fn validate(training: &mut Training<Own>, network: &Transformer, windows: &Tensor) -> Result<f64> {
    let share = training.share(windows.size()[0]);
    let (mut sum, count) = (0.0, share.end - share.start);
    for windows in windows.narrow(0, share.start, count).split(16, 0) {
        let mean = no_grad(|| loss(network, &windows, uncut)).double_value(&[]);
        sum += mean * windows.size()[0] as f64;
    }
    let sums = training.sum(&[sum, count as f64])?;
    Ok(sums[0] / sums[1])
}

/// Has the network write, a character at a time, each as likely as it thinks.
fn write(network: &Transformer, text: &Text, characters: usize, device: Device) -> String {
    let context = text.valid.size()[1] - 1;
    let mut numbers = Tensor::zeros([1, 1], (Kind::Int64, device));
    let mut written = String::new();
    for _ in 0..characters {
        let length = numbers.size()[1];
        let seen = numbers.narrow(1, (length - context).max(0), length.min(context));
        let logits = no_grad(|| network.forward(&seen, uncut)).select(1, -1);
        let next = (logits / 0.8).softmax(-1, Kind::Float).multinomial(1, true);
        written.push(text.alphabet[next.int64_value(&[0, 0]) as usize]);
        numbers = Tensor::cat(&[numbers, next], 1);
    }
    written
}

fn main() -> Result<()> {
    let args = Args::parse();
    let text = Text::read(args.shape.context);
    let worker = Worker::from_env()?;
    tch::manual_seed(args.seed as i64);
    let mut variables = nn::VarStore::new(Device::Cpu);
    let network = Transformer::new(&variables.root(), text.letters(), args.shape);
    let samples = text.train.size()[0] as u64;
    let mut training = Training::<Own>::start(worker, &mut variables, plan(&args, samples))?;
    let device = training.device();
    let (train, valid) = (text.train.to_device(device), text.valid.to_device(device));
    let (first, replicas) = (training.is_first(), training.replicas());

    while let Some(epoch) = training.next_epoch()? {
        while let Some(batch) = training.next_batch()? {
            training.set_lr(rate(&args, training.progress() / goal(&args, samples)));
            let windows = train.index_select(0, &batch.indices());
            let loss = loss(&network, &windows, |used, stream| training.cut(used, stream));
            let stepped = training.backward(&loss)?;

            let loss = loss.double_value(&[]);
            training.own.loss = Some(training.own.loss.map_or(loss, |before| 0.95 * before + 0.05 * loss));
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
        let loss = validate(&mut training, &network, &valid)?;
        if first {
            println!("epoch={epoch} step={} validation={loss:.4} replicas={replicas}", training.steps());
        }
    }

    let loss = validate(&mut training, &network, &valid)?;
    if first {
        variables.save(MODEL)?;
        println!("done validation={loss:.4} model={MODEL}");
        println!("{}", write(&network, &text, args.write, device));
    }
    Ok(())
}
