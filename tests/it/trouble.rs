//! What is missing or broken on the machine is told clearly, and when it is mended all goes on by itself.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;

use crate::world::World;

/// A stand-in for an interpreter, which answers as one with these packages would. A node that is started with it
/// comes up no further than to be a process.
fn interpreter(ray: &str, dashboard: &str) -> String {
    let found = format!(
        r#"{{"python": "3.11.2", "ray": {ray}, "aiohttp": {dashboard}, "grpcio": {dashboard}, "adaptdl": null, "torch": "2.13.0"}}"#
    );
    format!("#!/bin/sh\ncase \"$*\" in *scripts*) sleep 1000;; esac\necho '{found}'\n")
}

fn good() -> String {
    interpreter("\"2.60.0\"", "\"1.0\"")
}

/// A cluster that runs on this interpreter, and a job for it.
fn manifest(name: &str, local: &str) -> String {
    format!(
        "apiVersion: rayconcile.dev/v1\nkind: RayCluster\nmetadata: {{name: {name}}}\n\
         spec: {{provider: {{local: {{{local}}}}}}}\n---\n\
         apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {{name: {name}}}\n\
         spec: {{clusterRef: {{name: {name}}}, command: ['true']}}\n---\n"
    )
}

/// A broken interpreter: its name, its program, whether it may be run, and what is said of it.
type Case = (&'static str, String, u32, &'static str);

fn cases() -> Vec<Case> {
    vec![
        ("absent", String::new(), 0, "absent is not there"),
        ("no-ray", interpreter("null", "null"), 0o755, "/no-ray/python has no Ray (it is Python 3.11.2)"),
        (
            "old",
            interpreter("\"2.40.0\"", "\"1.0\""),
            0o755,
            "has Ray 2.40.0, which is not supported (2.55 to",
        ),
        ("bare", interpreter("\"2.60.0\"", "null"), 0o755, "has Ray 2.60.0 without its dashboard"),
        ("unrunnable", good(), 0o644, "is not executable"),
        ("no-program", "\u{7f}ELF".to_owned(), 0o755, "cannot be run: Exec format error"),
        (
            "broken",
            "#!/bin/sh\necho 'no module named encodings' >&2\nexit 3\n".to_owned(),
            0o755,
            "does not work (exit status: 3): no module named encodings",
        ),
        (
            "chatty",
            "#!/bin/sh\necho Welcome to bash\n".to_owned(),
            0o755,
            "is no Python: asked for its packages, it says \"Welcome to bash\"",
        ),
        ("endless", "#!/bin/sh\nexec yes nonsense\n".to_owned(), 0o755, "does not work (signal: 13"),
    ]
}

#[test]
fn an_interpreter_that_cannot_run_ray_is_told_of_and_taken_when_it_can() {
    let world = World::with_controller(&[]);
    follow(&world, &cases());
    world.finish();
}

#[test]
fn an_interpreter_that_hangs_is_told_of_ended_and_taken_when_it_answers() {
    let world = World::with_controller(&[]);
    let program = "#!/bin/sh\nsleep 1000\n".to_owned();
    follow(&world, &[("hanging", program, 0o755, "hangs: it has not answered within 10s")]);
    world.finish();
}

/// Sees what is said of interpreters, then mends them.
fn follow(world: &World, cases: &[Case]) {
    let mut manifests = String::new();
    for (name, program, mode, _) in cases {
        // A bare name is for the controller to find.
        let python = if program.is_empty() { (*name).to_owned() } else { format!("{name}/python") };
        if !program.is_empty() {
            let path = world.write_program(&python, program);
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        manifests += &manifest(name, &format!("python: {python}"));
    }
    world.write("all.yaml", &manifests);
    world.ok(&["apply", "-f", "all.yaml"]);

    for (name, _, _, problem) in cases {
        // The cluster says what is wrong and how to mend it, and so does the job that waits for it.
        let hint = "get what is missing with: python3 -m venv";
        // All of it at once: the event comes a moment before the state.
        world.wait_page(&["describe", "cluster", name], &[problem, hint, "CannotOpen", "Failed"]);
        let waits = format!("it waits for cluster default/{name}: ");
        let job = world.wait_page(&["describe", "job", name], &[problem, hint, &waits, "WaitingForCluster"]);
        assert!(!job.contains("no room"), "{job}");
        world.wait(&format!("status tells {problem:?} once for each of the two"), || {
            let status = world.ok(&["status", "-n", "default"]);
            (status.matches(problem).count() == 2).then_some(())
        });
    }

    // Mended, each is found, without a word from anybody.
    for (name, ..) in cases {
        world.write_program(&format!("{name}/python"), &good());
        world.write_program(&format!("bin/{name}"), &good());
    }
    for (name, ..) in cases {
        world.wait(&format!("{name} is being started"), || {
            let status = &world.get("cluster", name)["status"];
            (status["phase"] == "Starting" && status["rayVersion"] == "2.60.0").then_some(())
        });
    }
}

#[test]
fn a_dashboard_port_in_use_is_told_of_and_taken_when_it_is_free() {
    let world = World::with_controller(&[]);
    world.write_program("python", &good());
    let occupant = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = occupant.local_addr().unwrap().port();
    world.write("c.yaml", &manifest("c", &format!("python: ./python, dashboardPort: {port}")));
    world.ok(&["apply", "-f", "c.yaml"]);
    let problem = format!("the dashboard's port {port} is in use");
    world.wait_page(
        &["describe", "cluster", "c"],
        &[&problem, "choose another spec.provider.local.dashboardPort"],
    );
    world.wait_page(&["describe", "job", "c"], &[&problem]);
    drop(occupant);
    world.wait("the cluster is being started", || {
        let dashboard = world.get("cluster", "c")["status"]["dashboard"].clone();
        dashboard.as_str().is_some_and(|url| url.ends_with(&format!(":{port}"))).then_some(())
    });
    world.finish();
}

#[test]
fn an_api_port_in_use_is_told_of() {
    let world = World::new();
    let occupant = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = occupant.local_addr().unwrap().to_string();
    let said = world.run(&["controller", "--listen", &address]);
    assert_eq!(said.code, 1, "{said:?}");
    let error = format!("error: cannot listen on {address}: Address already in use");
    assert!(said.err.starts_with(&error) && said.err.contains("--listen"), "{}", said.err);
    let certificate = ["--tls-cert", "missing.pem", "--tls-key", "missing.key"];
    let said = world.run(&[&["controller", "--listen", "0.0.0.0:0"], &certificate[..]].concat());
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.starts_with("error: cannot read missing.pem: No such file"), "{}", said.err);
    drop(occupant);
    world.start(&["--listen", &address]);
    assert_eq!(world.api().base, format!("http://{address}"));
    world.finish();
}
