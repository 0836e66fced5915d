//! What goes when it is not in its directory any more, and what must be confirmed first.

use std::fs;

use serde_json::{Value, json};

use super::{cluster, finish, generation, job, see, see_source, source, state, told, watching};
use crate::world::World;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A directory with six clusters in it, all of them stored.
fn six() -> World {
    let world = watching(&["watched"]);
    for name in NAMES {
        world.write(&format!("watched/{name}.yaml"), &cluster(name, ""));
    }
    for name in NAMES {
        see(&world, "cluster", name, "is there", |object| generation(object) == 1);
    }
    see_source(&world, "watched", "is well", |source| state(source) == "Synced");
    world
}

fn remove(world: &World, name: &str) {
    fs::remove_file(world.path(&format!("watched/{name}.yaml"))).unwrap();
}

/// What waits to be confirmed, once it is these objects.
fn pending(world: &World, names: &[&str]) -> Value {
    let objects: Vec<String> = names.iter().map(|name| format!("raycluster/default/{name}")).collect();
    let waits = |source: &Value| {
        state(source) == "AwaitingConfirmation" && source["pendingPrune"]["objects"] == json!(objects)
    };
    see_source(world, "watched", "waits", waits)["pendingPrune"].clone()
}

fn stored(world: &World) -> String {
    world.ok(&["get", "clusters", "-o", "name"]).replace("raycluster/", "").replace('\n', " ")
}

#[test]
fn much_at_once_goes_when_it_is_confirmed() {
    let world = six();
    ["a", "b", "c", "d"].iter().for_each(|name| remove(&world, name));
    let first = pending(&world, &["a", "b", "c", "d"]);
    assert_eq!(first["reason"], "4 of its 6 objects are gone at once, more than --max-prune 50%");
    let page = world.ok(&["status"]);
    assert!(
        page.contains("4 objects of 6 would be deleted") && page.contains("raycluster/default/c"),
        "{page}"
    );
    let event = told(&world, "cluster/a", "PruneBlocked");
    assert!(
        event.contains("raycluster/default/a, raycluster/default/b") && event.contains("sync confirm"),
        "{event}"
    );

    // Another controller asks the same; and of another set it is asked anew.
    world.kill();
    world.start(&["--watch", "watched"]);
    pending(&world, &["a", "b", "c", "d"]);
    remove(&world, "e");
    let second = pending(&world, &["a", "b", "c", "d", "e"]);
    let request = json!({
        "source": world.path("watched").display().to_string(), "action": "confirm", "digest": first["digest"],
    });
    let api = world.api();
    let at = "/apis/rayconcile.dev/v1/sources";
    let answer = api.put(reqwest::Method::POST, at, &request);
    assert_eq!((answer.code, answer.body["reason"].as_str()), (409, Some("Conflict")), "{answer:?}");
    assert_ne!(first["digest"], second["digest"]);
    assert_eq!(stored(&world), "a b c d e f ");

    // One that comes back is no longer among them.
    world.write("watched/e.yaml", &cluster("e", ""));
    pending(&world, &["a", "b", "c", "d"]);
    // While it is paused, none goes.
    world.ok(&["sync", "pause"]);
    let said = world.run(&["sync", "confirm"]);
    assert!(said.code == 1 && said.err.contains("is paused"), "{said:?}");
    world.ok(&["sync", "resume"]);
    pending(&world, &["a", "b", "c", "d"]);
    let said = world.ok(&["sync", "confirm", "watched"]);
    assert_eq!(said.lines().next(), Some("raycluster/default/a is being deleted"), "{said}");
    world.wait("they have gone", || (stored(&world) == "e f ").then_some(()));
    see_source(&world, "watched", "is well", |source| state(source) == "Synced" && source["objects"] == 2);
    let said = world.run(&["sync", "confirm"]);
    assert!(said.code == 1 && said.err.contains("nothing of "), "{said:?}");
    finish(world, &["watched"]);
}

#[test]
fn what_may_have_been_moved_to_a_broken_file_stays() {
    let world = six();
    let uid = |name: &str| world.get("cluster", name)["metadata"]["uid"].clone();
    let first = uid("a");
    world.write("watched/new.yaml", &(cluster("a", "") + "spek: {]\n"));
    remove(&world, "a");
    let expected = "new.yaml cannot be read or is not right, and may have them";
    assert_eq!(pending(&world, &["a"])["reason"], expected);
    world.write("watched/new.yaml", &cluster("a", ""));
    see_source(&world, "watched", "is well", |source| state(source) == "Synced");
    assert_eq!(uid("a"), first);

    // Somebody may know better.
    world.write("watched/new.yaml", &(cluster("a", "") + "spek: {]\n"));
    remove(&world, "b");
    pending(&world, &["b"]);
    world.ok(&["sync", "confirm"]);
    world.wait("it has gone", || (stored(&world) == "a c d e f ").then_some(()));
    assert_eq!(uid("a"), first, "the last good manifest stays in force");
    finish(world, &["watched"]);
}

#[test]
fn a_directory_that_vanishes_takes_nothing_with_it() {
    let world = six();
    fs::rename(world.path("watched"), world.path("elsewhere")).unwrap();
    let all = pending(&world, &NAMES);
    assert_eq!(all["reason"], "it is not there any more");
    // A controller that begins without it keeps what came from it.
    world.kill();
    world.start(&["--watch", "watched", "--max-prune", "100%"]);
    pending(&world, &NAMES);
    fs::rename(world.path("elsewhere"), world.path("watched")).unwrap();
    see_source(&world, "watched", "is well", |source| state(source) == "Synced" && source["objects"] == 6);
    assert_eq!(generation(&world.get("cluster", "a")), 1);

    // Empty is not vanished: all may go, as the limit says.
    NAMES.iter().for_each(|name| remove(&world, name));
    world.wait("they have gone", || stored(&world).is_empty().then_some(()));
    finish(world, &["watched"]);
}

#[test]
fn an_emptied_directory_is_asked_about() {
    let world = watching(&["watched"]);
    world.write("watched/a.yaml", &cluster("a", ""));
    see(&world, "cluster", "a", "is there", |object| generation(object) == 1);
    remove(&world, "a");
    assert_eq!(pending(&world, &["a"])["reason"], "it holds no object any more");
    world.write("watched/a.yaml", &cluster("a", ""));
    see_source(&world, "watched", "is well", |source| state(source) == "Synced");
    assert_eq!(world.get("cluster", "a")["metadata"]["deletionTimestamp"], Value::Null);
    finish(world, &["watched"]);
}

#[test]
fn what_was_applied_by_hand_stays_and_jobs_go_before_clusters() {
    let world = six();
    world.write("mine.yaml", &(cluster("mine", "") + "---\n" + &job("one", "  command: [a]\n")));
    world.ok(&["apply", "-f", "mine.yaml"]);
    remove(&world, "a");
    world.wait("it has gone", || (stored(&world) == "b c d e f mine ").then_some(()));
    assert_eq!(source(&world, "watched")["objects"], 5);
    assert_eq!(world.get("job", "one")["metadata"]["annotations"], Value::Null);
    // What a hand made and a directory has too is the directory's.
    world.write("watched/two.yaml", &(cluster("lab", "") + "---\n" + &job("two", "  command: [a]\n")));
    see(&world, "job", "two", "is there", |job| generation(job) == 1);
    see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    remove(&world, "two");
    see(&world, "cluster", "lab", "is gone", Value::is_null);
    assert_eq!(world.get("job", "two"), Value::Null, "it went before its cluster");
    let events = world.ok(&["events", "-A"]);
    assert!(events.contains("Pruned"), "{events}");
    finish(world, &["watched"]);
}
