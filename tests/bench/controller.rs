//! A controller that watches a directory with thousands of manifests: how soon all are accepted, how soon a change of
//! one file is in force, and what it costs when nothing happens, with all jobs running.
//!
//! `MANIFESTS` and `CLUSTERS` choose what is measured. The clusters are stand-ins (`ray.rs`) that say at once that they
//! do what they are told, and nothing more: their jobs run and make no news.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code)]
mod common;
mod ray;
#[allow(dead_code)]
#[path = "../live/support.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::{keep, median, number};

/// How long anything may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long nothing happens while that is measured.
const IDLE: Duration = Duration::from_secs(60);
/// How often one file is changed.
const CHANGES: u32 = 15;
/// What it may be at most.
const LIMITS: [(&str, f64); 4] =
    [("accepted_s", 5.0), ("one_change_s", 0.5), ("idle_cpu_fraction", 0.01), ("rss_mb", 100.0)];

fn main() -> ExitCode {
    let manifests = number("MANIFESTS").unwrap_or(2000);
    let clusters = number("CLUSTERS").unwrap_or(20);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let addresses: Vec<String> = (0..clusters).map(|_| runtime.block_on(ray::start())).collect();
    let directory = tempfile::tempdir().unwrap();
    let watched = directory.path().join("watched");
    write_all(&watched, manifests, &addresses);

    let mut controller = Controller::start(directory.path());
    let accepted = controller.since_start(|| (controller.accepted() == manifests).then_some(()));
    eprintln!("{manifests} accepted after {accepted:.2} s");
    let jobs = manifests - clusters;
    let running = controller.since_start(|| (controller.running() == jobs).then_some(()));
    eprintln!("{jobs} running after {running:.2} s");
    let changes: Vec<f64> =
        (0..CHANGES).map(|number| controller.change(&watched, number, &addresses)).collect();
    let change = median(&changes).unwrap();
    eprintln!(
        "one change in force after {change:.3} s, at most {:.3} s",
        changes.iter().copied().fold(0.0, f64::max)
    );
    let idle = controller.idle();
    let rss = controller.rss_mb();
    assert_eq!(controller.running(), jobs, "all still run");
    controller.stop();

    let figures = [accepted, change, idle, rss];
    let mut result = json!({"manifests": manifests});
    LIMITS.iter().zip(figures).for_each(|((name, _), figure)| result[*name] = json!(rounded(figure)));
    keep("controller", &table(manifests, clusters, running, figures), &result);
    let over = LIMITS.iter().zip(figures).filter(|((_, limit), figure)| figure > limit);
    let over: Vec<&str> = over.map(|((name, _), _)| *name).collect();
    if over.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("over the limit: {}", over.join(", "));
    ExitCode::FAILURE
}

fn rounded(figure: f64) -> f64 {
    (figure * 10_000.0).round() / 10_000.0
}

fn table(manifests: usize, clusters: usize, running: f64, figures: [f64; 4]) -> String {
    let [accepted, change, idle, rss] = figures;
    format!(
        "| manifests | clusters | all accepted | all running | one change in force | CPU when idle | memory |\n\
         |---|---|---|---|---|---|---|\n\
         | {manifests} | {clusters} | {accepted:.2} s | {running:.1} s | {change:.2} s | {:.2} % of a core | {rss:.0} MB |\n",
        idle * 100.0
    )
}

fn write_all(watched: &Path, manifests: usize, addresses: &[String]) {
    for (number, address) in addresses.iter().enumerate() {
        let port = address.rsplit(':').next().unwrap();
        let text = format!(
            "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: c{number}}}\nspec:\n  \
             provider: {{existing: {{address: \"{address}\", agentPort: {port}}}}}\n  auth: {{mode: none}}\n"
        );
        write(watched, &format!("clusters/c{number}.yaml"), &text);
    }
    for number in 0..manifests - addresses.len() {
        write(watched, &path_of(number), &job(number, addresses.len(), 0));
    }
}

fn path_of(number: usize) -> String {
    format!("team-{}/job-{number}.yaml", number % 40)
}

fn job(number: usize, clusters: usize, version: u32) -> String {
    let cluster = number % clusters;
    format!(
        "# A job of a team, as they are written.\napiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata:\n  \
         name: job-{number}\n  labels: {{team: team-{}, version: v{version}}}\nspec:\n  clusterRef: {{name: c{cluster}}}\n  \
         command: [python, train.py, --lr, \"0.1\"]\n  resources: {{cpu: 1}}\n  minReplicas: 1\n  maxReplicas: 1\n  \
         env:\n    - {{name: MODE, value: fast}}\n  checkpoint: {{interval: 10m}}\n",
        number % 40
    )
}

fn write(watched: &Path, name: &str, text: &str) {
    let path = watched.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The controller under test, as a process of its own.
struct Controller {
    child: Child,
    started: Instant,
    state: PathBuf,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Controller {
    fn start(directory: &Path) -> Self {
        let state = directory.join("state");
        let log = fs::File::create(directory.join("log")).unwrap();
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_rayconcile"))
            .args(["controller", "--watch", "watched", "--max-prune", "100%"])
            .current_dir(directory)
            .env("RAYCONCILE_STATE_DIR", &state)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { child, started, state, client, runtime }
    }

    fn get(&self, path: &str) -> Option<Value> {
        let endpoint: Value =
            serde_json::from_str(&fs::read_to_string(self.state.join("api.json")).ok()?).ok()?;
        let token = fs::read_to_string(self.state.join("api-token")).ok()?;
        let url = format!("{}/apis/rayconcile.dev/v1/{path}", endpoint["url"].as_str()?);
        let request = self.client.get(url).bearer_auth(token);
        self.runtime.block_on(async { request.send().await.ok()?.json().await.ok() })
    }

    /// How many objects there are.
    fn accepted(&self) -> usize {
        // What is there is counted in the controller: a list of all would be half of what is measured.
        let sources = self.get("sources").unwrap_or_default();
        let source = &sources["items"][0];
        let synced = source["state"] == "Synced";
        source["objects"].as_u64().filter(|_| synced).unwrap_or(0) as usize
    }

    fn running(&self) -> usize {
        let list = self.get("adaptdljobs").unwrap_or_default();
        let jobs = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        jobs.iter().filter(|job| job["status"]["phase"] == "Running").count()
    }

    /// The seconds from the start until something is so.
    fn since_start(&self, probe: impl Fn() -> Option<()>) -> f64 {
        self.until(self.started, probe)
    }

    fn until(&self, start: Instant, probe: impl Fn() -> Option<()>) -> f64 {
        while probe().is_none() {
            assert!(
                start.elapsed() < PATIENCE,
                "waited too long; the log is in {}",
                self.state.with_file_name("log").display()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        start.elapsed().as_secs_f64()
    }

    /// Changes a file, and gives the seconds until that is what is wanted.
    fn change(&self, watched: &Path, version: u32, addresses: &[String]) -> f64 {
        let number = 7 * version as usize;
        let start = Instant::now();
        write(watched, &path_of(number), &job(number, addresses.len(), version + 1));
        let wanted = format!("v{}", version + 1);
        let path = format!("namespaces/default/adaptdljobs/job-{number}");
        self.until(start, || {
            let object = self.get(&path)?;
            (object["metadata"]["labels"]["version"] == wanted.as_str()).then_some(())
        })
    }

    /// Which part of a core it takes when nothing happens.
    fn idle(&self) -> f64 {
        // What the changes have begun is over.
        std::thread::sleep(Duration::from_secs(5));
        let (start, before) = (Instant::now(), self.cpu_s());
        std::thread::sleep(IDLE);
        (self.cpu_s() - before) / start.elapsed().as_secs_f64()
    }

    /// The seconds that it has run on a CPU (proc_pid_stat(5): utime and stime, in hundredths).
    fn cpu_s(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        [11, 12].iter().map(|index| fields[*index].parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    fn rss_mb(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
