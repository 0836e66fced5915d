//! What the program says of itself.

use super::{run, told};
use crate::world::{World, said};

#[test]
fn every_verb_has_a_page() {
    let world = World::new();
    let help = world.program(&["--help"]).output().unwrap();
    let page = said(&help).out;
    insta::assert_snapshot!("help", page);
    let verbs = page.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let verbs: Vec<&str> = verbs.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.len() > 15, "{verbs:?}");
    for verb in verbs.into_iter().filter(|verb| *verb != "help") {
        let page = said(&world.program(&[verb, "--help"]).output().unwrap());
        assert_eq!((page.code, page.err.as_str()), (0, ""));
        let page = page.out;
        assert!(page.contains("\nExamples:\n"), "{verb}");
        insta::assert_snapshot!(format!("help-{verb}"), page);
        assert_eq!(
            said(&world.program(&["help", verb]).output().unwrap()).out.lines().next(),
            page.lines().next()
        );
    }
    for verb in ["now", "inspect"] {
        let page = said(&world.program(&["checkpoint", verb, "--help"]).output().unwrap()).out;
        insta::assert_snapshot!(format!("help-checkpoint-{verb}"), page);
    }
    for verb in ["find", "adopt", "destroy"] {
        let page = said(&world.program(&["clusters", verb, "--help"]).output().unwrap()).out;
        insta::assert_snapshot!(format!("help-clusters-{verb}"), page);
    }
    for verb in ["create", "ls", "revoke"] {
        let page = said(&world.program(&["token", verb, "--help"]).output().unwrap()).out;
        insta::assert_snapshot!(format!("help-token-{verb}"), page);
    }
}

#[test]
fn wrong_arguments_are_told_of_with_exit_code_2() {
    let world = World::with_controller(&[]);
    let wrong: [&[&str]; 18] = [
        &[],
        &["aply"],
        &["get"],
        &["get", "pods"],
        &["get", "jobs", "-o", "xml"],
        &["delete"],
        &["delete", "job"],
        &["delete", "job/a", "b"],
        &["describe", "job", "a", "b"],
        &["wait", "x", "--for", "happiness"],
        &["wait", "x", "--for", "delete", "--timeout", "soon"],
        &["apply"],
        &["schema", "pod"],
        &["checkpoint", "get", "x", "newest"],
        &["checkpoint", "now"],
        &["checkpoint", "inspect"],
        &["checkpoint", "inspect", "--diff", "a"],
        &["checkpoint", "inspect", "x", "newest"],
    ];
    let mut pages = String::new();
    for arguments in wrong {
        let said = world.run(arguments);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{arguments:?}: {said:?}");
        // Of pages of help only the beginning.
        let first = said.err.split("\n\n").next().unwrap();
        pages += &format!(
            "$ {}\n{}\n\n",
            [&["rayconcile"], arguments].concat().join(" "),
            first.lines().take(4).collect::<Vec<_>>().join("\n")
        );
    }
    insta::assert_snapshot!(pages);
    world.finish();
}

#[test]
fn shells_get_their_completions() {
    let world = World::new();
    for (shell, word) in [
        ("bash", "complete -o"),
        ("zsh", "#compdef rayconcile"),
        ("fish", "complete --keep-order --exclusive"),
    ] {
        let said = world.run(&["completion", shell]);
        assert!(said.code == 0 && said.out.contains(word) && said.err.is_empty(), "{shell}: {}", said.err);
        assert!(said.out.contains("COMPLETE"), "{}", said.out);
    }
    insta::assert_snapshot!(run(&world, &["completion", "sh"]));
}

#[test]
fn schemas_are_printed() {
    let world = World::new();
    for (word, title) in [("all", "rayconcile.dev"), ("job", "AdaptDLJob"), ("RayCluster", "RayCluster")] {
        let said = world.run(&["schema", word]);
        let schema: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert!(said.code == 0 && schema.to_string().contains(title), "{word}");
    }
    world.ok(&["schema", "--write", "schemas"]);
    assert_eq!(std::fs::read_dir(world.path("schemas")).unwrap().count(), 3);
    world.write("file", "");
    insta::assert_snapshot!(told(&world, &world.run(&["schema", "--write", "file/schemas"])));
}
