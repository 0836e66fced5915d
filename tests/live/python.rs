//! The agent's parts by themselves, in the language that they are written in.

use std::process::Command;

use crate::support::{python, repository};

#[test]
fn the_agents_parts_work_by_themselves() {
    let mut command = Command::new(python());
    command.args(["-B", "-W", "error::ResourceWarning", "-m", "unittest", "discover", "--start-directory"]);
    command.arg(repository("tests/python")).env("PYTHONPATH", repository("src/agent"));
    let output = command.current_dir(repository("tests/python")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("\nRan "), "{said}");
}
