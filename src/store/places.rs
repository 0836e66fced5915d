//! Where large things are kept for good: files of this machine, and objects in buckets.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use tokio::io::AsyncRead;

use crate::action::{EffectError, ErrorKind};
use crate::api::bucket::BucketAddress;

#[cfg(not(feature = "s3"))]
#[path = "no_s3.rs"]
pub mod s3;
#[cfg(feature = "s3")]
#[path = "s3.rs"]
pub mod s3;

/// What is read from a place, piece by piece.
pub type Contents = Pin<Box<dyn AsyncRead + Send>>;

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file of this machine.
    File(PathBuf),
    /// An object in a bucket.
    Object(BucketAddress),
}

/// Why something cannot be had from a place, or put there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It is not there, although the place can be seen.
    #[error("there is no {0}")]
    Missing(String),
    /// It is not what it should be.
    #[error("{0}")]
    Spoilt(String),
    /// Whether it is there, or was put there, cannot be told.
    #[error("{0}")]
    Failed(String),
}

/// Only what is surely not there, or surely not what it should be, says anything of a checkpoint.
impl From<PlaceError> for EffectError {
    fn from(error: PlaceError) -> Self {
        let kind = match error {
            PlaceError::Missing(_) | PlaceError::Spoilt(_) => ErrorKind::Unreadable,
            PlaceError::Failed(_) => ErrorKind::Unavailable,
        };
        Self { kind, message: error.to_string() }
    }
}

impl Place {
    /// The place that a record names: an address, or a file, of the state directory unless its path is absolute.
    pub fn of(state: &Path, text: &str) -> Self {
        text.parse().map_or_else(|_| Self::File(state.join(text)), Self::Object)
    }

    /// What is there, from its beginning.
    ///
    /// # Errors
    /// If nothing is there, or it cannot be read.
    pub async fn read(&self) -> Result<Contents, PlaceError> {
        match self {
            Self::File(path) => match tokio::fs::File::open(path).await {
                Ok(file) => Ok(Box::pin(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(PlaceError::Missing(path.display().to_string()))
                }
                Err(error) => Err(PlaceError::Failed(format!("cannot read {}: {error}", path.display()))),
            },
            Self::Object(address) => s3::read(address).await,
        }
    }

    /// Removes what is there, if anything is.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub async fn remove(&self) -> Result<(), PlaceError> {
        match self {
            Self::File(path) => match tokio::fs::remove_file(path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(PlaceError::Failed(format!("cannot remove {}: {error}", path.display())))
                }
                _ => Ok(()),
            },
            Self::Object(address) => s3::remove(address).await,
        }
    }
}
