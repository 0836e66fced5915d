//! Bringing what a job left to object storage.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::execute::inside;
use crate::action::EffectError;
use crate::api::bucket::BucketAddress;
use crate::provider::{io, unavailable};
use crate::store::places::s3;

/// A file in an archive.
struct Packed {
    name: String,
    /// Where in the archive its contents begin.
    at: u64,
    size: u64,
}

/// Puts the files of archives below an address: of a file that several have, that of the last.
pub(super) async fn deliver(archives: Vec<PathBuf>, destination: &BucketAddress) -> Result<(), EffectError> {
    for archive in archives {
        let of = archive.clone();
        let files = tokio::task::spawn_blocking(move || list(&of)).await;
        let files = files.unwrap_or_else(|error| Err(unavailable(error.to_string())))?;
        for Packed { name, at, size } in files {
            let mut file =
                tokio::fs::File::open(&archive).await.map_err(|error| io("read", &archive, &error))?;
            file.seek(std::io::SeekFrom::Start(at)).await.map_err(|error| io("read", &archive, &error))?;
            s3::write(&destination.join(&name), size, None, file.take(size)).await?;
        }
    }
    Ok(())
}

fn list(archive: &Path) -> Result<Vec<Packed>, EffectError> {
    let unreadable = |error: std::io::Error| io("read", archive, &error);
    let mut tar = tar::Archive::new(std::fs::File::open(archive).map_err(unreadable)?);
    let mut files = Vec::new();
    for entry in tar.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?;
        if !entry.header().entry_type().is_file() || !inside(&path) {
            continue;
        }
        let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        let name =
            parts.iter().filter(|part| *part != ".").map(AsRef::as_ref).collect::<Vec<&str>>().join("/");
        files.push(Packed { name, at: entry.raw_file_position(), size: entry.size() });
    }
    Ok(files)
}
