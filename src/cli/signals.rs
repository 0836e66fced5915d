//! The signals that ask a command to end which sees to something.

use anyhow::{Context as _, Result};
use futures_util::future::OptionFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What somebody wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// What it sees to shall stop: Ctrl-C, or a request such as `timeout` makes.
    Stop,
    /// Nobody is there any more: the end of the terminal.
    Leave,
}

/// The signals that ask for it.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None where the end of the terminal is of no interest: that is what `nohup` is for.
    hangup: Option<Signal>,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen to signals");
        let hangup = if is_hangup_ignored() { None } else { Some(on(SignalKind::hangup())?) };
        Ok(Self { interrupt: on(SignalKind::interrupt())?, terminate: on(SignalKind::terminate())?, hangup })
    }

    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            Some(_) = OptionFuture::from(self.hangup.as_mut().map(Signal::recv)) => Asked::Leave,
        }
    }
}

/// Whether whoever started this process has it ignore the end of the terminal.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A bit for each signal, and SIGHUP is the first.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
