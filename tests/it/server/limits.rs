//! What nobody may do, whatever their role: have files of the controller read, or make what cannot be read again or
//! held.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{TOKENS, create, names, refused, somebody};
use crate::world::{Api, World, address, waiting_job};

const PLAN: &str = "/apis/rayconcile.dev/v1/plan";

/// The most memory that the controller has had, in MiB.
fn peak(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.controller())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn no_file_of_the_controller_is_read_for_anybody() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "c");
    let code = world.write("code/main.py", "print(1)").parent().unwrap().to_owned();
    let (view, edit) = (somebody(&api, "view"), somebody(&api, "edit"));
    let token = world.path("state/api-token");
    let mut told = Vec::new();
    for file in
        [token.display().to_string(), "/proc/self/environ".to_owned(), world.path("no").display().to_string()]
    {
        let mut job = waiting_job("j", "c");
        job["spec"]["workingDir"] = json!(code);
        job["spec"]["runtimeEnv"] = json!({"pip": file});
        let answers = [
            view.put(Method::POST, PLAN, &json!({"objects": [job]})),
            edit.put(Method::POST, &address("adaptdljobs", ""), &job),
            api.put(Method::POST, &address("adaptdljobs", ""), &job),
        ];
        told.extend(answers.iter().map(|answer| refused(answer, 422, "Invalid")));
    }
    told.sort();
    told.dedup();
    let why = "spec.workingDir: needs `workingDirDigest`: through the API no directory is packed \
               (`rayconcile apply` packs it, and brings the package)";
    assert_eq!(told, [why], "what is there is not told");
    assert!(!world.path("state/packages").exists());

    // Nor is one of its own the value of a variable.
    let mut job = waiting_job("j", "c");
    job["spec"]["env"] = json!([{"name": "X", "valueFrom": {"file": token}}]);
    assert_eq!(
        edit.put(Method::POST, &address("adaptdljobs", ""), &job).code,
        201,
        "it is looked up when it is run"
    );
    world.finish();
}

#[test]
fn nothing_is_kept_that_cannot_be_read_again() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "c");
    let job = |depth: usize| {
        let mut job = waiting_job("j", "c");
        job["spec"]["suspend"] = json!(true);
        job["spec"]["runtimeEnv"] = (0..depth).fold(json!(1), |inner, _| json!({"x": inner}));
        job
    };
    let jobs = address("adaptdljobs", "");
    let why = refused(&api.put(Method::POST, &jobs, &job(110)), 422, "Invalid");
    assert_eq!(why, "spec: nests 112 levels deep; 64 is the most there may be");
    let yaml = api.request(Method::POST, &jobs).header("content-type", "application/yaml");
    refused(&api.send(yaml.body(job(63).to_string())), 422, "Invalid");
    assert_eq!(api.put(Method::POST, &jobs, &job(62)).code, 201);
    let one = address("adaptdljobs", "j");
    for (kind, patch) in [
        ("application/merge-patch+json", json!({"spec": job(63)["spec"]})),
        ("application/strategic-merge-patch+json", json!({"spec": job(63)["spec"]})),
        (
            "application/json-patch+json",
            json!([{"op": "copy", "from": "/spec/runtimeEnv", "path": "/spec/runtimeEnv/x"}]),
        ),
        ("application/apply-patch+yaml", job(63)),
    ] {
        let request = api.request(Method::PATCH, &format!("{one}?fieldManager=m&force=true"));
        refused(&api.send(request.header("content-type", kind).body(patch.to_string())), 422, "Invalid");
    }
    assert_eq!(names(&api.get(&jobs).body), ["j"]);
    assert_eq!(world.get("job", "j")["metadata"]["name"], "j");
    world.finish();
}

#[test]
fn nothing_grows_without_bound() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "c");
    let view = somebody(&api, "view");
    let grown = (0..4).map(|number| {
        let patch = json!({"metadata": {"annotations": {format!("a{number}"): "x".repeat(1 << 20)}}});
        api.send(api.request(Method::PATCH, &address("rayclusters", "c")).json(&patch))
    });
    let codes: Vec<u16> = grown.map(|answer| answer.code).collect();
    assert_eq!(codes, [200, 200, 413, 413]);

    // Little text that is much as values.
    let zeros = format!("{{\"objects\": [[{}0]]}}", "0,".repeat(7 << 20));
    let json = view.request(Method::POST, PLAN).header("content-type", "application/json");
    refused(&view.send(json.body(zeros)), 400, "BadRequest");
    let row = |name: &str, item: &str| format!("{name}: &{name} [{}]\n", vec![item; 6000].join(","));
    for (path, code) in [("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", 400), (PLAN, 400)] {
        let yaml = view.request(Method::POST, path).header("content-type", "application/yaml");
        assert_eq!(view.send(yaml.body(row("a", "1") + &row("b", "*a"))).code, code, "{path}");
    }
    let long = view.request(Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
    let long = view.send(long.json(&json!({"spec": "x".repeat(100_000)})));
    refused(&long, 413, "RequestEntityTooLarge");
    assert_eq!(long.headers["connection"], "close", "what is not read is in the way of the next request");
    let peak = peak(&world);
    assert!(peak < 256, "it took {peak} MiB");

    // A package is not held in memory.
    let package = api.request(Method::PUT, &format!("/apis/rayconcile.dev/v1/packages/{}", "0".repeat(64)));
    refused(&api.send(package.body(vec![0_u8; (100 << 20) + 1])), 413, "RequestEntityTooLarge");
    assert_eq!(fs::read_dir(world.path("state/packages")).unwrap().count(), 0);
    let after = self::peak(&world);
    assert!(after < peak + 64, "it took {after} MiB after {peak}");
    world.finish();
}

/// Whether the other end of a connection was closed.
fn is_closed(mut connection: &TcpStream) -> bool {
    connection.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    matches!(connection.read(&mut [0]), Ok(0))
}

#[test]
fn strangers_do_not_keep_out_who_has_a_token() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "c");
    let mut watch = api.watch(&format!("{}?watch=true", address("rayclusters", "")));
    assert_eq!(watch.change().1, "c");
    let address_of = api.base.strip_prefix("http://").unwrap();
    let silent: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(address_of).unwrap()).collect();
    let newcomer = api.with_token(&api.token);
    assert_eq!(names(&newcomer.get(&address("rayclusters", "")).body), ["c"]);
    let closed = world.wait("the oldest were seen out", || {
        let closed = silent.iter().map(is_closed).collect::<Vec<_>>();
        (closed.iter().filter(|closed| **closed).count() >= 600 - 256).then_some(closed)
    });
    assert!(closed[0] && !closed[599], "those that came first go first");
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(api.send(api.request(Method::PATCH, &address("rayclusters", "c")).json(&patch)).code, 200);
    assert_eq!(watch.change(), ("MODIFIED".to_owned(), "c".to_owned()), "whoever is known stays");
    world.finish();
}

#[test]
fn a_token_that_is_taken_back_sees_nothing_more() {
    let world = World::with_controller(&[]);
    let api = world.api();
    create(&api, "c");
    let view = somebody(&api, "view");
    let path = format!("{}?watch=true", address("rayclusters", ""));
    let mut watches: Vec<_> = (0..100).map(|_| view.watch(&path)).collect();
    assert_eq!(
        refused(&view.get(&path), 429, "TooManyRequests"),
        "the token view watches 100 things already"
    );
    assert_eq!(names(&view.get(&address("rayclusters", "")).body), ["c"]);
    drop(watches.split_off(1));
    world.wait("there is room again", || can_watch(&view, &path).then_some(()));
    assert_eq!(api.delete(&format!("{TOKENS}/view")).code, 200);
    assert_eq!(
        watches[0].rest().last().map(|line| line["object"]["metadata"]["name"].clone()),
        Some(json!("c"))
    );
    refused(&view.get(&address("rayclusters", "")), 401, "Unauthorized");
    world.finish();
}

fn can_watch(api: &Api, path: &str) -> bool {
    let timed = api.get(&format!("{path}&timeoutSeconds=1"));
    assert!([200, 429].contains(&timed.code), "{timed:?}");
    timed.code == 200
}
