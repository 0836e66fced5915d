//! A worker that the network cuts off goes on training where nobody can stop it, until its lease is over. The job's next
//! group does not begin before that: two groups never train, whatever the network does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::machines::Machines;
use crate::support::{PATIENCE, World, phase, pids, replicas, repository, session, within};

/// So many steps show that a group goes on.
const MANY: usize = 20;

/// A step, as `state.py` has written it down.
#[derive(Clone, Copy, Debug)]
struct Step {
    group: u64,
    number: u64,
    at: f64,
}

/// Every step, in the order of their times.
fn steps(trace: &Path) -> Vec<Step> {
    let text = fs::read_to_string(trace).unwrap_or_default();
    let read = |line: &str| {
        let mut words = line.split(' ').map(|word| word.split_once('=').map(|(_, value)| value));
        let (group, _replicas, number, at) = (words.next()??, words.next()??, words.next()??, words.next()??);
        Some(Step { group: group.parse().ok()?, number: number.parse().ok()?, at: at.parse().ok()? })
    };
    let mut steps: Vec<Step> = text.lines().filter_map(read).collect();
    steps.sort_by(|one, other| one.at.total_cmp(&other.at));
    steps
}

/// The steps of a group.
fn of(steps: &[Step], group: u64) -> Vec<Step> {
    steps.iter().copied().filter(|step| step.group == group).collect()
}

/// Sees that no group made a step after one of a later group.
fn assert_in_turn(steps: &[Step]) {
    for pair in steps.windows(2) {
        assert!(pair[0].group <= pair[1].group, "two groups train: {pair:?}");
    }
}

/// The process of a job's only worker.
fn worker(job: &Value) -> u32 {
    u32::try_from(pids(job)[0]).unwrap()
}

/// The network namespace of a process, if it lives.
pub(crate) fn network(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// The command lines of the processes in these network namespaces.
pub(crate) fn living(networks: &BTreeSet<PathBuf>) -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let inside = pids.filter(|pid| network(*pid).is_some_and(|network| networks.contains(&network)));
    let command = |pid| {
        Some(String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).ok()?).replace('\0', " "))
    };
    inside.filter_map(command).collect()
}

#[test]
fn a_node_that_the_network_cuts_off_never_trains_beside_the_next_group() {
    let world = World::with_controller(&[]);
    let token = world.write("token", &"0123456789abcdef".repeat(4));
    let trace = world.path("trace");
    let mut machines = Machines::start("apart.py", &token, &world.path("machines.log"));
    let manifest = format!(
        "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: c}}\nspec:\n  \
         provider: {{existing: {{address: 'http://127.0.0.1:{}', agentPort: {}}}}}\n  \
         auth: {{mode: token, tokenFrom: {{file: {}}}}}\n---\n\
         apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: apart}}\nspec:\n  \
         clusterRef: {{name: c}}\n  workingDir: {}\n  entrypoint: state.py\n  \
         args: [--step, '0.05', --trace, {}]\n  maxReplicas: 1\n  checkpoint: {{interval: 2s}}\n",
        machines.dashboard,
        machines.agent,
        token.display(),
        repository("tests/bench/jobs").display(),
        trace.display()
    );
    world.write("job.yaml", &manifest);
    world.ok(&["apply", "-f", "job.yaml"]);
    let ready = |count: u64| {
        let nodes = world.get("cluster", "c")["status"]["nodes"].as_array().cloned().unwrap_or_default();
        let ready = nodes.iter().filter(|node| node["state"] == "Ready").count() as u64;
        (ready == count).then_some(())
    };
    world.wait("the machines are a cluster", || ready(3));
    let before = world.wait_job("apart", "it trains and has saved", |job| {
        replicas(job) == 1
            && job["status"]["checkpoint"]["steps"].as_u64().is_some_and(|steps| steps >= MANY as u64)
    });
    let (old, durable) = (
        before["status"]["group"].as_u64().unwrap(),
        before["status"]["checkpoint"]["steps"].as_u64().unwrap(),
    );
    let node = &before["status"]["workers"][0]["node"];
    let machine = if node == "10.87.0.2" { "B" } else { "C" };
    let cut_off = BTreeSet::from([network(worker(&before)).unwrap()]);

    let cut = machines.have(&format!("cut {machine}"));
    world.wait("the controller sees it", || ready(2));
    let after = world.wait_job("apart", "the next group trains", |job| {
        job["status"]["group"].as_u64() > Some(old) && replicas(job) == 1 && phase(job) == "Running"
    });
    assert_eq!(session(worker(&before)), None, "a worker of the group before lives");
    assert_ne!(&after["status"]["workers"][0]["node"], node);
    let new = after["status"]["group"].as_u64().unwrap();
    let made =
        world.wait("it makes steps", || Some(steps(&trace)).filter(|steps| of(steps, new).len() >= MANY));
    assert_in_turn(&made);
    let (last, first) = (*of(&made, old).last().unwrap(), of(&made, new)[0]);
    let alone = of(&made, old).iter().filter(|step| step.at > cut).count();
    println!(
        "{alone} steps and {:.1} s after the cut the old group ended, and {:.1} s later the new one began: \
         {durable} steps were durable, the last was {}, the first {}",
        last.at - cut,
        first.at - last.at,
        last.number,
        first.number
    );
    assert!(alone >= MANY, "cut off, the worker made only {alone} steps: this proves nothing");
    assert!(
        durable < first.number && first.number <= last.number + 1,
        "{durable} durable, {last:?}, {first:?}"
    );

    machines.have(&format!("mend {machine}"));
    world.wait("the node that was given up has ended", || living(&cut_off).is_empty().then_some(()));
    let seen = steps(&trace).len();
    world.wait("it goes on", || (steps(&trace).len() >= seen + MANY).then_some(()));
    assert_in_turn(&steps(&trace));
    assert_eq!(session(worker(&before)), None, "a worker of the group before lives");
    let job = world.job("apart");
    assert_eq!((phase(&job), job["status"]["group"].as_u64()), ("Running", Some(new)));

    let networks = [machines.pid(), worker(&job)].map(|pid| network(pid).unwrap());
    let networks = cut_off.into_iter().chain(networks).collect();
    world.finish();
    let ours = |command: &String| {
        ["ray::Bridge", "ray::Slot", "py_modules"].iter().any(|part| command.contains(part))
    };
    let left = || living(&networks).into_iter().filter(ours).collect::<Vec<_>>();
    within(PATIENCE, || left().is_empty().then_some(()))
        .unwrap_or_else(|| panic!("the job left something: {:#?}", left()));
    let directory = machines.directory.clone();
    drop(machines);
    assert_eq!(living(&networks), [""; 0]);
    assert!(!directory.exists(), "{} was left behind", directory.display());
}
