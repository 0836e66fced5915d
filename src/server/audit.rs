//! Who changed what, and who tried: a line of JSON for each request that writes. Never a body, never a token.

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

use super::access::{Caller, From, is_question};
use crate::api::meta::ObjectKey;

/// When a file is full.
const FILE_BYTES: u64 = 16 << 20;
/// How many full files are kept.
const FILES: u32 = 4;
/// Nobody's name, address or program needs to be longer.
const LONGEST: usize = 512;

/// The log of writes.
#[derive(Clone)]
pub(super) struct Audit {
    path: Arc<PathBuf>,
    file: Arc<Mutex<Option<File>>>,
    largest: u64,
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
    dry_run: bool,
    code: u16,
}

/// What the address of a request does not say: which object was made, whether it was only tried.
#[derive(Clone)]
pub(super) struct About {
    /// The object.
    pub(super) key: ObjectKey,
    /// Whether nothing was to be changed.
    pub(super) dry_run: bool,
}

impl Entry {
    /// What is to be noted of a request; nothing of one that only asks.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let verb = match *request.method() {
            Method::GET | Method::HEAD | Method::OPTIONS => return None,
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        let path = request.uri().path();
        if is_question(path) {
            return None;
        }
        let client = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        let short = |text: &str| text.chars().take(LONGEST).collect::<String>();
        Some(Self {
            time: Timestamp::now(),
            who: None,
            source: request.extensions().get::<From>().map(|From(address)| address.to_string()),
            client: client.map(short),
            verb,
            path: short(path),
            object: None,
            dry_run: request.uri().query().is_some_and(|query| query.contains("dryRun=All")),
            code: 0,
        })
    }
}

impl Entry {
    /// The same, with who asked and what came of it.
    pub(super) fn answered(mut self, caller: Option<&Caller>, response: &Response) -> Self {
        self.who = caller.map(|caller| caller.name.clone());
        if let Some(About { key, dry_run }) = response.extensions().get() {
            self.object = Some(key.to_string());
            self.dry_run |= dry_run;
        }
        self.code = response.status().as_u16();
        self
    }
}

impl Audit {
    /// The log in a state directory.
    pub(super) fn new(state: &Path) -> Self {
        let path = Arc::new(state.join("audit.log"));
        Self { path, file: Arc::default(), largest: FILE_BYTES }
    }

    /// Notes what came of a request.
    pub(super) async fn note(&self, entry: Entry) {
        let audit = self.clone();
        let written = tokio::task::spawn_blocking(move || audit.write(&entry)).await;
        if let Ok(Err(error)) = written {
            tracing::error!(path = %self.path.display(), %error, "cannot note a write in the audit log");
        }
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
            *file = Some(File::options().create(true).append(true).mode(0o600).open(&*self.path)?);
        }
        file.as_mut().map_or(Ok(()), |file| file.write_all(&line))
    }

    fn rotate(&self) -> std::io::Result<()> {
        let numbered = |number: u32| self.path.with_extension(format!("log.{number}"));
        for number in (1..FILES).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&*self.path, numbered(1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit { largest: 400, ..Audit::new(directory.path()) };
        for number in 0..50 {
            let request = Request::post(format!("/a/{number}?dryRun=All")).body(axum::body::Body::empty());
            audit.write(&Entry::of(&request.unwrap()).unwrap()).unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3", "audit.log.4"]);
        let newest = fs::read_to_string(directory.path().join("audit.log")).unwrap();
        assert!(newest.contains("\"path\":\"/a/49\"") && newest.contains("\"dryRun\":true"), "{newest}");
    }
}
