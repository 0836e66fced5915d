//! What wakes a thread that waits for sockets.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The end that is waited at.
pub(super) struct Doorbell(UnixStream);

/// The end that is rung, from any thread.
#[derive(Clone)]
pub(super) struct Button(Arc<UnixStream>);

/// A bell, and its button.
pub(super) fn doorbell() -> io::Result<(Doorbell, Button)> {
    let (inside, outside) = UnixStream::pair()?;
    inside.set_nonblocking(true)?;
    outside.set_nonblocking(true)?;
    Ok((Doorbell(inside), Button(Arc::new(outside))))
}

impl Button {
    /// Rings. A bell that rings already has no room for more, and need not have; one that nobody waits at is gone.
    pub(super) fn ring(&self) {
        let _ = (&*self.0).write(&[1]);
    }
}

impl Doorbell {
    /// Stops the ringing. What was rung for is to be looked at afterwards.
    pub(super) fn silence(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.0).read(&mut bytes), Ok(count) if count == bytes.len()) {}
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of these can be read or written, as asked for, until the deadline at most.
pub(super) fn wait(of: &[(BorrowedFd<'_>, PollFlags)], deadline: Instant) -> io::Result<()> {
    let mut polled: Vec<PollFd<'_>> = of.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    // A millisecond more: else it would be waited for the rest of the last one over and over again.
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = match left.is_zero() {
        true => PollTimeout::ZERO,
        false => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
    };
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
