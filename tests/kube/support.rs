//! kubectl, against the controller of a test's own.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::world::{Said, World, said};

/// A file that a make target installs.
pub(crate) fn installed(path: &str, target: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    assert!(path.exists(), "{} is not there: run `make {target}`", path.display());
    path
}

/// A world in which kubectl finds the controller.
pub(crate) struct Kube {
    world: World,
}

impl Deref for Kube {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Kube {
    /// A world whose controller has these arguments, and a kubeconfig for it.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let world = World::with_controller(arguments);
        let kubeconfig = world.ok(&["kubeconfig"]);
        world.write("kubeconfig", &kubeconfig);
        std::fs::create_dir_all(world.path("bin")).unwrap();
        std::os::unix::fs::symlink(crate::world::RAYCONCILE, world.path("bin/rayconcile")).unwrap();
        let kubectl = installed(".cache/kubectl/usr/bin/kubectl", "kubectl");
        std::os::unix::fs::symlink(kubectl, world.path("bin/kubectl")).unwrap();
        Self { world }
    }

    /// A command of a shell, in which kubectl and rayconcile find the controller.
    pub(crate) fn shell(&self, line: &str) -> Command {
        // What of the user's environment is left out of our own program's is left out here.
        let program = self.world.program(&[]);
        let mut command = Command::new("bash");
        command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(["-c", line]).stdin(std::process::Stdio::null());
        command.current_dir(self.path("")).env("HOME", self.path("home"));
        command.env("KUBECONFIG", self.path("kubeconfig")).env("RAYCONCILE_STATE_DIR", self.path("state"));
        command
    }

    /// Runs a line of a shell.
    pub(crate) fn sh(&self, line: &str) -> Said {
        said(&self.shell(line).output().unwrap())
    }

    /// Runs kubectl; it must succeed. Gives what it printed.
    pub(crate) fn kubectl(&self, line: &str) -> String {
        let said = self.sh(&format!("kubectl {line}"));
        assert!(said.code == 0, "kubectl {line}: {said:#?}\n{}", self.log());
        said.out
    }

    /// Runs kubectl; it must fail. Gives what it said.
    pub(crate) fn refused(&self, line: &str) -> String {
        let said = self.sh(&format!("kubectl {line}"));
        assert!(said.code != 0, "kubectl {line}: {said:#?}");
        said.err
    }

    /// What kubectl shows as JSON.
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.kubectl(&format!("{line} -o json"))).unwrap()
    }

    /// Deletes everything, and sees the controller out.
    pub(crate) fn finish(self) {
        self.world.finish();
    }
}

/// A cluster that is suspended, and a job on it that is too: nothing is ever started for them.
pub(crate) const NIGHT: &str = "\
apiVersion: rayconcile.dev/v1
kind: RayCluster
metadata:
  name: lab
  labels: {team: vision}
spec:
  provider: {local: {}}
  suspend: true
---
apiVersion: rayconcile.dev/v1
kind: AdaptDLJob
metadata:
  name: night
  labels: {team: vision}
spec:
  clusterRef: {name: lab}
  command: [python, train.py]
  env:
  - {name: SEED, value: \"1\"}
  maxReplicas: 4
  suspend: true
";
