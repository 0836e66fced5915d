//! `adaptdl_on_ray_aws` and `attach` where no cluster is, or one that answers as it should not.

use std::process::{Command, Stdio};

use serde_json::json;
use wiremock::matchers::{method, path, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::world::{Said, World, said};

const OLD: &str = env!("CARGO_BIN_EXE_adaptdl_on_ray_aws");

/// Runs the old command in a directory with a script.
async fn old(world: &World, arguments: &[&str]) -> Said {
    world.write("code/main.py", "print(1)\n");
    let mut command = Command::new(OLD);
    command.args(arguments).env_clear().env("RAYCONCILE_STATE_DIR", world.path("state"));
    command.env("HOME", world.path("home")).current_dir(world.path("")).stdin(Stdio::null());
    said(&tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
}

async fn attach(world: &World, arguments: &[&str]) -> Said {
    let mut command = world.command(&[&["attach"][..], arguments].concat());
    command.env("HOME", world.path("home"));
    said(&tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
}

/// A dashboard on which every Ray job writes this.
async fn dashboard(authentication: &str, output: &str, jobs: serde_json::Value) -> MockServer {
    let server = MockServer::start().await;
    let ok = |body: serde_json::Value| ResponseTemplate::new(200).set_body_json(body);
    let job = r"^/api/jobs/[^/]+";
    for (verb, pattern, answer) in [
        ("GET", "^/api/authentication_mode$".to_owned(), ok(json!({"authentication_mode": authentication}))),
        ("POST", "^/api/jobs/$".to_owned(), ok(json!({"submission_id": "x"}))),
        ("GET", "^/api/jobs/$".to_owned(), ok(jobs)),
        ("GET", format!("{job}/logs$"), ok(json!({"logs": output}))),
        ("GET", format!("{job}$"), ok(json!({"status": "RUNNING"}))),
        ("POST", format!("{job}/stop$"), ok(json!({"stopped": true}))),
        ("DELETE", format!("{job}$"), ok(json!({"deleted": true}))),
    ] {
        Mock::given(method(verb)).and(path_regex(pattern)).respond_with(answer).mount(&server).await;
    }
    server
}

#[tokio::test]
async fn wrong_arguments_are_told_of_as_they_were() {
    let world = World::new();
    let all = ["-f", "main.py", "-u", "ray://127.0.0.1:1", "-m", "2", "-d", "code"];
    for (arguments, code, words) in [
        (vec![], 2, "required arguments were not provided"),
        ([&all[..], &["--epochs", "5"]].concat(), 2, "use '-- --epochs'"),
        ([&all[..], &["-m", "few"]].concat(), 2, "few"),
        (
            vec!["-f", "main.py", "-u", "127.0.0.1:10001", "-m", "2", "-d", "code"],
            2,
            "is no address of a Ray cluster",
        ),
        (
            vec!["-f", "other.py", "-u", all[3], "-m", "2", "-d", "code"],
            1,
            "cannot find local file code/other.py",
        ),
        (
            vec!["-f", "main.py", "-u", all[3], "-m", "2", "-d", "nosuch"],
            1,
            "cannot find local directory nosuch",
        ),
        (
            vec!["-f", "../outside.py", "-u", all[3], "-m", "2", "-d", "code"],
            1,
            "is not in the working directory",
        ),
    ] {
        world.write("outside.py", "");
        let said = old(&world, &arguments).await;
        assert_eq!((said.code, said.out.as_str()), (code, ""), "{arguments:?}: {said:?}");
        assert!(said.err.contains(words), "{arguments:?}: {}", said.err);
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_told_of() {
    let world = World::new();
    let said = old(&world, &["-f", "main.py", "-u", "http://127.0.0.1:1", "-m", "2", "-d", "code"]).await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("there is no Ray cluster to be reached at http://127.0.0.1:1"), "{}", said.err);
    let said = attach(&world, &["--uri", "http://127.0.0.1:1"]).await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("there is no Ray cluster to be reached"), "{}", said.err);
}

#[tokio::test]
async fn a_token_that_is_not_there_is_told_of() {
    let world = World::new();
    let server = dashboard("token", "", json!([])).await;
    let said = old(&world, &["-f", "main.py", "-u", &server.uri(), "-m", "2", "-d", "code"]).await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("asks for Ray's token: set RAY_AUTH_TOKEN"), "{}", said.err);
}

#[tokio::test]
async fn nothing_is_brought_to_a_head_of_another_kind() {
    let world = World::new();
    let answer = json!({"system": "Linux", "machine": "m68k", "libc": ["glibc", "2.36"], "listens": false});
    let server = dashboard("disabled", &format!("{answer}\n"), json!([])).await;
    let arguments = ["-f", "main.py", "-u", &server.uri(), "-m", "2", "-d", "code", "--detach"];
    let said = old(&world, &arguments).await;
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.contains("and the head is m68k: build rayconcile for the head"), "{}", said.err);
    let asked = server.received_requests().await.unwrap();
    assert!(asked.iter().all(|request| request.method.as_str() != "PUT"), "a package was brought");
}

#[tokio::test]
async fn the_jobs_of_a_cluster_are_listed() {
    let world = World::new();
    let job = |name: &str, attempt: &str, status: &str, code: Option<i32>| {
        json!({
            "submission_id": format!("rayconcile-{name}-{attempt}"), "status": status, "driver_exit_code": code,
            "metadata": {"started-by": "rayconcile", "rayconcile-job": name, "rayconcile-attempt": attempt},
        })
    };
    let jobs = json!([
        job("killed", "1", "FAILED", Some(-9)), job("again", "2", "RUNNING", None), job("again", "1", "FAILED", Some(-9)),
        job("done", "1", "SUCCEEDED", Some(0)), job("broken", "1", "FAILED", Some(1)),
        job("stopped", "1", "FAILED", Some(130)), {"submission_id": "theirs", "status": "RUNNING", "metadata": {}},
        {"submission_id": null, "status": "RUNNING", "metadata": null},
    ]);
    let server = dashboard("disabled", "", jobs).await;
    let said = attach(&world, &["--uri", &server.uri()]).await;
    assert_eq!(said.code, 0, "{said:?}");
    insta::assert_snapshot!(said.out);
    let said = attach(&world, &["nosuch", "--uri", &server.uri()]).await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("attends to no job nosuch; it knows of again, broken, done"), "{}", said.err);
    let none = MockServer::start().await;
    for (page, body) in
        [("/api/authentication_mode", json!({"authentication_mode": "disabled"})), ("/api/jobs/", json!([]))]
    {
        let answer = ResponseTemplate::new(200).set_body_json(body);
        Mock::given(path(page)).respond_with(answer).mount(&none).await;
    }
    let said = attach(&world, &["--uri", &none.uri()]).await;
    assert_eq!((said.code, said.out.as_str()), (0, ""));
    assert!(said.err.contains("no job has its controller in this cluster"));
}
