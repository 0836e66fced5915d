//! Where manifests come from: files, directories and standard input, as text.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::problem::Problem;
use super::suggest;
use crate::api::units::Bytes;

/// No manifest is larger. A larger file was given by mistake, and would only cost memory.
const MAX_SIZE: Bytes = Bytes(4 << 20);

/// So deep manifests may lie in a directory that is read with all of its own.
pub(crate) const DEEPEST: usize = 64;

/// The path that stands for standard input.
const STDIN: &str = "-";

/// A text that holds manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What people call it: the path as it was given, or `<stdin>`.
    pub name: String,
    /// The file that it was read from, if it was.
    pub path: Option<PathBuf>,
    /// The directory that relative paths in it start from. Without one they are refused.
    pub base: Option<PathBuf>,
    /// The text.
    pub text: String,
    /// Whether it was asked for by name, and so must hold an object.
    pub(super) named: bool,
}

impl Source {
    /// A text that was not read from a file.
    pub fn new(name: impl Into<String>, text: impl Into<String>, base: Option<PathBuf>) -> Self {
        Self { name: name.into(), path: None, base, text: text.into(), named: true }
    }
}

/// Reads the files that `-f` names: files, directories with their `*.yaml` and `*.yml` files (with those of
/// their directories where `recursive`), and `-` for standard input. What cannot be read is a problem, and
/// does not keep the rest from being read.
///
/// Hidden files and directories and links to directories are passed over; a file that is reached twice is
/// read once.
pub fn collect(paths: &[PathBuf], recursive: bool) -> (Vec<Source>, Vec<Problem>) {
    let mut collection = Collection { recursive, ..Collection::default() };
    for path in paths {
        if path.as_os_str() == STDIN {
            collection.stdin();
        } else if path.is_dir() {
            collection.directory(path);
        } else {
            collection.file(path, true);
        }
    }
    (collection.sources, collection.problems)
}

/// Reads one file of a watched directory, under the name that people shall see.
///
/// # Errors
/// If it is not there, is no file, or holds no text.
pub fn load(name: &str, path: &Path) -> Result<Source, Box<Problem>> {
    // Nobody may write into a pipe: it is not waited for.
    let opened = fs::File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let opened = opened.and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = opened.map_err(|error| Box::new(unreadable(name.to_owned(), path, &error)))?;
    if !metadata.is_file() {
        return Err(Box::new(Problem::of_file(name.to_owned(), "is no file")));
    }
    let text = read(file, Some(metadata.len()))
        .map_err(|Refused { message, help }| Box::new(Problem::of_file(name, message).help_if(help)))?;
    let (path, base) = (Some(path.to_owned()), base_of(path, &metadata));
    Ok(Source { name: name.to_owned(), path, base, text, named: false })
}

/// What was collected so far.
#[derive(Default)]
struct Collection {
    recursive: bool,
    /// What was read already.
    seen: HashSet<PathBuf>,
    /// How many files in directories are manifests by their name.
    manifests: usize,
    sources: Vec<Source>,
    problems: Vec<Problem>,
}

impl Collection {
    fn stdin(&mut self) {
        if !self.seen.insert(PathBuf::from(STDIN)) {
            return;
        }
        let base = std::env::current_dir().ok();
        let text = read(io::stdin().lock(), None);
        self.add("<stdin>".to_owned(), text, |name, text| Source::new(name, text, base));
    }

    fn file(&mut self, path: &Path, named: bool) {
        let name = path.display().to_string();
        // A pipe has no real path.
        if !self.seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())) {
            return;
        }
        let opened = fs::File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        let (file, metadata) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.problems.push(unreadable(name, path, &error)),
        };
        let size = metadata.is_file().then_some(metadata.len());
        self.add(name, read(file, size), |name, text| Source {
            name,
            path: Some(path.to_owned()),
            base: base_of(path, &metadata),
            text,
            named,
        });
    }

    fn directory(&mut self, path: &Path) {
        let before = (self.manifests, self.problems.len());
        let skipped = self.walk(path, 0);
        if before == (self.manifests, self.problems.len()) {
            let problem = Problem::of_file(path.display().to_string(), "holds no *.yaml or *.yml file");
            let help = skipped.then_some("its directories were not searched; --recursive does that");
            self.problems.push(problem.help_if(help));
        }
    }

    /// Reads a directory's manifests, and says whether it has directories that were left out.
    fn walk(&mut self, path: &Path, depth: usize) -> bool {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                self.problems.push(unreadable(path.display().to_string(), path, &error));
                return false;
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut skipped = false;
        for entry in entries {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            } else if is_directory && self.recursive && depth == DEEPEST {
                let message = format!("is more than {DEEPEST} directories deep");
                self.problems.push(Problem::of_file(path.display().to_string(), message));
            } else if is_directory && self.recursive {
                self.walk(&path, depth + 1);
            } else if is_directory {
                skipped = true;
            } else if is_manifest(&path) && !path.is_dir() {
                self.manifests += 1;
                self.file(&path, false);
            }
        }
        skipped
    }

    fn add(
        &mut self,
        name: String,
        text: Result<String, Refused>,
        source: impl FnOnce(String, String) -> Source,
    ) {
        match text {
            Ok(text) => self.sources.push(source(name, text)),
            Err(Refused { message, help }) => {
                self.problems.push(Problem::of_file(name, message).help_if(help));
            }
        }
    }
}

/// Whether a file of a directory is a manifest, by its name.
pub fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Where relative paths in a file start from: its directory. A pipe, such as a shell's `<(...)`, is in none.
fn base_of(path: &Path, metadata: &fs::Metadata) -> Option<PathBuf> {
    let is_handle = ["/dev/fd", "/dev/stdin", "/proc"].iter().any(|handles| path.starts_with(handles));
    match metadata.is_file() && !is_handle {
        true => std::path::absolute(path).ok()?.parent().map(Path::to_owned),
        false => std::env::current_dir().ok(),
    }
}

/// Why something is no text that could hold manifests.
struct Refused {
    message: String,
    help: Option<&'static str>,
}

/// Reads a text, and no more than a manifest may have; `size` is what it is said to have.
fn read(from: impl Read, size: Option<u64>) -> Result<String, Refused> {
    let mut bytes = Vec::new();
    let plain = |message| Refused { message, help: None };
    from.take(MAX_SIZE.0 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| plain(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_SIZE.0 {
        let found = size.map_or(format!("more than {}", MAX_SIZE.rounded()), |size| Bytes(size).rounded());
        return Err(plain(format!(
            "has {found}, and a manifest may have at most {} ({} bytes)",
            MAX_SIZE.rounded(),
            MAX_SIZE.0
        )));
    }
    text(bytes)
}

/// The text that bytes are, without a byte order mark.
fn text(bytes: Vec<u8>) -> Result<String, Refused> {
    let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let help = utf16.then_some("it seems to be UTF-16; save it as UTF-8");
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(offset).copied().unwrap_or_default();
        Refused { message: format!("is not text: byte {byte:#04x} at offset {offset} is not UTF-8"), help }
    })?;
    let control = |byte: u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n' | b'\r');
    if let Some(offset) = text.bytes().position(control) {
        let byte = text.as_bytes().get(offset).copied().unwrap_or_default();
        let message = format!("is not text: control character {byte:#04x} at offset {offset}");
        return Err(Refused { message, help: None });
    }
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

/// A file that cannot be read, with the name that may have been meant.
fn unreadable(name: String, path: &Path, error: &io::Error) -> Problem {
    let mut problem = why_unreadable(name, path, error);
    problem.unreadable = true;
    problem
}

fn why_unreadable(name: String, path: &Path, error: &io::Error) -> Problem {
    if error.kind() != io::ErrorKind::NotFound {
        return Problem::of_file(name, format!("cannot be read: {error}"));
    }
    if path.is_symlink() {
        return Problem::of_file(name, "is a link to nothing");
    }
    let problem = Problem::of_file(name, "there is no such file or directory");
    if path.to_string_lossy().contains("://") {
        return problem.help("addresses are not fetched; download the file, or pipe it in: -f -");
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let siblings: Vec<String> = fs::read_dir(directory.unwrap_or(Path::new(".")))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let wanted = path.file_name().unwrap_or_default().to_string_lossy();
    let meant = suggest::closest(&wanted, siblings.iter().map(String::as_str));
    problem.help_if(meant.map(|meant| format!("did you mean {}?", path.with_file_name(meant).display())))
}
