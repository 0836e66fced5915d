//! Packing a working directory into the zip file that workers get.
//!
//! A package is named by the SHA-256 of its bytes, and the same tree gives the same bytes on any machine:
//! names are sorted, times are fixed, modes are 644 or 755. Directories exist only through the files in them.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ignore::{DirEntry, Walk, WalkBuilder};
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZipWriter};

use crate::api::ids::Digest;
use crate::api::units::Bytes;

/// Ray's own limit of a package.
const MAX_SIZE: Bytes = Bytes(100 << 20);

/// What Ray leaves out by default too: it is made by tools, and made again on the other side.
const LEFT_OUT: [&str; 4] = [".git", ".venv", "venv", "__pycache__"];

/// How many files an error about the size names.
const LARGEST: usize = 10;

/// A packed directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// What it is known by. Its file is named after it, with `.zip`.
    pub digest: Digest,
    /// Its size.
    pub size: Bytes,
}

/// Why a directory could not be packed. Paths are relative to it.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// What cannot be read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A symbolic link to what will not be in the package.
    #[error("the symbolic link {} leads outside, to {}", path.display(), target.display())]
    Outside {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A symbolic link to a directory that it is in.
    #[error("the symbolic link {} leads to a directory that it is in", path.display())]
    Endless {
        /// The link.
        path: PathBuf,
    },
    /// A name that a zip file cannot hold.
    #[error("the name of {} is not UTF-8", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// A file changed or vanished, twice.
    #[error("{} changes while it is packed", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The package would be larger than Ray takes.
    #[error("is larger than {} when packed, and Ray takes no more ({} bytes)", most.rounded(), most.0)]
    TooLarge {
        /// How large a package may be.
        most: Bytes,
        /// The largest files, largest first.
        largest: Vec<(String, Bytes)>,
    },
    /// The package cannot be written.
    #[error("cannot write the package to {}", path.display())]
    Store {
        /// The directory of packages.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl PackError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::TooLarge { largest, .. } => {
                let width = largest.iter().map(|(_, size)| size.rounded().len()).max().unwrap_or_default();
                let lines: String = largest
                    .iter()
                    .map(|(name, size)| format!("\n  {:>width$}  {name}", size.rounded()))
                    .collect();
                Some(format!("list what the workers do not need in .rayignore; the largest files:{lines}"))
            }
            Self::Outside { .. } => Some("copy what it leads to, or list the link in .rayignore".to_owned()),
            Self::Endless { .. } | Self::Name { .. } => Some("list it in .rayignore".to_owned()),
            Self::Unreadable { .. } => {
                Some("if the workers do not need it, list it in .rayignore".to_owned())
            }
            Self::Changed { .. } => Some("if it is an output, list it in .rayignore".to_owned()),
            Self::Store { .. } => None,
        }
    }
}

/// A file to be packed.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its path in the package.
    pub(super) name: String,
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
    executable: bool,
}

/// Packs a directory into a file of the directory `into`, or finds it there.
///
/// What `.gitignore` and `.rayignore` files in it say is left out, as is what Ray leaves out by default:
/// `.git`, `.venv`, `venv` and `__pycache__`. Ignore files above it, and those of the machine, do not count.
/// Symbolic links that stay inside are followed, and those to nothing are passed over.
///
/// # Errors
/// If something cannot be read or packed, or the package would be too large.
pub fn pack(directory: &Path, into: &Path) -> Result<Package, PackError> {
    match pack_once(directory, into, MAX_SIZE) {
        Err(PackError::Changed { .. }) => pack_once(directory, into, MAX_SIZE),
        outcome => outcome,
    }
}

fn path_of(packages: &Path, digest: &Digest) -> PathBuf {
    packages.join(format!("{digest}.zip"))
}

/// Whether a package is there. If it is, it counts as new: whoever asks is about to name it, and until then nothing
/// else keeps it from being tidied away.
pub fn keep_package(packages: &Path, digest: &Digest) -> bool {
    let path = path_of(packages, digest);
    let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
    touched.is_ok() || path.exists()
}

fn pack_once(directory: &Path, into: &Path, most: Bytes) -> Result<Package, PackError> {
    let store = |source| PackError::Store { path: into.to_owned(), source };
    fs::create_dir_all(into).map_err(store)?;
    let packages = fs::canonicalize(into).map_err(store)?;
    let mut entries = list(directory)?;
    // Or a package would have those before it inside, and none would be the same as the last.
    entries.retain(|entry| !entry.path.starts_with(&packages));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::FileTooLarge => PackError::TooLarge { most, largest: largest(&entries) },
        _ => store(error),
    };
    let mut file = tempfile::NamedTempFile::new_in(into).map_err(failed)?;
    write(&entries, file.as_file_mut(), most, failed)?;
    let (digest, size) = digest(file.as_file_mut()).map_err(failed)?;
    let path = path_of(into, &digest);
    if !keep_package(into, &digest) {
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        File::open(into).and_then(|directory| directory.sync_all()).map_err(failed)?;
    }
    Ok(Package { digest, size })
}

/// The files that a package of a directory has, in its order.
pub(super) fn list(directory: &Path) -> Result<Vec<Entry>, PackError> {
    let unreadable = |source| PackError::Unreadable { path: PathBuf::from("."), source };
    let root = fs::canonicalize(directory).map_err(unreadable)?;
    let mut entries = Vec::new();
    for item in walk(&root) {
        match item {
            Ok(found) => entries.extend(entry(&found, &root)?),
            Err(error) => failed(error, &root)?,
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn walk(root: &Path) -> Walk {
    WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .add_custom_ignore_filename(".rayignore")
        .follow_links(true)
        .filter_entry(|entry| entry.depth() == 0 || !LEFT_OUT.iter().any(|name| entry.file_name() == *name))
        .build()
}

/// What can be seen of a working directory without reading a file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Another one if a file of its package may be another.
    pub fingerprint: Digest,
    /// Where its files are.
    pub directories: Vec<PathBuf>,
}

/// Looks at a working directory without reading its files. What cannot be looked at is left out: packing tells of it.
pub fn survey(directory: &Path) -> Survey {
    let mut hash = Sha256::new();
    let mut directories = Vec::new();
    let root = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let mut found: Vec<DirEntry> = walk(&root).flatten().collect();
    found.sort_by(|a, b| a.path().cmp(b.path()));
    for entry in found {
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if metadata.is_dir() {
            directories.push(entry.path().to_owned());
            continue;
        }
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let numbers = [metadata.dev(), metadata.ino(), metadata.len()];
        hash.update(entry.path().as_os_str().as_encoded_bytes());
        hash.update([0]);
        times.iter().for_each(|number| hash.update(number.to_le_bytes()));
        numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
    }
    let fingerprint = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Survey { fingerprint: Digest(fingerprint), directories }
}

/// What is packed for something that was found, if anything is.
fn entry(found: &DirEntry, root: &Path) -> Result<Option<Entry>, PackError> {
    let path = found.path();
    let inner = path.strip_prefix(root).unwrap_or(path);
    let unreadable = |source| PackError::Unreadable { path: inner.to_owned(), source };
    if found.path_is_symlink() {
        let target = fs::canonicalize(path).map_err(unreadable)?;
        if !target.starts_with(root) {
            return Err(PackError::Outside { path: inner.to_owned(), target });
        }
    }
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PackError::Changed { path: inner.to_owned() });
        }
        Err(error) => return Err(unreadable(error)),
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    let name = inner.to_str().ok_or_else(|| PackError::Name { path: inner.to_owned() })?;
    Ok(Some(Entry {
        name: name.to_owned(),
        path: path.to_owned(),
        size: metadata.len(),
        modified: metadata.modified().ok(),
        executable: metadata.permissions().mode() & 0o100 != 0,
    }))
}

/// The error that a walk met, unless it is a link to nothing: whoever opens that finds nothing, packed or
/// not.
fn failed(error: ignore::Error, root: &Path) -> Result<(), PackError> {
    use ignore::Error;
    let mut path = PathBuf::from(".");
    let mut error = error;
    loop {
        error = match error {
            Error::WithPath { path: at, err } => {
                path = at;
                *err
            }
            Error::WithDepth { err, .. } | Error::WithLineNumber { err, .. } => *err,
            Error::Loop { child, .. } => {
                return Err(PackError::Endless { path: relative(&child, root) });
            }
            Error::Io(_) if path.is_symlink() && !path.exists() => return Ok(()),
            Error::Io(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(PackError::Changed { path: relative(&path, root) });
            }
            Error::Io(source) => return Err(PackError::Unreadable { path: relative(&path, root), source }),
            other => {
                let source = io::Error::other(other.to_string());
                return Err(PackError::Unreadable { path: relative(&path, root), source });
            }
        }
    }
}

fn relative(path: &Path, root: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_owned()
}

/// Writes the zip file.
fn write(
    entries: &[Entry],
    file: &mut File,
    most: Bytes,
    failed: impl Fn(io::Error) -> PackError + Copy,
) -> Result<(), PackError> {
    let mut zip =
        ZipWriter::new(Limited { inner: BufWriter::new(file), position: 0, most: most.0, failed: false });
    for entry in entries {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .system(System::Unix)
            .unix_permissions(if entry.executable { 0o755 } else { 0o644 })
            .large_file(entry.size >= u64::from(u32::MAX));
        zip.start_file(entry.name.as_str(), options).map_err(|error| failed(error.into()))?;
        copy(entry, &mut zip, failed)?;
    }
    let mut rest = zip.finish().map_err(|error| failed(error.into()))?;
    rest.flush().map_err(failed)
}

/// Copies a file, and makes sure that it stays the one that was listed.
fn copy(
    entry: &Entry,
    zip: &mut impl Write,
    failed: impl Fn(io::Error) -> PackError,
) -> Result<(), PackError> {
    let path = || PathBuf::from(&entry.name);
    let read_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => PackError::Changed { path: path() },
        _ => PackError::Unreadable { path: path(), source },
    };
    let mut file = File::open(&entry.path).map_err(read_error)?;
    let mut buffer = vec![0; 128 << 10];
    let mut size = 0;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read_error(error)),
        };
        size += read as u64;
        if size > entry.size {
            break;
        }
        zip.write_all(buffer.get(..read).unwrap_or_default()).map_err(&failed)?;
    }
    let modified = file.metadata().map_err(read_error)?.modified().ok();
    match size == entry.size && modified == entry.modified {
        true => Ok(()),
        false => Err(PackError::Changed { path: path() }),
    }
}

fn largest(entries: &[Entry]) -> Vec<(String, Bytes)> {
    let mut files: Vec<_> = entries.iter().map(|entry| (entry.name.clone(), Bytes(entry.size))).collect();
    files.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    files.truncate(LARGEST);
    files
}

fn digest(file: &mut File) -> io::Result<(Digest, Bytes)> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let size = io::copy(&mut BufReader::new(file), &mut hash)?;
    Ok((Digest::from(format!("{:x}", hash.finalize())), Bytes(size)))
}

/// A writer that refuses to get longer than a package may be. After an error it takes everything and keeps
/// nothing: the file is lost, but a zip writer that is dropped then would complain on standard error.
struct Limited<W> {
    inner: W,
    position: u64,
    most: u64,
    failed: bool,
}

impl<W: Write> Write for Limited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed {
            return Ok(bytes.len());
        }
        let outcome = match self.position + bytes.len() as u64 > self.most {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => self.inner.write(bytes),
        };
        match &outcome {
            Ok(written) => self.position += *written as u64,
            Err(_) => self.failed = true,
        }
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.failed { Ok(()) } else { self.inner.flush() }
    }
}

impl<W: Seek> Seek for Limited<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.inner.seek(to)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_directory_that_is_too_large_is_refused_with_its_largest_files() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
        // What cannot be compressed, for it is a chain of hashes.
        let noise: Vec<u8> = (0..2000_u32).flat_map(|number| Sha256::digest(number.to_be_bytes())).collect();
        write("data/train.bin", &noise);
        write("data/test.bin", noise.get(..20_000).unwrap());
        write("main.py", b"");
        (0..12).for_each(|index| write(&format!("data/{index:02}.csv"), &vec![b'0'; 100 * index]));

        let packages = directory.path().join("packages");
        let error = pack_once(directory.path(), &packages, Bytes(50_000)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "is larger than 48.8 KiB when packed, and Ray takes no more (50000 bytes)"
        );
        insta::assert_snapshot!(error.help().unwrap(), @r"
        list what the workers do not need in .rayignore; the largest files:
          62.5 KiB  data/train.bin
          19.5 KiB  data/test.bin
           1.1 KiB  data/11.csv
            1000 B  data/10.csv
             900 B  data/09.csv
             800 B  data/08.csv
             700 B  data/07.csv
             600 B  data/06.csv
             500 B  data/05.csv
             400 B  data/04.csv
        ");
        assert_eq!(fs::read_dir(&packages).unwrap().count(), 0);
        pack_once(directory.path(), &packages, Bytes(100_000)).unwrap();
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "one").unwrap();
        let entry = list(directory.path()).unwrap().remove(0);
        let copied =
            || copy(&entry, &mut io::sink(), |source| PackError::Store { path: path.clone(), source });
        copied().unwrap();
        fs::write(&path, "another").unwrap();
        assert!(matches!(copied(), Err(PackError::Changed { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(copied(), Err(PackError::Changed { .. })));
    }
}
