//! The thread that adds up: one sum after the other, in the order in which they were asked for.
//!
//! It waits for both neighbours and for this rank's program at once, and never for one of them alone. So it beats
//! whatever the program does, hears at once when a neighbour ends, and full buffers stop nothing.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::doorbell::{Doorbell, wait};
use super::element::Task;
use super::error::{Peer, RingError};
use super::frame::{Frame, Header, Subject};
use super::link::Link;
use super::path::Path;

/// How long a farewell may take to be heard.
const FAREWELL: Duration = Duration::from_secs(1);

/// All that one rank needs to add up.
pub(super) struct Exchange {
    /// This rank.
    pub(super) own: Peer,
    /// How many ranks there are.
    pub(super) size: usize,
    /// After what time without a byte a neighbour is taken for dead.
    pub(super) silence: Duration,
    /// From the rank before this one.
    pub(super) behind: Link,
    /// To the rank after this one.
    pub(super) ahead: Link,
    /// What the program asks for; at its end the program has dropped the ring.
    pub(super) tasks: Receiver<Box<dyn Task>>,
    /// Rings when there is something new there.
    pub(super) bell: Doorbell,
    /// Says to the program why there are no more sums.
    pub(super) ended: Arc<OnceLock<RingError>>,
}

/// Where the exchange is.
struct Running {
    with: Exchange,
    queue: VecDeque<Box<dyn Task>>,
    current: Option<Work>,
    /// How many sums have been begun.
    begun: u64,
    /// How many sums the rank after this one has asked for.
    wanted: u64,
    /// The first piece of a sum that has not been begun here.
    early: Option<(Subject, Vec<u8>)>,
    /// Such a piece is being read: all of it goes the same way.
    is_early: bool,
    /// More of that sum has come, and is not read before it has been begun.
    crowded: bool,
    /// A rank has left; the current sum may still be finished.
    leaving: Option<RingError>,
}

/// The sum that is being made.
struct Work {
    task: Box<dyn Task>,
    subject: Subject,
    path: Path,
    sent: usize,
    received: usize,
}

impl Work {
    fn has_sent(&self) -> bool {
        self.sent == self.path.to_send()
    }

    fn has_received(&self) -> bool {
        self.received == self.path.to_receive()
    }

    /// The piece that comes next, which has this many bytes if all is well, and whether it is added.
    fn expects(&self, peer: &Peer, length: usize) -> Result<(Range<usize>, bool), RingError> {
        self.path
            .incoming(self.received)
            .filter(|(range, _)| self.task.width(range) == length)
            .ok_or_else(|| garbled(peer, "a piece of a wrong length"))
    }

    /// All of that piece has come.
    fn placed(&mut self, range: Range<usize>, added: bool) {
        self.task.placed(range, added);
        self.received += 1;
    }

    /// Whether a piece is of this sum.
    fn check(&self, own: &Peer, peer: &Peer, piece: &Subject) -> Result<(), RingError> {
        if self.subject == *piece {
            return Ok(());
        }
        // All ranks name the two in the same order, whoever finds out first.
        let mut both = [(own, self.subject.words()), (peer, piece.words())];
        both.sort_by_key(|(peer, _)| peer.rank);
        let [(first, gives), (second, other)] = both;
        Err(RingError::Mismatch { first: first.clone(), second: second.clone(), given: (gives, other) })
    }
}

impl Exchange {
    /// Adds up until the ring is dropped or broken.
    pub(super) fn run(self) {
        let mut running = Running {
            with: self,
            queue: VecDeque::new(),
            current: None,
            begun: 0,
            wanted: 0,
            early: None,
            is_early: false,
            crowded: false,
            leaving: None,
        };
        let error = loop {
            if let Err(error) = running.turn() {
                break error;
            }
        };
        let error = running.cause(error);
        running.end(error);
    }
}

impl Running {
    /// Does what can be done, and waits if that is nothing.
    fn turn(&mut self) -> Result<(), RingError> {
        self.collect()?;
        self.begin()?;
        self.with.behind.flush();
        let gave = self.give();
        let heard_behind = self.hear_behind()?;
        let heard_ahead = self.hear_ahead()?;
        let finished = self.finish();
        self.check_leaving()?;
        let now = Instant::now();
        let next =
            self.with.behind.beat(now, self.with.silence)?.min(self.with.ahead.beat(now, self.with.silence)?);
        if gave || heard_behind || heard_ahead || finished {
            return Ok(());
        }
        let mut of = vec![(self.with.bell.as_fd(), PollFlags::POLLIN)];
        of.extend(self.with.behind.waits(!self.crowded));
        of.extend(self.with.ahead.waits(true));
        wait(&of, next).map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &io::Error) -> RingError {
        RingError::Broken { peer: self.with.own.clone(), why: error.to_string() }
    }

    /// Takes what the program asks for, and asks the rank before this one for its part.
    fn collect(&mut self) -> Result<(), RingError> {
        self.with.bell.silence();
        let before = self.queue.len();
        loop {
            match self.with.tasks.try_recv() {
                Ok(task) => self.queue.push_back(task),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(RingError::Left(self.with.own.clone())),
            }
        }
        if self.queue.len() > before {
            let asked = self.begun + self.queue.len() as u64;
            self.with.behind.write(Frame::Ready(asked), &[]);
        }
        Ok(())
    }

    /// Begins the next sum, if there is one.
    fn begin(&mut self) -> Result<(), RingError> {
        if self.current.is_some() || self.leaving.is_some() {
            return Ok(());
        }
        let Some(mut task) = self.queue.pop_front() else { return Ok(()) };
        let subject = Subject { number: self.begun, kind: task.kind(), values: task.values() as u64 };
        let path = task.begin(self.with.own.rank, self.with.size);
        self.begun += 1;
        self.current = Some(Work { task, subject, path, sent: 0, received: 0 });
        self.use_early()
    }

    /// Takes the piece that has come early, if it is of the current sum.
    fn use_early(&mut self) -> Result<(), RingError> {
        let Some(work) = self.current.as_mut().filter(|work| !work.has_received()) else { return Ok(()) };
        let Some((subject, bytes)) = self.early.take() else { return Ok(()) };
        work.check(&self.with.own, &self.with.behind.peer, &subject)?;
        let (range, added) = work.expects(&self.with.behind.peer, bytes.len())?;
        work.task.place(range.clone(), added).copy_from_slice(&bytes);
        work.placed(range, added);
        Ok(())
    }

    /// Sends what can be sent. The first piece of a sum goes without having been asked for: it saves the time that
    /// asking takes, and has room.
    fn give(&mut self) -> bool {
        let mut gave = false;
        let Some(work) = &mut self.current else {
            self.with.ahead.flush();
            return false;
        };
        while (work.sent == 0 || self.wanted > work.subject.number)
            && let Some(range) = work.path.outgoing(work.sent, work.received)
            && self.with.ahead.write(Frame::Piece(work.subject), work.task.bytes(range))
        {
            work.sent += 1;
            gave = true;
        }
        self.with.ahead.flush();
        gave
    }

    /// Reads one frame from the rank before this one. True: there was one.
    fn hear_behind(&mut self) -> Result<bool, RingError> {
        self.crowded = false;
        let Some(header) = self.with.behind.header()? else { return Ok(false) };
        let done = match header.frame {
            Frame::Beat => true,
            Frame::Piece(subject) => self.take(subject, header.body)?,
            Frame::Farewell => return farewell(&mut self.with.behind, header, &mut self.leaving),
            Frame::Ready(_) => {
                return Err(garbled(&self.with.behind.peer, "a question that the other side asks"));
            }
        };
        if done {
            self.with.behind.next();
        }
        Ok(done)
    }

    /// Reads one frame from the rank after this one. True: there was one.
    fn hear_ahead(&mut self) -> Result<bool, RingError> {
        let Some(header) = self.with.ahead.header()? else { return Ok(false) };
        match header.frame {
            Frame::Beat => {}
            Frame::Ready(asked) => self.wanted = asked,
            Frame::Farewell => return farewell(&mut self.with.ahead, header, &mut self.leaving),
            Frame::Piece(_) => return Err(garbled(&self.with.ahead.peer, "a piece in the wrong direction")),
        }
        self.with.ahead.next();
        Ok(true)
    }

    /// Reads a piece to where it belongs. True: all of it has come.
    fn take(&mut self, subject: Subject, length: usize) -> Result<bool, RingError> {
        let behind = &mut self.with.behind;
        if let Some(work) = self.current.as_mut().filter(|work| !work.has_received() && !self.is_early) {
            work.check(&self.with.own, &behind.peer, &subject)?;
            let (range, added) = work.expects(&behind.peer, length)?;
            let complete = behind.fill(work.task.place(range.clone(), added))?;
            if complete {
                work.placed(range, added);
            }
            return Ok(complete);
        }
        if self.early.is_some() {
            if self.current.is_none() && self.queue.is_empty() {
                return Err(garbled(&behind.peer, "more of a sum than was asked for"));
            }
            // Not for long: the rank after this one has asked for what is still to be sent.
            self.crowded = true;
            behind.excuse();
            return Ok(false);
        }
        self.is_early = true;
        let Some(bytes) = behind.body(length)? else { return Ok(false) };
        self.early = Some((subject, bytes.to_vec()));
        self.is_early = false;
        self.use_early()?;
        Ok(true)
    }

    /// Hands the current sum over, if it is complete.
    fn finish(&mut self) -> bool {
        match self.current.take_if(|work| work.has_sent() && work.has_received()) {
            Some(work) => {
                work.task.finish();
                true
            }
            None => false,
        }
    }

    /// Ends if a rank has left, unless the current sum does not need it any more.
    fn check_leaving(&self) -> Result<(), RingError> {
        let Some(error) = &self.leaving else { return Ok(()) };
        let goes_on = |work: &Work| {
            (work.has_sent() || !self.with.ahead.over) && (work.has_received() || !self.with.behind.over)
        };
        if self.current.as_ref().is_some_and(goes_on) { Ok(()) } else { Err(error.clone()) }
    }

    /// What a neighbour has said of it: that is nearer to the cause than that the other one is not there any more.
    fn cause(&mut self, found: RingError) -> RingError {
        if !matches!(found, RingError::Closed(_) | RingError::Lost { .. } | RingError::Silent { .. }) {
            return found;
        }
        let (behind, ahead) = (self.with.behind.peer.clone(), self.with.ahead.peer.clone());
        let both: [(fn(&mut Self) -> _, _); 2] = [(Self::hear_behind, behind), (Self::hear_ahead, ahead)];
        for (hear, peer) in both {
            loop {
                match hear(self) {
                    Ok(true) => {}
                    // It says nothing more.
                    Ok(false) => break,
                    Err(RingError::Closed(gone) | RingError::Lost { peer: gone, .. }) if gone == peer => {
                        break;
                    }
                    Err(told) => return told,
                }
            }
        }
        found
    }

    /// Tells the neighbours why, and then the program: it may end the process at once.
    fn end(self, error: RingError) {
        let Self { with, queue, current, .. } = self;
        let Exchange { mut behind, mut ahead, tasks, ended, .. } = with;
        if let Some(work) = &current
            && let Some(range) = work.path.outgoing(work.sent, work.received)
        {
            ahead.keep(work.task.bytes(range));
        }
        let words = serde_json::to_vec(&error).unwrap_or_default();
        for link in [&mut behind, &mut ahead] {
            link.write(Frame::Farewell, &words);
        }
        let deadline = Instant::now() + FAREWELL;
        while !(behind.part() & ahead.part()) && Instant::now() < deadline {
            let of: Vec<_> = behind.waits(true).into_iter().chain(ahead.waits(true)).collect();
            if wait(&of, deadline).is_err() {
                break;
            }
        }
        // Whoever waits for a sum looks here once it has been dropped.
        let _ = ended.set(error);
        drop((tasks, queue, current));
    }
}

fn garbled(peer: &Peer, what: &str) -> RingError {
    RingError::Garbled { peer: peer.clone(), what: what.to_owned() }
}

/// Reads why a neighbour leaves. In good order: what it has sent before still counts.
fn farewell(link: &mut Link, header: Header, leaving: &mut Option<RingError>) -> Result<bool, RingError> {
    let words = link.body(header.body)?;
    let Some(words) = words else { return Ok(false) };
    match serde_json::from_slice(words) {
        Ok(error @ RingError::Left(_)) => {
            leaving.get_or_insert(error);
            link.end();
            Ok(true)
        }
        Ok(error) => Err(error),
        Err(_) => Err(garbled(&link.peer, "a farewell without a reason")),
    }
}
