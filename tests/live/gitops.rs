//! A directory as the truth: what is put into it runs, what is changed is changed, what is removed is stopped.

use crate::support::{World, cluster, job, phase, replicas};

#[test]
fn a_watched_directory_is_followed() {
    let mut world = World::new();
    world.write("watched/.keep", "");
    world.start(&["--watch", "watched"], &[]);
    let manifest = |replicas: u32| {
        let rest = format!(
            "minReplicas: 1\n  scaling: {{policy: Fixed, replicas: {replicas}}}\n  checkpoint: {{interval: 0s}}"
        );
        job("kept", "c", "--steps, '100000'", &rest)
    };
    world.write("watched/cluster.yaml", &cluster("c", 2));
    world.write("watched/job.yaml", &manifest(1));
    world.wait_job("kept", "the job trains", |job| replicas(job) == 1 && phase(job) == "Running");

    // Edited, it is rescaled.
    world.write("watched/job.yaml", &manifest(2));
    let grown =
        world.wait_job("kept", "it has two workers", |job| replicas(job) == 2 && phase(job) == "Running");
    assert_eq!(grown["status"]["history"][1]["lostSteps"], 0);

    // Broken, its last good state stays in force, and the error can be seen with its place.
    world.write("watched/job.yaml", &manifest(2).replace("minReplicas: 1", "minReplicas: many"));
    let broken = world.wait_job("kept", "its file is known to be broken", |job| {
        let conditions = job["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|condition| condition["type"] == "Accepted" && condition["status"] == "False")
    });
    assert_eq!((replicas(&broken), phase(&broken)), (2, "Running"));
    let status = world.ok(&["status"]);
    assert!(status.contains("job.yaml:9:") && status.contains("minReplicas"), "{status}");
    let events = world.ok(&["events", "--for", "job/kept"]);
    assert!(events.contains("InvalidManifest"), "{events}");

    // Mended, it is accepted again; nothing has happened to the workers.
    world.write("watched/job.yaml", &manifest(2));
    let mended =
        world.wait_job("kept", "it is accepted", |job| job["status"]["conditions"][0]["status"] == "True");
    assert_eq!(mended["status"]["group"], grown["status"]["group"]);

    // Removed, it is checkpointed, stopped and gone; so is the cluster.
    std::fs::remove_file(world.path("watched/job.yaml")).unwrap();
    world.wait("the job is gone", || world.job("kept").is_null().then_some(()));
    let kept = world.ok(&["checkpoint", "ls", "kept"]);
    assert_eq!(kept.lines().count(), 3, "one at the rescale, one at the end:\n{kept}");
    // The last object of a directory goes when somebody says that this is meant.
    std::fs::remove_file(world.path("watched/cluster.yaml")).unwrap();
    world.wait("it is asked", || world.ok(&["sync", "status"]).contains("sync confirm").then_some(()));
    world.ok(&["sync", "confirm"]);
    world.wait("the cluster is gone", || world.get("cluster", "c").is_null().then_some(()));
    world.finish();
}
