//! Who changed what, and who tried: a line of JSON for each request that writes. Never a body, never a token.
//!
//! Who has no token is in a file apart: however many tries there are, they push out nothing of what was done.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;
use axum::http::Method;
use axum::http::header::USER_AGENT;
use axum::response::Response;
use jiff::Timestamp;
use serde::Serialize;

use super::access::{Caller, From, route};
use super::rights::is_question;
use crate::api::meta::ObjectKey;

/// When a file is full.
const FILE_BYTES: u64 = 16 << 20;
/// How many full files are kept.
const FILES: u32 = 4;
/// How many of them of strangers.
const STRANGERS_FILES: u32 = 1;
/// Nobody's name, address or program needs to be longer.
const LONGEST: usize = 512;

/// The log of writes.
#[derive(Clone)]
pub(super) struct Audit {
    known: Arc<Log>,
    strangers: Arc<Log>,
}

/// A file that is put aside when it is full.
struct Log {
    path: PathBuf,
    file: Mutex<Option<File>>,
    largest: u64,
    kept: u32,
}

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    time: Timestamp,
    /// The name of the token; none if it opens nothing.
    who: Option<String>,
    source: Option<String>,
    client: Option<String>,
    verb: &'static str,
    path: String,
    /// What was made, where the address does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    /// What was done, where neither says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    /// Whether it was only tried, as whoever carried it out says. Of what was refused it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    code: u16,
}

/// What the address of a request does not say: what was done, and whether it was only tried. Whatever writes says it.
#[derive(Clone, Default)]
pub(super) struct About {
    /// The object.
    pub(super) key: Option<ObjectKey>,
    /// In words. Never a secret.
    pub(super) what: Option<String>,
    /// Whether nothing was to be changed.
    pub(super) dry_run: bool,
}

impl About {
    /// About an object.
    pub(super) fn object(key: ObjectKey, dry_run: bool) -> Self {
        Self { key: Some(key), what: None, dry_run }
    }

    /// About what is no object.
    pub(super) fn of(what: String) -> Self {
        Self { what: Some(what), ..Self::default() }
    }
}

impl Entry {
    /// What is to be noted of a request; nothing of one that only asks.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let verb = match *request.method() {
            _ if is_question(request.method(), route(request)) => return None,
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        let path = request.uri().path();
        let client = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        Some(Self {
            time: Timestamp::now(),
            who: None,
            source: request.extensions().get::<From>().map(|from| from.address.to_string()),
            client: client.map(short),
            verb,
            path: short(path),
            object: None,
            what: None,
            dry_run: None,
            code: 0,
        })
    }
}

impl Entry {
    /// The same, with who asked and what came of it.
    pub(super) fn answered(mut self, caller: Option<&Caller>, response: &Response) -> Self {
        self.who = caller.map(|caller| caller.name.clone());
        if let Some(About { key, what, dry_run }) = response.extensions().get() {
            self.object = key.as_ref().map(ToString::to_string);
            self.what = what.as_deref().map(short);
            self.dry_run = Some(*dry_run);
        }
        self.code = response.status().as_u16();
        self
    }
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl Audit {
    /// The log in a state directory.
    pub(super) fn new(state: &Path) -> Self {
        let log = |name: &str, kept| Arc::new(Log::new(state.join(name), kept));
        Self { known: log("audit.log", FILES), strangers: log("audit-strangers.log", STRANGERS_FILES) }
    }

    /// Notes what came of a request.
    pub(super) async fn note(&self, entry: Entry) {
        let log = Arc::clone(if entry.who.is_some() { &self.known } else { &self.strangers });
        let written = tokio::task::spawn_blocking(move || {
            log.write(&entry).inspect_err(|error| {
                tracing::error!(path = %log.path.display(), %error, "cannot note a write in the audit log");
            })
        });
        drop(written.await);
    }
}

impl Log {
    fn new(path: PathBuf, kept: u32) -> Self {
        Self { path, file: Mutex::default(), largest: FILE_BYTES, kept }
    }

    fn write(&self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have moved it away, as logrotate does.
        if !self.path.exists() {
            *file = None;
        }
        if let Some(open) = &*file
            && open.metadata()?.len() >= self.largest
        {
            self.rotate()?;
            *file = None;
        }
        if file.is_none() {
            *file = Some(File::options().create(true).append(true).mode(0o600).open(&self.path)?);
        }
        file.as_mut().map_or(Ok(()), |file| file.write_all(&line))
    }

    fn rotate(&self) -> std::io::Result<()> {
        let numbered = |number: u32| self.path.with_extension(format!("log.{number}"));
        for number in (1..self.kept).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, numbered(1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Log { largest: 400, ..Log::new(directory.path().join("audit.log"), FILES) };
        for number in 0..50 {
            let request =
                Request::post(format!("/a/{number}?fieldManager=dryRun=All")).body(axum::body::Body::empty());
            audit.write(&Entry::of(&request.unwrap()).unwrap()).unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3", "audit.log.4"]);
        let newest = fs::read_to_string(directory.path().join("audit.log")).unwrap();
        assert!(newest.contains("\"path\":\"/a/49\"") && !newest.contains("dryRun\":"), "{newest}");
    }
}
