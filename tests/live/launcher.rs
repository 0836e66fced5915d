//! `adaptdl_on_ray_aws` and `attach`, against a real cluster in network namespaces: from where only its dashboard can
//! be reached, and which cannot reach back; and from where all of it can be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;

use crate::apart::{living, network};
use crate::machines::Machines;
use crate::support::{PATIENCE, RAYCONCILE, World, python, repository, signal, within};

const OLD: &str = env!("CARGO_BIN_EXE_adaptdl_on_ray_aws");
/// The same, as `env` runs it where no other program is found: neither a Python nor Ray.
const WITHOUT_PROGRAMS: [&str; 2] = ["PATH=/nowhere", OLD];

/// A cluster, and a directory for whoever uses it.
struct Site {
    world: World,
    machines: Machines,
    token: PathBuf,
    /// How many commands were run.
    count: std::cell::Cell<u32>,
}

/// A command that runs.
struct Caller {
    process: Child,
    /// The process in the enclosure.
    pid: u32,
    out: PathBuf,
    err: PathBuf,
}

impl Drop for Caller {
    /// After a failed test: what was started is ended all the same.
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

impl Site {
    fn new() -> Self {
        let world = World::new();
        let token = world.write("token", &"0123456789abcdef".repeat(4));
        let machines = Machines::start("apart.py", &token, &world.path("machines.log"));
        Self { world, machines, token, count: std::cell::Cell::new(0) }
    }

    /// Runs a command where 8265 is the cluster's dashboard, and nothing else is anything.
    fn enclosed(&self, program: &str, arguments: &[&str]) -> Caller {
        let mut command = Command::new(python());
        command.arg(repository("tests/live/enclosed.py"));
        command
            .args(["127.0.0.1", &format!("8265={}", self.machines.dashboard), "--", program])
            .args(arguments);
        let mut caller = self.start(command);
        let pid = self.wait("the enclosure is there", || first_line(&caller.out)?.parse().ok());
        caller.pid = pid;
        caller
    }

    /// Runs a command on the head itself.
    fn on_head(&self, program: &str, arguments: &[&str]) -> Caller {
        let mut command = Command::new("nsenter");
        command.args([
            "--preserve-credentials",
            "--user",
            "--net",
            "-t",
            &self.machines.pid().to_string(),
            program,
        ]);
        self.start({
            command.args(arguments);
            command
        })
    }

    fn start(&self, mut command: Command) -> Caller {
        let number = self.count.replace(self.count.get() + 1);
        let (out, err) =
            (self.world.path(&format!("{number}.out")), self.world.path(&format!("{number}.err")));
        let process = command
            .env("RAY_AUTH_TOKEN_PATH", &self.token)
            .env("RAYCONCILE_STATE_DIR", self.world.path("state"))
            .env_remove("RUST_LOG")
            .current_dir(self.world.directory.path())
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Caller { pid: process.id(), process, out, err }
    }

    fn wait<T>(&self, what: &str, probe: impl Fn() -> Option<T>) -> T {
        within(PATIENCE, probe).unwrap_or_else(|| {
            let said =
                (0..self.count.get()).flat_map(|number| [format!("{number}.out"), format!("{number}.err")]);
            let said: String =
                said.map(|name| format!("--- {name}\n{}", tail(&self.world.path(&name)))).collect();
            panic!("waited too long until {what}\n{said}")
        })
    }

    /// Waits until a command has ended; gives its exit code, its output and its talk.
    fn end(&self, mut caller: Caller) -> (Option<i32>, String, String) {
        let process = std::cell::RefCell::new(&mut caller.process);
        let status: ExitStatus =
            self.wait("a command has ended", || process.borrow_mut().try_wait().unwrap());
        (status.code(), read(&caller.out), read(&caller.err))
    }

    /// The processes of ours on the head and the other machines.
    fn ours(&self, networks: &BTreeSet<PathBuf>) -> Vec<String> {
        let marks = ["ray::Bridge", "ray::Slot", "rayconcile_agent", "rayconcile-hosted"];
        living(networks)
            .into_iter()
            .filter(|command| marks.iter().any(|mark| command.contains(mark)))
            .collect()
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn tail(path: &Path) -> String {
    let text = read(path);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].iter().map(|line| format!("{line}\n")).collect()
}

fn first_line(path: &Path) -> Option<String> {
    read(path).lines().next().map(str::to_owned)
}

/// The steps that were recorded: group and number.
fn steps(record: &Path) -> Vec<(u64, u64)> {
    let parse = |line: &str| {
        let (group, step) = line.split_once(' ')?;
        Some((group.parse().ok()?, step.parse().ok()?))
    };
    read(record).lines().filter_map(parse).collect()
}

/// The name of the job that a command has said.
fn name(caller: &Caller) -> Option<String> {
    let text = read(&caller.err);
    let line = text.lines().find_map(|line| line.strip_prefix("job "))?;
    Some(line.split(':').next()?.to_owned())
}

/// The process on the head that attends to a job.
fn attending(name: &str) -> Option<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        words[0] == b"rayconcile-hosted" && words.contains(&name.as_bytes())
    })
}

#[test]
fn a_job_of_an_unreachable_caller_survives_it() {
    let site = Site::new();
    let networks = BTreeSet::from([network(site.machines.pid()).unwrap()]);
    let (record, until) = (site.world.path("record"), site.world.path("until"));
    let jobs = repository("tests/live/jobs");
    let flags = ["-u", "ray://127.0.0.1:10001", "-m", "1", "--gpus", "0", "-d", jobs.to_str().unwrap()];
    let mut caller = site.enclosed(
        "env",
        &[
            &WITHOUT_PROGRAMS[..],
            &flags[..],
            &[
                "-f",
                "elastic.py",
                "--",
                "--until",
                until.to_str().unwrap(),
                "--record",
                record.to_str().unwrap(),
            ],
        ]
        .concat(),
    );
    site.wait("its output is here", || read(&caller.out).contains("step=5 ").then_some(()));
    let job = name(&caller).unwrap();
    assert!(
        read(&caller.err).contains("port 8267 of the head cannot be reached from here"),
        "{}",
        read(&caller.err)
    );

    // The caller is killed; the job does not notice.
    signal(caller.pid, Signal::SIGKILL);
    caller.process.wait().unwrap();
    let made = steps(&record).len();
    site.wait("the job goes on", || (steps(&record).len() > made + 5).then_some(()));
    let uri = ["--uri", "http://127.0.0.1:8265"];
    let (code, listed, _) = site.end(site.enclosed(RAYCONCILE, &[&["attach"][..], &uri].concat()));
    assert_eq!(code, Some(0));
    assert!(listed.lines().any(|line| line.starts_with(&job) && line.contains("Running")), "{listed}");

    // So is what attends to it on the head, while somebody looks: it is started again, and the workers train on.
    let watching = site.enclosed(RAYCONCILE, &[&["attach", &job][..], &uri].concat());
    site.wait("it is followed", || read(&watching.out).contains("step=").then_some(()));
    signal(attending(&job).unwrap(), Signal::SIGKILL);
    site.wait("it is seen", || read(&watching.err).contains("it is started again").then_some(()));
    let again = site.wait("it is there again", || attending(&job));
    let seen = read(&watching.out).lines().count();
    site.wait("its output goes on", || (read(&watching.out).lines().count() > seen + 5).then_some(()));
    fs::write(&until, "").unwrap();
    let (code, out, err) = site.end(watching);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.ends_with("done\n"), "{out}");
    assert!(err.contains("Succeeded"), "{err}");
    let steps = steps(&record);
    assert_eq!(
        steps,
        (1..=steps.len() as u64).map(|step| (0, step)).collect::<Vec<_>>(),
        "workers trained on"
    );
    let shown: Vec<&str> =
        out.lines().filter_map(|line| line.strip_prefix("step=")?.split(' ').next()).collect();
    let all: Vec<String> = (1..=shown.len()).map(|step| step.to_string()).collect();
    assert_eq!(shown, all, "every line is shown once");
    assert!(
        shown.len() == steps.len() && attending(&job) != Some(again),
        "{} of {}",
        shown.len(),
        steps.len()
    );

    // Who comes later sees the same end; and nothing of ours runs on.
    let (code, out, _) = site.end(site.enclosed(RAYCONCILE, &[&["attach", &job][..], &uri].concat()));
    assert_eq!(code, Some(0));
    assert!(out.contains("done"), "{out}");
    site.wait("nothing of ours is left", || site.ours(&networks).is_empty().then_some(()));
}

#[test]
fn the_exit_code_is_the_jobs_from_wherever_it_is_asked() {
    let site = Site::new();
    let jobs = repository("tests/live/jobs");
    let base = ["-m", "2", "--gpus", "0", "-d", jobs.to_str().unwrap()];
    let (inside, direct) = (["-u", "ray://127.0.0.1:10001"], ["-u", "http://10.87.0.1:8265"]);

    // From where all of the cluster can be reached the controller is here. Two of one state directory share it.
    let plain = || {
        let rest = ["-f", "trouble.py", "--", "plain"];
        site.on_head("env", &[&WITHOUT_PROGRAMS[..], &direct, &base, &rest].concat())
    };
    let (one, other) = (plain(), plain());
    for caller in [one, other] {
        let (code, out, err) = site.end(caller);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("did it") && err.contains("Succeeded"), "{out}{err}");
        assert!(err.contains("its state is in"), "{err}");
    }
    let networks = BTreeSet::from([network(site.machines.pid()).unwrap()]);
    site.wait("nothing is left", || site.ours(&networks).is_empty().then_some(()));

    // A script that fails, left to itself, and looked for when it has.
    let uri = ["--uri", "http://127.0.0.1:8265"];
    let failing = [&inside[..], &base, &["--detach", "-f", "trouble.py", "exits"]].concat();
    let (code, out, _) = site.end(site.enclosed(OLD, &failing));
    assert_eq!(code, Some(0));
    let failing = out.lines().nth(1).unwrap();
    let (code, out, err) = site.end(site.enclosed(RAYCONCILE, &[&["attach", failing][..], &uri].concat()));
    assert_eq!(code, Some(1), "{err}");
    assert!(out.contains("this cannot work") && err.contains("Failed"), "{out}{err}");

    // One that is stopped by Ctrl-C, goes on, is left, is stopped, and is fetched.
    let record = site.world.path("record");
    let arguments = ["-f", "elastic.py", "--", "--steps", "1000000", "--record", record.to_str().unwrap()];
    let waiting = site.enclosed(OLD, &[&inside[..], &base, &arguments].concat());
    site.wait("it trains", || (steps(&record).len() > 5).then_some(()));
    let job = &name(&waiting).unwrap();
    let attach = |more: &[&str]| site.enclosed(RAYCONCILE, &[&["attach", job][..], &uri, more].concat());
    signal(waiting.pid, Signal::SIGINT);
    let (code, _, err) = site.end(waiting);
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("has stopped at checkpoint"), "{err}");
    let made = *steps(&record).last().unwrap();
    let resumed = attach(&["--resume"]);
    site.wait("it goes on", || (steps(&record).last()?.0 > made.0).then_some(()));
    let first = steps(&record).into_iter().find(|step| step.0 > made.0).unwrap();
    assert_eq!(first.1, made.1 + 1, "it goes on from where it was");
    signal(resumed.pid, Signal::SIGINT);
    let (code, _, err) = site.end(resumed);
    assert_eq!(code, Some(130));
    assert!(err.contains(&format!("{job} goes on")), "{err}");
    assert_eq!(site.end(attach(&["--stop"])).0, Some(130));
    let (code, _, err) = site.end(attach(&["--fetch-checkpoint", "saved"]));
    assert_eq!(code, Some(0), "{err}");
    let saved = fs::read_dir(site.world.path("saved")).unwrap().count();
    assert!(saved > 0);

    let (code, _, err) = site.end(site.enclosed(RAYCONCILE, &[&["attach", "nosuch"][..], &uri].concat()));
    assert_eq!(code, Some(1));
    assert!(err.contains("attends to no job nosuch; it knows of") && err.contains(job), "{err}");
    site.wait("nothing is left", || site.ours(&networks).is_empty().then_some(()));
}

/// Runs a command on the head as a shell on a terminal does, or as `nohup`.
fn on_terminal(site: &Site, hangup: &str, arguments: &[&str]) -> Caller {
    site.on_head("env", &[&[hangup, OLD][..], arguments].concat())
}

#[test]
fn signals_stop_a_job_or_leave_it_where_its_controller_is_here() {
    let site = Site::new();
    let networks = BTreeSet::from([network(site.machines.pid()).unwrap()]);
    let jobs = repository("tests/live/jobs");
    let record = site.world.path("record");
    let arguments = |record: &str| {
        let base = ["-u", "http://10.87.0.1:8265", "-m", "1", "--gpus", "0", "-d", jobs.to_str().unwrap()];
        let rest = ["-f", "elastic.py", "--", "--steps", "1000000", "--record", record];
        base.iter().chain(&rest).map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let run = |hangup: &str| {
        let _ = fs::remove_file(&record);
        let arguments = arguments(record.to_str().unwrap());
        let caller = on_terminal(&site, hangup, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        site.wait("it trains", || (steps(&record).len() > 5).then_some(()));
        caller
    };

    // Under `nohup` the end of the terminal is nothing; Ctrl-C saves and stops the job, and leaves nothing behind.
    let caller = run("--ignore-signal=HUP");
    signal(caller.pid, Signal::SIGHUP);
    let made = steps(&record).len();
    site.wait("it trains on", || (steps(&record).len() > made + 5).then_some(()));
    signal(caller.pid, Signal::SIGINT);
    let (code, _, err) = site.end(caller);
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("has stopped at checkpoint") && !err.contains("goes on without"), "{err}");
    site.wait("nothing is left", || site.ours(&networks).is_empty().then_some(()));

    // At the end of the terminal the job is left, and a controller finds it again.
    let caller = run("--default-signal=HUP");
    let job = name(&caller).unwrap();
    signal(caller.pid, Signal::SIGHUP);
    let (code, _, err) = site.end(caller);
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains(&format!("{job} goes on without a controller")), "{err}");
    let made = steps(&record).len();
    site.wait("it trains on", || (steps(&record).len() > made + 5).then_some(()));
    let mut controller = site.on_head(RAYCONCILE, &["controller"]);
    let ask = |arguments: &[&str]| site.end(site.on_head(RAYCONCILE, arguments));
    site.wait("the controller is there", || read(&controller.err).contains("API at").then_some(()));
    let (code, _, err) = ask(&["wait", "job", &job, "--for", "phase=Running", "--timeout", "120s"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(steps(&record).iter().all(|step| step.0 == 0), "its first group trains on");
    for object in [format!("job/{job}"), "cluster/ray-10-87-0-1-8265".to_owned()] {
        let (code, _, err) = ask(&["delete", &object]);
        assert_eq!(code, Some(0), "{err}");
    }
    signal(controller.pid, Signal::SIGTERM);
    assert!(controller.process.wait().unwrap().success());
    site.wait("nothing is left", || site.ours(&networks).is_empty().then_some(()));
}

#[test]
fn a_job_that_ray_is_told_to_stop_saves_and_stops() {
    let site = Site::new();
    let networks = BTreeSet::from([network(site.machines.pid()).unwrap()]);
    let (jobs, record) = (repository("tests/live/jobs"), site.world.path("record"));
    let ray = python().with_file_name("ray");
    let stop = |job: &str, attempt: u32| {
        let submission = format!("rayconcile-{job}-{attempt}");
        let address = ["--address", "http://10.87.0.1:8265"];
        let words = ["RAY_AUTH_MODE=token", ray.to_str().unwrap(), "job", "stop", &submission];
        let (code, out, err) = site.end(site.on_head("env", &[&words[..], &address].concat()));
        assert_eq!(code, Some(0), "{out}{err}");
    };
    let base = ["-u", "ray://127.0.0.1:10001", "-m", "1", "--gpus", "0", "-d", jobs.to_str().unwrap()];
    let rest = ["-f", "elastic.py", "--", "--steps", "1000000", "--record", record.to_str().unwrap()];
    let caller = site.enclosed(OLD, &[&base[..], &rest].concat());
    site.wait("it trains", || (steps(&record).len() > 5).then_some(()));
    let job = name(&caller).unwrap();
    let attach = |more: &[&str]| {
        let uri = ["--uri", "http://127.0.0.1:8265"];
        site.enclosed(RAYCONCILE, &[&["attach", &job][..], &uri, more].concat())
    };

    // While somebody looks.
    stop(&job, 1);
    let (code, _, err) = site.end(caller);
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("has stopped at checkpoint"), "{err}");
    site.wait("nothing is left", || site.ours(&networks).is_empty().then_some(()));
    let made = *steps(&record).last().unwrap();

    // And while nobody does.
    let mut resumed = attach(&["--resume"]);
    site.wait("it goes on", || (steps(&record).last()?.0 > made.0).then_some(()));
    let first = steps(&record).into_iter().find(|step| step.0 > made.0).unwrap();
    assert_eq!(first.1, made.1 + 1, "it goes on from where it was");
    signal(resumed.pid, Signal::SIGKILL);
    resumed.process.wait().unwrap();
    // The first was stopped, the second saw to it for whoever looked, and this is the third.
    stop(&job, 3);
    site.wait("its workers are gone", || {
        site.ours(&networks).iter().all(|command| !command.contains("ray::Slot")).then_some(())
    });
    let (code, _, err) = site.end(attach(&[]));
    assert_eq!(code, Some(130), "{err}");
    assert!(err.contains("has stopped at checkpoint"), "{err}");
    site.wait("nothing is left", || site.ours(&networks).is_empty().then_some(()));
}
