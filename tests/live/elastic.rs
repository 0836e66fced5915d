//! The elastic story on a real cluster: a job grows because of its hints, shrinks when told to, goes on where it
//! was, survives its controller, and finishes.

use serde_json::Value;

use crate::support::{World, cluster, job, phase, pids, replicas};

/// One line of a job's own records: `step=12 epoch=3 loss=0.5 replicas=1`.
#[derive(Debug)]
struct Step {
    step: u64,
    epoch: u64,
    loss: f64,
    replicas: u64,
}

fn steps(output: &str) -> Vec<Step> {
    let field = |line: &str, name: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let parse = |line: &str| {
        Some(Step {
            step: line.starts_with("step=").then(|| field(line, "step"))??.parse().ok()?,
            epoch: field(line, "epoch")?.parse().ok()?,
            loss: field(line, "loss")?.parse().ok()?,
            replicas: field(line, "replicas")?.parse().ok()?,
        })
    };
    output.lines().filter_map(parse).collect()
}

fn generation_of(job: &Value) -> u64 {
    job["metadata"]["generation"].as_u64().unwrap()
}

#[test]
fn a_job_grows_by_its_hints_shrinks_when_told_to_and_goes_on_where_it_was() {
    let mut world = World::with_controller(&[]);
    elastic_story(&mut world, &cluster("c", 2));
    world.finish();
}

/// From one worker to two and back, with the controller killed in between, to success; on any cluster named `c`
/// with room for two workers.
pub(crate) fn elastic_story(world: &mut World, cluster: &str) {
    let enough = world.path("enough");
    let manifest = |most: u32| {
        let rest = format!(
            "minReplicas: 1\n  maxReplicas: {most}\n  scaling: {{cooldown: 5s}}\n  \
             artifacts: {{paths: [model.pt], destination: out}}"
        );
        let arguments = format!("--until, {}, --max-batch, '128', --work, '0.0006'", enough.display());
        [cluster, &job("grow", "c", &arguments, &rest)].join("---\n")
    };
    world.write("job.yaml", &manifest(2));
    world.ok(&["apply", "-f", "job.yaml"]);

    // It starts small, and grows because of what its workers report.
    let started = world.wait_job("grow", "it trains", |job| replicas(job) == 1);
    assert_eq!(started["status"]["history"].as_array().unwrap().len(), 1);
    let grown = world.wait_job("grow", "it has grown", |job| replicas(job) == 2 && phase(job) == "Running");
    let change = &grown["status"]["history"][1];
    assert_eq!((&change["fromReplicas"], &change["replicas"]), (&1.into(), &2.into()));
    assert_eq!(change["reason"], "Scaled");
    assert!(change["message"].as_str().unwrap().contains("times the goodput of one"), "{change}");

    // Its controller is killed: the workers train on, and the next controller finds them and starts nothing twice.
    let before = pids(&grown);
    world.kill_controller();
    world.start(&[], &[]);
    let adopted =
        world.wait_job("grow", "it is heard again", |job| phase(job) == "Running" && replicas(job) == 2);
    assert_eq!(pids(&adopted), before);
    assert_eq!(adopted["status"]["group"], grown["status"]["group"]);
    assert_eq!(generation_of(&adopted), generation_of(&grown));

    // It is told to be smaller.
    world.write("job.yaml", &manifest(1));
    world.ok(&["apply", "-f", "job.yaml"]);
    let shrunk = world.wait_job("grow", "it has shrunk", |job| replicas(job) == 1 && phase(job) == "Running");
    let change = &shrunk["status"]["history"][2];
    assert_eq!((&change["fromReplicas"], &change["replicas"]), (&2.into(), &1.into()));
    assert_eq!(change["reason"], "ReplicasChanged");

    // What it cost is told, in every place a person may look, as soon as it is known: a checkpoint that was handed
    // over directly reaches the head a little later.
    let told = world.wait_job("grow", "what both changes cost is known", |job| {
        let known = |group: &Value| group["downtimeMs"].is_u64() && group["lostSteps"].is_u64();
        job["status"]["history"].as_array().unwrap()[1..].iter().all(known)
    });
    for change in &told["status"]["history"].as_array().unwrap()[1..] {
        assert_eq!(change["lostSteps"], 0, "a rescale loses no step: {change}");
    }
    assert!(told["status"]["history"][1]["timeline"]["firstStep"].is_string(), "{told:#}");
    for verb in [vec!["describe", "job", "grow"], vec!["status", "grow"]] {
        let text = world.ok(&verb);
        assert!(text.contains("2 → 1 worker") && text.contains("stood still"), "{verb:?}:\n{text}");
    }
    let events = world.ok(&["events", "--for", "job/grow"]);
    for words in ["0 → 1 worker (Started)", "1 → 2 workers (Scaled)", "2 → 1 worker (ReplicasChanged)"]
    {
        assert!(events.contains(words), "{words} is not in\n{events}");
    }

    world.write("enough", "");
    let (code, said) = world.run(&["wait", "job/grow", "--for", "phase=Succeeded", "--timeout", "5m"]);
    assert_eq!(code, 0, "{said}");
    assert!(world.path("out/model.pt").exists());
    continues(&world.ok(&["logs", "grow"]));
}

/// Epoch, step and loss go on across every change: no step is missing, made twice, or begun from nothing.
pub(crate) fn continues(output: &str) {
    let steps = steps(output);
    let replicas: Vec<u64> = {
        let mut replicas: Vec<u64> = steps.iter().map(|step| step.replicas).collect();
        replicas.dedup();
        replicas
    };
    assert_eq!(replicas, [1, 2, 1]);
    assert_eq!(steps.first().unwrap().step, 1);
    for pair in steps.windows(2) {
        assert_eq!(pair[1].step, pair[0].step + 1, "{pair:?}");
        assert!(pair[1].epoch >= pair[0].epoch && pair[1].epoch <= pair[0].epoch + 1, "{pair:?}");
    }
    let changes: Vec<usize> =
        (1..steps.len()).filter(|at| steps[*at].replicas != steps[*at - 1].replicas).collect();
    let mean = |steps: &[Step]| steps.iter().map(|step| step.loss).sum::<f64>() / steps.len() as f64;
    for at in changes {
        let (before, after) =
            (mean(&steps[at.saturating_sub(20)..at]), mean(&steps[at..(at + 20).min(steps.len())]));
        assert!((before - after).abs() < 0.5 * before, "the loss jumps from {before} to {after}");
    }
}

#[test]
fn a_job_grows_only_where_that_pays() {
    let world = World::with_controller(&[]);
    let rest = "maxReplicas: 2\n  scaling: {cooldown: 5s}";
    // What two workers gain by sharing the work they lose by talking.
    let slow =
        job("slow", "c", "--steps, '100000', --work, '0.0003', --talk, '0.1', --max-batch, '64'", rest);
    // A batch that cannot be divided.
    let small =
        job("small", "c", "--steps, '100000', --batch, '16', --max-batch, '16', --min-local, '16'", rest);
    world.write("jobs.yaml", &[cluster("c", 3), slow, small].join("---\n"));
    world.ok(&["apply", "-f", "jobs.yaml"]);

    let small = world.wait_job("small", "its batch is known to be too small", |job| {
        job["status"]["scaling"]["reason"] == "BatchTooSmall"
    });
    assert_eq!(small["status"]["replicas"], 1);
    let status = world.ok(&["status", "small"]);
    assert!(status.contains("cannot be divided over more, the smallest local batch being 16"), "{status}");

    world.wait_job("slow", "it has grown", |job| replicas(job) == 2);
    let back = world.wait_job("slow", "it has gone back to one", |job| {
        replicas(job) == 1 && job["status"]["history"].as_array().unwrap().len() == 3
    });
    assert_eq!(back["status"]["history"][2]["reason"], "Scaled");
    // It stays there, beyond the cooldown and beyond its next hints.
    let hints = |job: &Value| job["status"]["progress"]["goodput"].clone();
    let first = hints(&back);
    let later = world.wait_job("slow", "it has reported again", |job| {
        replicas(job) == 1
            && hints(job).is_object()
            && hints(job) != first
            && job["status"]["scaling"]["reason"] == "Best"
    });
    assert_eq!(later["status"]["history"].as_array().unwrap().len(), 3);
    let status = world.ok(&["status", "slow"]);
    assert!(status.contains("2 workers would bring 0."), "{status}");
    assert_eq!(world.job("small")["status"]["history"].as_array().unwrap().len(), 1);
    world.finish();
}
