//! How soon a job trains again after a worker or a node is lost, how soon it is away from a node that will be taken
//! away, and what either costs in steps.
//!
//! `EVENTS` and `REPETITIONS` choose what is measured. Every step is written by the job itself, with its time.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod common;
#[allow(dead_code)]
#[path = "../live/metadata.rs"]
mod metadata;
#[allow(dead_code)]
#[path = "../live/support.rs"]
mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use common::{job, keep, largest, median, number, seconds, state_program, wait, words};
use metadata::Metadata;
use support::{World, cluster, phase, pids, replicas, session, signal, within};

const EVENTS: [&str; 4] = ["worker-kill", "node-kill", "notice-spare", "notice-none"];
/// Seconds between two checkpoints in place.
const INTERVAL_S: f64 = 5.0;
/// How long after its notice a node is taken away.
const NOTICE: Duration = Duration::from_secs(120);
/// Steps are made at least this fast when nothing is wrong.
const STEP_S: f64 = 0.02;

/// What was measured of an event.
struct Run {
    event: String,
    times: Vec<f64>,
    lost: Vec<u64>,
    /// The steps of one interval, by the pace before the event.
    allowed: Vec<u64>,
    /// Events after which it did not go on in time.
    failed: usize,
}

/// A step that the job has made.
struct Step {
    group: u64,
    step: u64,
    at: f64,
}

/// A cluster with a job whose steps can be read, and what was measured of it.
struct Course {
    world: World,
    metadata: Metadata,
    workers: u64,
}

fn main() -> ExitCode {
    let events = words("EVENTS", &EVENTS);
    let (alone, spare): (Vec<String>, Vec<String>) =
        events.into_iter().partition(|event| event == "notice-none");
    let mut runs = Vec::new();
    if !spare.is_empty() {
        let course = Course::begin(3, 2, INTERVAL_S as u32);
        runs.extend(spare.iter().map(|event| course.measure(event)));
        course.world.finish();
    }
    if !alone.is_empty() {
        // The checkpoint that is waited for is that of the notice: no other is made.
        let course = Course::begin(1, 1, 3600);
        runs.extend(alone.iter().map(|event| course.measure(event)));
        course.world.finish();
    }
    keep("recovery", &table(&runs), &json!({"runs": runs.iter().map(describe).collect::<Vec<_>>()}));
    judge(&runs)
}

impl Course {
    fn begin(nodes: u32, workers: u64, interval_s: u32) -> Self {
        let world = World::with_controller(&[]);
        let metadata = Metadata::start();
        let rest = format!(
            "minReplicas: {workers}\n  scaling: {{policy: Fixed, replicas: {workers}}}\n  \
             checkpoint: {{interval: {interval_s}s}}"
        );
        let arguments = format!("--step, '{STEP_S}', --trace, {}", world.path("trace").display());
        let cluster = format!("{}  metadataEndpoint: {}\n", cluster("c", nodes), metadata.endpoint());
        let job = job("bench", &state_program(&arguments), &rest);
        world.write("job.yaml", &[cluster, job].join("---\n"));
        world.ok(&["apply", "-f", "job.yaml"]);
        Self { world, metadata, workers }
    }

    fn measure(&self, event: &str) -> Run {
        let mut run =
            Run { event: event.to_owned(), times: vec![], lost: vec![], allowed: vec![], failed: 0 };
        for _ in 0..number("REPETITIONS").unwrap_or(3) {
            let job = self.quiet();
            let steps = self.steps();
            run.allowed.push(pace(&steps));
            let before = steps.last().unwrap().group;
            let taken = match event {
                "worker-kill" => self.worker_kill(&job, before),
                "node-kill" => self.node_kill(&job, before),
                "notice-spare" => self.notice_spare(&job, before),
                "notice-none" => self.notice_none(&job),
                other => panic!("{other} is no event: {EVENTS:?}"),
            };
            eprintln!("{event}: {}", seconds(taken));
            match taken {
                Some(taken) => run.times.push(taken),
                None => run.failed += 1,
            }
            self.quiet();
            run.lost.push(lost(&self.steps(), before));
        }
        run
    }

    /// Waits until all nodes are there, the job trains, and has saved what it made a while ago.
    fn quiet(&self) -> Value {
        wait(&self.world, "all nodes are there", || {
            let cluster = self.world.get("cluster", "c");
            (cluster["status"]["readyNodes"] == cluster["status"]["desiredNodes"]
                && cluster["status"]["readyNodes"].as_u64()? >= self.workers)
                .then_some(())
        });
        let since = now();
        wait(&self.world, "it trains and has saved", || {
            let job = self.world.job("bench");
            let steps = self.steps();
            let group = job["status"]["group"].as_u64();
            let began = steps.iter().find(|step| Some(step.group) == group).map(|step| step.at);
            // The interval must have passed once, and be under way again: an event comes at any time of it.
            let settled = began.is_some_and(|began| now() > began + INTERVAL_S + 1.0) && now() > since + 1.0;
            (phase(&job) == "Running" && replicas(&job) == self.workers && settled).then_some(job)
        })
    }

    fn worker_kill(&self, job: &Value, before: u64) -> Option<f64> {
        let begun = now();
        signal(u32::try_from(*pids(job).last().unwrap()).unwrap(), Signal::SIGKILL);
        self.trains_after(before, begun)
    }

    fn node_kill(&self, job: &Value, before: u64) -> Option<f64> {
        let (name, _) = self.last_node(job);
        let begun = now();
        assert!(self.kill_raylet(&name), "a node on which a worker trains has a raylet");
        self.trains_after(before, begun)
    }

    /// How long until it trains in a group that is not on the noticed node; then the node is taken away.
    fn notice_spare(&self, job: &Value, before: u64) -> Option<f64> {
        let (name, address) = self.last_node(job);
        let begun = now();
        self.metadata.interrupt(&address, NOTICE);
        let taken = self.trains_after(before, begun)?;
        let is_away = |job: &Value| {
            let workers = job["status"]["workers"].as_array()?;
            let away = job["status"]["group"].as_u64()? > before
                && workers.iter().all(|worker| worker["node"] != name);
            away.then_some(())
        };
        wait(&self.world, "no worker is on the noticed node", || is_away(&self.world.job("bench")));
        self.metadata.clear(&address);
        self.kill_raylet(&name);
        Some(taken)
    }

    /// How long until what was made up to the notice is durable; then the node is taken away.
    fn notice_none(&self, job: &Value) -> Option<f64> {
        let (name, address) = self.last_node(job);
        let begun = now();
        self.metadata.interrupt(&address, NOTICE);
        let durable = within(Duration::from_secs(60), || {
            let job = self.world.job("bench");
            let saved: Timestamp = job["status"]["checkpoint"]["saved"].as_str()?.parse().ok()?;
            (saved.as_millisecond() as f64 / 1000.0 > begun).then(now)
        });
        self.kill_raylet(&name);
        self.metadata.clear(&address);
        Some(durable? - begun)
    }

    /// How long after `begun` a group after this one has made its first step.
    fn trains_after(&self, before: u64, begun: f64) -> Option<f64> {
        let next = || self.steps().iter().find(|step| step.group > before).map(|step| step.at);
        Some(within(Duration::from_secs(120), next)? - begun)
    }

    /// The node of the job's last rank: its name and its address.
    fn last_node(&self, job: &Value) -> (String, String) {
        let name =
            job["status"]["workers"].as_array().unwrap().last().unwrap()["node"].as_str().unwrap().to_owned();
        let cluster = self.world.get("cluster", "c");
        let nodes = cluster["status"]["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["name"] == name.as_str()).unwrap();
        (name, node["address"].as_str().unwrap().to_owned())
    }

    /// Kills a node's raylet, if the node has not ended by itself; says whether it had not.
    fn kill_raylet(&self, name: &str) -> bool {
        let cluster = self.world.get("cluster", "c");
        let nodes = cluster["status"]["nodes"].as_array().unwrap();
        let Some(node) = nodes.iter().find(|node| node["name"] == name) else { return false };
        let main = session(u32::try_from(node["pid"].as_u64().unwrap()).unwrap());
        let raylet = self
            .world
            .processes()
            .into_iter()
            .find(|(pid, command)| session(*pid) == main && command.starts_with("[raylet]"));
        raylet.is_some_and(|(pid, _)| {
            signal(pid, Signal::SIGKILL);
            true
        })
    }

    fn steps(&self) -> Vec<Step> {
        steps(&self.world.path("trace"))
    }
}

fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

/// The steps in the job's own record.
fn steps(trace: &Path) -> Vec<Step> {
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    let field = |line: &str, name: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let parse = |line: &str| {
        Some(Step {
            group: field(line, "group")?.parse().ok()?,
            step: field(line, "step")?.parse().ok()?,
            at: field(line, "at")?.parse().ok()?,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// How many steps are made in an interval, by what was made in the last one, and in the second that saving takes.
fn pace(steps: &[Step]) -> u64 {
    let since = now() - INTERVAL_S - 1.0;
    steps.iter().filter(|step| step.at > since).count() as u64
}

/// How many steps that were made by groups up to this one were made again by those after it.
fn lost(steps: &[Step], before: u64) -> u64 {
    let mut lost = 0;
    for pair in steps.windows(2).filter(|pair| pair[0].group >= before && pair[1].group > pair[0].group) {
        lost += (pair[0].step + 1).saturating_sub(pair[1].step);
    }
    lost
}

fn describe(run: &Run) -> Value {
    json!({
        "event": run.event,
        "median_s": median(&run.times),
        "max_s": largest(&run.times),
        "lost_steps_max": run.lost.iter().max(),
        "interval_steps": run.allowed.iter().min(),
        "n": run.times.len(),
        "failed": run.failed,
    })
}

fn table(runs: &[Run]) -> String {
    let mut text = format!(
        "Checkpoints in place every {INTERVAL_S} s; of notice-none, only that of the notice.\n\n\
         | event | median | worst | n | not in time | steps lost, at most | steps of an interval |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for run in runs {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            run.event,
            seconds(median(&run.times)),
            seconds(largest(&run.times)),
            run.times.len(),
            run.failed,
            run.lost.iter().max().unwrap_or(&0),
            run.allowed.iter().min().unwrap_or(&0),
        );
    }
    text
}

/// Says what is not as it must be.
fn judge(runs: &[Run]) -> ExitCode {
    let mut good = true;
    for run in runs {
        let bound = match run.event.as_str() {
            "worker-kill" => 5.0,
            "node-kill" => 15.0,
            "notice-spare" => 10.0,
            _ => NOTICE.as_secs_f64(),
        };
        if run.failed > 0 || median(&run.times).is_none_or(|median| median > bound) {
            eprintln!("{}: {} is not within {bound} s", run.event, seconds(median(&run.times)));
            good = false;
        }
        for (lost, allowed) in run.lost.iter().zip(&run.allowed) {
            if lost > allowed {
                eprintln!("{}: {lost} steps were lost, more than the {allowed} of an interval", run.event);
                good = false;
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
