//! A job whose program is in Rust: it is scaled, saved, moved and mourned as one in Python, and learns as much.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::elastic::continues;
use crate::support::{RAYCONCILE, World, cluster, phase, pids, replicas, repository, signal};

/// Samples that `digits_tch` trains with.
const SAMPLES: u64 = 1437;

/// A job of the example in Rust, which `make test` builds before; with that program in a directory of its own.
fn rust(world: &World, arguments: &str, rest: &str) -> String {
    let program = Path::new(RAYCONCILE).with_file_name("examples").join("digits_tch");
    assert!(program.exists(), "{} is not there: run `make train`", program.display());
    let directory = world.path("program");
    if !directory.exists() {
        std::fs::create_dir(&directory).unwrap();
        let strip = Command::new("strip").arg("-o").arg(directory.join("digits_tch")).arg(program).status();
        assert!(strip.unwrap().success());
    }
    job("rust", &directory, "command: [./digits_tch]", arguments, rest)
}

/// One of its twin in Python.
fn python(arguments: &str, rest: &str) -> String {
    job("python", &repository("examples/digits"), "entrypoint: main.py", arguments, rest)
}

fn job(name: &str, directory: &Path, program: &str, arguments: &str, rest: &str) -> String {
    format!(
        "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: {name}}}\nspec:\n  \
         clusterRef: {{name: c}}\n  workingDir: {}\n  {program}\n  args: [{arguments}]\n  {rest}\n",
        directory.display()
    )
}

/// What a rank of a job's group has written.
fn log(world: &World, job: &Value, rank: usize) -> String {
    let group = job["status"]["group"].to_string();
    let name = job["metadata"]["name"].as_str().unwrap();
    world.ok(&["logs", name, "--group", &group, "--rank", &rank.to_string()])
}

/// The steps that it tells of.
fn steps(log: &str) -> Vec<u64> {
    log.lines().filter_map(|line| line.strip_prefix("step=")?.split(' ').next()?.parse().ok()).collect()
}

/// The accuracy that a program's last record tells of.
fn accuracy(log: &str) -> f64 {
    let done = log.lines().find_map(|line| line.strip_prefix("done accuracy="));
    let done = done.unwrap_or_else(|| panic!("it is not done:\n{log}"));
    done.split_whitespace().next().unwrap().parse().unwrap()
}

/// Has a job train with one worker, two and one again, to its end; gives its log.
fn rescaled(world: &World, name: &str, manifest: impl Fn(&str) -> String) -> String {
    for count in [1, 2, 1] {
        let rest = format!("minReplicas: {count}\n  maxReplicas: {count}\n  scaling: {{cooldown: 1s}}");
        world.write("job.yaml", &manifest(&rest));
        world.ok(&["apply", "-f", "job.yaml"]);
        let job = world.wait_job(name, &format!("{count} of it train"), |job| {
            phase(job) == "Running" && replicas(job) == count
        });
        world.wait("it has made steps", || (steps(&log(world, &job, 0)).len() > 3).then_some(()));
    }
    let done = world.wait_job(name, "it is done", |job| phase(job) == "Succeeded");
    let history = done["status"]["history"].as_array().unwrap();
    assert_eq!(
        history.iter().map(|group| group["replicas"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1, 2, 1]
    );
    for change in &history[1..] {
        assert_eq!(change["lostSteps"], 0, "{change:#}");
        assert!(change["downtimeMs"].is_u64(), "{change:#}");
    }
    let log = world.ok(&["logs", name]);
    continues(&log);
    log
}

#[test]
fn a_program_in_rust_is_rescaled_and_learns_what_one_in_python_does() {
    let world = World::with_controller(&[]);
    world.write("cluster.yaml", &cluster("c", 2));
    world.ok(&["apply", "-f", "cluster.yaml"]);
    let (arguments, seen) = ("--epochs, '30', --log-every, '1'", world.path("seen"));
    let noted = format!("{arguments}, --seen, {}", seen.display());
    let ours = accuracy(&rescaled(&world, "rust", |rest| rust(&world, &noted, rest)));
    each_sample_once(&std::fs::read_to_string(seen).unwrap());
    let theirs = accuracy(&rescaled(&world, "python", |rest| python(arguments, rest)));
    // Of 360 images; two runs of the same program differ by two or three of them.
    assert!(ours > 0.95 && theirs > 0.95 && (ours - theirs).abs() < 0.03, "Rust {ours}, Python {theirs}");
    world.finish();
}

/// Of every epoch but the last, which ends when enough is learnt, each sample was taken once, by whichever group.
fn each_sample_once(seen: &str) {
    let mut epochs: BTreeMap<u64, BTreeMap<u64, u32>> = BTreeMap::new();
    for line in seen.lines() {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [epoch, _step, _group, _rank, samples @ ..] = &numbers[..] else { panic!("{line}") };
        for sample in samples {
            *epochs.entry(*epoch).or_default().entry(*sample).or_default() += 1;
        }
    }
    let (_, last) = epochs.pop_last().unwrap();
    assert!(last.values().all(|times| *times == 1));
    assert!(epochs.len() > 10, "{}", epochs.len());
    let once: BTreeMap<u64, u32> = (0..SAMPLES).map(|sample| (sample, 1)).collect();
    for (epoch, samples) in epochs {
        assert_eq!(samples, once, "epoch {epoch}");
    }
}

#[test]
fn when_a_worker_in_rust_is_killed_the_job_goes_on_from_its_checkpoint() {
    let world = World::with_controller(&[]);
    let rest = "minReplicas: 2\n  maxReplicas: 2\n  checkpoint: {interval: 1s}";
    let arguments = "--epochs, '100000', --log-every, '1'";
    world.write("rust.yaml", &[cluster("c", 2), rust(&world, arguments, rest)].join("---\n"));
    world.ok(&["apply", "-f", "rust.yaml"]);
    for victim in [1, 0] {
        let saved = |job: &Value| job["status"]["checkpoint"]["id"]["group"] == job["status"]["group"];
        let before = world.wait_job("rust", "it has saved", |job| replicas(job) == 2 && saved(job));
        signal(u32::try_from(pids(&before)[victim]).unwrap(), Signal::SIGKILL);
        let after = world.wait_job("rust", "it trains again", |job| {
            replicas(job) == 2 && job["status"]["group"].as_u64() > before["status"]["group"].as_u64()
        });
        let events = world.ok(&["events", "--for", "job/rust"]);
        let expected = format!("rank {victim} was killed (SIGKILL)");
        assert!(events.contains(&expected), "{expected} is not in\n{events}");
        let first = world.wait("it has made a step", || steps(&log(&world, &after, 0)).first().copied());
        let last = *steps(&log(&world, &before, 0)).last().unwrap();
        assert!(first > 1 && first <= last + 1, "{first} comes after {last}");
    }
    world.ok(&["delete", "job", "rust"]);
    world.finish();
}
