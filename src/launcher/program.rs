//! The program that is brought to a head: this one, without what only debuggers need.

use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use object::elf;
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::probe::Head;
use crate::action::EffectError;
use crate::provider::ray::package::{self, Package};
use crate::provider::rejected;

/// Names another program to bring to the head, where this one does not run there.
pub const PROGRAM: &str = "RAYCONCILE_HEAD_PROGRAM";

/// What Ray takes as a package at most (`GCS_STORAGE_MAX_SIZE` of its `packaging.py`).
const LARGEST_PACKAGE: usize = 100 << 20;

/// Where in the package what is.
const MODULE: &str = "rayconcile_hosted";

/// Why a program cannot be brought to a head.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no program for Linux.
    #[error("{} is no program for Linux, and the head needs one: {}", path.display(), remedy())]
    NotLinux {
        /// The file.
        path: PathBuf,
    },
    /// The head has another processor.
    #[error("this rayconcile is for {program}, and the head is {head}: {}", remedy())]
    Architecture {
        /// What the program is for.
        program: String,
        /// What the head is.
        head: String,
    },
    /// The head has another C library, or an older one.
    #[error("this rayconcile needs {program}, and the head has {head}: {}", remedy())]
    Libc {
        /// What the program needs.
        program: String,
        /// What the head has.
        head: String,
    },
    /// Ray does not take as much.
    #[error(
        "{} is too large for a package of Ray's ({size} bytes compressed, the limit is {LARGEST_PACKAGE}): {}",
        path.display(),
        remedy()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large it is, compressed.
        size: usize,
    },
}

impl From<ProgramError> for EffectError {
    fn from(error: ProgramError) -> Self {
        rejected(error.to_string())
    }
}

fn remedy() -> String {
    format!(
        "build rayconcile for the head (on it, or with `cargo build --release --target ...`), and name that file in \
         {PROGRAM}"
    )
}

/// What a program needs where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The processor, as `uname -m` has it.
    pub machine: String,
    /// The C library.
    pub libc: Libc,
}

/// The C library that a program needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Libc {
    /// None: it is linked statically.
    None,
    /// GNU's, of this version or later.
    Glibc(u32, u32),
    /// musl's.
    Musl,
}

/// A program, and what it needs.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    /// Without its debugging information.
    contents: Vec<u8>,
    needs: Needs,
}

impl Program {
    /// The program for heads: the one that the environment names, or this one.
    ///
    /// # Errors
    /// If it cannot be read, or is not for Linux.
    pub fn find() -> Result<Self, ProgramError> {
        let path = match std::env::var_os(PROGRAM).filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe()
                .map_err(|source| ProgramError::Io { path: PathBuf::from("this program"), source })?,
        };
        Self::read(&path)
    }

    fn read(path: &Path) -> Result<Self, ProgramError> {
        let mut contents =
            std::fs::read(path).map_err(|source| ProgramError::Io { path: path.to_owned(), source })?;
        let Some((needs, end)) = look_into(&contents) else {
            return Err(ProgramError::NotLinux { path: path.to_owned() });
        };
        trim(&mut contents, end);
        Ok(Self { path: path.to_owned(), contents, needs })
    }

    /// Whether it runs on a head.
    ///
    /// # Errors
    /// If it does not: why, and what to do.
    pub fn check(&self, head: &Head) -> Result<(), ProgramError> {
        fits(&self.needs, head)
    }

    /// The package that brings it there, with what starts it.
    ///
    /// # Errors
    /// If it is too large for Ray.
    pub fn pack(&self) -> Result<Package, ProgramError> {
        let contents = pack(&self.contents).unwrap_or_default();
        if contents.is_empty() || contents.len() > LARGEST_PACKAGE {
            return Err(ProgramError::TooLarge { path: self.path.clone(), size: contents.len() });
        }
        let digest: String = Sha256::digest(&contents).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Package { name: package::name(&digest), contents })
    }
}

/// What a Ray job's entrypoint must be for a program of such a package to do something.
pub fn entrypoint(arguments: &str) -> String {
    // Where Ray jobs run, `python` may be another or none: the first that has Ray.
    format!(
        "for p in python python3; do \
         $p -c 'import importlib.util as u, sys; sys.exit(u.find_spec(\"ray\") is None)' 2>/dev/null \
         && exec $p -m {MODULE} {arguments}; done; \
         echo 'neither python nor python3 on the PATH of Ray has Ray' >&2; exit 2"
    )
}

fn pack(program: &[u8]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    zip.start_file(format!("{MODULE}/__main__.py"), options.unix_permissions(0o644))?;
    zip.write_all(include_bytes!("hosted.py"))?;
    zip.start_file(format!("{MODULE}/rayconcile"), options.unix_permissions(0o755))?;
    zip.write_all(program)?;
    Ok(zip.finish()?.into_inner())
}

fn fits(needs: &Needs, head: &Head) -> Result<(), ProgramError> {
    if needs.machine != head.machine || head.system != "Linux" {
        let head = if head.system == "Linux" { head.machine.clone() } else { head.system.clone() };
        return Err(ProgramError::Architecture { program: format!("Linux on {}", needs.machine), head });
    }
    let program = match &needs.libc {
        Libc::None => return Ok(()),
        Libc::Glibc(major, minor) if head.glibc.is_some_and(|has| has >= (*major, *minor)) => {
            return Ok(());
        }
        Libc::Musl if head.glibc.is_none() => return Ok(()),
        Libc::Glibc(major, minor) => format!("glibc {major}.{minor} or later"),
        Libc::Musl => "musl".to_owned(),
    };
    let head = head
        .glibc
        .map_or_else(|| "another C library".to_owned(), |(major, minor)| format!("glibc {major}.{minor}"));
    Err(ProgramError::Libc { program, head })
}

/// What an ELF program of 64 bits needs, and where the last of what is loaded ends in its file.
fn look_into(contents: &[u8]) -> Option<(Needs, usize)> {
    let header = elf::FileHeader64::<object::Endianness>::parse(contents).ok()?;
    let endian = header.endian().ok()?;
    let machine = match header.e_machine(endian) {
        elf::EM_X86_64 => "x86_64",
        elf::EM_AARCH64 => "aarch64",
        elf::EM_RISCV => "riscv64",
        elf::EM_PPC64 => "ppc64le",
        elf::EM_S390 => "s390x",
        _ => "another processor",
    };
    let segments = header.program_headers(endian, contents).ok()?;
    let interpreter = segments.iter().find_map(|segment| segment.interpreter(endian, contents).ok()?);
    let libc = match interpreter {
        None => Libc::None,
        Some(path) if path.windows(4).any(|part| part == b"musl") => Libc::Musl,
        Some(_) => {
            let (major, minor) = newest_glibc(header, endian, contents).unwrap_or((2, 0));
            Libc::Glibc(major, minor)
        }
    };
    let end = segments.iter().map(|segment| segment.p_offset(endian) + segment.p_filesz(endian)).max()?;
    let needs = Needs { machine: machine.to_owned(), libc };
    Some((needs, usize::try_from(end).ok().filter(|end| *end <= contents.len())?))
}

/// The newest version of glibc that a symbol of a program asks for.
fn newest_glibc(
    header: &elf::FileHeader64<object::Endianness>,
    endian: object::Endianness,
    contents: &[u8],
) -> Option<(u32, u32)> {
    let sections = header.sections(endian, contents).ok()?;
    let (mut needed, strings) = sections.iter().find_map(|section| {
        let (versions, strings) = section.gnu_verneed(endian, contents).ok()??;
        Some((versions, sections.strings(endian, contents, strings).ok()?))
    })?;
    let mut newest = None;
    while let Some((_, mut versions)) = needed.next().ok()? {
        while let Some(version) = versions.next().ok()? {
            let name = version.name(endian, strings).ok()?;
            newest = newest.max(std::str::from_utf8(name).ok().and_then(glibc_version));
        }
    }
    newest
}

fn glibc_version(name: &str) -> Option<(u32, u32)> {
    let mut numbers = name.strip_prefix("GLIBC_")?.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Leaves out what follows that which is loaded: symbols, debugging information, and the table of sections, which
/// nothing that runs a program reads (elf(5)). Of an unoptimised build that is half of it.
fn trim(contents: &mut Vec<u8>, end: usize) {
    contents.truncate(end);
    // `e_shoff`, and `e_shnum` with `e_shstrndx`, in the header of a file of 64 bits: there is no such table.
    contents[0x28..0x30].fill(0);
    contents[0x3c..0x40].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(machine: &str, libc: Libc) -> Needs {
        Needs { machine: machine.to_owned(), libc }
    }

    fn head(answer: &str) -> Head {
        Head::parse(answer).unwrap_or_else(|| unreachable!("no answer: {answer}"))
    }

    fn refusal(needs: &Needs, head: &Head) -> String {
        fits(needs, head).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_head_of_another_kind_is_told_of_with_what_to_do() {
        let graviton =
            head(r#"{"system": "Linux", "machine": "aarch64", "libc": ["glibc", "2.35"], "listens": true}"#);
        let refused = refusal(&needs("x86_64", Libc::Glibc(2, 31)), &graviton);
        assert!(
            refused.starts_with("this rayconcile is for Linux on x86_64, and the head is aarch64"),
            "{refused}"
        );
        assert!(refused.contains(PROGRAM), "{refused}");
        // Static linking helps against libraries only.
        assert!(fits(&needs("x86_64", Libc::None), &graviton).is_err());
        assert!(fits(&needs("aarch64", Libc::None), &graviton).is_ok());
        let mac = head(r#"{"system": "Darwin", "machine": "x86_64", "libc": ["", ""], "listens": false}"#);
        assert!(refusal(&needs("x86_64", Libc::None), &mac).contains("the head is Darwin"));
    }

    #[test]
    fn the_library_of_a_head_must_be_as_new() {
        let old =
            head(r#"{"system": "Linux", "machine": "x86_64", "libc": ["glibc", "2.28"], "listens": false}"#);
        assert!(fits(&needs("x86_64", Libc::Glibc(2, 28)), &old).is_ok());
        assert!(fits(&needs("x86_64", Libc::Glibc(2, 4)), &old).is_ok());
        let refused = refusal(&needs("x86_64", Libc::Glibc(2, 34)), &old);
        assert!(refused.contains("needs glibc 2.34 or later, and the head has glibc 2.28"), "{refused}");
        let alpine = head(r#"{"system": "Linux", "machine": "x86_64", "libc": ["", ""], "listens": false}"#);
        assert!(fits(&needs("x86_64", Libc::Musl), &alpine).is_ok());
        assert!(refusal(&needs("x86_64", Libc::Glibc(2, 34)), &alpine).contains("another C library"));
        assert!(
            refusal(&needs("x86_64", Libc::Musl), &old).contains("needs musl, and the head has glibc 2.28")
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_program_runs_as_well_without_what_is_left_out() -> Result<(), Box<dyn std::error::Error>> {
        use std::os::unix::fs::PermissionsExt as _;
        let whole = std::env::current_exe()?;
        let program = Program::read(&whole)?;
        assert_eq!(program.needs.machine, std::env::consts::ARCH);
        assert!(program.contents.len() < usize::try_from(std::fs::metadata(&whole)?.len())?);
        let directory = tempfile::tempdir()?;
        let trimmed = directory.path().join("trimmed");
        std::fs::write(&trimmed, &program.contents)?;
        std::fs::set_permissions(&trimmed, std::fs::Permissions::from_mode(0o755))?;
        let listed = std::process::Command::new(&trimmed).arg("--list").output()?;
        assert!(
            listed.status.success() && String::from_utf8(listed.stdout)?.contains("without_what_is_left_out")
        );
        Ok(())
    }

    #[test]
    fn what_is_no_program_for_linux_is_refused() -> Result<(), std::io::Error> {
        let file = tempfile::NamedTempFile::new()?;
        for contents in [
            &b"\xcf\xfa\xed\xfe\x07\x00\x00\x01"[..],
            b"",
            b"\x7fELF",
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
        ] {
            std::fs::write(file.path(), contents)?;
            assert!(matches!(Program::read(file.path()), Err(ProgramError::NotLinux { .. })));
        }
        Ok(())
    }
}
