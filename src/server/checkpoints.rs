//! Checkpoints that are here, and packages that come in.

use std::io;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures_util::StreamExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::audit::About;
use super::error::ApiError;
use super::{Api, MAX_PACKAGE, objects};
use crate::api::ids::{CheckpointId, Digest};
use crate::api::meta::ObjectKey;
use crate::api::record::CheckpointRecord;
use crate::manifest::keep_package;
use crate::store::blocking;
use crate::store::places::{Place, PlaceError};

async fn checkpoints(api: &Api, key: ObjectKey) -> Result<Vec<CheckpointRecord>, ApiError> {
    let uid = match objects::job(api, &key).await {
        Ok(job) => job.metadata.uid,
        // Of a deleted job they are kept for a while.
        Err(missing) => {
            let retired = api.store.read(|tx| tx.retired()).await?;
            retired.into_iter().rev().find(|(_, of, _)| *of == key).map(|(uid, ..)| uid).ok_or(missing)?
        }
    };
    Ok(api.store.read(move |tx| tx.checkpoints(&uid)).await?)
}

pub(super) async fn list(
    State(api): State<Api>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let checkpoints = checkpoints(&api, ObjectKey::new(namespace, name)).await?;
    Ok(Json(json!({"items": checkpoints})).into_response())
}

/// A checkpoint's archive, as a tar.
pub(super) async fn get(
    State(api): State<Api>,
    Path((namespace, name, id)): Path<(String, String, String)>,
) -> Result<Response, ApiError> {
    let wanted: CheckpointId =
        id.parse().map_err(|()| ApiError::bad_request("a checkpoint's id is GROUP-NUMBER"))?;
    let key = ObjectKey::new(namespace, name);
    let found = checkpoints(&api, key.clone()).await?.into_iter().find(|checkpoint| checkpoint.id == wanted);
    let checkpoint = found.ok_or_else(|| ApiError::not_found(format!("{key} has no checkpoint {wanted}")))?;
    let contents = Place::of(&api.state, &checkpoint.path).read().await;
    let contents = contents.map_err(|error| match error {
        PlaceError::Missing(_) => ApiError::not_found(error.to_string()),
        _ => ApiError::internal(error.to_string()),
    })?;
    let length = checkpoint.size.0.to_string();
    let headers = [
        ("content-type", "application/x-tar".to_owned()),
        ("content-length", length),
        ("x-digest", checkpoint.digest.0.into()),
    ];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(contents, 1 << 20))).into_response())
}

fn package_path(api: &Api, digest: &str) -> Result<std::path::PathBuf, ApiError> {
    if digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()) {
        return Err(ApiError::bad_request("a package is named by its SHA-256"));
    }
    Ok(api.state.join("packages").join(format!("{digest}.zip")))
}

pub(super) async fn has_package(
    State(api): State<Api>,
    Path(digest): Path<String>,
) -> Result<Response, ApiError> {
    package_path(&api, &digest)?;
    if keep_package(&api.state.join("packages"), &Digest::from(digest.clone())) {
        Ok(StatusCode::OK.into_response())
    } else {
        Err(ApiError::not_found(format!("there is no package {digest}")))
    }
}

/// Keeps a package, as it comes: none is held in memory.
pub(super) async fn put_package(
    State(api): State<Api>,
    Path(digest): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let path = package_path(&api, &digest)?;
    let unkept = |error: io::Error| ApiError::internal(format!("the package cannot be kept: {error}"));
    let directory = api.state.join("packages");
    let begin = move || {
        std::fs::create_dir_all(&directory)?;
        tempfile::NamedTempFile::new_in(directory)
    };
    let (file, temporary) = blocking(begin).await.map_err(unkept)?.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let (mut chunks, mut hash, mut size) = (body.into_data_stream(), Sha256::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|error| ApiError::bad_request(format!("the package breaks off: {error}")))?;
        size += chunk.len();
        if size > MAX_PACKAGE {
            return Err(ApiError::too_large(format!("a package has at most {MAX_PACKAGE} bytes")));
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(unkept)?;
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != digest {
        return Err(ApiError::bad_request(format!("the package's digest is {found}, not {digest}")));
    }
    file.flush().await.map_err(unkept)?;
    file.sync_all().await.map_err(unkept)?;
    blocking(move || temporary.persist(path)).await.map_err(|error| unkept(error.error))?;
    let about = Extension(About::of(format!("package of {size} bytes")));
    Ok((StatusCode::CREATED, about).into_response())
}
