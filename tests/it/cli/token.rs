//! Who is let in: tokens, and what kubectl needs.

use super::{run, told};
use crate::world::World;

#[test]
fn tokens_are_made_listed_and_taken_back() {
    let world = World::with_controller(&[]);
    insta::assert_snapshot!("token-none", run(&world, &["token", "ls"]));
    let made = world.run(&["token", "create", "alice", "--role", "view"]);
    let token = made.out.trim_end();
    assert!(token.starts_with("rc_") && token.len() == 67, "{made:?}");
    assert_eq!(made.err, "token alice created, with the role view\n");
    assert_eq!(world.api().with_token(token).get("/api/v1/nodes").code, 200);
    insta::assert_snapshot!("token-taken", run(&world, &["token", "create", "alice", "--role", "edit"]));
    insta::assert_snapshot!("token-bad-name", run(&world, &["token", "create", "Alice!", "--role", "edit"]));
    insta::assert_snapshot!("token-bad-role", run(&world, &["token", "create", "bob", "--role", "king"]));
    insta::assert_snapshot!("token-ls", run(&world, &["token", "ls"]));
    insta::assert_snapshot!("token-revoke", run(&world, &["token", "revoke", "alice"]));
    insta::assert_snapshot!("token-revoke-again", run(&world, &["token", "revoke", "alice"]));
    assert_eq!(world.api().with_token(token).get("/api/v1/nodes").code, 401);
    world.finish();
}

#[test]
fn a_kubeconfig_is_printed() {
    let world = World::new();
    insta::assert_snapshot!("kubeconfig-no-controller", run(&world, &["kubeconfig"]));
    world.start(&[]);
    let arguments =
        ["kubeconfig", "--server", "https://train.example.com:6443", "-n", "vision", "--context", "lab"];
    let mut said = world.run(&arguments);
    // What differs from run to run.
    let secrets = ["token: ", "certificate-authority-data: "];
    let lines =
        said.out.lines().map(|line| match secrets.iter().find(|name| line.trim().starts_with(**name)) {
            Some(name) => format!("{}...", &line[..line.find(name).unwrap() + name.len()]),
            None => line.to_owned(),
        });
    said.out = lines.collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("kubeconfig", told(&world, &said));
    world.finish();
}
