//! What people are told about manifests that are wrong: each file of `bad/`, and what is said of it.

use std::fs;

use rayconcile::manifest::{self, Look, Problem, Source};

use super::{PLAIN, repository};

fn read(name: &str) -> manifest::Loaded {
    let text = fs::read_to_string(repository("tests/it/manifest/bad").join(name)).unwrap();
    manifest::read(vec![Source::new(name, text, None)], "default")
}

#[test]
fn every_problem_is_shown_where_it_is() {
    let directory = fs::read_dir(repository("tests/it/manifest/bad")).unwrap();
    let mut names: Vec<_> =
        directory.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() > 40);
    for name in names {
        let loaded = read(&name);
        assert!(!loaded.problems.is_empty(), "{name}");
        let lines: Vec<_> = loaded.problems.iter().map(Problem::to_string).collect();
        let drawn: Vec<_> = loaded.problems.iter().map(|problem| problem.render(PLAIN)).collect();
        for line in drawn.iter().flat_map(|drawn| drawn.lines()) {
            let is_source = line.contains(" | ") || line.contains(" : ") || line.contains(",-[");
            assert!(is_source || line.chars().count() <= PLAIN.width, "{name}: {line}");
        }
        let good = loaded.manifests.iter().map(|manifest| format!("read: {}\n", manifest.object.key()));
        let told = format!("{}\n\n{}\n{}", lines.join("\n"), drawn.join("\n"), good.collect::<String>());
        insta::assert_snapshot!(name.trim_end_matches(".yaml"), told);
    }
}

#[test]
fn a_terminal_gets_unicode_and_colour() {
    let problem = &read("replicas.yaml").problems[0];
    let drawn = problem.render(Look { width: 80, colour: true, unicode: true });
    insta::assert_snapshot!(drawn.replace('\u{1b}', "ESC"));
}

#[test]
fn a_narrow_terminal_gets_narrow_lines() {
    let problems = read("unknown-fields.yaml").problems;
    let drawn: String = problems.iter().map(|problem| problem.render(Look { width: 40, ..PLAIN })).collect();
    let told = drawn.lines().filter(|line| line.starts_with("  x ") || line.starts_with("  help: "));
    assert!(told.clone().count() > 10);
    assert!(told.into_iter().all(|line| line.chars().count() <= 40), "{drawn}");
}
