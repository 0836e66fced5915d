//! The agent's program, as the package that Ray runs it from.

use std::io::{Cursor, Write as _};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// The files of the agent, with the paths they have in the package.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$((concat!("rayconcile_agent/", $name), include_str!(concat!("../../agent/rayconcile_agent/", $name)))),*]
    };
}

const FILES: [(&str, &str); 27] = files![
    "__init__.py",
    "agent.py",
    "alone.py",
    "beat.py",
    "blobs.py",
    "bridge.py",
    "forkserver.py",
    "group.py",
    "heirloom.py",
    "host.py",
    "life.py",
    "logs.py",
    "mends.py",
    "metadata.py",
    "points.py",
    "processes.py",
    "report.py",
    "reservation.py",
    "run.py",
    "saves.py",
    "shared.py",
    "slot.py",
    "store.py",
    "supervisor.py",
    "transfer.py",
    "unavailable.py",
    "worker.py",
];

/// A package: its name on the cluster, and its contents.
#[derive(Clone)]
pub struct Package {
    /// As Ray names it.
    pub name: String,
    /// The zip.
    pub contents: Vec<u8>,
}

/// The name of a package on the cluster, from the digest of its contents.
pub fn name(digest: &str) -> String {
    // Ray takes such names for content-addressed: what is there under one is not fetched again.
    format!("_ray_pkg_{}.zip", digest.get(..32).unwrap_or(digest))
}

/// The URI by which runtime environments name a package.
pub fn uri(name: &str) -> String {
    format!("gcs://{name}")
}

/// The agent's package.
pub fn agent() -> &'static Package {
    static PACKAGE: OnceLock<Package> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let contents = pack().unwrap_or_default();
        let digest: String = Sha256::digest(&contents).iter().map(|byte| format!("{byte:02x}")).collect();
        Package { name: name(&digest), contents }
    })
}

fn pack() -> Option<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Deflated).unix_permissions(0o644);
    for (path, text) in FILES {
        zip.start_file(path, options).ok()?;
        zip.write_all(text.as_bytes()).ok()?;
    }
    Some(zip.finish().ok()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_packed_whole() {
        let on_disk = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/agent/rayconcile_agent"));
        let names = on_disk.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let python = names.filter(|name| name.to_string_lossy().ends_with(".py")).count();
        assert_eq!(python, FILES.len(), "every file of the agent is listed in FILES");
        assert_eq!(pack(), pack());
        assert!(!agent().contents.is_empty());
    }
}
