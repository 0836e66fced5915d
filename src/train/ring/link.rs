//! The connection to one neighbour, of which nothing ever blocks.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::error::{Peer, RingError};
use super::frame::{Frame, HEADER, Header};

/// A body that is not longer is copied, to be written at once with its header.
const COPIED: usize = 16 << 10;

/// The connection to one neighbour.
pub(super) struct Link {
    stream: TcpStream,
    /// Who is at its other end.
    pub(super) peer: Peer,
    /// Whether the peer has said farewell: nothing more goes either way.
    pub(super) over: bool,
    /// What is to be written before anything else.
    outbox: Vec<u8>,
    /// How much of the outbox, or of a body that is written from where it lies, has been written.
    written: usize,
    /// Whether the header of such a body is in the outbox or written.
    headed: bool,
    /// It cannot be written to any more. Why, is found out by reading.
    broken: bool,
    head: [u8; HEADER],
    /// How much of the header, and then of the body, has been read.
    read: usize,
    header: Option<Header>,
    /// A body that belongs nowhere else, while it comes.
    body: Vec<u8>,
    /// When something was read last; at first, when something should have been.
    heard: Instant,
    /// When something was written last.
    spoke: Instant,
}

impl Link {
    /// A connection to a peer whose first words may take `grace` to come.
    pub(super) fn new(stream: TcpStream, peer: Peer, grace: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let now = Instant::now();
        Ok(Self {
            stream,
            peer,
            over: false,
            outbox: Vec::new(),
            written: 0,
            headed: false,
            broken: false,
            head: [0; HEADER],
            read: 0,
            header: None,
            body: Vec::new(),
            heard: now + grace,
            spoke: now,
        })
    }

    /// What to wait for: to read, and to write if something is left to be.
    pub(super) fn waits(&self, reads: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reads);
        flags.set(PollFlags::POLLOUT, !self.broken && self.is_writing());
        (!self.over && !flags.is_empty()).then(|| (self.stream.as_fd(), flags))
    }

    /// Whether something has been begun that is not written.
    fn is_writing(&self) -> bool {
        !self.outbox.is_empty() || self.headed
    }

    /// Writes a frame, as much as goes. While it is false, it is to be called again with the same one, and with no
    /// other; true: the frame has been written, or will be without its body being asked for again.
    pub(super) fn write(&mut self, frame: Frame, body: &[u8]) -> bool {
        if !self.headed {
            self.outbox.extend(Header { frame, body: body.len() }.bytes());
            if body.len() <= COPIED {
                self.outbox.extend(body);
                self.flush();
                return true;
            }
            self.headed = true;
        }
        if !self.flush() {
            return false;
        }
        self.written += self.put(self.written, body);
        if self.written < body.len() {
            return false;
        }
        (self.written, self.headed) = (0, false);
        true
    }

    /// Copies what is left of a body, so that it need not be kept.
    pub(super) fn keep(&mut self, body: &[u8]) {
        if std::mem::take(&mut self.headed) {
            // With something in the outbox, nothing of the body has been written.
            let from = if self.outbox.is_empty() { std::mem::take(&mut self.written) } else { 0 };
            self.outbox.extend(&body[from..]);
        }
    }

    /// Writes what is in the outbox. True: it is empty.
    pub(super) fn flush(&mut self) -> bool {
        while !self.outbox.is_empty() {
            let outbox = std::mem::take(&mut self.outbox);
            let count = self.put(self.written, &outbox);
            self.outbox = outbox;
            if count == 0 {
                return false;
            }
            self.written += count;
            if self.written == self.outbox.len() {
                self.outbox.clear();
                self.written = 0;
            }
        }
        true
    }

    /// Writes some of these bytes, and says how many.
    fn put(&mut self, from: usize, bytes: &[u8]) -> usize {
        if self.broken || self.over {
            return 0;
        }
        match self.stream.write(&bytes[from..]) {
            Ok(count) => {
                self.spoke = Instant::now();
                count
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => {
                self.broken = true;
                0
            }
        }
    }

    /// The header of the frame that comes, once it has been read, until `next` is called.
    pub(super) fn header(&mut self) -> Result<Option<Header>, RingError> {
        if self.header.is_none() && !self.over {
            let mut head = self.head;
            let complete = self.fill(&mut head);
            self.head = head;
            if complete? {
                let garbled = || RingError::Garbled {
                    peer: self.peer.clone(),
                    what: "no frame begins like this".to_owned(),
                };
                self.header = Some(Header::read(&self.head).ok_or_else(garbled)?);
                self.read = 0;
            }
        }
        Ok(self.header)
    }

    /// Reads the rest of a header or body. True: it is complete.
    pub(super) fn fill(&mut self, place: &mut [u8]) -> Result<bool, RingError> {
        while self.read < place.len() {
            match self.stream.read(&mut place[self.read..]) {
                Ok(0) => return Err(RingError::Closed(self.peer.clone())),
                Ok(count) => {
                    self.read += count;
                    self.heard = Instant::now();
                }
                Err(error) => {
                    return match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(false),
                        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                            Err(RingError::Closed(self.peer.clone()))
                        }
                        _ => Err(RingError::Lost { peer: self.peer.clone(), why: error.to_string() }),
                    };
                }
            }
        }
        Ok(true)
    }

    /// A body that belongs nowhere else, once all of it has been read.
    pub(super) fn body(&mut self, length: usize) -> Result<Option<&[u8]>, RingError> {
        let mut body = std::mem::take(&mut self.body);
        body.resize(length, 0);
        let complete = self.fill(&mut body);
        self.body = body;
        Ok(complete?.then_some(&self.body))
    }

    /// Done with this frame.
    pub(super) fn next(&mut self) {
        self.header = None;
        self.read = 0;
    }

    /// It is not read for the moment: so nothing can be heard.
    pub(super) fn excuse(&mut self) {
        self.heard = Instant::now();
    }

    /// Beats where nothing else has been said for a while. Says when it has to be looked at again, or that nothing
    /// came for too long: whatever has come must have been read before.
    pub(super) fn beat(&mut self, now: Instant, silence: Duration) -> Result<Instant, RingError> {
        if self.over {
            return Ok(now + silence);
        }
        if now >= self.heard + silence {
            return Err(RingError::Silent { peer: self.peer.clone(), silence });
        }
        let interval = silence / 4;
        if now >= self.spoke + interval {
            // Where something waits to be written already, the peer will hear that.
            self.spoke = now;
            if !self.is_writing() {
                self.write(Frame::Beat, &[]);
            }
        }
        Ok((self.spoke + interval).min(self.heard + silence))
    }

    /// The peer has said farewell.
    pub(super) fn end(&mut self) {
        self.over = true;
        self.next();
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Says farewell, as far as that goes without waiting. Once all is written, what still comes is thrown away until
    /// the peer has ended the connection too: closed earlier, what has been written would be lost with what has not
    /// been read. True: it has.
    pub(super) fn part(&mut self) -> bool {
        if self.over {
            return true;
        }
        if self.flush() && !self.broken {
            let _ = self.stream.shutdown(Shutdown::Write);
            self.broken = true;
        }
        let mut bytes = [0; 4096];
        self.over = loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        self.over
    }
}
