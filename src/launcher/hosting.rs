//! The Ray jobs that attend to training jobs on the head: submitted, listed, submitted again, and asked.

use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::probe::patiently;
use super::program::{Program, ProgramError, entrypoint};
use crate::action::EffectError;
use crate::api::object::AdaptDLJob;
use crate::provider::ray::dashboard::Dashboard;
use crate::provider::ray::jobs::{ListedJob, Submission};
use crate::provider::ray::package::{self, Package};
use crate::provider::{rejected, unavailable};

/// What a Ray job of ours is remembered with: whose it is, which try, and the packages it was started with.
const JOB: &str = "rayconcile-job";
const ATTEMPT: &str = "rayconcile-attempt";
const PROGRAM: &str = "rayconcile-program";
const PACKAGE: &str = "rayconcile-package";

/// The name that the cluster has on its own head.
pub const HOSTED_CLUSTER: &str = "this";

/// The file of the package in which the job is.
const JOB_FILE: &str = "job.json";

/// How long an answer of the head may take.
const ASK_PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(300);

/// Exit codes by which the program ends of itself: done, failed, wrong arguments, interrupted. Any other means that
/// something else has ended it.
const OWN_EXIT_CODES: [i32; 4] = [0, 1, 2, 130];

/// A training job that a Ray job attends to.
#[derive(Clone, Debug)]
pub struct Hosted {
    /// The training job's name.
    pub name: String,
    /// The Ray jobs that have attended to it, the present one last; there is at least one.
    attempts: Vec<ListedJob>,
}

impl Hosted {
    /// The present Ray job.
    pub fn present(&self) -> &ListedJob {
        &self.attempts[self.attempts.len() - 1]
    }

    /// The id of the present Ray job.
    pub fn submission(&self) -> &str {
        self.present().submission_id.as_deref().unwrap_or_default()
    }

    /// When the first one began, in milliseconds since 1970.
    pub fn began(&self) -> Option<i64> {
        self.attempts[0].start_time
    }

    fn remembered(&self, key: &str) -> Option<&str> {
        remembered(self.present(), key)
    }
}

/// Whether a Ray job has ended without having brought its training job to an end.
pub fn has_died(job: &ListedJob) -> bool {
    job.has_ended() && !job.driver_exit_code.is_some_and(|code| OWN_EXIT_CODES.contains(&code))
}

fn remembered<'a>(job: &'a ListedJob, key: &str) -> Option<&'a str> {
    job.metadata.as_ref()?.get(key).map(String::as_str)
}

/// The training jobs that Ray jobs attend to, or have attended to; the newest last.
///
/// # Errors
/// If the dashboard cannot be asked.
pub async fn list(dashboard: &Dashboard) -> Result<Vec<Hosted>, EffectError> {
    Ok(grouped(dashboard.jobs().await?))
}

fn grouped(jobs: Vec<ListedJob>) -> Vec<Hosted> {
    let mut by_name: BTreeMap<String, Vec<ListedJob>> = BTreeMap::new();
    for job in jobs {
        if let Some(name) = remembered(&job, JOB).filter(|_| job.submission_id.is_some()) {
            by_name.entry(name.to_owned()).or_default().push(job);
        }
    }
    let mut found: Vec<Hosted> = by_name
        .into_iter()
        .map(|(name, mut attempts)| {
            attempts.sort_by_key(attempt);
            Hosted { name, attempts }
        })
        .collect();
    found.sort_by_key(Hosted::began);
    found
}

fn attempt(job: &ListedJob) -> u32 {
    remembered(job, ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The file of the head's logs in which the newest checkpoint of a job is that has ended.
pub fn checkpoint_file(name: &str) -> String {
    format!("rayconcile-{name}.tar")
}

/// Brings the program to the cluster, unless it is there. Gives the name of its package.
///
/// # Errors
/// If it is too large, or cannot be brought.
pub async fn bring(dashboard: &Dashboard, package: Package) -> Result<String, EffectError> {
    dashboard.ensure_package(&package.name, package.contents).await?;
    Ok(package.name)
}

/// Has the head attend to a job, whose working directory was packed into `packages`.
///
/// # Errors
/// If what it needs cannot be brought there, or the Ray job is refused.
pub async fn submit(
    dashboard: &Dashboard,
    program: &str,
    job: &AdaptDLJob,
    packages: &Path,
) -> Result<(), EffectError> {
    let package = pack(job, packages).map_err(|error| rejected(format!("cannot pack the job: {error}")))?;
    let package = bring(dashboard, package).await?;
    start(dashboard, &job.metadata.name, 1, program, Some(&package), false).await
}

/// Has the head attend to a job again: the Ray job that did has died, or the job was stopped and shall go on.
///
/// # Errors
/// If this program does not run on that head, or the Ray job is refused.
pub async fn submit_again(
    dashboard: &Dashboard,
    hosted: &Hosted,
    resume: bool,
    program: impl AsyncFnOnce() -> Result<Package, EffectError>,
) -> Result<(), EffectError> {
    // Ray forgets packages that nothing uses. What was run there before is known to run there.
    let program = match hosted.remembered(PROGRAM) {
        Some(name) if dashboard.has_package(name).await? => name.to_owned(),
        _ => bring(dashboard, program().await?).await?,
    };
    // If it died before it had taken the job over, it needs it again.
    let package = match hosted.remembered(PACKAGE) {
        Some(name) if dashboard.has_package(name).await? => Some(name),
        _ => None,
    };
    start(dashboard, &hosted.name, attempt(hosted.present()) + 1, &program, package, resume).await
}

async fn start(
    dashboard: &Dashboard,
    name: &str,
    attempt: u32,
    program: &str,
    package: Option<&str>,
    resume: bool,
) -> Result<(), EffectError> {
    let mut arguments = format!("attend {name}");
    let mut runtime_env = environment(program);
    let mut metadata = BTreeMap::from(
        [("started-by", "rayconcile"), (JOB, name), (ATTEMPT, &attempt.to_string()), (PROGRAM, program)]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    if let Some(package) = package {
        arguments.push_str(&format!(" --job {JOB_FILE}"));
        runtime_env["working_dir"] = package::uri(package).into();
        metadata.insert(PACKAGE.to_owned(), package.to_owned());
    }
    if resume {
        arguments.push_str(" --resume");
    }
    let id = format!("rayconcile-{name}-{attempt}");
    let job = Submission { id: &id, entrypoint: &entrypoint(&arguments), runtime_env, metadata };
    Ok(patiently(|| dashboard.submit_job(&job)).await?)
}

/// The runtime environment in which a program can be run.
fn environment(program: &str) -> Value {
    json!({"py_modules": [package::uri(program)]})
}

/// Has the program on the head do something with the state directory there, by the package that a job was started
/// with. Gives what it wrote.
///
/// # Errors
/// If it fails, or cannot be run.
pub async fn ask(dashboard: &Dashboard, hosted: &Hosted, arguments: &str) -> Result<String, EffectError> {
    let program = hosted.remembered(PROGRAM).ok_or_else(|| rejected("it is not known by which program"))?;
    let id = format!("rayconcile-ask-{}", Uuid::new_v4().simple());
    let job = Submission {
        id: &id,
        entrypoint: &entrypoint(arguments),
        runtime_env: environment(program),
        metadata: BTreeMap::from([("started-by".to_owned(), "rayconcile".to_owned())]),
    };
    patiently(|| dashboard.submit_job(&job)).await?;
    let deadline = Instant::now() + ASK_PATIENCE;
    let ended = loop {
        match dashboard.listed_job(&id).await {
            Ok(job) if job.has_ended() => break job,
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            _ if Instant::now() > deadline => return Err(unavailable("the head does not answer")),
            _ => tokio::time::sleep(PAUSE).await,
        }
    };
    let output = dashboard.output(&id).await.unwrap_or_default();
    // It is of no use to anybody any more.
    let _ = dashboard.forget_job(&id).await;
    if ended.driver_exit_code == Some(0) {
        return Ok(output);
    }
    let said = output.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned);
    Err(rejected(said.or(ended.message).unwrap_or_default().trim_start_matches("error: ")))
}

/// The package with a job, and its working directory's package.
fn pack(job: &AdaptDLJob, packages: &Path) -> zip::result::ZipResult<Package> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).unix_permissions(0o600);
    zip.start_file(JOB_FILE, stored)?;
    let value = crate::api::object::AnyObject::Job(Box::new(job.clone())).to_json();
    zip.write_all(value.to_string().as_bytes())?;
    if let Some(digest) = &job.spec.working_dir_digest {
        let name = format!("{digest}.zip");
        let contents = std::fs::read(packages.join(&name))?;
        zip.start_file(name, stored)?;
        zip.write_all(&contents)?;
    }
    let contents = zip.finish()?.into_inner();
    let digest: String = Sha256::digest(&contents).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Package { name: package::name(&digest), contents })
}

/// The program for a head that is known.
///
/// # Errors
/// If there is none that runs there.
pub fn program_for(head: &super::probe::Head) -> Result<Package, ProgramError> {
    let program = Program::find()?;
    program.check(head)?;
    program.pack()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, name: Option<&str>, attempt: &str, began: i64, code: Option<i32>) -> ListedJob {
        let metadata = name.map(|name| {
            BTreeMap::from([(JOB.to_owned(), name.to_owned()), (ATTEMPT.to_owned(), attempt.to_owned())])
        });
        ListedJob {
            submission_id: Some(id.to_owned()),
            status: if code.is_some() { "FAILED" } else { "RUNNING" }.to_owned(),
            message: None,
            metadata,
            start_time: Some(began),
            end_time: None,
            driver_exit_code: code,
            driver_node_id: None,
        }
    }

    #[test]
    fn the_tries_of_a_job_belong_together_and_others_do_not_count() {
        let found = grouped(vec![
            job("b-1", Some("b"), "1", 5, None),
            job("a-10", Some("a"), "10", 30, None),
            job("a-2", Some("a"), "2", 20, Some(-9)),
            job("theirs", None, "", 1, None),
            job("a-1", Some("a"), "1", 3, Some(137)),
        ]);
        let found: Vec<_> = found.iter().map(|hosted| (hosted.name.as_str(), hosted.submission())).collect();
        assert_eq!(found, [("a", "a-10"), ("b", "b-1")]);
    }

    #[test]
    fn what_was_killed_has_died_and_what_ended_of_itself_has_not() {
        for (code, died) in [
            (Some(-9), true),
            (Some(137), true),
            (Some(101), true),
            (Some(0), false),
            (Some(1), false),
            (Some(130), false),
        ] {
            assert_eq!(has_died(&job("a-1", Some("a"), "1", 0, code)), died, "{code:?}");
        }
        let mut stopped = job("a-1", Some("a"), "1", 0, None);
        assert!(!has_died(&stopped), "it runs");
        stopped.status = "STOPPED".to_owned();
        assert!(has_died(&stopped), "somebody else has stopped it");
    }
}
