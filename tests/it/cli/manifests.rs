//! Manifests that are wrong, and a controller that is not there.

use super::{OBJECTS, run};
use crate::world::World;

const BAD: &str = "\
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata: {name: Bad_Name}
spec:
  entrypont: main.py
  minReplicas: 5
  maxReplicas: two
";

#[test]
fn bad_manifests_are_told_of_and_nothing_is_changed() {
    let world = World::with_controller(&[]);
    world.write("bad.yaml", BAD);
    world.write("some/good.yaml", OBJECTS);
    world.write("some/unclosed.yaml", "a: [1, 2\nb: 3\n");
    world.write("job.yaml", "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {name: j}\nspec: {workingDir: ./nowhere, entrypoint: main.py}\n");
    insta::assert_snapshot!("validate-good", run(&world, &["validate", "-f", "some/good.yaml"]));
    insta::assert_snapshot!("validate-bad", run(&world, &["validate", "-f", "bad.yaml"]));
    insta::assert_snapshot!("apply-bad", run(&world, &["apply", "-f", "bad.yaml", "-f", "some"]));
    insta::assert_snapshot!("apply-no-directory", run(&world, &["apply", "-f", "job.yaml"]));
    insta::assert_snapshot!("apply-no-file", run(&world, &["apply", "-f", "nothing.yaml"]));
    assert_eq!(world.ok(&["get", "jobs"]) + &world.ok(&["get", "clusters"]), "");
    world.finish();
}

#[test]
fn what_would_be_done_can_be_asked() {
    let world = World::with_controller(&[]);
    world.write("objects.yaml", OBJECTS);
    insta::assert_snapshot!(
        "apply-dry-run-client",
        run(&world, &["apply", "-f", "objects.yaml", "--dry-run"])
    );
    insta::assert_snapshot!(
        "apply-dry-run-server",
        run(&world, &["apply", "-f", "objects.yaml", "--dry-run=server"])
    );
    assert_eq!(world.ok(&["get", "jobs"]), "");
    insta::assert_snapshot!("apply", run(&world, &["apply", "-f", "objects.yaml"]));
    world.write("objects.yaml", &OBJECTS.replace("vision", "speech"));
    insta::assert_snapshot!(
        "apply-server-again",
        run(&world, &["apply", "-f", "objects.yaml", "--dry-run=server"])
    );
    insta::assert_snapshot!("apply-again", run(&world, &["apply", "-f", "objects.yaml"]));
    world.finish();
}

#[test]
fn without_a_controller_it_is_said_how_to_get_one() {
    let world = World::new();
    world.write("objects.yaml", OBJECTS);
    for arguments in [
        &["apply", "-f", "objects.yaml"] as &[&str],
        &["get", "jobs"],
        &["status"],
        &["describe", "job", "x"],
        &["delete", "job", "x", "--no-wait"],
        &["wait", "job", "x", "--for", "delete"],
        &["suspend", "x"],
        &["resume", "x"],
        &["logs", "x"],
        &["events"],
        &["checkpoint", "ls", "x"],
    ] {
        let said = run(&world, arguments);
        assert!(
            said.starts_with("exit code 3\n--- stderr\nerror: no controller is running"),
            "{arguments:?}: {said}"
        );
    }
    insta::assert_snapshot!("no-controller", run(&world, &["status"]));
    assert!(!world.path("state").exists(), "nothing was made");
    // One that was killed has left word of where it was.
    world.start(&[]);
    world.kill();
    insta::assert_snapshot!("killed-controller", run(&world, &["status"]));
    // What can be done without one is done without one.
    assert_eq!(world.run(&["validate", "-f", "objects.yaml"]).code, 0);
    assert_eq!(world.run(&["apply", "-f", "objects.yaml", "--dry-run=client"]).code, 0);
}

#[test]
fn a_controller_can_be_started_when_it_is_needed() {
    let world = World::new();
    world.write("objects.yaml", OBJECTS);
    let said = run(&world, &["apply", "-f", "objects.yaml", "--start-controller"]);
    insta::assert_snapshot!("apply-start-controller", said);
    let endpoint = std::fs::read_to_string(world.path("state/api.json")).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&endpoint).unwrap()["pid"].as_u64().unwrap();
    // It is not started twice.
    let again = world.run(&["apply", "-f", "objects.yaml", "--start-controller"]);
    assert_eq!((again.code, again.err.as_str()), (0, ""));
    for object in ["job/night", "job/waits", "cluster/lab"] {
        world.ok(&["delete", object]);
    }
    crate::world::terminate(u32::try_from(pid).unwrap());
    world.wait("it has ended", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    // One that cannot start says why.
    std::fs::remove_file(world.path("state/rayconcile.db")).unwrap();
    world.write("state/rayconcile.db", &"no database ".repeat(100));
    let said = run(&world, &["apply", "-f", "objects.yaml", "--start-controller"]);
    insta::assert_snapshot!("apply-start-controller-fails", said);
}

#[test]
fn flags_that_would_have_no_meaning_are_refused() {
    let world = World::new();
    world.write(
        "job.yaml",
        "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {name: j}\nspec: {command: [a]}\n",
    );
    world.write("main.py", "");
    for (arguments, words) in [
        (&["run", "job.yaml", "--gpu", "2", "--cpu", "7"] as &[&str], "only for scripts: --cpu, --gpu; what"),
        (
            &["run", "job.yaml", "--name", "x", "--", "-e"],
            "only for scripts: arguments after --, --name; what",
        ),
        (&["run", "main.py", "--keep-clusters"], "--keep-clusters is for manifests"),
        (&["apply", "-f", "job.yaml", "--dry-run", "--start-controller"], "--start-controller would change"),
        (&["apply", "-f", "job.yaml", "--dry-run", "--prune", "--all"], "use --dry-run=server"),
        (&["schema", "job", "--write", "out"], "cannot be used with"),
    ] {
        let said = world.run(arguments);
        assert!(said.code == 2 && said.err.contains(words), "{arguments:?}: {said:?}");
    }
    assert!(!world.path("state").exists() && !world.path("out").exists());
}

#[test]
fn manifests_of_the_old_operator_are_taken_with_warnings() {
    let world = World::with_controller(&[]);
    world.write(
        "old.yaml",
        "apiVersion: adaptdl.petuum.com/v1\nkind: AdaptDLJob\nmetadata: {generateName: digits-}\nspec:\n  \
         maxReplicas: 3\n  template:\n    spec:\n      nodeSelector: {kind: gpu}\n      containers:\n      - \
         {name: main, command: [/bin/train], args: [--fast], resources: {limits: {nvidia.com/gpu: 1}}}\n",
    );
    let said = world.run(&["apply", "-f", "old.yaml"]);
    let name = said.out.strip_prefix("adaptdljob/").and_then(|rest| rest.strip_suffix(" created\n"));
    assert!(said.code == 0 && name.is_some_and(|name| name.starts_with("digits-")), "{said:?}");
    let warning = "warning: old.yaml:8:7: spec.template.spec.nodeSelector: has no meaning here: workers are";
    assert!(said.err.starts_with(warning), "{said:?}");
    let spec = world.get("job", name.unwrap())["spec"].clone();
    assert_eq!((&spec["command"][0], &spec["args"][0]), (&"/bin/train".into(), &"--fast".into()));
    assert_eq!((&spec["maxReplicas"], &spec["resources"]["gpu"]), (&3.into(), &1.into()));
    // What `convert` writes needs no warning any more, and can be applied again and again.
    let converted = world.ok(&["convert", "old.yaml", "--name", "digits"]);
    world.write("new.yaml", &converted);
    let said = world.run(&["apply", "-f", "new.yaml"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "adaptdljob/digits created\n", ""));
    assert_eq!(world.ok(&["apply", "-f", "new.yaml"]), "adaptdljob/digits unchanged\n");
    world.finish();
}
