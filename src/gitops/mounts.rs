//! Notices that something was mounted or unmounted. Inotify does not tell, and its watches go with what is unmounted.

use std::fs::File;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What can be polled for changes of the mounts that this process sees (proc_pid_mounts(5)).
const TABLE: &str = "/proc/self/mountinfo";

/// The mounts that this process sees, where the system tells of them.
pub(super) struct Mounts(Option<AsyncFd<File>>);

impl Mounts {
    #[allow(deprecated)] // what has replaced it is `unsafe`, for files whose descriptors change: this one's does not
    pub(super) fn new() -> Self {
        let table = File::open(TABLE).ok();
        Self(table.and_then(|table| AsyncFd::with_interest(table, Interest::PRIORITY).ok()))
    }

    /// Waits until they are others.
    pub(super) async fn changed(&self) {
        let Some(table) = &self.0 else { return std::future::pending().await };
        match table.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        }
    }
}
