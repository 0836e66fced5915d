//! What instances said last that ended by themselves, or will be ended: mostly why they could not become nodes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aws_sdk_ec2::types::Instance;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::client::Clients;
use super::pace::Api;
use crate::api::ids::InstanceId;

/// EC2's name for an instance that has shut itself down ("Troubleshoot instance launch issues", EC2 User Guide).
const BY_ITSELF: &str = "Client.InstanceInitiatedShutdown";
/// How much of it is told.
const LINES: usize = 5;
const LONGEST_LINE: usize = 200;

/// Whether an instance has shut itself down.
pub(super) fn has_ended_by_itself(instance: &Instance) -> bool {
    let reason = instance.state_reason().and_then(|reason| reason.code());
    reason.is_some_and(|code| code.starts_with(BY_ITSELF))
}

/// The last words of instances, each asked for once while it runs and once after its end: EC2 lists it for an hour.
#[derive(Default)]
pub(super) struct Consoles(Mutex<BTreeMap<(InstanceId, bool), String>>);

impl Consoles {
    /// The last words of an instance that runs, or has ended, as far as EC2 has them. They are worth one try, whatever
    /// comes of it: nothing depends on them.
    pub(super) async fn last_words(&self, clients: &Clients, id: &InstanceId, runs: bool) -> String {
        let of = (id.clone(), runs);
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&of) {
            return known.clone();
        }
        let mut words = ask(clients, id, runs).await;
        // What is printed just now is told by types on the Nitro System only; others have at least how they booted.
        if runs && words.is_none() {
            words = ask(clients, id, false).await;
        }
        let words = words.unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(of, words.clone());
        words
    }
}

/// The end of a console, if EC2 tells it: the latest that there is, or what was kept at the last boot or end.
async fn ask(clients: &Clients, id: &InstanceId, latest: bool) -> Option<String> {
    clients.pace(Api::Change).await;
    let request =
        clients.ec2.get_console_output().instance_id(id.0.as_str()).set_latest(latest.then_some(true));
    match request.send().await {
        Ok(answer) => {
            Some(last_lines(&STANDARD.decode(answer.output().unwrap_or_default()).unwrap_or_default()))
        }
        Err(error) => {
            tracing::debug!(instance = %id, error = %aws_sdk_ec2::error::DisplayErrorContext(&error), "no console");
            None
        }
    }
}

/// The end of a console's output, as text.
fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let clean = |line: &str| -> String {
        line.trim_end().chars().filter(|character| !character.is_control()).take(LONGEST_LINE).collect()
    };
    let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_console_is_told() {
        assert_eq!(last_lines(b""), "");
        assert_eq!(last_lines(b"one\r\n\n  two\x1b[0m\x07\xff\n"), "one\n  two[0m\u{fffd}");
        let long = format!("0\n1\n2\n3\n4\n{}\n", "x".repeat(1000));
        assert_eq!(last_lines(long.as_bytes()), format!("1\n2\n3\n4\n{}", "x".repeat(200)));
    }
}
