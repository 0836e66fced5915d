//! Packing a working directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use rayconcile::manifest::{PackError, Package, pack};

use super::write;

/// A working directory and a directory for packages.
struct Tree {
    directory: tempfile::TempDir,
    packages: tempfile::TempDir,
}

impl Tree {
    fn of(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), files);
        Self { directory, packages: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn pack(&self) -> Result<Package, PackError> {
        pack(self.path(), self.packages.path())
    }

    /// The names in the package of a directory, with an `*` after those that can be executed.
    fn names(&self, directory: &str) -> Vec<String> {
        let package = pack(&self.path().join(directory), self.packages.path()).unwrap();
        let file = fs::File::open(self.packages.path().join(format!("{}.zip", package.digest))).unwrap();
        let mut archive = zip::ZipArchive::new(file).unwrap();
        (0..archive.len())
            .map(|index| {
                let entry = archive.by_index(index).unwrap();
                let mark = match entry.unix_mode().unwrap() & 0o777 {
                    0o755 => "*",
                    0o644 => "",
                    mode => panic!("{mode:o}"),
                };
                format!("{}{mark}", entry.name().unwrap())
            })
            .collect()
    }
}

#[test]
fn ignore_files_count_at_every_level_and_nowhere_else() {
    let tree = Tree::of(&[
        ("work/main.py", ""),
        ("work/.hidden", ""),
        ("work/.gitignore", "*.log\n/data\n!keep.log\n"),
        ("work/.rayignore", "secret*\n"),
        ("work/a.log", ""),
        ("work/keep.log", ""),
        ("work/data/x.bin", ""),
        ("work/secret.txt", ""),
        ("work/lib/data/y.bin", ""),
        ("work/lib/.gitignore", "*.o\n"),
        ("work/lib/b.o", ""),
        ("work/b.o", ""),
        ("work/.ignore", "main.py\n"),
        ("work/.git/config", "[core]\n\texcludesFile = ../all\n"),
        ("work/.git/info/exclude", "*\n"),
        ("work/lib/__pycache__/c.pyc", ""),
        ("work/.venv/bin/python", ""),
        ("work/empty/.gitignore", ""),
        // Above the working directory.
        (".gitignore", "*.py\n"),
        (".rayignore", "*.py\n"),
    ]);
    fs::create_dir(tree.path().join("work/really-empty")).unwrap();
    insta::assert_snapshot!(tree.names("work").join("\n"));
}

#[test]
fn the_same_tree_gives_the_same_package() {
    let files = [("b/x.py", "1"), ("a.py", "2"), ("b/a/y.py", "3"), ("b.py", "4")];
    let first = Tree::of(&files);
    let second = Tree::of(&files.into_iter().rev().collect::<Vec<_>>());
    for (tree, mode) in [(&first, 0o600), (&second, 0o666)] {
        let file = tree.path().join("a.py");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    fs::File::open(second.path().join("b.py")).unwrap().set_modified(long_ago).unwrap();
    let package = first.pack().unwrap();
    assert_eq!(package, second.pack().unwrap());
    assert_eq!(first.names(""), ["a.py", "b.py", "b/a/y.py", "b/x.py"]);
    // It stays the same with the releases of the crates that make it, or workers are sent everything anew.
    assert_eq!(package.digest.short(), "19c4efc26748");

    fs::set_permissions(first.path().join("a.py"), fs::Permissions::from_mode(0o744)).unwrap();
    assert_eq!(first.names(""), ["a.py*", "b.py", "b/a/y.py", "b/x.py"]);
    fs::write(second.path().join("a.py"), "5").unwrap();
    assert_ne!(second.pack().unwrap().digest, package.digest);
}

#[test]
fn a_package_that_is_there_stays() {
    let tree = Tree::of(&[("main.py", "")]);
    let package = tree.pack().unwrap();
    let path = tree.packages.path().join(format!("{}.zip", package.digest));
    let before = fs::metadata(&path).unwrap();
    assert_eq!(before.len(), package.size.0);
    assert_eq!(tree.pack().unwrap(), package);
    let after = fs::metadata(&path).unwrap();
    assert_eq!(before.ino(), after.ino(), "it is not written again");
    assert!(after.modified().unwrap() > before.modified().unwrap(), "it was asked for");
    assert_eq!(fs::read_dir(tree.packages.path()).unwrap().count(), 1);
}

#[test]
fn packages_are_not_packed_and_any_name_will_do() {
    let tree = Tree::of(&[("venv/main.py", "")]);
    let (directory, packages) = (tree.path().join("venv"), tree.path().join("venv/state/packages"));
    let package = pack(&directory, &packages).unwrap();
    assert_eq!(pack(&directory, &packages).unwrap(), package);
    assert_eq!(fs::read_dir(packages).unwrap().count(), 1);
    fs::remove_dir_all(directory.join("state")).unwrap();
    assert_eq!(tree.names("venv"), ["main.py"]);
}

#[test]
fn links_are_followed_inside_and_refused_outside() {
    let tree = Tree::of(&[("lib/x.py", "x = 1"), ("main.py", "")]);
    symlink("lib", tree.path().join("alias")).unwrap();
    symlink("lib/x.py", tree.path().join("y.py")).unwrap();
    symlink("nothing", tree.path().join("dangling")).unwrap();
    assert_eq!(tree.names(""), ["alias/x.py", "lib/x.py", "main.py", "y.py"]);

    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), tree.path().join("lib/out")).unwrap();
    let error = tree.pack().unwrap_err();
    assert!(matches!(&error, PackError::Outside { path, .. } if path == Path::new("alias/out")), "{error:?}");
    fs::write(tree.path().join(".rayignore"), "out\n").unwrap();
    tree.pack().unwrap();

    symlink("..", tree.path().join("lib/up")).unwrap();
    let error = tree.pack().unwrap_err();
    assert!(matches!(&error, PackError::Endless { .. }), "{error:?}");
}

#[test]
fn what_is_no_file_is_passed_over() {
    let tree = Tree::of(&[("main.py", "")]);
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("socket")).unwrap();
    nix::unistd::mkfifo(&tree.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(tree.names(""), ["main.py"]);
}

#[test]
fn what_cannot_be_read_is_said() {
    let tree = Tree::of(&[("main.py", ""), ("locked", "")]);
    fs::set_permissions(tree.path().join("locked"), fs::Permissions::from_mode(0o0)).unwrap();
    // Whoever is root can read everything.
    if fs::read(tree.path().join("locked")).is_err() {
        let error = tree.pack().unwrap_err();
        assert!(
            matches!(&error, PackError::Unreadable { path, .. } if path == Path::new("locked")),
            "{error:?}"
        );
    }
    let error = pack(&tree.path().join("missing"), tree.packages.path()).unwrap_err();
    assert!(matches!(&error, PackError::Unreadable { .. }), "{error:?}");
    let error = pack(tree.path(), &tree.path().join("main.py")).unwrap_err();
    assert!(matches!(&error, PackError::Store { .. }), "{error:?}");
}

#[test]
fn python_unpacks_it() {
    let tree = Tree::of(&[("main.py", "print('é')"), ("bin/run", "#!/bin/sh\n"), ("daten/größe.txt", "1")]);
    fs::set_permissions(tree.path().join("bin/run"), fs::Permissions::from_mode(0o775)).unwrap();
    let package = tree.pack().unwrap();
    let script = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    assert archive.testzip() is None
    for info in archive.infolist():
        print(info.filename, oct(info.external_attr >> 16), info.date_time, archive.read(info))
";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(tree.packages.path().join(format!("{}.zip", package.digest)))
        .env("PYTHONUTF8", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn the_order_in_which_files_are_made_does_not_matter(
        files in prop::collection::btree_map(
            "[a-c]{1,2}(/[a-c.]{0,2}[a-c]){0,2}\\.py",
            "[a-z\n]{0,40}",
            1..12,
        ),
        seed in any::<u64>(),
    ) {
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let mut shuffled = files.clone();
        let mix = |hash: u64, byte: u8| hash.rotate_left(5) ^ u64::from(byte);
        shuffled.sort_by_key(|(name, _)| name.bytes().fold(seed, mix));
        let (first, second) = (Tree::of(&files), Tree::of(&shuffled));
        prop_assert_eq!(first.pack().unwrap(), second.pack().unwrap());
        prop_assert_eq!(first.names("").len(), files.len());
    }
}
