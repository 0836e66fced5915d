//! Whom a rank goes to: rank 0, to learn where all listen, and then the rank after it.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::RingConfig;
use super::error::RingError;
use super::handshake::{Answer, Claim, Purpose, call, receive, receive_into};

/// How long one try may take, once there is something that listens.
const TRY: Duration = Duration::from_secs(5);
/// How long it takes until the next try: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// How long what rank 0 says of the meeting may be, in bytes.
const TABLE: usize = 1 << 20;

/// Where all ranks listen, or why they have not met.
pub(super) type Table = Result<Vec<u16>, RingError>;

/// A table as it travels.
pub(super) fn table_bytes(table: &Table) -> io::Result<Vec<u8>> {
    let words = serde_json::to_vec(table)?;
    Ok([(words.len() as u32).to_le_bytes().as_slice(), &words].concat())
}

/// Goes where it has to, until the deadline, or nobody waits for it any more.
pub(super) struct Reach<'a> {
    pub(super) config: &'a RingConfig,
    /// Where this rank listens.
    pub(super) port: u16,
    pub(super) deadline: Instant,
    pub(super) given_up: &'a AtomicBool,
}

/// Why a try has failed.
enum Failure {
    /// It can be tried again.
    Again(io::Error),
    /// It cannot.
    Final(RingError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Again(error)
    }
}

impl Reach<'_> {
    /// Tells rank 0 that this one has come, and gets the ports of all.
    pub(super) fn meet(&self) -> Table {
        self.patiently(0, || {
            let stream = self.call(Purpose::Meet, 0, self.config.master_port)?;
            let late = |error: io::Error| match error.kind() {
                io::ErrorKind::TimedOut => io::Error::other("it still waits for other ranks"),
                _ => error,
            };
            let length = u32::from_le_bytes(receive(&stream, self.deadline).map_err(late)?) as usize;
            let mut words = vec![0; length.min(TABLE)];
            receive_into(&stream, &mut words, self.deadline)?;
            let table: Table = serde_json::from_slice(&words).map_err(io::Error::from)?;
            match table {
                Ok(ports) if ports.len() == self.config.peers.len() => Ok(ports),
                Ok(_) => Err(io::Error::other("it has another number of ranks").into()),
                Err(error) => Err(Failure::Final(error)),
            }
        })
    }

    /// Connects to the rank after this one, which listens there.
    pub(super) fn join(&self, port: u16) -> Result<TcpStream, RingError> {
        self.patiently(self.config.next(), || self.call(Purpose::Join, self.config.next(), port))
    }

    /// Tries until it succeeds, or cannot any more.
    fn patiently<T>(&self, rank: usize, once: impl Fn() -> Result<T, Failure>) -> Result<T, RingError> {
        let (mut pause, longest) = PAUSES;
        let mut reason: Option<io::Error> = None;
        loop {
            match once() {
                Ok(done) => return Ok(done),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error)) => {
                    // The last try may have had no time: what came of the one before says more.
                    let error = match reason.take() {
                        Some(before) if error.kind() == io::ErrorKind::TimedOut => before,
                        _ => error,
                    };
                    let left = self.deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || self.given_up.load(Ordering::Relaxed) {
                        return Err(RingError::Unmet {
                            peer: self.config.peer(rank),
                            patience: self.config.patience,
                            why: error.to_string(),
                        });
                    }
                    reason = Some(error);
                    thread::sleep(pause.min(left));
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }

    /// One connection, on which both sides have shown that they know the secret.
    fn call(&self, purpose: Purpose, to: usize, port: u16) -> Result<TcpStream, Failure> {
        let config = self.config;
        let deadline = self.deadline.min(Instant::now() + TRY);
        let stream = connect(&config.peers[to], port, deadline)?;
        let claim = Claim {
            purpose,
            port: self.port,
            rank: config.rank as u32,
            to: to as u32,
            size: config.peers.len() as u32,
            group: config.group,
        };
        match call(&stream, &config.secret, &claim, deadline)? {
            Answer::Welcome => Ok(stream),
            Answer::Refused(why) => Err(Failure::Final(RingError::Refused { peer: config.peer(to), why })),
        }
    }
}

/// Connects to one of the addresses that a name has.
fn connect(address: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for at in (address, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&at, left) {
            // Where nobody listens, the kernel may connect a port to itself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                last = io::ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
