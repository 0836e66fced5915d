//! Checkpoints between an agent and a disk, when one of the two is not what it should be.

use std::fs;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use rayconcile::action::{EffectError, ErrorKind};
use rayconcile::api::ids::{CheckpointId, Digest, GroupNumber, Uid};
use rayconcile::api::meta::ObjectKey;
use rayconcile::api::record::CheckpointRecord;
use rayconcile::api::units::Bytes;
use rayconcile::provider::ray::agent::AgentClient;
use rayconcile::store::places::Place;
use sha2::{Digest as _, Sha256};
use wiremock::matchers::{method, path_regex};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

/// In a process of its own: the directory of a small disk that only it can see.
const DISK: &str = "RAYCONCILE_TEST_DISK";

fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn uid() -> Uid {
    Uid::from("u".to_owned())
}

/// An agent that has one blob, and takes only what is what its digest says, as ours does.
async fn agent(blob: &[u8]) -> (MockServer, AgentClient) {
    let server = MockServer::start().await;
    let blobs = || path_regex("^/v1/jobs/u/blobs/[0-9a-f]{64}$");
    let whole = ResponseTemplate::new(200).set_body_bytes(blob.to_vec());
    Mock::given(method("GET")).and(blobs()).respond_with(whole).mount(&server).await;
    let take = |request: &Request| match request.url.path().ends_with(sha256(&request.body).0.as_str()) {
        true => ResponseTemplate::new(200),
        false => ResponseTemplate::new(422).set_body_string("the digest is another"),
    };
    Mock::given(method("PUT")).and(blobs()).respond_with(take).mount(&server).await;
    let client = AgentClient::new(&server.uri(), "token".to_owned()).unwrap();
    (server, client)
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_blob_that_does_not_arrive_whole_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, agent) = agent(b"half").await;
    let wanted = sha256(b"all of it");
    let error = agent.fetch_blob(&uid(), &wanted, &directory.path().join("new.tar")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreadable);
    assert!(error.message.ends_with("did not arrive whole"), "{error}");
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

#[tokio::test]
async fn what_says_more_than_it_may_is_not_read_to_its_end() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let sent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let chunk = [&b"100000\r\n"[..], &[b'['; 1 << 20], b"\r\n"].concat();
        let mut sent = 0u64;
        // Until nobody reads any more: a gigabyte, if they go on.
        while sent < 1 << 30 && stream.write_all(&chunk).await.is_ok() {
            sent += 1 << 20;
        }
        sent
    });
    let agent = AgentClient::new(&address, "token".to_owned()).unwrap();
    let error = agent.state(-1, std::time::Duration::from_secs(1)).await.unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
    assert!(sent.await.unwrap() < 200 << 20);
}

#[tokio::test]
async fn a_checkpoint_of_ours_that_is_cut_short_spoilt_or_gone_is_unreadable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.tar");
    let (_server, agent) = agent(b"").await;
    let checkpoint = CheckpointRecord {
        id: CheckpointId { group: GroupNumber(1), number: 2 },
        digest: sha256(b"all of it"),
        size: Bytes(9),
        files: 1,
        steps: 10,
        save_ms: 5.0,
        saved: Timestamp::UNIX_EPOCH,
        path: path.display().to_string(),
    };
    let (uid, key) = (uid(), ObjectKey::new("default", "digits"));
    let send = async || {
        let contents = Place::of(Path::new("/"), &checkpoint.path).read().await?;
        agent.put_checkpoint(&uid, &key, 1, &checkpoint, contents).await
    };
    let unreadable = |result: Result<(), EffectError>, why: &str| {
        let error = result.unwrap_err();
        assert!(error.kind == ErrorKind::Unreadable && error.message.contains(why), "{error:?}");
    };
    unreadable(send().await, "there is no ");
    for spoilt in [&b""[..], b"all of", b"all of IT"] {
        fs::write(&path, spoilt).unwrap();
        unreadable(send().await, "the digest is another");
    }
    fs::write(&path, b"all of it").unwrap();
    send().await.unwrap();
    // A disk that cannot be read at the moment says nothing of the file.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_ne!(send().await.unwrap_err().kind, ErrorKind::Unreadable);
}

#[test]
fn a_checkpoint_for_which_there_is_no_room_is_fetched_when_there_is() {
    if let Some(disk) = std::env::var_os(DISK) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(fetch_without_room(Path::new(&disk)));
    }
    let directory = tempfile::tempdir().unwrap();
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(directory.path());
        command.env(DISK, directory.path()).output()
    };
    // Where a user may have no disks of their own this cannot be tried.
    if !unshare("true").is_ok_and(|output| output.status.success()) {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let name = "provider::a_checkpoint_for_which_there_is_no_room_is_fetched_when_there_is";
    let script =
        format!("mount -t tmpfs -o size=1m none \"$0\" && exec '{}' --exact {name}", program.display());
    let output = unshare(&script).unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn fetch_without_room(disk: &Path) {
    let directory = disk.join("jobs/j/checkpoints");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("old.tar"), [7; 400 << 10]).unwrap();
    let blob = vec![3; 800 << 10];
    let (_server, agent) = agent(&blob).await;
    let (digest, path) = (sha256(&blob), directory.join("new.tar"));
    let error = agent.fetch_blob(&uid(), &digest, &path).await.unwrap_err();
    // Tried again later: it may be better then.
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let place = directory.display().to_string();
    assert!(error.message.contains("No space left on device") && error.message.contains(&place), "{error}");
    assert_eq!(names(&directory), ["old.tar"]);
    assert_eq!(fs::read(directory.join("old.tar")).unwrap(), [7; 400 << 10]);
    fs::remove_file(directory.join("old.tar")).unwrap();
    agent.fetch_blob(&uid(), &digest, &path).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), blob);
}
