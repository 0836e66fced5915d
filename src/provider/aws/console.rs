//! What instances that ended by themselves said last: mostly why they could not become nodes.

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

/// The last words of instances, each asked for once: EC2 lists an instance for an hour after its end.
#[derive(Default)]
pub(super) struct Consoles(Mutex<BTreeMap<InstanceId, String>>);

impl Consoles {
    /// The last words of an instance that ended by itself, as far as EC2 has them. They are worth one try, whatever
    /// comes of it: nothing depends on them.
    pub(super) async fn last_words(&self, clients: &Clients, id: &InstanceId, instance: &Instance) -> String {
        let reason = instance.state_reason().and_then(|reason| reason.code());
        if reason.is_none_or(|code| !code.starts_with(BY_ITSELF)) {
            return String::new();
        }
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            return known.clone();
        }
        clients.pace(Api::Change).await;
        let words = match clients.ec2.get_console_output().instance_id(&id.0).send().await {
            Ok(answer) => {
                last_lines(&STANDARD.decode(answer.output().unwrap_or_default()).unwrap_or_default())
            }
            Err(error) => {
                tracing::debug!(instance = %id, error = %aws_sdk_ec2::error::DisplayErrorContext(&error), "no console");
                String::new()
            }
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(id.clone(), words.clone());
        words
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
