//! What is in a directory, without reading its files: their names, and what would be another if they were changed.
//!
//! Links are followed, and nothing is found twice. So a volume of a ConfigMap (`..data -> ..2026_11_28`, whose files
//! are links into `..data/`) and what git-sync makes (`current -> rev-abc`) are read as what they show.
//!
//! Only what is a file is read: a pipe would keep whoever opens it waiting.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::filter::Filter;
use crate::api::source::SourceError;
use crate::manifest::{DEEPEST, is_manifest};

/// What is in a directory.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The manifests, by their path in it.
    pub(super) files: BTreeMap<String, Found>,
    /// Where something new could appear.
    pub(super) directories: BTreeSet<PathBuf>,
    /// Files and directories of which nobody knows what is in them.
    pub(super) unreadable: Vec<SourceError>,
    /// The file system it is on.
    pub(super) device: u64,
    /// Directories in it, by their path, that are on another one than the directory above.
    pub(super) mounts: BTreeSet<String>,
}

/// A manifest's file.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
}

/// What is another if a file was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    id: FileId,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file or directory, whatever its name.
type FileId = (u64, u64);

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            id: id(metadata),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What a file is like now, if it is there.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
}

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// Looks at a directory.
///
/// # Errors
/// If it cannot be looked at itself.
pub(super) fn look(root: &Path, filter: &Filter) -> io::Result<Tree> {
    let device = fs::metadata(root)?.dev();
    let mut walk = Walk {
        root,
        filter,
        tree: Tree { device, ..Tree::default() },
        visited: HashSet::new(),
        links: BTreeMap::new(),
    };
    walk.directory(root, 0)?;
    walk.resolve_links();
    Ok(walk.tree)
}

struct Walk<'a> {
    root: &'a Path,
    filter: &'a Filter,
    tree: Tree,
    visited: HashSet<FileId>,
    /// Links to files: one whose file is found under its own name too is passed over.
    links: BTreeMap<String, Found>,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        let metadata = fs::metadata(directory)?;
        if !self.visited.insert(id(&metadata)) {
            return Ok(());
        }
        self.tree.directories.insert(directory.to_owned());
        let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
        entries.retain(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
        entries.sort_by_key(DirEntry::file_name);
        if is_shown_by_a_link(&entries) {
            entries.retain(|entry| !is_revision(entry));
        }
        for entry in entries {
            self.entry(&entry, depth, metadata.dev());
        }
        Ok(())
    }

    fn entry(&mut self, entry: &DirEntry, depth: usize, device: u64) {
        let path = entry.path();
        let name = path.strip_prefix(self.root).unwrap_or(&path).to_owned();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            // It was removed since, which is no error; but a link to nothing is one, if it should be a manifest.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.is_symlink() && is_manifest(&path) && self.filter.has_file(&name) {
                    self.unreadable(&name, "is a link to nothing");
                }
                return;
            }
            Err(error) => return self.unreadable(&name, &format!("cannot be read: {error}")),
        };
        if metadata.is_dir() {
            if !self.filter.has_directory(&name) {
                return;
            }
            if metadata.dev() != device {
                self.tree.mounts.insert(name.display().to_string());
            }
            if depth == DEEPEST {
                return self.unreadable(&name, &format!("is more than {DEEPEST} directories deep"));
            }
            if let Err(error) = self.directory(&path, depth + 1)
                && error.kind() != io::ErrorKind::NotFound
            {
                self.unreadable(&name, &format!("cannot be read: {error}"));
            }
            return;
        }
        if !is_manifest(&path) || !self.filter.has_file(&name) {
            return;
        }
        if !metadata.is_file() {
            return self.unreadable(&name, "is no file");
        }
        let found = Found { stamp: Stamp::of(&metadata), path };
        let name = name.display().to_string();
        match entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            true => drop(self.links.insert(name, found)),
            false => drop(self.tree.files.insert(name, found)),
        }
    }

    fn unreadable(&mut self, name: &Path, message: &str) {
        let file = name.display().to_string();
        let message = format!("{file}: {message}");
        self.tree.unreadable.push(SourceError { file, message });
    }

    fn resolve_links(&mut self) {
        let mut seen: HashSet<FileId> = self.tree.files.values().map(|found| found.stamp.id).collect();
        for (name, found) in std::mem::take(&mut self.links) {
            if !seen.insert(found.stamp.id) {
                continue;
            }
            // What it leads to may be changed where nothing else is watched.
            if let Some(directory) =
                fs::canonicalize(&found.path).ok().and_then(|path| path.parent().map(Path::to_owned))
            {
                self.tree.directories.insert(directory);
            }
            self.tree.files.insert(name, found);
        }
    }
}

/// Whether a link shows one of several revisions beside it, as git-sync has them: then nothing else that is named like
/// a revision counts.
fn is_shown_by_a_link(entries: &[DirEntry]) -> bool {
    let revisions: HashSet<FileId> =
        entries.iter().filter(|entry| is_revision(entry)).filter_map(|entry| target(&entry.path())).collect();
    let is_link = |entry: &&DirEntry| entry.file_type().is_ok_and(|kind| kind.is_symlink());
    let shows = |entry: &DirEntry| target(&entry.path()).is_some_and(|target| revisions.contains(&target));
    !revisions.is_empty() && entries.iter().filter(is_link).any(shows)
}

/// What a path leads to.
fn target(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|metadata| id(&metadata))
}

/// Whether something is a directory that is named after a revision: `rev-` and a hash by git-sync 3; a hash, whole, by
/// git-sync 4. Shorter ones are days and numbers too.
fn is_revision(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_named = match name.strip_prefix("rev-") {
        Some(hash) => is_hex(hash),
        None => matches!(name.len(), 40 | 64) && is_hex(&name),
    };
    is_named && entry.file_type().is_ok_and(|kind| kind.is_dir())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(root: &Path, name: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }

    fn names(root: &Path) -> Vec<String> {
        look(root, &Filter::new(&[], &[]).unwrap()).unwrap().files.into_keys().collect()
    }

    #[test]
    fn a_volume_of_a_config_map_is_read_once() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "..2026_1/a.yaml");
        symlink("..2026_1", root.path().join("..data")).unwrap();
        symlink("..data/a.yaml", root.path().join("a.yaml")).unwrap();
        assert_eq!(names(root.path()), ["a.yaml"]);
    }

    #[test]
    fn of_revisions_the_one_that_is_shown_counts() {
        let root = tempfile::tempdir().unwrap();
        ["rev-abc/a.yaml", "rev-def/a.yaml", "other/b.yaml"].iter().for_each(|name| write(root.path(), name));
        symlink("rev-def", root.path().join("tree")).unwrap();
        assert_eq!(names(root.path()), ["other/b.yaml", "tree/a.yaml"]);
        // The link itself, as the directory.
        assert_eq!(names(&root.path().join("tree")), ["a.yaml"]);
        // Without a link, they are directories like others.
        fs::remove_file(root.path().join("tree")).unwrap();
        assert_eq!(names(root.path()), ["other/b.yaml", "rev-abc/a.yaml", "rev-def/a.yaml"]);
    }

    #[test]
    fn days_are_no_revisions() {
        let root = tempfile::tempdir().unwrap();
        ["20261101/a.yaml", "20261108/b.yaml", "abcdef0/c.yaml"]
            .iter()
            .for_each(|name| write(root.path(), name));
        symlink("20261108", root.path().join("latest")).unwrap();
        assert_eq!(names(root.path()), ["20261101/a.yaml", "20261108/b.yaml", "abcdef0/c.yaml"]);
        // Whole hashes are; and a link to what only has such a name elsewhere shows none.
        let hashes = ["a", "b"].map(|letter| letter.repeat(40));
        hashes.iter().for_each(|hash| write(root.path(), &format!("x/{hash}/{hash}.yaml")));
        write(root.path(), &format!("y/{}/d.yaml", hashes[0]));
        symlink(format!("../y/{}", hashes[0]), root.path().join("x/other")).unwrap();
        assert_eq!(names(&root.path().join("x")).len(), 3);
        symlink(&hashes[1], root.path().join("x/current")).unwrap();
        assert_eq!(
            names(&root.path().join("x")),
            [format!("current/{}.yaml", hashes[1]), "other/d.yaml".to_owned()]
        );
    }

    #[test]
    fn what_is_no_file_or_too_deep_is_told_and_not_opened() {
        let root = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&root.path().join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("pipe.yaml", root.path().join("link.yaml")).unwrap();
        symlink("/dev/null", root.path().join("null.yml")).unwrap();
        // As deep as a path may be that is made at once.
        let deep = "d/".repeat(1_900);
        write(root.path(), &format!("{deep}x.yaml"));
        write(root.path(), &format!("{}y.yaml", "d/".repeat(DEEPEST)));
        let tree = look(root.path(), &Filter::new(&[], &[]).unwrap()).unwrap();
        let told: Vec<&str> = tree.unreadable.iter().map(|error| error.message.as_str()).collect();
        let too_deep = format!("{}d: is more than 64 directories deep", "d/".repeat(DEEPEST));
        let files = ["link.yaml: is no file", "null.yml: is no file", "pipe.yaml: is no file"];
        assert_eq!(told, [&[too_deep.as_str()], &files[..]].concat());
        assert_eq!(tree.files.len(), 1);
    }

    #[test]
    fn nothing_is_found_twice_and_loops_end() {
        let root = tempfile::tempdir().unwrap();
        ["a/b/c.yaml", "d.yml", ".hidden/x.yaml", "a/.y.yaml", "e.txt"]
            .iter()
            .for_each(|name| write(root.path(), name));
        symlink("..", root.path().join("a/up")).unwrap();
        symlink("a", root.path().join("z")).unwrap();
        symlink("d.yml", root.path().join("c.yaml")).unwrap();
        symlink("nowhere", root.path().join("gone.yaml")).unwrap();
        let tree = look(root.path(), &Filter::new(&[], &[]).unwrap()).unwrap();
        assert_eq!(tree.files.into_keys().collect::<Vec<_>>(), ["a/b/c.yaml", "d.yml"]);
        assert_eq!(tree.unreadable[0].message, "gone.yaml: is a link to nothing");
    }
}
