//! What makes it comfortable: fields explained, output for scripts, completions, manual pages, and hints.

use super::{run, some_objects};
use crate::world::{World, said};

#[test]
fn fields_are_explained_from_the_schemas() {
    let world = World::new();
    for (name, arguments) in [
        ("explain-job", &["explain", "job"] as &[&str]),
        ("explain-checkpoint", &["explain", "adaptdljob.spec.checkpoint"]),
        ("explain-policy", &["explain", "job.spec.scaling.policy"]),
        ("explain-recursive", &["explain", "cluster.spec.workerGroups", "--recursive"]),
        ("explain-provider", &["explain", "cluster.spec.provider"]),
        ("explain-env", &["explain", "job.spec.env.valueFrom"]),
        ("explain-status", &["explain", "job.status.progress"]),
        ("explain-wrong", &["explain", "job.spec.checkpont"]),
        ("explain-leaf", &["explain", "job.spec.priority.more"]),
        ("explain-kind", &["explain", "pod"]),
    ] {
        insta::assert_snapshot!(name, run(&world, arguments));
    }
}

#[test]
fn scripts_get_what_they_ask_for() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    let get = |arguments: &[&str]| world.ok(&[&["get"], arguments].concat());
    assert_eq!(get(&["job", "night", "-o", "jsonpath={.status.phase}"]), "Suspended\n");
    let template = "jsonpath={range .items[*]}{.metadata.name}={.status.phase}{\"\\n\"}{end}";
    assert_eq!(get(&["jobs", "-o", template]), "night=Suspended\nwaits=Pending\n");
    let columns = "custom-columns=NAME:.metadata.name,TEAM:.metadata.labels.team";
    insta::assert_snapshot!("get-custom-columns", get(&["jobs", "-o", columns]));
    assert_eq!(
        get(&["jobs", "-o", columns, "--no-headers", "--sort-by", ".status.phase"]),
        "waits   <none>\nnight   vision\n"
    );
    assert_eq!(
        get(&["jobs", "-o", "name", "--sort-by", "{.metadata.name}"]),
        "adaptdljob/night\nadaptdljob/waits\n"
    );
    let labelled = get(&["jobs", "--show-labels", "--no-headers"]);
    assert!(labelled.lines().next().unwrap().ends_with("team=vision"), "{labelled}");
    // Nothing found is a list all the same, and no line at all where a line would be one of them.
    let none = |format: &str| get(&["jobs", "-l", "team=none", "-o", format]);
    let list: serde_json::Value = serde_json::from_str(&none("json")).unwrap();
    assert_eq!(list["kind"], "AdaptDLJobList");
    assert_eq!(list["items"], serde_json::json!([]));
    assert!(none("yaml").contains("\nitems: []\n"), "{}", none("yaml"));
    for format in ["name", template, columns, "table"] {
        assert_eq!(none(format), "", "{format}");
    }
    insta::assert_snapshot!("get-wrong-template", run(&world, &["get", "jobs", "-o", "jsonpath={.a[}"]));
    insta::assert_snapshot!("get-wrong-columns", run(&world, &["get", "jobs", "-o", "custom-columns=NAME"]));
    world.finish();
}

#[test]
fn names_that_are_nearly_right_are_hinted_at() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    for (name, arguments) in [
        ("hint-get", &["get", "job", "nigth"] as &[&str]),
        ("hint-describe", &["describe", "cluster", "lap"]),
        ("hint-logs", &["logs", "wait"]),
        ("hint-status", &["status", "nihgt"]),
        ("logs-of-a-cluster", &["logs", "cluster/lab"]),
        ("hint-suspend", &["suspend", "nihgt"]),
        ("hint-namespace", &["get", "job", "night", "-n", "other"]),
        ("hint-nothing", &["get", "job", "something-else"]),
    ] {
        insta::assert_snapshot!(name, run(&world, arguments));
    }
    // Somebody else's state directory, with another token.
    let token = std::fs::read_to_string(world.path("state/api-token")).unwrap();
    world.write("state/api-token", "no token of any controller's at all");
    insta::assert_snapshot!("hint-token", run(&world, &["get", "jobs"]));
    world.write("state/api-token", &token);
    world.finish();
}

#[test]
fn shells_know_the_names_of_objects() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    let complete = |world: &World, words: &[&str]| {
        let mut command = world.command(&[&["--", "rayconcile"], words].concat());
        let said = said(&command.env("COMPLETE", "fish").output().unwrap());
        assert_eq!((said.code, said.err.as_str()), (0, ""));
        said.out.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(complete(&world, &["describe", "job", "n"]), ["night"]);
    assert_eq!(complete(&world, &["logs", ""]).iter().filter(|word| !word.starts_with('-')).count(), 2);
    assert_eq!(complete(&world, &["delete", "raycluster/"]), ["raycluster/lab"]);
    assert!(complete(&world, &["get", ""]).contains(&"clusters".to_owned()));
    for words in [&["get", "adaptdljob/n"] as &[&str], &["events", "--for", "adaptdljob/n"]] {
        assert_eq!(complete(&world, words), ["adaptdljob/night"], "{words:?}");
    }
    for verb in ["ls", "get", "now", "inspect"] {
        assert_eq!(complete(&world, &["checkpoint", verb, "n"]), ["night"], "{verb}");
    }
    assert!(complete(&world, &["exp"]).contains(&"explain".to_owned()));
    world.finish();
    // Without a controller there is nothing to be offered, and nothing said, and at once.
    let alone = World::new();
    assert_eq!(complete(&alone, &["describe", "job", "n"]), Vec::<String>::new());
    // One that does not answer is not waited for.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("{{\"url\": \"http://{}\", \"pid\": 1}}", silent.local_addr().unwrap());
    alone.write("state/api.json", &url);
    alone.write("state/api-token", "t");
    let start = std::time::Instant::now();
    assert_eq!(complete(&alone, &["describe", "job", "n"]), Vec::<String>::new());
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn there_are_manual_pages_and_versions() {
    let world = World::new();
    let page = world.ok(&["man"]);
    assert!(page.contains(".TH rayconcile 1") && page.contains("adopt one, or destroy one"), "{page}");
    world.ok(&["man", "--write", "pages"]);
    let apply = std::fs::read_to_string(world.path("pages/rayconcile-apply.1")).unwrap();
    assert!(apply.contains("kustomize build"), "{apply}");
    assert!(world.path("pages/rayconcile-checkpoint-now.1").exists());
    let version = env!("CARGO_PKG_VERSION");
    let said = world.run(&["version"]);
    assert_eq!((said.code, said.out), (0, format!("rayconcile {version}\n")));
    assert_eq!(said.err, "no controller is running here\n");
    world.start(&[]);
    assert_eq!(world.ok(&["version"]), format!("rayconcile {version}\ncontroller {version}\n"));
    let both: serde_json::Value = serde_json::from_str(&world.ok(&["version", "--json"])).unwrap();
    assert_eq!(both, serde_json::json!({"rayconcile": version, "controller": version}));
    world.finish();
}
