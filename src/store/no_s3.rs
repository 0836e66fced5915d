//! Object storage, where this program was built without it.

use tokio::io::AsyncRead;

use super::{Contents, PlaceError};
use crate::api::bucket::BucketAddress;
use crate::api::ids::Digest;

fn without(address: &BucketAddress) -> PlaceError {
    PlaceError::Failed(format!("{address}: this rayconcile was built without S3 (its feature `s3`)"))
}

pub(crate) async fn holds(address: &BucketAddress, _digest: &Digest, _size: u64) -> Result<bool, PlaceError> {
    Err(without(address))
}

pub(crate) async fn write(
    address: &BucketAddress,
    _size: u64,
    _digest: Option<&Digest>,
    _contents: impl AsyncRead + Send + Unpin,
) -> Result<(), PlaceError> {
    Err(without(address))
}

pub(crate) async fn put(address: &BucketAddress, _contents: Vec<u8>) -> Result<(), PlaceError> {
    Err(without(address))
}

pub(crate) async fn last(
    directory: &BucketAddress,
    _behind: &str,
) -> Result<Option<(String, u64)>, PlaceError> {
    Err(without(directory))
}

pub(super) async fn read(address: &BucketAddress) -> Result<Contents, PlaceError> {
    Err(without(address))
}

pub(super) async fn remove(address: &BucketAddress) -> Result<(), PlaceError> {
    Err(without(address))
}
