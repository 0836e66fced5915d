//! Where ranks listen while they meet. Anybody can connect there: each connection is heard on a thread of its own and
//! for a short time, and none holds up another.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::doorbell::Button;
use super::error::RingError;
use super::handshake::{Caller, listen};

/// How long somebody who has connected may take to show who it is.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// How many may be at it at a time: whoever has been there longest gives way, and a rank comes again.
const AT_ONCE: usize = 64;
/// How long it takes until a port is tried again that is taken.
const TAKEN: Duration = Duration::from_millis(50);

/// What the meeting hears of.
pub(super) enum Event {
    /// A connection has been heard out. None: it is closed, and whether it claimed to be a rank.
    Heard(u64, Result<Caller, bool>),
    /// The rank after this one has been reached, or will not be.
    Reached(Result<TcpStream, RingError>),
}

/// Where events go.
#[derive(Clone)]
pub(super) struct Inbox {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) button: Button,
}

impl Inbox {
    /// Tells the meeting, if it goes on.
    pub(super) fn tell(&self, event: Event) {
        if self.events.send(event).is_ok() {
            self.button.ring();
        }
    }
}

/// A listener, and the connections that have not shown who they are. They end with it.
pub(super) struct Gate {
    listener: TcpListener,
    waiting: VecDeque<(u64, TcpStream)>,
    count: u64,
}

impl Gate {
    /// Listens at this address, or at all addresses if it is not one of this machine's own (it may be that of a door to
    /// it). Port 0 is any. One that is taken is waited for: whoever had it before may just be ending.
    pub(super) fn open(address: &str, port: u16, deadline: Instant) -> Result<Self, RingError> {
        loop {
            match bind(address, port) {
                Ok(listener) => return Ok(Self { listener, waiting: VecDeque::new(), count: 0 }),
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && Instant::now() + TAKEN < deadline =>
                {
                    thread::sleep(TAKEN);
                }
                Err(error) => {
                    let address = format!("{address}, port {port}");
                    return Err(RingError::Listen { address, why: error.to_string() });
                }
            }
        }
    }

    /// Where it is.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Lets in who has connected, and has them heard.
    pub(super) fn admit(&mut self, secret: &Arc<[u8]>, inbox: &Inbox) {
        for _ in 0..AT_ONCE {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // This one has gone again; or there are too many files, and one is let go.
                Err(_) => {
                    self.dismiss();
                    thread::sleep(Duration::from_millis(1));
                    return;
                }
            };
            if self.waiting.len() >= AT_ONCE {
                self.dismiss();
            }
            let Ok(handle) = stream.set_nonblocking(false).and_then(|()| stream.try_clone()) else {
                continue;
            };
            let (number, secret, inbox) = (self.count, Arc::clone(secret), inbox.clone());
            let deadline = Instant::now() + INTRODUCTION;
            let hearing = move || {
                let caller = match listen(stream, &secret, deadline) {
                    Ok(Some(caller)) => Ok(caller),
                    Ok(None) => Err(true),
                    Err(_) => Err(false),
                };
                inbox.tell(Event::Heard(number, caller));
            };
            if thread::Builder::new().name("ring-gate".to_owned()).spawn(hearing).is_ok() {
                self.waiting.push_back((number, handle));
                self.count += 1;
            }
        }
    }

    /// A connection has been heard out.
    pub(super) fn heard(&mut self, number: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != number);
    }

    /// Closes the connection that has been there longest.
    fn dismiss(&mut self) {
        if let Some((_, stream)) = self.waiting.pop_front() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        while !self.waiting.is_empty() {
            self.dismiss();
        }
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn bind(address: &str, port: u16) -> io::Result<TcpListener> {
    let at = |address: &str| -> io::Result<TcpListener> {
        TcpListener::bind((address, port).to_socket_addrs()?.collect::<Vec<_>>().as_slice())
    };
    let everywhere = if address.contains(':') {
        Ipv6Addr::UNSPECIFIED.to_string()
    } else {
        Ipv4Addr::UNSPECIFIED.to_string()
    };
    let listener = match at(address) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => at(&everywhere)?,
        bound => bound?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}
