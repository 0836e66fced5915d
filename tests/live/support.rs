//! A controller of a test's own, and the command line against it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The program under test.
pub(crate) const RAYCONCILE: &str = env!("CARGO_BIN_EXE_rayconcile");

/// How long a test waits for what must come; long, for a machine may be busy, but not for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Whether somebody wants this to end. It does where it waits, as after a failure: Ray's processes would live on else.
/// Asked a second time, it ends at once.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let flag = Arc::new(AtomicBool::new(false));
    for number in [Signal::SIGINT, Signal::SIGTERM] {
        signal_hook::flag::register_conditional_default(number as i32, Arc::clone(&flag)).unwrap();
        signal_hook::flag::register(number as i32, Arc::clone(&flag)).unwrap();
    }
    flag
});

/// The interpreter that has Ray, torch and AdaptDL.
pub(crate) fn python() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    assert!(path.exists(), "{} is not there: run `make python`", path.display());
    path
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Ports that nobody on this machine has now, at any address, for servers that begin later. They are above those that the
/// kernel gives to whoever asks for any: Ray's processes do, and would take one between the look and the use. AdaptDL's
/// workers have theirs below.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let mut taken = BTreeSet::new();
    [(); N].map(|()| {
        let mut drawn = std::iter::repeat_with(|| fastrand::u16(61_000..));
        let is_free =
            |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok() && taken.insert(*port);
        drawn.find(is_free).unwrap()
    })
}

/// A directory with a state directory in it, and the controller that serves it.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    controller: Option<Child>,
    enclosure: Option<Enclosure>,
}

/// A network namespace from which only some ports of an address outside can be reached.
struct Enclosure {
    address: String,
    ports: Vec<u16>,
    /// The process in it whose namespace it is: the controller.
    pid: Option<u32>,
}

impl World {
    /// A world without a controller.
    pub(crate) fn new() -> Self {
        assert!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        Self { directory: tempfile::tempdir().unwrap(), controller: None, enclosure: None }
    }

    /// A world whose controller, and whoever talks to it, can reach nothing but these ports of an address outside,
    /// at 127.0.0.1, and cannot be reached by anybody.
    pub(crate) fn enclosed(address: &str, ports: &[u16]) -> Self {
        let mut world = Self::new();
        world.enclosure = Some(Enclosure { address: address.to_owned(), ports: ports.to_vec(), pid: None });
        world
    }

    /// A world with a controller that has these arguments.
    pub(crate) fn with_controller(arguments: &[&str]) -> Self {
        let mut world = Self::new();
        world.start(arguments, &[]);
        world
    }

    /// A path in the world's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file in the world's directory.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// A command of the program, against this world's state.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.entered();
        command.arg(RAYCONCILE).arg("--state-dir").arg(self.path("state")).args(arguments);
        command
            .env("VIRTUAL_ENV", repository(".venv"))
            .env_remove("RUST_LOG")
            .current_dir(self.directory.path());
        command
    }

    /// What runs a command where this world's controller is.
    fn entered(&self) -> Command {
        let mut command = Command::new("nsenter");
        match self.enclosure.as_ref().and_then(|enclosure| enclosure.pid) {
            Some(pid) => {
                command.arg(format!("--target={pid}")).args(["--user", "--net", "--preserve-credentials"])
            }
            None => {
                command = Command::new("env");
                &mut command
            }
        };
        command
    }

    /// What another program prints where this world's controller is.
    pub(crate) fn inside(&self, command: &[&str]) -> String {
        String::from_utf8(self.entered().args(command).output().unwrap().stdout).unwrap()
    }

    /// Starts the controller, with its log in a file, and waits until it answers.
    pub(crate) fn start(&mut self, arguments: &[&str], environment: &[(&str, &str)]) {
        assert!(self.controller.is_none());
        let log = fs::File::options().create(true).append(true).open(self.path("controller.log")).unwrap();
        let mut command = Command::new(RAYCONCILE);
        if let Some(enclosure) = &self.enclosure {
            let ports: Vec<String> = enclosure.ports.iter().map(ToString::to_string).collect();
            command = Command::new(python());
            command.arg(repository("tests/live/enclosed.py")).args([
                &enclosure.address,
                &ports.join(","),
                "--",
                RAYCONCILE,
            ]);
        }
        command
            .arg("--state-dir")
            .arg(self.path("state"))
            .args(["controller", "--idle-timeout", "2s"])
            .args(arguments);
        command
            .env("VIRTUAL_ENV", repository(".venv"))
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir(self.directory.path());
        let mut child = command.spawn().unwrap();
        if let Some(enclosure) = &mut self.enclosure {
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            enclosure.pid = Some(line.trim().parse().unwrap());
        }
        self.controller = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.command(&["status"]).output().unwrap().status.success() {
            let ended = self.controller.as_mut().unwrap().try_wait().unwrap();
            if ended.is_some() && environment.iter().any(|(name, _)| *name == "RAYCONCILE_CRASH_AT") {
                return; // It was to die, and was quick.
            }
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the controller did not start:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the controller as the kernel would.
    pub(crate) fn kill_controller(&mut self) {
        let mut child = self.controller.take().unwrap();
        match self.enclosure.as_mut().and_then(|enclosure| enclosure.pid.take()) {
            // What connects the enclosure to the outside ends with what is in it.
            Some(pid) => signal(pid, Signal::SIGKILL),
            None => child.kill().unwrap(),
        }
        child.wait().unwrap();
    }

    /// The controller's process.
    pub(crate) fn controller_pid(&self) -> u32 {
        self.controller.as_ref().unwrap().id()
    }

    /// Waits until the controller has died; says whether it did in time.
    pub(crate) fn controller_dies(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if self.controller.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.controller = None;
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// What the controller has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("controller.log")).unwrap_or_default()
    }

    /// Runs a command; it must succeed. Gives what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?} failed: {}\n{}", said(&output), self.log_tail());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command; gives its exit code and all it said.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output().unwrap();
        (output.status.code().unwrap_or(-1), said(&output))
    }

    /// An object as JSON, or null if it is not there.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Value {
        let output = self.command(&["get", kind, name, "-o", "json"]).output().unwrap();
        if output.status.success() { serde_json::from_slice(&output.stdout).unwrap() } else { Value::Null }
    }

    /// A job.
    pub(crate) fn job(&self, name: &str) -> Value {
        self.get("job", name)
    }

    /// Waits until something is so of a job, and gives the job.
    pub(crate) fn wait_job(&self, name: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        self.wait(what, || Some(self.job(name)).filter(|job| condition(job)))
    }

    /// Waits until something can be had.
    pub(crate) fn wait<T>(&self, what: &str, probe: impl Fn() -> Option<T>) -> T {
        within(PATIENCE, probe).unwrap_or_else(|| panic!("waited too long until {what}\n{}", self.state()))
    }

    /// The processes of this world's nodes, and all that was started on them: process id and command.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let started = in_sessions_of(&self.launches());
        started.into_iter().map(|(pid, _)| (pid, command_of(pid))).collect()
    }

    /// Everything that helps to understand what went wrong.
    pub(crate) fn state(&self) -> String {
        let status = self.run(&["status"]).1;
        let events = self.run(&["events", "-A"]).1;
        format!("--- status\n{status}\n--- events\n{events}\n{}", self.log_tail())
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!("--- controller\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    /// Deletes everything and sees that nothing is left: no process, no temporary directory.
    pub(crate) fn finish(mut self) {
        let launches = self.launches();
        let started = in_sessions_of(&launches);
        for kind in ["jobs", "clusters"] {
            for name in self.ok(&["get", kind, "-A", "-o", "name"]).lines() {
                self.ok(&["delete", name]);
            }
        }
        if let Some(mut child) = self.controller.take() {
            terminate(self.enclosure.as_ref().and_then(|enclosure| enclosure.pid).unwrap_or(child.id()));
            assert!(child.wait().unwrap().success(), "the controller ended badly:\n{}", self.log_tail());
        }
        let left: Vec<String> = marked()
            .into_iter()
            .filter(|(launch, _)| launches.contains(launch))
            .map(|(_, what)| what)
            .collect();
        assert!(left.is_empty(), "processes were left behind: {left:#?}");
        // A process may lose its mark, by giving itself a title for example; it must not get away with that.
        // One that was killed with the others may take a moment to be gone.
        let left = || -> Vec<&(u32, u64)> {
            let is_there = |(pid, start): &&(u32, u64)| stat(*pid).is_some_and(|stat| stat.start == *start);
            started.iter().filter(is_there).collect()
        };
        let gone = within(PATIENCE, || left().is_empty().then_some(()));
        assert!(gone.is_some(), "processes without a mark were left behind: {:?}", left());
        let left: Vec<PathBuf> =
            self.temporary_directories().into_iter().filter(|path| path.exists()).collect();
        assert!(left.is_empty(), "directories were left behind: {left:#?}");
    }

    /// The temporary directory of every cluster that this world's controllers have opened.
    fn temporary_directories(&self) -> BTreeSet<PathBuf> {
        let log = self.log();
        let opened = log
            .lines()
            .filter_map(|line| line.split("OpenCluster { incarnation: \"").nth(1)?.split('"').next());
        opened.map(|id| PathBuf::from(format!("/tmp/rc-{}/{id}", nix::unistd::geteuid()))).collect()
    }

    /// Every launch that this world's controllers have logged.
    fn launches(&self) -> BTreeSet<String> {
        let log = self.log();
        let launch = |line: &str| {
            let intent = line.split("intent=").nth(1)?.split_whitespace().next()?;
            line.contains("LaunchNode").then(|| intent.to_owned())
        };
        log.lines().filter_map(launch).collect()
    }
}

impl Drop for World {
    /// After a failed test: what was started is ended all the same, by process id.
    fn drop(&mut self) {
        if let Some(mut child) = self.controller.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let launches = self.launches();
        // Several rounds, for what is started while the others are being killed, and until they have ended.
        for _ in 0..100 {
            let own = marked().into_iter().filter(|(launch, _)| launches.contains(launch));
            let pids: Vec<i32> =
                own.filter_map(|(_, what)| what.split_whitespace().next()?.parse().ok()).collect();
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for directory in self.temporary_directories() {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// What can be had in this time, looked for again and again.
pub(crate) fn within<T>(patience: Duration, probe: impl Fn() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        assert!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Asks a process to end.
pub(crate) fn terminate(pid: u32) {
    signal(pid, Signal::SIGTERM);
}

/// Signals a process.
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// The processes that carry the mark of a launch: the launch, and `PID COMMAND`.
fn marked() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let launch = environment.split(|byte| *byte == 0).find_map(|word| {
            std::str::from_utf8(word).ok()?.strip_prefix("RAYCONCILE_LAUNCH=").map(str::to_owned)
        });
        if let Some(launch) = launch {
            found.push((launch, format!("{pid} {}", command_of(pid))));
        }
    }
    found
}

/// A process's command line, or the title it has given itself.
fn command_of(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("[{}] {}", name.trim(), String::from_utf8_lossy(&command).replace('\0', " ").trim_end())
}

/// The session that a process is in, if it lives.
pub(crate) fn session(pid: u32) -> Option<u32> {
    Some(stat(pid)?.session)
}

/// What the kernel says of a process that is no zombie.
struct Stat {
    session: u32,
    start: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, in brackets: state, parent, group, session; the start time is the twentieth of them (proc(5)).
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    (fields[0] != "Z")
        .then(|| Stat { session: fields[3].parse().unwrap(), start: fields[19].parse().unwrap() })
}

/// Every process of the sessions in which these launches run: process id and start.
fn in_sessions_of(launches: &BTreeSet<String>) -> BTreeSet<(u32, u64)> {
    let own = marked().into_iter().filter(|(launch, _)| launches.contains(launch));
    let pids = own.filter_map(|(_, what)| what.split_whitespace().next()?.parse().ok());
    let sessions: BTreeSet<u32> = pids.filter_map(|pid| Some(stat(pid)?.session)).collect();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all = pids.filter_map(|pid| Some((pid, stat(pid)?)));
    all.filter(|(_, stat)| sessions.contains(&stat.session)).map(|(pid, stat)| (pid, stat.start)).collect()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The phase of an object.
pub(crate) fn phase(object: &Value) -> &str {
    object["status"]["phase"].as_str().unwrap_or("")
}

/// How many of a job's workers train.
pub(crate) fn replicas(job: &Value) -> u64 {
    let workers = job["status"]["workers"].as_array().cloned().unwrap_or_default();
    workers.iter().filter(|worker| worker["state"] == "Training").count() as u64
}

/// The process ids of a job's workers, by rank.
pub(crate) fn pids(job: &Value) -> Vec<u64> {
    let workers = job["status"]["workers"].as_array().cloned().unwrap_or_default();
    workers.iter().filter_map(|worker| worker["pid"].as_u64()).collect()
}

/// A cluster of so many one-CPU nodes.
pub(crate) fn cluster(name: &str, nodes: u32) -> String {
    format!(
        "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: {name}}}\nspec:\n  \
         provider: {{local: {{}}}}\n  workerGroups:\n  - {{name: cpu, minNodes: {nodes}, maxNodes: {nodes}}}\n"
    )
}

/// A job that runs `elastic.py` with these arguments; `rest` is the rest of its spec.
pub(crate) fn job(name: &str, cluster: &str, arguments: &str, rest: &str) -> String {
    let directory = repository("tests/live/jobs");
    format!(
        "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: {name}}}\nspec:\n  \
         clusterRef: {{name: {cluster}}}\n  workingDir: {}\n  entrypoint: elastic.py\n  args: [{arguments}]\n  {rest}\n",
        directory.display()
    )
}
