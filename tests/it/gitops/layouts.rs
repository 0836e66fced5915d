//! How files get into a directory: renamed, swapped by links, written bit by bit; and how that is noticed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{cluster, finish, generation, job, see, see_source, source, state, watching, watching_with};
use crate::world::{World, address};

fn with_label(name: &str, value: &str) -> String {
    cluster(name, "").replace("{name", &format!("{{labels: {{v: '{value}'}}, name"))
}

fn label(object: &Value) -> &str {
    object["metadata"]["labels"]["v"].as_str().unwrap_or("")
}

/// Has a link lead elsewhere, as a whole, as git-sync and kubelet do it.
fn swap(link: &Path, target: &str) {
    let new = link.with_file_name("..new");
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[test]
fn a_volume_of_a_config_map_is_followed() {
    let world = watching(&["volume"]);
    let write = |at: &str, name: &str, v: &str| {
        world.write(&format!("volume/{at}/{name}.yaml"), &with_label(name, v))
    };
    for name in ["a", "b"] {
        write("..2026_11_28_1", name, "1");
    }
    swap(&world.path("volume/..data"), "..2026_11_28_1");
    ["a", "b"].iter().for_each(|name| {
        symlink(format!("..data/{name}.yaml"), world.path(&format!("volume/{name}.yaml"))).unwrap()
    });
    see(&world, "cluster", "a", "is there", |object| label(object) == "1");
    see(&world, "cluster", "b", "is there", |object| label(object) == "1");
    assert_eq!(source(&world, "volume")["objects"], 2, "none is read twice");

    for name in ["a", "c"] {
        write("..2026_11_28_2", name, "2");
    }
    swap(&world.path("volume/..data"), "..2026_11_28_2");
    symlink("..data/c.yaml", world.path("volume/c.yaml")).unwrap();
    fs::remove_file(world.path("volume/b.yaml")).unwrap();
    fs::remove_dir_all(world.path("volume/..2026_11_28_1")).unwrap();
    see(&world, "cluster", "a", "is of the new volume", |object| label(object) == "2");
    see(&world, "cluster", "c", "is there", |object| label(object) == "2");
    see(&world, "cluster", "b", "is gone", Value::is_null);
    see_source(&world, "volume", "is well", |source| state(source) == "Synced" && source["objects"] == 2);
    finish(world, &["volume"]);
}

#[test]
fn trees_that_git_sync_swaps_are_followed() {
    let world = World::new();
    let write = |revision: &str, v: &str| {
        world.write(&format!("sync/rev-{revision}/deep/a.yaml"), &with_label("a", v));
        world.write(&format!("linked/.worktrees/{revision}/b.yaml"), &with_label("b", v));
    };
    write("aaa", "1");
    symlink("rev-aaa", world.path("sync/current")).unwrap();
    symlink(".worktrees/aaa", world.path("linked/current")).unwrap();
    // One directory has such a link in it, the other one is one.
    world.start(&["--watch", "sync", "--watch", "linked/current"]);
    let first = see(&world, "cluster", "a", "is there", |object| label(object) == "1");
    assert_eq!(first["metadata"]["annotations"]["rayconcile.dev/source-file"], "current/deep/a.yaml");
    see(&world, "cluster", "b", "is there", |object| label(object) == "1");
    // While both revisions are there, and after the old one has gone.
    write("bbb", "2");
    swap(&world.path("sync/current"), "rev-bbb");
    swap(&world.path("linked/current"), ".worktrees/bbb");
    let second = see(&world, "cluster", "a", "is of the new revision", |object| label(object) == "2");
    see(&world, "cluster", "b", "is of the new revision", |object| label(object) == "2");
    fs::remove_dir_all(world.path("sync/rev-aaa")).unwrap();
    fs::remove_dir_all(world.path("linked/.worktrees/aaa")).unwrap();
    // The new trees are watched.
    write("bbb", "3");
    see(&world, "cluster", "a", "is changed", |object| label(object) == "3");
    see(&world, "cluster", "b", "is changed", |object| label(object) == "3");
    assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);
    for name in ["sync", "linked/current"] {
        see_source(&world, name, "is well", |source| state(source) == "Synced" && source["objects"] == 1);
    }
    ["sync", "linked"].iter().for_each(|name| fs::remove_dir_all(world.path(name)).unwrap());
    for name in ["sync", "linked/current"] {
        see_source(&world, name, "has vanished", |source| state(source) == "AwaitingConfirmation");
    }
    world.finish();
}

#[test]
fn renamed_files_and_directories_change_nothing() {
    let world = watching(&["watched"]);
    world.write("watched/deep/a.yaml", &with_label("a", "1"));
    world.write("watched/b.yaml", &with_label("b", "1"));
    let uids = ["a", "b"].map(|name| {
        see(&world, "cluster", name, "is there", |object| label(object) == "1")["metadata"]["uid"].clone()
    });
    let rename = |from: &str, to: &str| fs::rename(world.path(from), world.path(to)).unwrap();
    rename("watched/b.yaml", "watched/c.yaml");
    rename("watched/deep", "watched/deeper");
    let file = |object: &Value| object["metadata"]["annotations"]["rayconcile.dev/source-file"].clone();
    let a = see(&world, "cluster", "a", "is where it is now", |object| file(object) == "deeper/a.yaml");
    let b = see(&world, "cluster", "b", "is where it is now", |object| file(object) == "c.yaml");
    assert_eq!([&a["metadata"]["uid"], &b["metadata"]["uid"]], [&uids[0], &uids[1]]);
    assert_eq!((generation(&a), generation(&b)), (1, 1));
    // A directory that was renamed is watched under its new name.
    world.write("watched/deeper/a.yaml", &with_label("a", "2"));
    see(&world, "cluster", "a", "is changed", |object| label(object) == "2");
    finish(world, &["watched"]);
}

#[test]
fn thousands_of_files_are_followed() {
    const DIRECTORIES: usize = 40;
    const FILES: usize = 50;
    let world = World::new();
    let path = |directory: usize, file: usize| format!("watched/d{directory}/f{file}.yaml");
    let name = |directory: usize, file: usize| format!("j{directory}-{file}");
    for directory in 0..DIRECTORIES {
        for file in 0..FILES {
            world.write(&path(directory, file), &job(&name(directory, file), "  command: [a]\n"));
        }
    }
    world.start(&["--watch", "watched", "--max-prune", "100%"]);
    let all = DIRECTORIES * FILES;
    see_source(&world, "watched", "has all", |source| state(source) == "Synced" && source["objects"] == all);
    let stored = || world.ok(&["get", "jobs", "-o", "name"]).lines().count();
    assert_eq!(stored(), all);
    // One of them is changed, and one directory goes.
    let changed = Instant::now();
    world.write(&path(39, 49), &job("j39-49", "  command: [b]\n"));
    see(&world, "job", "j39-49", "is changed", |job| generation(job) == 2);
    assert!(
        changed.elapsed() < Duration::from_secs(30),
        "it was not noticed, only looked at once in a while"
    );
    assert_eq!(generation(&world.get("job", "j0-0")), 1);
    fs::remove_dir_all(world.path("watched/d0")).unwrap();
    world.wait("its objects are gone", || (stored() == all - FILES).then_some(()));
    fs::remove_dir_all(world.path("watched")).unwrap();
    fs::create_dir(world.path("watched")).unwrap();
    world.wait("all are gone", || (stored() == 0).then_some(()));
    world.finish();
}

#[test]
fn whatever_editors_do_ends_well() {
    let world = watching(&["watched"]);
    let path = world.write("watched/a.yaml", &with_label("a", "0"));
    world.write("watched/b.yaml", &with_label("b", "0"));
    let first = see(&world, "cluster", "a", "is there", |object| label(object) == "0");
    for number in 1..=20 {
        let text = with_label("a", &format!("v{number}"));
        match number % 3 {
            // Written beside it and renamed, with a copy of the old one left and removed.
            0 => {
                fs::rename(&path, world.path("watched/a.yaml~")).unwrap();
                fs::write(world.path("watched/.a.yaml.swp"), &text).unwrap();
                fs::rename(world.path("watched/.a.yaml.swp"), &path).unwrap();
                fs::remove_file(world.path("watched/a.yaml~")).unwrap();
            }
            // Emptied, and written in two halves.
            1 => {
                fs::write(&path, "").unwrap();
                fs::write(&path, &text[..text.len() / 2]).unwrap();
                fs::write(&path, &text).unwrap();
            }
            // Removed, and made anew.
            _ => {
                fs::remove_file(&path).unwrap();
                fs::write(&path, &text).unwrap();
            }
        }
    }
    let last = see(&world, "cluster", "a", "is as it was left", |object| label(object) == "v20");
    assert_eq!((&last["metadata"]["uid"], generation(&last)), (&first["metadata"]["uid"], 1));
    see_source(&world, "watched", "is well", |source| state(source) == "Synced");
    finish(world, &["watched"]);
}

#[test]
fn some_files_count_and_others_do_not() {
    let options = ["--include", "prod/", "--include", "*.rc.yml", "--exclude", "*draft*"];
    let world = watching_with(&["watched"], &options);
    for (file, name) in
        [("prod/a", "a"), ("prod/b.draft", "b"), ("test/c", "c"), ("d", "d"), (".hidden/prod/e", "e")]
    {
        world.write(&format!("watched/{file}.yaml"), &cluster(name, ""));
    }
    world.write("watched/deep/f.rc.yml", &cluster("f", ""));
    see(&world, "cluster", "a", "is there", |object| generation(object) == 1);
    see(&world, "cluster", "f", "is there", |object| generation(object) == 1);
    see_source(&world, "watched", "has two", |source| source["objects"] == 2);
    assert_eq!(world.ok(&["get", "clusters", "-o", "name"]), "raycluster/a\nraycluster/f\n");
    let said =
        world.run(&["controller", "--watch", "watched", "--exclude", "a[z-a]", "--state-dir", "other"]);
    assert!(said.code == 2 && said.err.contains("a[z-a]"), "{said:?}");
    finish(world, &["watched"]);
}

#[test]
fn where_nothing_tells_of_changes_they_are_looked_for() {
    let world = watching_with(&["watched"], &["--watch-poll", "100ms"]);
    world.write("watched/one.yaml", &job("one", "  command: [a]\n"));
    see(&world, "job", "one", "is there", |job| generation(job) == 1);
    world.write("watched/one.yaml", &job("one", "  command: [b]\n"));
    see(&world, "job", "one", "is changed", |job| generation(job) == 2);
    world.wait_page(&["sync", "status"], &["changes noticed by looking every 100ms (as asked)"]);
    world.write("watched/two.yaml", &job("two", "  command: [b]\n"));
    see(&world, "job", "two", "is there", |job| generation(job) == 1);
    fs::remove_file(world.path("watched/one.yaml")).unwrap();
    see(&world, "job", "one", "is gone", Value::is_null);
    finish(world, &["watched"]);
}

#[test]
fn what_happens_in_the_store_holds_up_no_look() {
    let world = watching_with(&["watched"], &["--watch-poll", "1s"]);
    world.write("watched/one.yaml", &with_label("one", "1"));
    see(&world, "cluster", "one", "is there", |object| label(object) == "1");
    world.write("watched/two.yaml", &cluster("two", ""));
    see(&world, "cluster", "two", "is there", |two| {
        let patch = serde_json::json!({"metadata": {"labels": {"v": "by-hand"}}});
        let answer = world.api().put(reqwest::Method::PATCH, &address("rayclusters", "one"), &patch);
        assert_eq!(answer.code, 200, "{answer:?}");
        !two.is_null()
    });
    finish(world, &["watched"]);
}

#[test]
fn what_is_no_file_holds_up_nothing() {
    let world = watching(&["watched"]);
    let pipe = world.path("watched/pipe.yaml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/dev/stdin", world.path("watched/stdin.yaml")).unwrap();
    world.write("watched/one.yaml", &cluster("one", ""));
    see(&world, "cluster", "one", "is there", |object| generation(object) == 1);
    see_source(&world, "watched", "tells of it", |source| {
        let errors = source["errors"].as_array().cloned().unwrap_or_default();
        let told = |words: &str| errors.iter().any(|error| error["message"] == words);
        told("pipe.yaml: is no file") && told("stdin.yaml: is no file")
    });
    // As it is when somebody reads a file of that name that has just been replaced.
    let said = rayconcile::manifest::load("pipe.yaml", &pipe).unwrap_err().to_string();
    assert_eq!(said, "pipe.yaml: is no file");
    finish(world, &["watched"]);
}

#[test]
fn a_file_that_is_written_all_the_time_holds_up_nothing() {
    let world = watching(&["watched"]);
    let stop = AtomicBool::new(false);
    let busy = world.write("watched/busy.yaml", &with_label("busy", "v0"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u64.. {
                fs::write(&busy, with_label("busy", &format!("v{number}"))).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::yield_now();
            }
        });
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.write("watched/one.yaml", &with_label("one", "1"));
            see(&world, "cluster", "one", "is there", |object| label(object) == "1");
        }));
        stop.store(true, Ordering::Relaxed);
        seen.unwrap();
    });
    let last = fs::read_to_string(world.path("watched/busy.yaml")).unwrap();
    see(&world, "cluster", "busy", "is as it was left", |object| {
        !label(object).is_empty() && last.contains(&format!("{{v: '{}'}}", label(object)))
    });
    finish(world, &["watched"]);
}

#[test]
fn a_job_whose_cluster_is_missing_waits_and_says_so() {
    let world = watching(&["watched"]);
    world.write("watched/job.yaml", &job("one", "  command: [a]\n"));
    world.wait_page(&["status"], &["there is no RayCluster default/lab"]);
    world.write("watched/lab.yaml", &cluster("lab", ""));
    see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    let page = world.wait_page(&["describe", "job", "one"], &["lab"]);
    assert!(!page.contains("there is no RayCluster"), "{page}");
    finish(world, &["watched"]);
}
