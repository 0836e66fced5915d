//! A storm: two jobs on a cluster, faults while it lasts, and what must be true when it is over.
//!
//! What is random is which fault comes when, and the seed decides that; what the machine makes of it differs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::faults::{Fault, Node, addressed, hit_worker, interrupt, kill_raylet, nodes, strike};
use crate::metadata::Metadata;
use crate::support::{World, phase, replicas, repository, within};

const JOBS: [&str; 2] = ["left", "right"];
/// Milliseconds between two faults.
const PAUSE_MS: std::ops::Range<u64> = 2_000..8_000;
/// Milliseconds for which a controller is away, or a job suspended.
const AWAY_MS: std::ops::Range<u64> = 2_000..8_000;
/// Milliseconds between a spot notice and the end of its node.
const NOTICE_MS: std::ops::Range<u64> = 10_000..20_000;
/// How long what the faults have left may take to heal. An earlier lease may have to end first.
const HEALING: Duration = Duration::from_secs(300);

/// What is to be done later.
enum Later {
    StartController,
    Resume(&'static str),
    TakeAway(Node),
}

/// The state of a storm.
struct Storm {
    world: World,
    metadata: Metadata,
    random: fastrand::Rng,
    begun: Instant,
    later: Vec<(Instant, Later)>,
    replicas: BTreeMap<&'static str, u32>,
    /// The newest durable checkpoint that was seen of each job: its group and number.
    newest: BTreeMap<&'static str, (u64, u64)>,
    controller: bool,
    watcher: Option<Child>,
    /// The events that were printed.
    told: Arc<Mutex<BTreeSet<String>>>,
    /// What is wrong.
    wrong: Vec<String>,
}

/// Lets faults of these kinds come for so long, and sees that all is well afterwards; panics if it is not.
pub(crate) fn run(seed: u64, lasting: Duration, kinds: &[Fault]) {
    let names: Vec<String> = kinds.iter().map(|fault| fault.name()).collect();
    println!("seed {seed}, {lasting:.0?} of faults: {}", names.join(" "));
    let mut storm = Storm {
        world: World::with_controller(&[]),
        metadata: Metadata::start(),
        random: fastrand::Rng::with_seed(seed),
        begun: Instant::now(),
        later: Vec::new(),
        replicas: BTreeMap::new(),
        newest: BTreeMap::new(),
        controller: true,
        watcher: None,
        told: Arc::default(),
        wrong: Vec::new(),
    };
    storm.prepare();
    storm.rage(lasting, kinds);
    storm.calm();
    storm.judge(seed);
    storm.world.finish();
    println!("all is well");
}

impl Storm {
    /// The cluster, and both jobs at work with a checkpoint each.
    fn prepare(&mut self) {
        let cluster = format!(
            "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: c}}\nspec:\n  \
             provider: {{local: {{}}}}\n  workerGroups:\n  - {{name: cpu, minNodes: 3, maxNodes: 4}}\n  \
             metadataEndpoint: {}\n",
            self.metadata.endpoint()
        );
        self.world.write("cluster.yaml", &cluster);
        self.world.ok(&["apply", "-f", "cluster.yaml"]);
        for job in JOBS {
            self.apply(job, 1);
        }
        for job in JOBS {
            self.world.wait_job(job, "it trains and has saved", |job| {
                replicas(job) > 0 && job["status"]["checkpoint"].is_object()
            });
        }
        self.watch_events();
    }

    fn apply(&mut self, job: &'static str, replicas: u32) -> Option<String> {
        self.replicas.insert(job, replicas);
        let manifest = format!(
            "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: {job}}}\nspec:\n  \
             clusterRef: {{name: c}}\n  workingDir: {}\n  entrypoint: samples.py\n  args: [--until, {}]\n  \
             scaling: {{policy: Fixed, replicas: {replicas}}}\n  maxReplicas: 2\n  progressDeadline: 10s\n  \
             checkpoint: {{interval: 3s, timeout: 20s}}\n  artifacts: {{paths: [verdict.json], destination: out/{job}}}\n",
            repository("tests/chaos/jobs").display(),
            self.world.path("enough").display(),
        );
        let file = format!("{job}.yaml");
        self.world.write(&file, &manifest);
        self.command(&["apply", "-f", &file])
    }

    // --- While it lasts --------------------------------------------------------------------------------------

    fn rage(&mut self, lasting: Duration, kinds: &[Fault]) {
        self.begun = Instant::now();
        let end = self.begun + lasting;
        // The head is lost once, well before the end, if it is lost at all.
        let mut head = kinds.contains(&Fault::KillHead).then(|| self.begun + lasting.mul_f64(0.6));
        let mut next = self.begun;
        while Instant::now() < end {
            if Instant::now() >= next {
                let fault = match head {
                    Some(at) if Instant::now() >= at => Fault::KillHead,
                    _ => self.choose(kinds),
                };
                match self.inject(fault) {
                    Some(what) => {
                        head = head.filter(|_| fault != Fault::KillHead);
                        self.say(&format!("{} {what}", fault.name()));
                    }
                    None => self.say(&format!("{} finds nothing to hit", fault.name())),
                }
                next = Instant::now() + Duration::from_millis(self.random.u64(PAUSE_MS));
            }
            self.tick();
        }
    }

    fn choose(&mut self, kinds: &[Fault]) -> Fault {
        let weighted = kinds.iter().flat_map(|fault| std::iter::repeat_n(*fault, fault.weight()));
        let weighted: Vec<Fault> = weighted.collect();
        *self.random.choice(&weighted).expect("a kind of fault that comes more than once")
    }

    /// Does it, if there is something to do it to; says what was done.
    fn inject(&mut self, fault: Fault) -> Option<String> {
        let job = self.random.choice(JOBS)?;
        let away = Duration::from_millis(self.random.u64(AWAY_MS));
        match fault {
            Fault::KillWorker => hit_worker(&self.world, &mut self.random, job, Signal::SIGKILL),
            Fault::StopWorker => hit_worker(&self.world, &mut self.random, job, Signal::SIGSTOP),
            Fault::KillForkServer => strike(&self.world, &mut self.random, "[forkserver]", None),
            Fault::KillSlot => strike(&self.world, &mut self.random, "ray::Slot", None),
            Fault::KillBridge => strike(&self.world, &mut self.random, "ray::Bridge", None),
            Fault::KillAgent => strike(&self.world, &mut self.random, "rayconcile_agent.agent", None),
            Fault::KillRaylet => {
                let node = self.random.choice(nodes(&self.world, false))?;
                kill_raylet(&self.world, &mut self.random, &node)
            }
            Fault::KillHead => {
                let head = nodes(&self.world, true).pop()?;
                let what = self.random.choice(["/gcs/gcs_server ", "/raylet/raylet "])?;
                strike(&self.world, &mut self.random, what, Some(head.main))
            }
            Fault::KillController => {
                if !self.controller {
                    return None;
                }
                self.world.kill_controller();
                self.controller = false;
                self.after(away, Later::StartController);
                Some(format!("for {away:.1?}"))
            }
            Fault::Interrupt => {
                let node = addressed(&self.world, &mut self.random)?;
                let after = Duration::from_millis(self.random.u64(NOTICE_MS));
                let what = interrupt(&self.metadata, &node, after);
                self.after(after, Later::TakeAway(node));
                Some(what)
            }
            Fault::Rebalance => {
                let node = addressed(&self.world, &mut self.random)?;
                self.metadata.recommend_rebalance(&node.address);
                Some(node.name)
            }
            Fault::Rescale => {
                let replicas = 3 - self.replicas[job];
                self.controller.then(|| self.apply(job, replicas))??;
                Some(format!("{job} to {replicas}"))
            }
            Fault::Suspend => {
                self.command(&["suspend", job])?;
                self.after(away, Later::Resume(job));
                Some(format!("{job} for {away:.1?}"))
            }
        }
    }

    fn after(&mut self, time: Duration, what: Later) {
        self.later.push((Instant::now() + time, what));
    }

    /// Does what is due, and looks at the checkpoints.
    fn tick(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(Instant, Later)> = due;
        for (_, what) in due {
            self.do_later(what);
        }
        self.look();
        std::thread::sleep(Duration::from_millis(250)); // Between two looks; nothing is expected of it.
    }

    fn do_later(&mut self, what: Later) {
        match what {
            Later::StartController => {
                self.world.start(&[], &[]);
                self.controller = true;
                self.watch_events();
                self.say("the controller is back");
            }
            Later::Resume(job) if self.command(&["resume", job]).is_some() => {
                self.say(&format!("{job} is resumed"));
            }
            Later::Resume(job) => self.after(Duration::from_secs(1), Later::Resume(job)),
            Later::TakeAway(node) => {
                let killed = kill_raylet(&self.world, &mut self.random, &node);
                self.metadata.clear(&node.address);
                self.say(&killed.map_or(format!("{} has gone before it was taken", node.name), |said| {
                    format!("the noticed node is taken away: {said}")
                }));
            }
        }
    }

    /// The newest durable checkpoint of a job never goes back.
    fn look(&mut self) {
        for name in JOBS {
            let id = &self.world.job(name)["status"]["checkpoint"]["id"];
            let (Some(group), Some(number)) = (id["group"].as_u64(), id["number"].as_u64()) else { continue };
            let newest = self.newest.entry(name).or_default();
            if (group, number) < *newest {
                self.wrong.push(format!(
                    "{name}: its newest checkpoint was {newest:?} and is {:?}",
                    (group, number)
                ));
            }
            *newest = (*newest).max((group, number));
        }
    }

    // --- When it is over -------------------------------------------------------------------------------------

    /// Ends all faults, and lets the jobs come to their end.
    fn calm(&mut self) {
        self.say("no more faults");
        // Some of it may fail and be wanted again.
        for _ in 0..100 {
            let later = std::mem::take(&mut self.later);
            for (_, what) in later {
                self.do_later(what);
            }
            if self.later.is_empty() {
                break;
            }
            self.tick();
        }
        for node in nodes(&self.world, false) {
            self.metadata.clear(&node.address);
        }
        for job in JOBS {
            if self.command(&["resume", job]).is_none() {
                self.wrong.push(format!("{job} cannot be resumed"));
            }
        }
        self.world.write("enough", "");
        let done = |job: &str| phase(&self.world.job(job)) == "Succeeded";
        let over = within(HEALING, || JOBS.iter().all(|job| done(job)).then_some(()));
        if over.is_none() {
            self.wrong.push(format!("the jobs have not come to their end in {HEALING:?}"));
        }
        self.look();
    }

    fn judge(&mut self, seed: u64) {
        for name in JOBS {
            let job = self.world.job(name);
            let groups = job["status"]["group"].as_u64().unwrap_or(0) + 1;
            let failures = job["status"]["failures"].as_u64().unwrap_or(0);
            let text = std::fs::read_to_string(self.world.path(&format!("out/{name}/verdict.json")));
            let verdict: Value =
                text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            println!("{name}: {}, {groups} groups, {failures} failures, verdict {verdict}", phase(&job));
            if failures > 0 {
                self.wrong.push(format!("{name}: {failures} of the faults were taken for its program's"));
            }
            if !verdict["wrong"].as_object().is_some_and(serde_json::Map::is_empty) {
                self.wrong
                    .push(format!("{name}: not every sample was trained on once in every epoch: {verdict}"));
            }
            let listed = self.command(&["checkpoint", "ls", name]).unwrap_or_default();
            let Some((group, number)) = self.newest.get(name) else { continue };
            let newest =
                listed.lines().last().and_then(|line| line.split_whitespace().next()).map(str::to_owned);
            if newest.is_none_or(|newest| numbers(&newest) < vec![*group, *number]) {
                self.wrong
                    .push(format!("{name}: {group}/{number} was durable and is not the newest of\n{listed}"));
            }
        }
        if let Some(mut watcher) = self.watcher.take() {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
        assert!(self.wrong.is_empty(), "seed {seed}: {:#?}\n{}", self.wrong, self.world.state());
    }

    // --- How it is told --------------------------------------------------------------------------------------

    fn say(&self, what: &str) {
        println!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Prints the objects' events as they come, until the controller ends.
    fn watch_events(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
        let mut command = self.world.command(&["events", "-A", "--watch"]);
        let mut watcher = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
        let told = self.told.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // A controller that is back tells everything again; what begins with no time goes on from a line before.
                let new = line.starts_with(|first: char| first.is_ascii_digit());
                if new && told.lock().unwrap().insert(line.clone()) {
                    println!("              {line}");
                }
            }
        });
        self.watcher = Some(watcher);
    }

    /// What a command prints, if there is a controller and it succeeds.
    fn command(&self, arguments: &[&str]) -> Option<String> {
        let output = self.world.command(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The numbers in the name of a checkpoint.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}
