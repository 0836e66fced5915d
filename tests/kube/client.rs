//! Kubernetes' own client for Python, as programs use it.

use crate::support::{Kube, installed};

#[test]
fn a_client_library_manages_objects() {
    let kube = Kube::new(&[]);
    let python = installed(".cache/kube-client/bin/python", "kube-client");
    let script = installed("tests/kube/client.py", "kube-client");
    let said = kube.sh(&format!("{} -B {}", python.display(), script.display()));
    assert!(said.code == 0, "{}\n{}\n{}", said.out, said.err, kube.log());
    kube.finish();
}
