//! What would be: `diff`, dry runs, pruning and waiting.

use serde_json::Value;

use super::{OBJECTS, run, some_objects};
use crate::world::World;

#[test]
fn differences_are_told_of_with_what_would_be_done_about_them() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    insta::assert_snapshot!("diff-nothing", run(&world, &["diff", "-f", "objects.yaml"]));
    let changed = OBJECTS
        .replace(
            "{provider: {local: {}}, suspend: true}",
            "{provider: {local: {}}, workerGroups: [{name: cpu, minNodes: 1, maxNodes: 2}]}",
        )
        .replace(
            "command: [python, train.py], suspend: true",
            "command: [python, train.py], priority: 7, env: [{name: HF_TOKEN, value: s3cr3t}], suspend: true",
        );
    world.write(
        "changed.yaml",
        &format!("{changed}---\n{}", OBJECTS.rsplit("---\n").next().unwrap().replace("waits", "fresh")),
    );
    let before = world.get("cluster", "lab");
    insta::assert_snapshot!("diff", run(&world, &["diff", "-f", "changed.yaml"]));
    let said = world.run(&["diff", "-f", "changed.yaml", "-o", "json"]);
    assert_eq!((said.code, said.err.as_str()), (1, ""));
    assert!(!said.out.contains("s3cr3t"), "{}", said.out);
    let found: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(found["clusters"][0]["nodes"], serde_json::json!({"before": 0, "after": 1}));
    insta::assert_snapshot!("diff-json", said.out);
    assert_eq!(world.get("cluster", "lab"), before, "nothing was changed");
    assert_eq!(world.get("job", "fresh"), Value::Null);
    world.finish();
}

#[test]
fn what_cannot_be_said_has_another_exit_code() {
    let world = World::new();
    world.write("objects.yaml", OBJECTS);
    world.write("bad.yaml", "a: [1\n");
    assert_eq!(world.run(&["diff", "-f", "bad.yaml"]).code, 2);
    insta::assert_snapshot!("diff-no-controller", run(&world, &["diff", "-f", "objects.yaml"]));
    world.start(&[]);
    world.ok(&["apply", "-f", "objects.yaml"]);
    let other = "{provider: {existing: {address: \"http://127.0.0.1:1\"}}}";
    world.write("refused.yaml", &OBJECTS.replace("{provider: {local: {}}, suspend: true}", other));
    insta::assert_snapshot!("diff-refused", run(&world, &["diff", "-f", "refused.yaml"]));
    world.finish();
}

#[test]
fn what_is_not_in_the_files_any_more_goes_only_if_it_is_meant() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    world.write("lab.yaml", OBJECTS.split("---\n").next().unwrap());
    let prune = ["apply", "-f", "lab.yaml", "--prune"];
    insta::assert_snapshot!("prune-what", run(&world, &prune));
    let team = [&prune[..], &["-l", "team=vision"]].concat();
    let rehearsal = [&team[..], &["--dry-run=server"]].concat();
    insta::assert_snapshot!("prune-dry-run", run(&world, &rehearsal));
    assert_ne!(world.get("job", "night"), Value::Null);
    insta::assert_snapshot!(
        "diff-prune",
        run(&world, &["diff", "-f", "lab.yaml", "--prune", "-l", "team=vision"])
    );
    insta::assert_snapshot!("prune", run(&world, &team));
    world.wait("it has gone", || (world.get("job", "night") == Value::Null).then_some(()));
    assert_ne!(world.get("job", "waits"), Value::Null, "it has no such label");
    world.ok(&[&prune[..], &["--all"]].concat());
    world.wait("it has gone", || (world.get("job", "waits") == Value::Null).then_some(()));
    // What says that it stays stays.
    let kept =
        OBJECTS.replace("{name: waits}", "{name: waits, annotations: {rayconcile.dev/prune: \"false\"}}");
    world.write("objects.yaml", &kept);
    world.ok(&["apply", "-f", "objects.yaml"]);
    world.ok(&[&prune[..], &["--all"]].concat());
    assert_eq!(world.get("job", "waits")["metadata"]["deletionTimestamp"], Value::Null);
    world.finish();
}

#[test]
fn what_was_applied_is_waited_for() {
    let world = World::with_controller(&[]);
    world.write("lab.yaml", OBJECTS.split("---\n").next().unwrap());
    // What is said on the way depends on how soon it is looked at.
    let waited = world.ok(&["apply", "-f", "lab.yaml", "--wait"]);
    assert_eq!(waited, "raycluster/lab created\nraycluster/lab is as wanted\n");
    world.write("objects.yaml", OBJECTS);
    let late = run(&world, &["apply", "-f", "objects.yaml", "--wait", "--timeout", "5s"]);
    assert!(
        late.starts_with("exit code 124\n") && late.contains("adaptdljob/night is suspended, as wanted"),
        "{late}"
    );
    let why = "adaptdljob/waits is not as wanted after 5s: there is no RayCluster default/nosuch";
    assert!(late.contains(why), "{late}");
    insta::assert_snapshot!(
        "apply-wait-dry",
        run(&world, &["apply", "-f", "lab.yaml", "--wait", "--dry-run"])
    );
    insta::assert_snapshot!(
        "apply-dry-run-none",
        run(&world, &["apply", "-f", "lab.yaml", "--dry-run=none"])
    );
    world.finish();
}
