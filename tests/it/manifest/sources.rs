//! What is read for `-f`, and what is said of what cannot be read.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rayconcile::manifest::{self, Problem};

use super::{lines, write};

const OBJECT: &str = "apiVersion: rayconcile.dev/v1
kind: RayCluster
metadata: {name: NAME}
spec: {provider: {local: {}}}
";

fn collected(directory: &Path, paths: &[&str], recursive: bool) -> (Vec<String>, Vec<Problem>) {
    let paths: Vec<PathBuf> = paths.iter().map(|path| directory.join(path)).collect();
    let (sources, problems) = manifest::collect(&paths, recursive);
    let name = |source: &manifest::Source| {
        let path = source.path.as_deref().unwrap();
        assert_eq!(source.base.as_deref(), path.parent());
        path.strip_prefix(directory).unwrap().display().to_string()
    };
    (sources.iter().map(name).collect(), problems)
}

#[test]
fn directories_give_their_manifests_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let files =
        ["b.yml", "a.yaml", "notes.txt", ".hidden.yaml", ".git/x.yaml", "in/c.yaml", "in/deep/d.yaml"];
    write(at, &files.map(|name| (name, "x: 1")));
    symlink(at.join("a.yaml"), at.join("in/same.yaml")).unwrap();
    symlink(at, at.join("in/loop")).unwrap();
    let (names, problems) = collected(at, &["", "b.yml"], false);
    assert_eq!((names, problems.len()), (vec!["a.yaml".to_owned(), "b.yml".to_owned()], 0));
    let (names, problems) = collected(at, &["notes.txt", ""], true);
    assert_eq!(names, ["notes.txt", "a.yaml", "b.yml", "in/c.yaml", "in/deep/d.yaml"]);
    assert_eq!(problems.len(), 0);
}

#[test]
fn what_cannot_be_read_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    write(at, &[("job.yaml", "x: 1"), ("only/notes.txt", ""), ("nested/in/x.yaml", "x: 1")]);
    fs::write(at.join("large.yaml"), vec![b'#'; 10 << 20]).unwrap();
    fs::write(at.join("binary.yaml"), b"kind: \x00\x01\x02").unwrap();
    fs::write(at.join("latin1.yaml"), b"name: caf\xe9").unwrap();
    fs::write(at.join("utf16.yaml"), b"\xff\xfek\x00i\x00").unwrap();
    symlink(at.join("nothing"), at.join("dangling.yaml")).unwrap();
    let paths = [
        "jbo.yaml",
        "missing/x.yaml",
        "only",
        "nested",
        "large.yaml",
        "binary.yaml",
        "latin1.yaml",
        "utf16.yaml",
        "dangling.yaml",
    ];
    let (names, problems) = collected(at, &paths, false);
    assert_eq!(names, Vec::<String>::new());
    insta::assert_snapshot!(lines(&problems, at));
    let (_, problems) = manifest::collect(&[PathBuf::from("https://example.com/job.yaml")], false);
    insta::assert_snapshot!(lines(&problems, at));
}

#[test]
fn an_empty_file_is_a_mistake_only_if_it_was_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    write(at, &[("empty.yaml", ""), ("comments.yaml", "# later\n---\n---\n")]);
    let (sources, problems) = manifest::collect(&[at.to_owned()], false);
    assert_eq!((sources.len(), problems.len()), (2, 0));
    assert_eq!(manifest::read(sources, "default").problems.len(), 0);
    let (sources, _) = manifest::collect(&[at.join("empty.yaml"), at.join("comments.yaml")], false);
    insta::assert_snapshot!(lines(&manifest::read(sources, "default").problems, at));
}

#[test]
fn one_bad_file_does_not_keep_others_from_being_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let good = |name: &str| OBJECT.replace("NAME", name);
    let files =
        [("a.yaml", good("a")), ("b.yaml", "- x".to_owned()), ("c.yaml", good("a")), ("d.yaml", good("d"))];
    write(at, &files.each_ref().map(|(name, text)| (*name, text.as_str())));
    fs::write(at.join("e.yaml"), [0xff]).unwrap();
    let (sources, problems) = manifest::collect(&[at.to_owned()], false);
    assert_eq!(problems.len(), 1);
    let loaded = manifest::read(sources, "default");
    let read: Vec<_> = loaded.manifests.iter().map(|manifest| manifest.object.key().name).collect();
    assert_eq!(read, ["a", "d"]);
    insta::assert_snapshot!(lines(&loaded.problems, at));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bom.yaml");
    fs::write(&file, format!("\u{feff}{}", OBJECT.replace("NAME", "a"))).unwrap();
    let (sources, _) = manifest::collect(&[file], false);
    assert_eq!(manifest::read(sources, "default").manifests.len(), 1);
}
