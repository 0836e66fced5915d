//! The command line, as people and scripts meet it: what goes where, in which words, with which exit code.

use crate::world::{Said, World};

mod checkpoint;
mod convert;
mod diff;
mod finish;
mod help;
mod inspect;
mod manifests;
mod objects;
mod output;
mod packages;
mod token;

/// What a command did, with what differs from run to run made the same.
fn told(world: &World, said: &Said) -> String {
    let part = |name: &str, text: &str| match text {
        "" => String::new(),
        text => format!("--- {name}\n{}\n", plain(world, text).trim_end_matches('\n')),
    };
    format!("exit code {}\n{}{}", said.code, part("stdout", &said.out), part("stderr", &said.err))
}

/// Runs a command, and tells what it did.
fn run(world: &World, arguments: &[&str]) -> String {
    told(world, &world.run(arguments))
}

/// A text without the test's directory, and without times, ids, ports and versions.
fn plain(world: &World, text: &str) -> String {
    let text = text.replace(world.path("").to_str().unwrap().trim_end_matches('/'), "DIR");
    text.lines().map(plain_line).collect::<Vec<_>>().join("\n")
}

fn plain_line(line: &str) -> String {
    const BETWEEN: [char; 6] = [' ', '"', '\'', '(', ')', ','];
    let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
    let mut plain = indent.to_owned();
    for word in rest.split_inclusive(BETWEEN) {
        let (word, end) = word.split_at(word.trim_end_matches(BETWEEN).len());
        plain.push_str(&same(word, &plain));
        // Columns are as wide as what is in them.
        plain.push_str(if end == " " && plain.ends_with("  ") { "" } else { end });
    }
    plain.trim_end().to_owned()
}

/// A word after others, or what stands for all that it could have been.
fn same(word: &str, before: &str) -> String {
    // Times that a manifest gives are always the same.
    const GIVEN: [&str; 6] = ["terminationGracePeriod", "interval", "timeout", "cooldown", "after", "idle"];
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let is_age = word
        .split_inclusive(|c: char| c.is_ascii_alphabetic())
        .all(|part| ["d", "h", "m", "s"].iter().any(|unit| part.strip_suffix(unit).is_some_and(digits)));
    let port = word.rsplit_once(':').filter(|(address, port)| address.contains("127.0.0.1") && digits(port));
    let word = match port {
        _ if word.len() == 36 && word.matches('-').count() == 4 => "UID",
        _ if word.starts_with("202") && word.contains('T') && word.ends_with('Z') => "TIME",
        _ if digits(word) && (before.contains("resourceVersion") || before.ends_with("process ")) => "NUMBER",
        _ if !word.is_empty() && is_age && !GIVEN.iter().any(|given| before.contains(given)) => "AGE",
        Some((address, _)) => return format!("{address}:PORT"),
        None => word,
    };
    word.to_owned()
}

/// A cluster that is suspended, a job that is too, one that waits for a cluster, and all that is to be said of them.
fn some_objects(world: &World) {
    world.write("objects.yaml", OBJECTS);
    world.ok(&["apply", "-f", "objects.yaml"]);
    for (kind, name, phase) in
        [("cluster", "lab", "Suspended"), ("job", "night", "Suspended"), ("job", "waits", "Pending")]
    {
        world.ok(&["wait", kind, name, "--for", &format!("phase={phase}"), "--timeout", "60s"]);
        world.wait("its status is known", || {
            (world.get(kind, name)["status"]["observedGeneration"] == 1).then_some(())
        });
    }
}

const OBJECTS: &str = "\
apiVersion: rayconcile.dev/v1
kind: RayCluster
metadata: {name: lab, labels: {team: vision}}
spec: {provider: {local: {}}, suspend: true}
---
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata: {name: night, labels: {team: vision}}
spec: {clusterRef: {name: lab}, command: [python, train.py], suspend: true}
---
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata: {name: waits}
spec: {clusterRef: {name: nosuch}, command: [python, train.py]}
";
