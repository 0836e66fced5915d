//! Files that nobody needs any more: what is left of jobs that were deleted long ago, and packages that nothing names.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Controller;
use crate::api::ids::{Digest, Uid};
use crate::api::meta::{ObjectKey, directory_name};
use crate::store::places::Place;
use crate::store::{StoreError, Tx};

/// How often it is looked for them.
const CLEANING: Duration = Duration::from_secs(3600);

/// How long a package stays that nothing names: it may have been brought for an object that is about to be applied.
const UNNAMED: Duration = Duration::from_secs(24 * 3600);

impl Controller {
    pub(super) async fn clean(self) {
        loop {
            let now = jiff::Timestamp::now();
            let retired = self.inner.store.read(|tx| tx.retired()).await.unwrap_or_default();
            for (uid, key, _) in retired.into_iter().filter(|(_, _, until)| *until < now) {
                if let Err(error) = self.forget_retired(uid, &key).await {
                    tracing::warn!(job = %key, %error, "cannot remove what is left of a deleted job");
                }
            }
            if let Err(error) = self.forget_packages().await {
                tracing::warn!(%error, "cannot remove packages that nothing names");
            }
            tokio::time::sleep(CLEANING).await;
        }
    }

    /// Removes the checkpoints and logs of a job that was deleted.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn forget_retired(&self, uid: Uid, key: &ObjectKey) -> Result<(), StoreError> {
        let of = uid.clone();
        let checkpoints = self.inner.store.read(move |tx| tx.checkpoints(&of)).await?;
        for checkpoint in checkpoints {
            let place = Place::of(&self.inner.directories.state, &checkpoint.path);
            if let Err(error) = place.remove().await {
                tracing::warn!(job = %key, %error, "a checkpoint of a deleted job is left behind");
            }
        }
        let name = directory_name(key, &uid);
        let directory = self.inner.directories.state.join("jobs").join(name);
        let _ = tokio::fs::remove_dir_all(&directory).await;
        self.inner.store.write(move |tx| tx.forget_retired(&uid)).await
    }

    /// Removes packages that nothing names, and what is left of packing that was cut short.
    async fn forget_packages(&self) -> Result<(), StoreError> {
        let packages = self.inner.directories.packages();
        // All of it in one transaction: nothing is named meanwhile.
        let work = move |tx: &Tx<'_>| {
            let old = old_files(&packages);
            let named = if old.is_empty() { Default::default() } else { tx.named_digests()? };
            for path in old {
                let digest = path.file_stem().map(|stem| Digest::from(stem.to_string_lossy().into_owned()));
                // Whoever is about to name it has made it count as new.
                if digest.is_some_and(|digest| !named.contains(&digest)) && is_old(&path) {
                    match std::fs::remove_file(&path) {
                        Ok(()) => {
                            tracing::info!(package = %path.display(), "nothing names it; it is removed")
                        }
                        Err(error) => {
                            tracing::warn!(package = %path.display(), %error, "nothing names it, and it stays");
                        }
                    }
                }
            }
            Ok(())
        };
        self.inner.store.read(work).await
    }
}

/// The files of a directory that have not been written or asked for lately.
fn old_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_old(path)).collect()
}

fn is_old(path: &Path) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    let age = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    metadata.is_file() && age.is_some_and(|age| age > UNNAMED)
}
