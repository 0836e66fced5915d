//! Git: repositories that are fetched, with and without credentials, and directories that are work trees.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::{cluster, generation, job, see, see_source, source, state, told, watching};
use crate::world::World;

/// `me:s3cret`, as a browser would send it.
const BASIC: &str = "Basic bWU6czNjcmV0";

/// Where git is, if it is anywhere.
fn git_program() -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&paths)
        .map(|path| path.join("git"))
        .find(|path| path.exists())
        .expect("git is in PATH")
}

/// Has the controller find git too.
fn bring_git(world: &World) {
    fs::create_dir_all(world.path("bin")).unwrap();
    symlink(git_program(), world.path("bin/git")).unwrap();
}

/// Runs git in a directory of a world, as nobody in particular.
fn git(world: &World, directory: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(git_program());
    command
        .current_dir(world.path(directory))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", world.path("."));
    command.args(["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn commit(world: &World, subject: &str) -> String {
    git(world, "work", &["add", "-A"]);
    git(world, "work", &["commit", "--quiet", "--allow-empty", "-m", subject]);
    git(world, "work", &["rev-parse", "--short", "HEAD"])
}

/// A repository with a program and a job of it in `prod`, and something else beside.
fn repository(world: &World) -> String {
    world.write(
        "work/prod/jobs/one.yaml",
        &job("one", "  workingDir: ../../program\n  entrypoint: main.py\n"),
    );
    world.write("work/prod/lab.yaml", &cluster("lab", ""));
    world.write("work/program/main.py", "print(1)\n");
    world.write("work/test/other.yaml", &cluster("other", ""));
    git(world, "work", &["init", "--quiet"]);
    commit(world, "First")
}

fn said(revision: &Value, commit: &str, subject: &str) -> bool {
    revision["commit"] == commit && revision["subject"] == subject
}

#[test]
fn a_repository_is_followed() {
    let world = World::new();
    bring_git(&world);
    let first = repository(&world);
    let url = format!("file://{}", world.path("work").display());
    world.start(&["--repo", &url, "--branch", "main", "--path", "prod", "--interval", "200ms"]);
    let job_is = |what: &str, wanted: u64| see(&world, "job", "one", what, |job| generation(job) == wanted);
    let one = job_is("is there", 1);
    assert!(one["spec"]["workingDirDigest"].is_string(), "{one:#}");
    let name = format!("{url}#main:prod");
    assert_eq!(one["metadata"]["annotations"]["rayconcile.dev/source"], name.as_str());
    see_source(&world, "#main:prod", "is well", |source| state(source) == "Synced" && source["objects"] == 2);
    let page = world.ok(&["sync", "status"]);
    assert!(page.contains(&format!("repository {name}   Synced")), "{page}");
    assert!(page.contains(&format!("main at {first} \"First\"\n  fetched 0s ago")), "{page}");

    // A new program in a new commit. A git that was killed has left its lock.
    let repositories = |world: &World| -> Vec<PathBuf> {
        fs::read_dir(world.path("state/repos")).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    fs::write(repositories(&world)[0].join("git/shallow.lock"), "").unwrap();
    world.write("work/program/main.py", "print(2)\n");
    let second = commit(&world, "Second");
    let two = job_is("has the new program", 2);
    assert_eq!(one["spec"]["workingDir"], two["spec"]["workingDir"]);
    see_source(&world, "prod", "tells it", |source| said(&source["revision"], &second, "Second"));

    // History written anew.
    git(&world, "work", &["reset", "--quiet", "--hard", "HEAD~1"]);
    world.write("work/.gitmodules", "");
    commit(&world, "Otherwise");
    job_is("is as at first", 3);
    world.wait_page(&["sync", "status"], &["\"Otherwise\"", "its submodules are not fetched"]);

    // Without its branch, what was there stays in force.
    git(&world, "work", &["branch", "--quiet", "-m", "renamed"]);
    see_source(&world, "prod", "cannot be fetched", |source| {
        state(source) == "Failed" && source["fetch"]["error"] == "the repository has no branch main"
    });
    assert_eq!(generation(&world.get("job", "one")), 3);
    git(&world, "work", &["branch", "--quiet", "-m", "main"]);
    fs::remove_file(world.path("work/prod/jobs/one.yaml")).unwrap();
    commit(&world, "Without the job");
    world.ok(&["sync", "now"]);
    see(&world, "job", "one", "is gone", Value::is_null);

    // Old revisions are not kept; what is not watched any more is not either.
    let revisions = fs::read_dir(repositories(&world)[0].join("revisions")).unwrap().count();
    assert!(revisions <= 2, "{revisions} revisions are kept");
    world.kill();
    world.start(&[]);
    assert_eq!(repositories(&world), Vec::<PathBuf>::new());
    world.finish();
}

#[test]
fn a_host_that_does_not_answer_holds_up_nothing() {
    let world = World::new();
    bring_git(&world);
    let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a.git", host.local_addr().unwrap());
    fs::create_dir(world.path("watched")).unwrap();
    world.start(&["--repo", &url, "--watch", "watched"]);
    let asking = |world: &World| {
        let mut command = world.command(&["sync", "now", "a.git#HEAD"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let first = asking(&world);
    // It is fetched, and will be for long; yet the source does what it is asked.
    let (_connection, _) = host.accept().unwrap();
    world.ok(&["sync", "pause", "a.git#HEAD"]);
    let said = crate::world::said(&first.wait_with_output().unwrap());
    assert!(said.code == 1 && said.err.contains("is paused"), "{said:?}");
    world.ok(&["sync", "resume", "a.git#HEAD"]);
    // What it may have is not known: nothing else goes for that.
    world.write("watched/lab.yaml", &cluster("lab", ""));
    world.write("watched/other.yaml", &cluster("other", ""));
    see(&world, "cluster", "lab", "is there", |cluster| generation(cluster) == 1);
    fs::remove_file(world.path("watched/lab.yaml")).unwrap();
    see_source(&world, "watched", "waits", |source| {
        source["pendingPrune"]["reason"]
            == format!("{url}#HEAD could not be looked at yet, and may have them").as_str()
    });
    let mut second = asking(&world);
    world.stop();
    second.wait().unwrap();
}

/// Serves repositories as a host of them does.
struct Host {
    root: PathBuf,
}

impl Respond for Host {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let header =
            |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
        if header("authorization") != BASIC {
            return ResponseTemplate::new(401).insert_header("WWW-Authenticate", "Basic realm=\"git\"");
        }
        let mut command = Command::new(git_program());
        command.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("GIT_PROJECT_ROOT", &self.root).env("GIT_HTTP_EXPORT_ALL", "1");
        command.env("PATH_INFO", request.url.path()).env("QUERY_STRING", request.url.query().unwrap_or(""));
        command.env("REQUEST_METHOD", request.method.as_str()).env("CONTENT_TYPE", header("content-type"));
        command.env("HTTP_CONTENT_ENCODING", header("content-encoding"));
        command.env("GIT_PROTOCOL", header("git-protocol"));
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&request.body).unwrap();
        let answer = child.wait_with_output().unwrap().stdout;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let mut response = ResponseTemplate::new(200).set_body_bytes(&answer[end + 4..]);
        for line in String::from_utf8_lossy(&answer[..end]).lines() {
            let (name, value) = line.split_once(": ").unwrap();
            assert_ne!(name, "Status", "{value}");
            response = response.insert_header(name, value);
        }
        response
    }
}

#[test]
fn credentials_come_from_the_environment_and_are_told_to_nobody() {
    let world = World::new();
    bring_git(&world);
    repository(&world);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(MockServer::start());
    runtime.block_on(server.register(Mock::given(any()).respond_with(Host { root: world.path(".") })));
    let url = format!("{}/work/.git", server.uri());
    let options = ["--repo", &format!("{url}#main:prod")];

    // Wrong ones: it is said, and not which.
    let wrong = [("RAYCONCILE_GIT_USERNAME", "me"), ("RAYCONCILE_GIT_PASSWORD", "wr0ngsecret")];
    world.start_with(&options, &wrong);
    let failed =
        see_source(&world, "prod", "cannot be fetched", |source| source["fetch"]["error"].is_string());
    let error = failed["fetch"]["error"].as_str().unwrap();
    assert!(error.contains("Authentication failed") && error.contains(&url), "{error}");
    assert_eq!(failed["objects"], 0);
    world.kill();

    // The right ones, though the address has others in front of it that are somebody else's.
    world.start_with(&options, &[("RAYCONCILE_GIT_USERNAME", "me"), ("RAYCONCILE_GIT_TOKEN", "s3cret")]);
    see(&world, "job", "one", "is there", |job| generation(job) == 1);
    let shown =
        [world.log(), world.ok(&["sync", "status", "-o", "json"]), all_text(&world.path("state/repos"))];
    world.kill();

    // In the address itself they work too, with a warning, and are shown nowhere else.
    let inside = format!("{}#main:prod", url.replace("http://", "http://me:s3cret@"));
    world.start(&["--repo", &inside]);
    see_source(&world, "prod", "is well", |source| {
        state(source) == "Synced" && !source["fetch"]["at"].is_null()
    });
    assert_eq!(source(&world, "prod")["directory"], format!("{url}#main:prod").as_str());
    assert!(world.log().contains("RAYCONCILE_GIT_TOKEN"), "whoever starts it is warned");
    for text in shown.iter().chain([&world.log(), &world.ok(&["status"])]) {
        assert!(!text.contains("s3cret") && !text.contains("wr0ngsecret"), "{text}");
    }
    world.kill();
    world.start(&[]);
    world.finish();
}

/// Stands for ssh and the host that it reaches: who has the key is let in, and nobody is asked anything.
const SSH: &str = r#"#!/bin/sh
{ echo "$@"; env | grep -e ASKPASS -e PROMPT; } >>"$0.said"
while getopts i:o:p: option; do [ $option = i ] && key=$OPTARG; done
shift $((OPTIND - 1))
cmp -s "$key" "${0%/*}/authorised" || { echo "$1: Permission denied (publickey)." >&2; exit 255; }
exec sh -c "git ${2#git-}"
"#;

#[test]
fn over_ssh_a_key_comes_from_the_environment() {
    let world = World::new();
    bring_git(&world);
    let first = repository(&world);
    let ssh = world.write_program("bin/ssh", SSH);
    world.write("bin/authorised", "the key");
    world.write("wrong", "another key");
    world.write("right", "the key");
    let url = format!("ssh://git@host.invalid:2222{}/.git", world.path("work").display());
    let start = |key: &str| {
        let command = format!("{} -i {}", ssh.display(), world.path(key).display());
        world.start_with(&["--repo", &format!("{url}#main:prod")], &[("GIT_SSH_COMMAND", &command)]);
    };
    // A key that is refused is told of; it is not tried again at once, and nobody is asked for another.
    start("wrong");
    let failed = see_source(&world, "prod", "cannot be fetched", |source| state(source) == "Failed");
    let error = failed["fetch"]["error"].as_str().unwrap();
    assert!(error.starts_with("git@host.invalid: Permission denied (publickey)."), "{error}");
    let next: jiff::Timestamp = failed["fetch"]["next"].as_str().unwrap().parse().unwrap();
    assert!(next.duration_since(jiff::Timestamp::now()).as_secs() >= 2, "{failed:#}");
    let asked = fs::read_to_string(world.path("bin/ssh.said")).unwrap();
    let arguments: Vec<&str> = asked.lines().filter(|line| line.contains("upload-pack")).collect();
    assert!(arguments.len() == 1 && arguments[0].contains("-p 2222 git@host.invalid"), "{asked}");
    for line in ["GIT_TERMINAL_PROMPT=0", "SSH_ASKPASS=false", "SSH_ASKPASS_REQUIRE=force"] {
        assert!(asked.lines().any(|said| said == line), "{asked}");
    }
    // Another controller has no news of it.
    world.kill();
    start("wrong");
    see_source(&world, "prod", "cannot be fetched", |source| state(source) == "Failed");
    let event = told(&world, "source/prod", "FetchFailed");
    let is_once = event.lines().count() == 1 && !event.contains('×');
    assert!(is_once && event.contains(&format!("it cannot be fetched: {error}")), "{event}");
    world.kill();

    start("right");
    see(&world, "job", "one", "is there", |job| generation(job) == 1);
    see_source(&world, "prod", "is well", |source| {
        state(source) == "Synced" && said(&source["revision"], &first, "First")
    });
    world.kill();
    world.start(&[]);
    world.finish();
}

#[test]
fn what_git_waits_for_ends_with_the_controller() {
    let world = World::new();
    bring_git(&world);
    // As ssh does for as long as its host is silent.
    let ssh = world.write_program("bin/ssh", "#!/bin/sh\necho $$ >\"$0.pid\"\nexec sleep 1000\n");
    let environment = [("GIT_SSH_COMMAND", ssh.to_str().unwrap())];
    world.start_with(&["--repo", "ssh://git@host.invalid/a.git"], &environment);
    let pid = world.wait("it is fetched", || {
        let text = fs::read_to_string(world.path("bin/ssh.pid")).ok()?;
        text.ends_with('\n').then(|| text.trim().to_owned())
    });
    let is_there =
        || fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("sleep"));
    assert!(is_there());
    world.stop();
    world.wait("it has ended", || (!is_there()).then_some(()));
}

/// The text of all files below a directory.
fn all_text(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => text.push_str(&all_text(&entry.path())),
            kind if kind.is_file() => {
                text.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).unwrap()))
            }
            _ => {}
        }
    }
    text
}

#[test]
fn a_work_tree_tells_its_revision() {
    let world = World::new();
    bring_git(&world);
    let first = repository(&world);
    world.start(&["--watch", "work/prod"]);
    see_source(&world, "prod", "tells it", |source| {
        let revision = &source["revision"];
        said(revision, &first, "First") && revision["branch"] == "main" && revision["dirty"] == false
    });
    world.write("work/prod/lab.yaml", &cluster("lab", "  head: {labels: {a: b}}\n"));
    see_source(&world, "prod", "is dirty", |source| source["revision"]["dirty"] == true);
    world.wait_page(&["sync", "status"], &["\"First\", with changes that are not committed"]);
    let second = commit(&world, "Second");
    see_source(&world, "prod", "is clean", |source| {
        said(&source["revision"], &second, "Second") && source["revision"]["dirty"] == false
    });
    git(&world, "work", &["checkout", "--quiet", "-b", "other"]);
    see_source(&world, "prod", "is on another branch", |source| source["revision"]["branch"] == "other");
    // Without git, the files tell what they can.
    world.kill();
    fs::remove_file(world.path("bin/git")).unwrap();
    let nowhere = world.path("bin").display().to_string();
    world.start_with(&["--watch", "work/prod"], &[("PATH", &nowhere)]);
    see_source(&world, "prod", "tells it", |source| {
        source["revision"]["branch"] == "other"
            && second.starts_with(source["revision"]["commit"].as_str().unwrap_or("x"))
    });
    let mut command =
        world.command(&["controller", "--repo", "https://example.com/a", "--state-dir", "another"]);
    let said = crate::world::said(&command.env("PATH", nowhere).output().unwrap());
    assert!(said.code == 1 && said.err.contains("hint: install git"), "{said:?}");
    world.write("work/prod/x/.keep", "");
    fs::remove_dir_all(world.path("work/prod")).unwrap();
    see_source(&world, "prod", "has vanished", |source| source["objects"] == 0);
    world.finish();
}

#[test]
fn a_burst_of_commits_is_taken_together() {
    const COMMITS: u64 = 30;
    let world = World::new();
    repository(&world);
    world.start(&["--watch", "work/prod"]);
    see(&world, "cluster", "lab", "is there", |lab| generation(lab) == 1);
    let began = Instant::now();
    let (mut last, mut pauses) = (began, 0);
    for number in 1..=COMMITS {
        world.write(
            "work/prod/lab.yaml",
            &cluster("lab", &format!("  head: {{labels: {{n: '{number}'}}}}\n")),
        );
        commit(&world, "Again");
        // On a busy machine it may be quiet for so long in between that each is one of its own.
        pauses += u64::from(last.elapsed() > Duration::from_millis(50));
        last = Instant::now();
    }
    let seconds = began.elapsed().as_secs();
    let latest = COMMITS.to_string();
    let lab = see(&world, "cluster", "lab", "is as the last one says", |lab| {
        lab["spec"]["head"]["labels"]["n"] == latest.as_str()
    });
    let looks = generation(&lab) - 1;
    assert!(looks <= 2 + seconds + 2 * pauses, "{looks} looks in {seconds} s with {pauses} pauses");
    fs::remove_dir_all(world.path("work/prod")).unwrap();
    see_source(&world, "prod", "has vanished", |source| source["objects"] == 0);
    world.finish();
}

#[test]
fn a_directory_that_is_no_work_tree_tells_none() {
    let world = watching(&["watched"]);
    world.write("watched/lab.yaml", &cluster("lab", ""));
    let seen = see_source(&world, "watched", "is well", |source| source["objects"] == 1);
    assert_eq!(seen["revision"], Value::Null);
    for (wrong, message) in [
        (&["--repo", "file:///a#main:../x"][..], "leads out of the repository"),
        (&["--branch", "main"][..], "--repo"),
        (&["--repo", "ssh://git:s3cret@host/a"][..], "ssh://... has a password that nobody asks for"),
        (&["--max-prune", "half"][..], "a share is written as 50%"),
        (&["--watch-poll", "0s"][..], "longer than nothing"),
    ] {
        let said = world.run(&[&["controller", "--state-dir", "another"][..], wrong].concat());
        assert!(said.code == 2 && said.err.contains(message), "{said:?}");
    }
    super::finish(world, &["watched"]);
}
