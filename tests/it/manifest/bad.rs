//! What people are told about manifests that are wrong: each file of `bad/`, and what is said of it.

use std::fs;
use std::path::Path;

use rayconcile::manifest::{self, Look, Source};

/// A narrow terminal without colour and without Unicode.
pub(crate) const PLAIN: Look = Look { width: 80, colour: false, unicode: false };

#[test]
fn every_problem_is_shown_where_it_is() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/manifest/bad");
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 40);
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let source = Source::new(format!("{name}.yaml"), fs::read_to_string(&file).unwrap(), None);
        let loaded = manifest::read(vec![source], "default");
        let lines: Vec<_> = loaded.problems.iter().map(|problem| problem.to_string()).collect();
        let drawn: Vec<_> = loaded.problems.iter().map(|problem| problem.render(PLAIN)).collect();
        let good: Vec<_> = loaded.manifests.iter().map(|m| format!("read: {}\n", m.object.key())).collect();
        insta::assert_snapshot!(
            name,
            format!("{}\n\n{}\n{}", lines.join("\n"), drawn.join("\n"), good.concat())
        );
    }
}
