//! Watched directories: what their manifests say is what is wanted, whatever becomes of the files.

mod drift;
mod faults;
mod layouts;
mod pruning;
mod repositories;
mod storm;

use std::fs;

use serde_json::Value;

use crate::world::World;

fn cluster(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: {name}}}\n\
         spec:\n  provider: {{local: {{}}}}\n  suspend: true\n{rest}"
    )
}

fn job(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: {name}}}\n\
         spec:\n  clusterRef: {{name: lab}}\n{rest}"
    )
}

/// A world whose controller watches these directories.
fn watching(directories: &[&str]) -> World {
    watching_with(directories, &[])
}

/// The same, with other options too.
fn watching_with(directories: &[&str], options: &[&str]) -> World {
    let world = World::new();
    for directory in directories {
        fs::create_dir(world.path(directory)).unwrap();
    }
    let mut arguments: Vec<&str> = directories.iter().flat_map(|directory| ["--watch", directory]).collect();
    arguments.extend(options);
    world.start(&arguments);
    world
}

/// How a source is, by the end of its name; null if it is not told of yet.
fn source(world: &World, name: &str) -> Value {
    let said = world.run(&["sync", "status", "-o", "json"]);
    let list: Value = serde_json::from_str(&said.out).unwrap_or_default();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let found = |item: &Value| item["directory"].as_str().is_some_and(|directory| directory.ends_with(name));
    items.into_iter().find(found).unwrap_or_default()
}

/// Waits until a source is as it should be.
fn see_source(world: &World, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    world.wait(&format!("source {name} {what}"), || Some(source(world, name)).filter(&so))
}

fn state(source: &Value) -> &str {
    source["state"].as_str().unwrap_or("")
}

/// What was told of an object.
fn told(world: &World, object: &str, reason: &str) -> String {
    let events = world.ok(&["events", "--for", object]);
    events.lines().filter(|line| line.contains(reason)).collect::<Vec<_>>().join("\n")
}

fn generation(object: &Value) -> u64 {
    object["metadata"]["generation"].as_u64().unwrap_or(0)
}

fn accepted(object: &Value) -> &str {
    let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted");
    accepted.and_then(|condition| condition["status"].as_str()).unwrap_or("")
}

/// Waits until an object is as it should be.
fn see(world: &World, kind: &str, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    world.wait(&format!("{kind} {name} {what}"), || Some(world.get(kind, name)).filter(&so))
}

/// Leaves nothing wanted, and sees all go.
fn finish(world: World, directories: &[&str]) {
    for directory in directories {
        fs::remove_dir_all(world.path(directory)).unwrap();
        fs::create_dir(world.path(directory)).unwrap();
        // Until it was seen to be empty, what is deleted by hand is made again.
        see_source(&world, directory, "is empty", |source| {
            source["objects"] == 0 && !["Failed", "Unknown"].contains(&state(source))
        });
    }
    world.finish();
}

#[test]
fn objects_follow_their_files() {
    let world = watching(&["watched"]);
    world.write("watched/deep/er/lab.yaml", &cluster("lab", ""));
    world.write(
        "watched/two.yaml",
        &(job("one", "  command: [a]\n") + "---\n" + &job("two", "  command: [a]\n")),
    );
    world.write("watched/notes.txt", "kind: no manifest");
    let first = see(&world, "job", "one", "is there", |job| generation(job) == 1);
    see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    let annotations = &first["metadata"]["annotations"];
    assert_eq!(annotations["rayconcile.dev/source-file"], "two.yaml", "{first:#}");

    // Changed; moved to another file, it stays the same object.
    world.write("watched/two.yaml", &job("two", "  command: [b]\n"));
    world.write("watched/moved.yaml", &job("one", "  command: [c]\n"));
    see(&world, "job", "two", "is changed", |job| generation(job) == 2);
    let moved = see(&world, "job", "one", "is changed", |job| generation(job) == 2);
    assert_eq!(moved["metadata"]["uid"], first["metadata"]["uid"]);

    // Broken, its last good state stays in force; the other file's objects are none the worse.
    world.write("watched/two.yaml", &job("two", "  comand: [b]\n"));
    world.write("watched/moved.yaml", &job("one", "  command: [d]\n"));
    let broken = see(&world, "job", "two", "is known to be broken", |job| accepted(job) == "False");
    assert_eq!((generation(&broken), &broken["spec"]["command"][0]), (2, &"b".into()));
    see(&world, "job", "one", "is changed", |job| generation(job) == 3);
    let status = world.wait_page(&["status"], &["two.yaml:6:3: spec.comand: there is no such field"]);
    assert!(status.contains("Accepted InvalidManifest: the last good manifest is in force"), "{status}");
    let events = world.ok(&["events", "--for", "job/two"]);
    assert!(events.matches("InvalidManifest").count() == 1, "{events}");
    assert!(events.contains("two.yaml:6:3: spec.comand"), "{events}");
    world.write("watched/two.yaml", "]: [");
    world.wait_page(&["status"], &["two.yaml:1:"]);
    assert_eq!(accepted(&world.get("job", "two")), "False");
    world.write("watched/two.yaml", &job("two", "  command: [b]\n"));
    let mended = see(&world, "job", "two", "is accepted", |job| accepted(job) == "True");
    assert_eq!(generation(&mended), 2);

    // Gone, it goes; unless it is to be kept.
    world.write(
        "watched/moved.yaml",
        &job("one", "  command: [d]\n")
            .replace("{name: one}", "{name: one, annotations: {rayconcile.dev/prune: 'false'}}"),
    );
    see(&world, "job", "one", "is to be kept", |job| {
        job["metadata"]["annotations"]["rayconcile.dev/prune"] == "false"
    });
    fs::remove_file(world.path("watched/moved.yaml")).unwrap();
    fs::remove_file(world.path("watched/two.yaml")).unwrap();
    see(&world, "job", "two", "is gone", Value::is_null);
    assert_eq!(generation(&world.get("job", "one")), 3);

    // A directory that cannot be read wants nothing to be changed.
    fs::rename(world.path("watched"), world.path("elsewhere")).unwrap();
    world.write("poke", "");
    world.kill();
    fs::create_dir(world.path("watched")).unwrap();
    fs::rename(world.path("elsewhere/deep"), world.path("watched/deep")).unwrap();
    world.start(&["--watch", "watched"]);
    world.wait_page(&["status"], &["1 object, looked at"]);
    assert_eq!(generation(&world.get("cluster", "lab")), 1);
    finish(world, &["watched"]);
}

#[test]
fn what_never_was_good_is_told_of_once() {
    let world = watching(&["watched"]);
    world.write("watched/bad.yaml", &job("new", "  comand: [a]\n"));
    world.write("watched/worse.yaml", "]: [");
    let shown =
        ["bad.yaml:6:3: spec.comand: there is no such field (did you mean `command`?)", "worse.yaml:1:1: "];
    let page = world.wait_page(&["events", "--for", "source/watched"], &shown);
    assert!(page.contains("InvalidManifest   source/watched"), "{page}");
    let event = told(&world, "job/new", "InvalidManifest");
    assert!(
        event.contains(&format!("it is not there, for its manifest was never good: {}", shown[0])),
        "{event}"
    );
    // Not at every look, and not by every controller.
    for restart in [false, true] {
        if restart {
            world.kill();
            world.start(&["--watch", "watched"]);
        }
        world.run(&["sync", "now"]);
        let page = world.ok(&["events", "-A"]);
        assert!(page.matches("bad.yaml").count() == 2 && !page.contains('×'), "{page}");
    }
    // Again when it is something else; then of the object that is there.
    world.write("watched/bad.yaml", &job("new", "  comand: [a]\n  comands: [a]\n"));
    world.wait_page(
        &["events", "--for", "source/watched"],
        &["no such field (did you mean `command`?); and 1 more in this file"],
    );
    world.write("watched/bad.yaml", &job("new", "  command: [a]\n"));
    see(&world, "job", "new", "is there", |job| generation(job) == 1);
    world.write("watched/bad.yaml", &(job("other", "  cmd: [a]\n") + "---\n" + &job("new", "  cmd: [a]\n")));
    let broken = see(&world, "job", "new", "is known to be broken", |job| accepted(job) == "False");
    let said = broken["status"]["conditions"].to_string();
    assert!(said.contains("bad.yaml:13:3: spec.cmd"), "it is told of its own mistake: {said}");
    let event = told(&world, "job/other", "InvalidManifest");
    assert!(event.contains("bad.yaml:6:3: spec.cmd"), "{event}");
    let said = world.run(&["events", "--for", "source/nowhere"]);
    assert!(said.code == 2 && said.err.contains("there is no source nowhere"), "{said:?}");
    finish(world, &["watched"]);
}

#[test]
fn a_wish_outlives_what_knows_nothing_of_it() {
    let world = watching(&["watched"]);
    let mut manifest = job("one", "  command: [a]\n");
    world.write("watched/one.yaml", &manifest);
    see(&world, "job", "one", "is there", |job| generation(job) == 1);
    let api = world.api();
    let at = crate::world::address("adaptdljobs", "one");
    let wish = |value: Value| {
        let patch =
            serde_json::json!({"metadata": {"annotations": {"rayconcile.dev/checkpoint-now": value}}});
        let answer = api.put(reqwest::Method::PATCH, &at, &patch);
        assert_eq!((answer.code, generation(&answer.body)), (200, 1), "{answer:?}");
    };
    let wished = |job: &Value| job["metadata"]["annotations"]["rayconcile.dev/checkpoint-now"].clone();
    wish("w1".into());
    // The directory is looked at again, and has something else to say.
    manifest = manifest.replace("{name: one}", "{name: one, labels: {a: b}}");
    world.write("watched/one.yaml", &manifest);
    let job = see(&world, "job", "one", "is changed", |job| job["metadata"]["labels"]["a"] == "b");
    assert_eq!((wished(&job), generation(&job)), ("w1".into(), 1));
    // So it is with what is applied by hand, unless that has a wish of its own.
    assert_eq!(world.ok(&["get", "job/one", "-o", "name"]), "adaptdljob/one\n");
    world.ok(&["apply", "-f", "watched/one.yaml"]);
    assert_eq!(wished(&world.get("job", "one")), "w1");
    world.write(
        "watched/one.yaml",
        &manifest.replace("labels", "annotations: {rayconcile.dev/checkpoint-now: w2}, labels"),
    );
    see(&world, "job", "one", "is wished by its file", |job| wished(job) == "w2");
    world.write("watched/one.yaml", &manifest.replace("a: b", "a: c"));
    see(&world, "job", "one", "is changed", |job| job["metadata"]["labels"]["a"] == "c");
    wish(Value::Null);
    assert_eq!(wished(&world.get("job", "one")), Value::Null);
    finish(world, &["watched"]);
}

#[test]
fn programs_are_packed_again_when_they_change() {
    let world = watching(&["watched"]);
    world.write("program/main.py", "print(1)\n");
    world.write("watched/job.yaml", &job("packed", "  workingDir: ../program\n  entrypoint: main.py\n"));
    let first = see(&world, "job", "packed", "is there", |job| generation(job) == 1);
    world.write("program/main.py", "print(2)\n");
    let second = see(&world, "job", "packed", "has the new program", |job| generation(job) == 2);
    assert_ne!(first["spec"]["workingDirDigest"], second["spec"]["workingDirDigest"]);
    let digest = second["spec"]["workingDirDigest"].as_str().unwrap();
    assert!(world.path(&format!("state/packages/{digest}.zip")).exists());
    fs::remove_file(world.path("program/main.py")).unwrap();
    let broken = see(&world, "job", "packed", "is known to be broken", |job| accepted(job) == "False");
    assert_eq!(broken["spec"]["workingDirDigest"], digest);
    finish(world, &["watched"]);
}

#[test]
fn a_package_that_is_not_there_is_told_of() {
    let world = watching(&["watched"]);
    let digest = "0123456789abcdef".repeat(4);
    let manifest =
        job("packed", &format!("  workingDir: x\n  workingDirDigest: {digest}\n  entrypoint: main.py\n"));
    world.write("watched/job.yaml", &manifest);
    let problem = format!("job.yaml:7:21: spec.workingDirDigest: there is no package {digest}");
    world.wait_page(&["status"], &[&problem]);
    assert_eq!(world.get("job", "packed"), Value::Null, "it is not taken in");
    // Brought there, it is taken in at the next look.
    world.write(&format!("state/packages/{digest}.zip"), "");
    world.write("watched/other.yaml", &cluster("lab", ""));
    let taken = see(&world, "job", "packed", "is there", |job| accepted(job) == "True");
    assert_eq!(taken["spec"]["workingDirDigest"], digest);
    // By hand it is refused as well, in the same words.
    world.write("by-hand.yaml", &manifest.replace("0123", "3210"));
    let said = world.run(&["apply", "-f", "by-hand.yaml"]);
    assert!(
        said.code == 1 && said.err.contains("spec.workingDirDigest: there is no package 3210"),
        "{said:?}"
    );
    finish(world, &["watched"]);
}

#[test]
fn a_directory_that_takes_anothers_place_is_followed() {
    let world = watching(&["watched"]);
    world.write("watched/lab.yaml", &cluster("lab", ""));
    see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    // As a tool does that brings a whole new tree, or `git` when it goes to another branch.
    world.write("new/lab.yaml", &cluster("lab", "  head: {labels: {tree: new}}\n"));
    fs::rename(world.path("watched"), world.path("old")).unwrap();
    fs::rename(world.path("new"), world.path("watched")).unwrap();
    world.write("old/poke.yaml", "");
    see(&world, "cluster", "lab", "is of the new tree", |cluster| generation(cluster) == 2);
    let changed = std::time::Instant::now();
    world.write("watched/lab.yaml", &cluster("lab", "  head: {labels: {tree: newer}}\n"));
    see(&world, "cluster", "lab", "is changed", |cluster| generation(cluster) == 3);
    assert!(changed.elapsed().as_secs() < 30, "it was not noticed, only looked at once in a while");
    finish(world, &["watched"]);
}

#[test]
fn an_object_belongs_to_one_directory() {
    let world = watching(&["one", "two"]);
    world.write("one/lab.yaml", &cluster("lab", ""));
    see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    world.write("two/mine.yaml", &cluster("lab", "  head: {labels: {a: b}}\n"));
    let one = world.path("one");
    let claim =
        format!("mine.yaml:1: RayCluster default/lab already comes from {} (lab.yaml)", one.display());
    world.wait_page(&["status"], &[&claim]);
    assert_eq!(generation(&world.get("cluster", "lab")), 1);
    let event = told(&world, "source/two", "InvalidManifest");
    assert!(event.contains(&claim) && event.lines().count() == 1, "{event}");
    // Within one directory, the second of two is a mistake.
    world.write("one/again.yaml", &cluster("lab", ""));
    let twice = "again.yaml:1: the RayCluster default/lab is here twice: lab.yaml:1 has it too";
    world.wait_page(&["status"], &[twice]);
    // Moved from one directory to the other, it stays the same object, and is what the other says.
    let uid = world.get("cluster", "lab")["metadata"]["uid"].clone();
    fs::remove_file(world.path("one/again.yaml")).unwrap();
    fs::remove_file(world.path("one/lab.yaml")).unwrap();
    let moved = see(&world, "cluster", "lab", "is the other's", |cluster| generation(cluster) == 2);
    assert_eq!(moved["metadata"]["uid"], uid);
    let annotations = &moved["metadata"]["annotations"];
    assert_eq!(annotations["rayconcile.dev/source"], world.path("two").display().to_string().as_str());
    // Its source is not watched for a while.
    let page = world.ok(&["sync", "status"]);
    assert!(!page.contains("does not watch"), "{page}");
    world.kill();
    world.start(&["--watch", "one"]);
    let line = format!("raycluster/default/lab   {} (mine.yaml)", world.path("two").display());
    world.wait_page(
        &["sync", "status"],
        &["1 object from sources that this controller does not watch", &line],
    );
    world.kill();
    world.start(&["--watch", "one", "--watch", "two"]);
    finish(world, &["one", "two"]);
}

#[test]
fn a_directory_that_is_not_there_cannot_be_watched() {
    let world = World::new();
    let said = world.run(&["controller", "--watch", "nowhere"]);
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "error: cannot watch nowhere: No such file or directory (os error 2)\n")
    );
    world.write("file", "");
    let said = world.run(&["controller", "--watch", "file"]);
    assert_eq!((said.code, said.err.as_str()), (1, "error: cannot watch file: it is no directory\n"));
}
