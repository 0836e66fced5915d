//! Who may use whom, as ARCHITECTURE.md says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room, and the rooms it may use.
const RULES: [(&str, &[&str]); 18] = [
    ("api", &[]),
    ("action", &["api"]),
    ("goodput", &["api"]),
    ("cost", &["api"]),
    ("inspect", &[]),
    ("train", &["goodput"]),
    ("manifest", &["api"]),
    ("convert", &["api", "manifest"]),
    ("store", &["api", "action"]),
    ("gitops", &["api", "manifest", "store"]),
    ("plan", &["api", "action", "goodput", "cost"]),
    ("provider", &["api", "action"]),
    ("launcher", &["api", "action", "provider"]),
    ("controller", &["api", "action", "goodput", "cost", "manifest", "store", "plan", "provider"]),
    ("server", &["api", "gitops", "manifest", "store"]),
    ("client", &["api"]),
    ("cli", &["api", "client", "convert", "inspect", "launcher", "manifest", "plan", "store"]),
    ("simulate", &["api", "action", "goodput", "plan"]),
];

/// The verbs that embed a controller, or do without one, and what they may use beside the rest of their room.
const EMBEDDING: [(&str, &[&str]); 5] = [
    ("cli/run", &["controller", "server"]),
    ("cli/controller", &["controller", "gitops", "server"]),
    ("cli/clusters", &["controller", "provider"]),
    ("cli/adaptdl_on_ray_aws", &["provider"]),
    ("cli/attach", &["action", "provider"]),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The rooms that a file names, in whatever way: `crate::room`.
fn used(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let names = code.flat_map(|line| line.split("crate::").skip(1));
    names.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
}

#[test]
fn rooms_use_only_what_they_may() {
    let mut wrong = Vec::new();
    for path in rust_files(&source()) {
        let name = path.strip_prefix(source()).unwrap().with_extension("").display().to_string();
        let room = name.split('/').next().unwrap();
        if ["bin", "lib", "main"].contains(&room) {
            continue;
        }
        let Some((_, allowed)) = RULES.iter().find(|(known, _)| *known == room) else {
            wrong.push(format!("{name} is in no room of the plan"));
            continue;
        };
        let embedded =
            EMBEDDING.iter().find(|(verb, _)| name.starts_with(verb)).map_or(&[][..], |(_, rooms)| rooms);
        for used in used(&fs::read_to_string(&path).unwrap()) {
            let used = used.as_str();
            let may = used == room || allowed.contains(&used) || embedded.contains(&used);
            if !may {
                wrong.push(format!("{name} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "against ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

#[test]
fn the_page_and_this_test_agree() {
    let page = fs::read_to_string(source().join("../ARCHITECTURE.md")).unwrap();
    for (room, _) in RULES {
        assert!(page.contains(&format!("| `{room}` |")), "{room} is not in ARCHITECTURE.md");
    }
}
