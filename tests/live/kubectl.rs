//! kubectl, with a job that really runs: machines are Nodes, workers are Pods, and what they write is theirs.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support::{World, cluster, job, phase, replicas, repository};

#[test]
fn kubectl_shows_nodes_and_workers_and_what_they_write() {
    let world = World::with_controller(&[]);
    world.write("kubeconfig", &world.ok(&["kubeconfig"]));
    let path = repository(".cache/kubectl/usr/bin/kubectl");
    assert!(path.exists(), "{} is not there: run `make kubectl`", path.display());
    let command = |line: &str| {
        let mut command = Command::new(&path);
        command
            .args(line.split(' '))
            .env("KUBECONFIG", world.path("kubeconfig"))
            .env("HOME", world.path("home"));
        command.current_dir(world.path(""));
        command
    };
    let kubectl = |line: &str| {
        let output = command(line).output().unwrap();
        assert!(output.status.success(), "kubectl {line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    world.write("cluster.yaml", &cluster("c", 1));
    let rest = "scaling: {policy: Fixed, replicas: 1}\n  checkpoint: {interval: 0s}";
    world.write("job.yaml", &job("told", "c", "--steps, '100000'", rest));
    kubectl("apply -f cluster.yaml");
    // Whatever its role, kubectl has no directory packed where the controller runs: that is for who can read it.
    let refused = command("apply -f job.yaml").output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`rayconcile apply` packs it"), "{refused:?}");
    world.ok(&["apply", "-f", "job.yaml"]);
    kubectl("wait job/told --for=condition=WorkersReady --timeout=180s");
    world.wait_job("told", "it trains", |job| phase(job) == "Running" && replicas(job) == 1);

    let pods = kubectl("get pods -o wide");
    let row: Vec<&str> = pods.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1]), ("told-0", "1/1"), "{pods}");
    let nodes = kubectl("get nodes");
    assert!(nodes.contains("c-head") && row.iter().any(|word| nodes.contains(word)), "{nodes}\n{pods}");
    assert!(kubectl("describe pod told-0").contains("Controlled By:  AdaptDLJob/told"));
    assert!(kubectl("describe node c-head").contains("Ready"));
    assert!(kubectl("describe job told").contains("Events:"));

    world.wait("its output is here", || kubectl("logs told-0").contains("step=").then_some(()));
    assert_eq!(kubectl("logs told-0 --tail=2 -c worker").lines().count(), 2);
    assert!(kubectl("logs told-0 --since=1h").contains("step="));
    assert!(kubectl("logs -l rayconcile.dev/job=told --tail=1").contains("step="));
    for refused in
        ["logs told-0 --timestamps", "logs told-0 -c other", "logs told-0 --previous", "logs told-9"]
    {
        assert!(!command(refused).output().unwrap().status.success(), "{refused}");
    }
    let mut following = command("logs -f told-0 --tail=1").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines().map(Result::unwrap);
    let step = |line: String| line.strip_prefix("step=")?.split(' ').next()?.parse::<u64>().ok();
    let first = lines.by_ref().find_map(step).unwrap();
    assert!(lines.by_ref().find_map(step).unwrap() > first, "it goes on as it comes");
    following.kill().unwrap();
    following.wait().unwrap();

    kubectl("delete job told --timeout=120s");
    kubectl("delete cluster c --timeout=120s");
    world.finish();
}
