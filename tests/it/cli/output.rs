//! Where output goes: pipes that close, disks that are full, terminals that are narrow or want no colour.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::{OBJECTS, some_objects};
use crate::world::{RAYCONCILE, World, ends, read_all, said};

#[test]
fn nobody_reading_any_more_is_the_end_and_no_error() {
    let world = World::with_controller(&[]);
    some_objects(&world);
    for arguments in [
        &["get", "jobs", "-o", "yaml"] as &[&str],
        &["get", "jobs", "-w"],
        &["completion", "bash"],
        &["schema"],
        &["--help"],
        &["status"],
    ] {
        let mut command = world.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(!first.is_empty(), "{arguments:?}");
        if arguments.contains(&"-w") {
            world.ok(&["suspend", "waits"]);
        }
        let status = ends(&mut child).unwrap();
        let err = read_all(child.stderr.take().unwrap());
        assert!(status.success() && err.is_empty(), "{arguments:?}: {status:?} {err}");
    }
    world.finish();
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let world = World::new();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let said = said(&world.program(&["schema"]).stdout(full()).output().unwrap());
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "error: cannot write the output: No space left on device (os error 28)\n")
    );
    // Talk that cannot be written is lost, no more.
    let status = world.command(&["status"]).stdout(Stdio::null()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(3));
}

/// What a command shows on a terminal of some width.
fn on_terminal(world: &World, width: u32, environment: &[(&str, &str)], arguments: &str) -> String {
    let line = format!("stty rows 40 cols {width}; exec {RAYCONCILE} {arguments}");
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", world.path("home")).env("LC_ALL", "C.UTF-8");
    command.env("RAYCONCILE_STATE_DIR", world.path("state")).current_dir(world.path(""));
    let output = command.envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

#[test]
fn a_terminal_gets_colour_unless_it_wants_none_and_lines_that_fit() {
    let world = World::new();
    world.write("bad.yaml", "apiVersion: rayconcile.dev/v1\nkind: AdaptDLJob\nmetadata: {name: Bad_Name}\nspec: {entrypont: main.py}\n");
    if Command::new("script").arg("--version").output().is_err() {
        return; // Without util-linux there is no terminal to be had so easily.
    }
    let error = on_terminal(&world, 100, &[], "status");
    assert!(error.contains("\u{1b}[1;31merror:\u{1b}[0m no controller is running"), "{error:?}");
    let plain = on_terminal(&world, 100, &[("NO_COLOR", "1")], "status");
    assert!(plain.starts_with("error: no controller") && !plain.contains('\u{1b}'), "{plain:?}");
    let bad = on_terminal(&world, 100, &[("NO_COLOR", "1")], "validate -f bad.yaml");
    assert!(bad.contains("Bad_Name") && !bad.contains('\u{1b}'), "{bad:?}");
    for (width, arguments) in [
        (50, "validate -f bad.yaml"),
        (60, "--help"),
        (80, "get --help"),
        (80, "diff --help"),
        (60, "explain job.spec.checkpoint"),
        (80, "explain cluster.spec"),
    ] {
        let page = on_terminal(&world, width, &[("NO_COLOR", "1")], arguments);
        // Words, such as long options, are not cut.
        let wide =
            page.lines().filter(|line| line.chars().count() > width as usize && line.trim().contains(' '));
        let wide: Vec<&str> = wide.filter(|line| !line.contains(world.path("").to_str().unwrap())).collect();
        assert!(wide.is_empty() && page.lines().count() > 5, "{arguments} at {width}: {wide:#?}\n{page}");
    }
    let forced = world.command(&["status"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&forced.stderr).contains("\u{1b}[1;31merror:"), "{forced:?}");
    // Into a pipe it writes without colour and without anything that is for terminals.
    let piped = world.run(&["validate", "-f", "bad.yaml"]);
    assert!(piped.code == 2 && piped.err.is_ascii() && !piped.err.contains('\u{1b}'), "{}", piped.err);
}

#[test]
fn tables_fit_on_a_terminal_and_nothing_of_their_prose_is_lost() {
    let world = World::new();
    let file = "watched/some/deep/place/objects.yaml";
    world.write(file, OBJECTS);
    world.start(&["--watch", "watched"]);
    world.wait("the objects are there", || world.get("job", "waits").is_object().then_some(()));
    world.write(file, &OBJECTS.replace("command: [python, train.py]}", "commandAndArguments: [python]}"));
    world.wait_page(&["events", "--for", "job/waits"], &["the last good manifest stays in force"]);
    if Command::new("script").arg("--version").output().is_err() {
        return; // Without util-linux there is no terminal to be had so easily.
    }
    world.write("bad.yaml", &OBJECTS.replace("suspend: true}\n---", "suspnd: true}\n---"));
    world.write(
        "changed.yaml",
        &OBJECTS.replace("train.py]", "train.py, '--data', /a/rather/long/path/to/data]"),
    );
    for arguments in [
        "events",
        "status",
        "sync status",
        "describe job waits",
        "get jobs -o wide",
        "get jobs --show-labels",
        "diff -f changed.yaml",
        "validate -f bad.yaml",
    ] {
        let page = on_terminal(&world, 80, &[("NO_COLOR", "1")], arguments);
        let wide: Vec<&str> = page.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty() && page.lines().count() > 2, "{arguments}: {wide:#?}\n{page}");
    }
    // What a program reads has each message on its line.
    let piped = world.ok(&["events", "--for", "job/waits"]);
    let message = piped.lines().last().unwrap().split("   ").last().unwrap();
    let shown = on_terminal(&world, 80, &[("NO_COLOR", "1")], "events --for job/waits");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&shown).contains(message), "{message}\n{shown}");
}
