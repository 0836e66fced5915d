//! A disk that is full: it is told, nothing is half done, and when there is room again all goes on.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use reqwest::Method;

use crate::world::{Api, RAYCONCILE, address, ends, suspended_cluster, wait};

/// A controller whose state directory is a disk of its own, a small one, which only it can see.
struct Cramped {
    directory: tempfile::TempDir,
    controller: Child,
}

impl Cramped {
    /// `None` where a user may have no disks of their own.
    fn new() -> Option<Self> {
        let may = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).output();
        if !may.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        fs::create_dir(directory.path().join("disk")).unwrap();
        let script = format!(
            "mount -t tmpfs -o size=1500k,mode=700 none disk && exec {RAYCONCILE} --state-dir disk/state controller"
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Some(Self { controller: command.spawn().unwrap(), directory })
    }

    /// A path on the disk, as it can be reached from outside.
    fn disk(&self, name: &str) -> PathBuf {
        let inside = self.directory.path().join("disk").join(name);
        PathBuf::from(format!("/proc/{}/root{}", self.controller.id(), inside.display()))
    }
}

impl Drop for Cramped {
    fn drop(&mut self) {
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}

#[test]
fn a_full_disk_is_told_of_and_survived() {
    let Some(mut cramped) = Cramped::new() else { return };
    let api = wait(|| Api::of(&cramped.disk("state"))).expect("the controller did not start");
    let put = |name: &str| api.put(Method::POST, &address("rayclusters", ""), &suspended_cluster(name));
    assert_eq!(put("before").code, 201);

    let filler = cramped.disk("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let refused =
        wait(|| (0..50).map(|number| put(&format!("full{number}"))).find(|answer| answer.code != 201));
    let refused = refused.expect("everything was kept");
    assert_eq!((refused.code, &refused.body["reason"]), (507, &"InsufficientStorage".into()), "{refused:?}");
    let message = refused.body["message"].as_str().unwrap();
    assert!(
        message.starts_with("no space is left for the database") && message.ends_with("rayconcile.db"),
        "{message}"
    );
    // What is there can be read, and what was refused is not there.
    let there = api.get(&address("rayclusters", "")).body["items"].as_array().unwrap().clone();
    let last = there.last().unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(api.get(&address("rayclusters", &last)).code, 200);

    drop(file);
    fs::remove_file(&filler).unwrap();
    assert_eq!(put("after").code, 201);
    assert_eq!(api.get(&address("rayclusters", "")).body["items"].as_array().unwrap().len(), there.len() + 1);
    assert_eq!(cramped.controller.try_wait().unwrap(), None);
    crate::world::terminate(cramped.controller.id());
    assert!(ends(&mut cramped.controller).is_some_and(|status| status.success()));
}
