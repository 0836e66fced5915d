//! What goes wrong beneath a directory: what is mounted there goes away, more happens than the kernel remembers, and
//! it has no watches left. Mounts and limits are those of a namespace that the controller has for itself.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{cluster, finish, generation, job, see, see_source, state, told, watching};
use crate::world::World;

/// Starts a controller in a namespace of its own, as its root, after some commands there.
fn start_apart(world: &World, commands: &str) {
    let script = format!("{commands}\nexec \"$0\" \"$@\"");
    let program = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", &script];
    world.start_by(&program, &["--watch", "watched"], &[]);
}

/// Runs commands where the controller is.
fn inside(world: &World, commands: &str) {
    let mut command = Command::new("nsenter");
    command.args([
        "--target",
        &world.controller().to_string(),
        "--user",
        "--mount",
        "--preserve-credentials",
    ]);
    command.args(["sh", "-exc", &format!("cd {}\n{commands}", world.path(".").display())]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A path as the controller sees it.
fn seen_inside(world: &World, name: &str) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", world.controller()));
    root.join(world.path(name).strip_prefix("/").unwrap())
}

const MOUNT: &str = "mount -t tmpfs none watched; cp image/* watched";

/// What waits for somebody to confirm it, and why.
fn asked(world: &World, reason: &str) {
    see_source(world, "watched", "waits", |source| {
        state(source) == "AwaitingConfirmation" && source["pendingPrune"]["reason"] == reason
    });
}

/// A world with a file system on its directory, which has a cluster and a job; with the job.
fn mounted() -> (World, Value) {
    let world = World::new();
    fs::create_dir(world.path("watched")).unwrap();
    world.write("image/lab.yaml", &cluster("lab", ""));
    write_job(&world, 1);
    start_apart(&world, MOUNT);
    let job = is_at(&world, 1);
    (world, job)
}

/// Has the job be another in what is mounted next.
fn write_job(world: &World, v: u64) {
    world.write("image/one.yaml", &job("one", &format!("  command: [v{v}]\n")));
}

fn is_at(world: &World, v: u64) -> Value {
    see(world, "job", "one", &format!("is at {v}"), |job| {
        generation(job) == v && job["status"]["observedGeneration"] == v
    })
}

/// Sees that nothing but what its file says has become of the job.
fn is_kept(world: &World, first: &Value, v: u64) {
    let job = world.get("job", "one");
    assert_eq!((&job["metadata"]["uid"], generation(&job)), (&first["metadata"]["uid"], v));
    assert_eq!(job["metadata"]["deletionTimestamp"], Value::Null);
    assert_eq!(job["status"]["phase"], first["status"]["phase"]);
    assert_eq!(generation(&world.get("cluster", "lab")), 1);
}

/// Leaves nothing wanted in what is mounted.
fn finish_mounted(world: World) {
    inside(&world, "rm watched/*");
    asked(&world, "it holds no object any more");
    world.ok(&["sync", "confirm"]);
    world.finish();
}

#[test]
fn an_unmounted_directory_takes_nothing_with_it() {
    const EMPTY: &str = "it is empty, and on another file system than before: is it mounted?";
    let (world, first) = mounted();
    inside(&world, "umount watched");
    asked(&world, EMPTY);
    let page = world.ok(&["sync", "status"]);
    assert!(page.contains(EMPTY) && page.contains("2 objects of 2 would be deleted"), "{page}");
    let event = told(&world, "job/one", "PruneBlocked");
    assert!(event.contains(EMPTY), "{event}");
    is_kept(&world, &first, 1);
    // Mounted again, it goes on.
    write_job(&world, 2);
    inside(&world, MOUNT);
    is_at(&world, 2);
    see_source(&world, "watched", "is well", |source| state(source) == "Synced" && source["objects"] == 2);

    // Somebody still has a file of it open, so the file system itself does not end.
    let held = fs::File::open(seen_inside(&world, "watched/one.yaml")).unwrap();
    inside(&world, "umount --lazy watched");
    asked(&world, EMPTY);
    drop(held);
    // Missing when a controller begins.
    world.kill();
    start_apart(&world, "");
    asked(&world, EMPTY);
    is_kept(&world, &first, 2);
    write_job(&world, 3);
    inside(&world, MOUNT);
    is_at(&world, 3);
    is_kept(&world, &first, 3);
    finish_mounted(world);
}

#[test]
fn an_unmounted_directory_in_it_is_asked_about() {
    let world = World::new();
    ["a", "b", "c", "d"].iter().for_each(|name| {
        world.write(&format!("watched/{name}.yaml"), &cluster(name, ""));
    });
    fs::create_dir(world.path("watched/team")).unwrap();
    world.write("image/e.yaml", &cluster("e", ""));
    let mount = "mount -t tmpfs none watched/team; cp image/* watched/team";
    let is_well = |objects: u64| {
        see_source(&world, "watched", "is well", |source| {
            state(source) == "Synced" && source["objects"] == objects
        })
    };
    start_apart(&world, mount);
    is_well(5);
    inside(&world, "umount watched/team");
    let reason = "team is empty, and no file system of its own any more: is it mounted?";
    asked(&world, reason);
    world.kill();
    start_apart(&world, "");
    asked(&world, reason);
    inside(&world, mount);
    is_well(5);
    assert_eq!(generation(&world.get("cluster", "e")), 1);
    // It is meant, and then it is a directory like others.
    inside(&world, "umount watched/team");
    asked(&world, reason);
    world.ok(&["sync", "confirm"]);
    is_well(4);
    world.write("watched/team/f.yaml", &cluster("f", ""));
    is_well(5);
    fs::remove_file(world.path("watched/team/f.yaml")).unwrap();
    is_well(4);
    finish(world, &["watched"]);
}

#[test]
fn a_stale_directory_takes_nothing_with_it() {
    if fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        return; // There is no FUSE here, and so nothing that can be made stale.
    }
    let (world, first) = mounted();
    // It is mounted, and nobody serves it: whoever did has died.
    let options = "fd=9,rootmode=40000,user_id=0,group_id=0";
    inside(&world, &format!("exec 9<>/dev/fuse; mount -i -t fuse -o {options} none watched"));
    let message = "the directory cannot be read, so nothing is changed: \
                   Transport endpoint is not connected (os error 107)";
    see_source(&world, "watched", "cannot be read", |source| {
        state(source) == "Failed" && source["errors"][0]["message"] == message
    });
    let event = told(&world, "source/watched", "SourceUnavailable");
    assert!(event.contains(message), "{event}");
    is_kept(&world, &first, 1);
    write_job(&world, 2);
    inside(&world, &format!("umount watched; umount watched; {MOUNT}"));
    is_at(&world, 2);
    is_kept(&world, &first, 2);
    finish_mounted(world);
}

#[test]
fn what_has_vanished_is_looked_for() {
    let world = World::new();
    world.write("above/deep/watched/lab.yaml", &cluster("lab", ""));
    world.start(&["--watch", "above/deep/watched"]);
    see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    // Nothing is told of what happens so far above it.
    fs::rename(world.path("above"), world.path("away")).unwrap();
    world.run(&["sync", "now"]);
    asked(&world, "it is not there any more");
    fs::rename(world.path("away"), world.path("above")).unwrap();
    see_source(&world, "watched", "is well", |source| state(source) == "Synced");
    finish(world, &["above/deep/watched"]);
}

#[test]
fn more_changes_than_the_kernel_remembers_are_all_seen() {
    let world = watching(&["watched"]);
    world.write("program/main.py", "print(1)\n");
    world.write("watched/job.yaml", &job("one", "  workingDir: ../program\n  entrypoint: main.py\n"));
    let write = |name: &str, v: usize| {
        let manifest = cluster(name, "").replace("{name", &format!("{{labels: {{v: 'v{v}'}}, name"));
        world.write(&format!("watched/{name}.yaml"), &manifest);
    };
    let is_at = |name: &str, v: usize| {
        see(&world, "cluster", name, "is as its file says", |object| {
            object["metadata"]["labels"]["v"] == format!("v{v}").as_str()
        })
    };
    ["a", "b", "c"].iter().for_each(|name| write(name, 0));
    is_at("c", 0);
    see(&world, "job", "one", "is there", |job| generation(job) == 1);

    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let controller = Pid::from_raw(world.controller().cast_signed());
    kill(controller, Signal::SIGSTOP).unwrap();
    // Of each the kernel tells at least that it is opened, and that it is closed.
    (0..=limit / 2).for_each(|v| write(["a", "b"][v % 2], v));
    // Of these it tells nothing any more.
    fs::remove_file(world.path("watched/c.yaml")).unwrap();
    write("d", 1);
    world.write("program/main.py", "print(2)\n");
    kill(controller, Signal::SIGCONT).unwrap();
    let last = limit / 2;
    is_at(["a", "b"][last % 2], last);
    is_at(["b", "a"][last % 2], last - 1);
    is_at("d", 1);
    see(&world, "cluster", "c", "is gone", Value::is_null);
    see(&world, "job", "one", "has the new program", |job| generation(job) == 2);
    see_source(&world, "watched", "is well", |source| state(source) == "Synced" && source["objects"] == 4);
    finish(world, &["watched"]);
}

#[test]
fn directories_that_cannot_be_watched_are_looked_at() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let world = World::new();
    let write = |name: &str, rest: &str| {
        world.write(&format!("watched/{name}/{name}.yaml"), &cluster(name, rest));
    };
    NAMES.iter().for_each(|name| write(name, ""));
    start_apart(&world, "echo 4 >/proc/sys/user/max_inotify_watches");
    let noticed = |by: &str| {
        see_source(&world, "watched", by, |source| source["noticedBy"] == by && source["objects"] == 6);
    };
    noticed("every 5s (the system has no inotify watches left)");
    NAMES.iter().for_each(|name| write(name, "  head: {labels: {a: b}}\n"));
    for name in NAMES {
        see(&world, "cluster", name, "is changed", |cluster| generation(cluster) == 2);
    }
    // As soon as there are enough, it is told of changes again.
    inside(&world, "echo 100 >/proc/sys/user/max_inotify_watches");
    noticed("inotify");
    write("f", "");
    see(&world, "cluster", "f", "is changed", |cluster| generation(cluster) == 3);
    finish(world, &["watched"]);
}
