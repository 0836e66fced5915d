//! How much of a text a small transformer learns in a second, on one worker and on two: `examples/transformer_tch.rs`,
//! an equal PyTorch script, and the same script with AdaptDL (`transformer.py`), in turn.
//!
//! `WORKERS`, `REPETITIONS` and `WINDOWS` choose what is measured. Each worker has one thread for torch, and the same
//! number of samples in a batch. It fails if the program in Rust is slower than one of the scripts.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code)]
mod common;
#[allow(dead_code)]
#[path = "../live/support.rs"]
mod support;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use axum::extract::Path;
use axum::routing::any;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use common::{keep, median, number, words};
use support::{free_ports, python, repository};

/// Characters in a sample: what both programs have by default.
const CONTEXT: f64 = 64.0;
/// Samples of a worker in a batch.
const SHARE: usize = 16;
/// Steps between two times that are taken.
const WINDOW: usize = 50;
/// Windows before it counts: memory is got, and pages are.
const WARM_UP: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Rust,
    Torch,
    AdaptDl,
}

const PROGRAMS: [Program; 3] = [Program::Rust, Program::Torch, Program::AdaptDl];

/// What a program does with so many workers: samples a second and worker, one of each repetition.
struct Run {
    workers: usize,
    program: Program,
    rates: Vec<f64>,
}

fn main() -> ExitCode {
    let supervisor = Supervisor::start();
    let workers =
        words("WORKERS", &["1", "2"]).into_iter().map(|word| word.parse().expect("WORKERS are numbers"));
    let mut runs: Vec<Run> = workers
        .flat_map(|workers| PROGRAMS.map(|program| Run { workers, program, rates: Vec::new() }))
        .collect();
    for repetition in 0..number("REPETITIONS").unwrap_or(5) {
        // There and back, so that none is always the one before or after the machine was busy.
        let mut order: Vec<&mut Run> = runs.iter_mut().collect();
        if repetition % 2 == 1 {
            order.reverse();
        }
        for run in order {
            let rate = measure(run.program, run.workers, &supervisor);
            eprintln!("{} on {}: {rate:.1} samples/s and worker", run.program.name(), run.workers);
            run.rates.push(rate);
        }
    }
    let described: Vec<Value> = runs.iter().map(|run| describe(run, &runs)).collect();
    keep("train", &table(&runs), &json!({"context": CONTEXT, "batch": SHARE, "runs": described}));
    judge(&runs)
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Rust => "Rust",
            Program::Torch => "PyTorch",
            Program::AdaptDl => "AdaptDL",
        }
    }

    fn command(self) -> Command {
        let script = |with: &str| {
            let mut command = Command::new(python());
            command.arg("-B").arg(repository("tests/bench/transformer.py")).args(["--with", with]);
            command
        };
        match self {
            Program::Rust => {
                let mut command = Command::new(repository("target/demo-rust/transformer_tch"));
                command.arg("--no-autoscale-bsz");
                command
            }
            Program::Torch => script("torch"),
            Program::AdaptDl => script("adaptdl"),
        }
    }
}

/// What tells workers where the others are, all on this machine, and takes note of nothing.
struct Supervisor {
    address: String,
    _runtime: Runtime,
}

impl Supervisor {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let answer = |Path((workers, _)): Path<(usize, String)>| async move {
            Json(vec![Ipv4Addr::LOCALHOST.to_string(); workers])
        };
        let router = Router::new().route("/{workers}/{*question}", any(answer));
        runtime.spawn(async { axum::serve(listener, router).await });
        Self { address, _runtime: runtime }
    }
}

/// The workers of one run; they end with it.
struct Group(Vec<Child>);

impl Drop for Group {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// Samples a second and worker: the median of some windows.
fn measure(program: Program, workers: usize, supervisor: &Supervisor) -> f64 {
    let scratch = tempfile::tempdir().unwrap();
    let [port] = free_ports();
    let start = |rank| start(program, workers, rank, port, supervisor, scratch.path());
    let mut group = Group((0..workers).map(start).collect());
    let output = BufReader::new(group.0[0].stdout.take().unwrap());
    let (mut times, mut samples) = (Vec::new(), Vec::new());
    let wanted = WARM_UP + number("WINDOWS").unwrap_or(9) + 1;
    for line in output.lines().map_while(Result::ok).filter(|line| line.starts_with("step=")) {
        times.push(Instant::now());
        let word = line.split_whitespace().find_map(|word| word.strip_prefix("samples="));
        samples.push(word.unwrap().parse::<f64>().unwrap());
        if times.len() == wanted {
            break;
        }
    }
    let said = || std::fs::read_to_string(scratch.path().join("0")).unwrap_or_default();
    assert!(times.len() == wanted, "{} has ended too early:\n{}", program.name(), said());
    let rates = (WARM_UP + 1..wanted).map(|at| {
        let taken = times[at].duration_since(times[at - 1]).as_secs_f64();
        (samples[at] - samples[at - 1]) / taken / workers as f64
    });
    median(&rates.collect::<Vec<f64>>()).unwrap()
}

fn start(
    program: Program,
    workers: usize,
    rank: usize,
    port: u16,
    supervisor: &Supervisor,
    at: &std::path::Path,
) -> Child {
    let mut command = program.command();
    command
        .args(["--batch-size", &(SHARE * workers).to_string(), "--log-every", &WINDOW.to_string()])
        .args(["--epochs", "1000000"])
        .env("OMP_NUM_THREADS", "1")
        .env("NO_PROXY", "*")
        .env("ADAPTDL_JOB_ID", "default/bench")
        .env("ADAPTDL_MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string())
        .env("ADAPTDL_MASTER_PORT", port.to_string())
        .env("ADAPTDL_NUM_REPLICAS", workers.to_string())
        .env("ADAPTDL_NUM_NODES", "1")
        .env("ADAPTDL_REPLICA_RANK", rank.to_string())
        .env("RAYCONCILE_GROUP_SECRET", "bench")
        .current_dir(at)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(at.join(rank.to_string())).unwrap());
    // The scripts have the variable with the address.
    if program == Program::Rust {
        command.env("ADAPTDL_SUPERVISOR_URL", format!("{}/{workers}", supervisor.address));
    }
    command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", program.name()))
}

/// How many times as fast as another program the one in Rust is, by the repetitions that were made one after the other.
fn ratio(runs: &[Run], workers: usize, program: Program) -> f64 {
    let rates = |program| {
        let run = runs.iter().find(|run| run.workers == workers && run.program == program);
        run.map(|run| run.rates.as_slice()).unwrap_or_default()
    };
    let pairs = rates(Program::Rust).iter().zip(rates(program));
    median(&pairs.map(|(rust, other)| rust / other).collect::<Vec<f64>>()).unwrap_or_default()
}

fn describe(run: &Run, runs: &[Run]) -> Value {
    let rate = median(&run.rates).unwrap_or_default();
    json!({
        "workers": run.workers,
        "program": run.program.name(),
        "samplesPerWorker": rate,
        "tokensPerWorker": rate * CONTEXT,
        "rates": run.rates,
        "rustIsTimes": ratio(runs, run.workers, run.program),
    })
}

fn table(runs: &[Run]) -> String {
    let mut table = String::from(
        "Of each worker, with one thread for torch.\n\n\
         | workers | program | samples/s | tokens/s | Rust is |\n|---|---|---|---|---|\n",
    );
    for run in runs {
        let rate = median(&run.rates).unwrap_or_default();
        let ratio = match run.program {
            Program::Rust => String::new(),
            other => format!("× {:.3}", ratio(runs, run.workers, other)),
        };
        let _ = writeln!(
            table,
            "| {} | {} | {rate:.1} | {:.0} | {ratio} |",
            run.workers,
            run.program.name(),
            rate * CONTEXT,
        );
    }
    table
}

fn judge(runs: &[Run]) -> ExitCode {
    let mut good = true;
    for run in runs.iter().filter(|run| run.program != Program::Rust) {
        let ratio = ratio(runs, run.workers, run.program);
        if ratio < 1.0 {
            eprintln!(
                "on {} workers, Rust is {ratio:.3} times as fast as {}",
                run.workers,
                run.program.name()
            );
            good = false;
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
