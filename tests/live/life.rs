//! A job's life in its owner's hands: suspended and resumed, edited, run from a terminal, interrupted.

use std::io::Read as _;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{World, cluster, job, phase, pids, replicas, signal};

fn steps(job: &Value) -> u64 {
    job["status"]["progress"]["steps"].as_u64().unwrap_or(0)
}

#[test]
fn a_job_is_suspended_resumed_and_edited_and_goes_on_where_it_was() {
    let world = World::with_controller(&[]);
    let manifest = |tag: &str, rest: &str| {
        let rest = format!("maxReplicas: 1\n  checkpoint: {{interval: 0s}}\n  {rest}");
        cluster("c", 1) + "---\n" + &job("edited", "c", &format!("--steps, '100000', --tag, {tag}"), &rest)
    };
    world.write("job.yaml", &manifest("first", ""));
    world.ok(&["apply", "-f", "job.yaml"]);
    let running = world.wait_job("edited", "it has made some steps", |job| steps(job) > 20);
    let pid = pids(&running)[0];

    world.ok(&["suspend", "edited"]);
    let (code, said) = world.run(&["wait", "job/edited", "--for", "phase=Suspended", "--timeout", "2m"]);
    assert_eq!(code, 0, "{said}");
    let suspended = world.job("edited");
    assert_eq!(suspended["status"]["workers"], Value::Null, "{suspended:#}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "suspended, it uses nothing");
    let saved = suspended["status"]["checkpoint"]["steps"].as_u64().unwrap();
    assert!(saved > 20);
    let inside = world.ok(&["checkpoint", "inspect", "edited", "-o", "json"]);
    let inside: Value = serde_json::from_str(&inside).unwrap();
    assert_eq!(inside["source"]["steps"], saved);
    assert!(inside["training"]["learningRate"].is_f64(), "{inside:#}");
    assert!(inside["tensors"][0]["norm"].is_f64(), "{inside:#}");

    // Edited while suspended and resumed, it goes on from there with its new arguments.
    world.write("job.yaml", &manifest("second", ""));
    assert!(world.ok(&["apply", "-f", "job.yaml"]).contains("adaptdljob/edited configured"));
    let resumed = world.wait_job("edited", "it goes on", |job| replicas(job) == 1 && steps(job) > saved);
    assert_eq!(resumed["status"]["history"][1]["reason"], "Resumed");

    // Edited while it trains, likewise; what cannot work does not harm what does.
    world.write("job.yaml", &manifest("third", "runtimeEnv: {conda: there-is-no-such-environment}"));
    world.ok(&["apply", "-f", "job.yaml"]);
    world.wait("the new environment is known to fail", || {
        world.ok(&["events", "--for", "job/edited"]).contains("RuntimeEnvFailed").then_some(())
    });
    let still = world.job("edited");
    assert_eq!(
        (replicas(&still), pids(&still)),
        (1, pids(&resumed)),
        "the group that trained before trains on"
    );
    world.write("job.yaml", &manifest("third", ""));
    world.ok(&["apply", "-f", "job.yaml"]);
    world.wait("it runs with its third arguments", || {
        world.ok(&["logs", "edited"]).contains("tag=third").then_some(())
    });
    let begins: Vec<String> = world
        .ok(&["logs", "edited"])
        .lines()
        .filter(|line| line.starts_with("begin"))
        .map(str::to_owned)
        .collect();
    assert_eq!(begins.len(), 3, "{begins:#?}");
    assert!(
        begins[0].contains("step=0 ") && !begins[1].contains("step=0 ") && !begins[2].contains("step=0 ")
    );
    world.finish();
}

#[test]
fn a_run_shows_its_job_is_interrupted_goes_on_and_gives_everything_back() {
    let mut world = World::new();
    let enough = world.path("enough");
    let rest =
        "maxReplicas: 1\n  checkpoint: {interval: 0s}\n  artifacts: {paths: [model.pt], destination: out}";
    let manifest = job("ran", "c", &format!("--until, {}", enough.display()), rest);
    // No cluster is named: the built-in one is made, and given back.
    world.write("job.yaml", &manifest.replace("  clusterRef: {name: c}\n", ""));
    let state = world.path("state");

    let run = |world: &World| {
        let mut command = world.command(&["-v", "run", "job.yaml"]);
        command.stdout(Stdio::piped()).stderr(
            std::fs::File::options().create(true).append(true).open(world.path("controller.log")).unwrap(),
        );
        command.spawn().unwrap()
    };
    let mut first = run(&world);
    world.wait_job("ran", "it has made some steps", |job| steps(job) > 20);
    // Beside it other commands are its clients, and another run is too.
    assert!(world.ok(&["status"]).contains("cluster default/local   Ready"));
    signal(first.id(), Signal::SIGINT);
    assert_eq!(first.wait().unwrap().code(), Some(130));
    let mut said = String::new();
    first.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("stopped at checkpoint 0-1; the same command goes on from there"), "{said}");
    assert_eq!(world.run(&["status"]).0, 3, "no controller is left");

    let mut second = run(&world);
    world.wait_job("ran", "it goes on", |job| job["status"]["group"] == 1 && replicas(job) == 1);
    world.write("enough", "");
    assert_eq!(second.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    second.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("job default/ran   Succeeded"), "{said}");
    assert!(world.path("out/model.pt").exists());

    // The finished job and its logs are still there for the next controller; the cluster is not.
    assert!(state.exists());
    world.start(&[], &[]);
    assert_eq!(phase(&world.job("ran")), "Succeeded");
    assert!(world.get("cluster", "local").is_null());
    assert!(world.ok(&["logs", "ran"]).contains("done"));
    world.finish();
}
