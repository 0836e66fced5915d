//! How the ranks meet: each tells rank 0 where it listens; when all have, rank 0 tells all; and each connects to the
//! one after it. Within the patience they have met, or it is said who is missing.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::RingConfig;
use super::doorbell::{doorbell, wait};
use super::error::{Peer, RingError};
use super::gate::{Event, Gate, Inbox};
use super::handshake::{Caller, Claim, Purpose, send};
use super::reach::{Reach, table_bytes};

/// How long an answer may take to be written. It is short: it has room, unless somebody plays tricks.
const ANSWER: Duration = Duration::from_millis(200);
/// How much longer than the others' patience the meeting waits for what has become of them.
const GRACE: Duration = Duration::from_millis(500);

/// The two connections of a rank.
pub(super) struct Neighbours {
    pub(super) behind: TcpStream,
    pub(super) ahead: TcpStream,
}

/// What a rank knows of the meeting.
struct Meeting {
    config: Arc<RingConfig>,
    secret: Arc<[u8]>,
    deadline: Instant,
    gate: Gate,
    inbox: Inbox,
    given_up: Arc<AtomicBool>,
    /// On rank 0: who has come, and where it listens.
    come: Vec<Option<(u16, TcpStream)>>,
    /// Whether all have, and have been told so.
    is_told: bool,
    behind: Option<TcpStream>,
    ahead: Option<TcpStream>,
    /// How many connections did not know the secret.
    strangers: usize,
}

/// Meets the others.
pub(super) fn meet(config: RingConfig) -> Result<Neighbours, RingError> {
    let deadline = Instant::now() + config.patience;
    let own = config.peer(config.rank);
    let broken = |error: io::Error| RingError::Broken { peer: own.clone(), why: error.to_string() };
    let port = if config.rank == 0 { config.master_port } else { 0 };
    let gate = Gate::open(&own.address, port, deadline)?;
    let (bell, button) = doorbell().map_err(broken)?;
    let (events, told) = mpsc::channel();
    let mut meeting = Meeting {
        secret: Arc::from(config.secret.as_slice()),
        come: config.peers.iter().map(|_| None).collect(),
        config: Arc::new(config),
        deadline,
        gate,
        inbox: Inbox { events, button },
        given_up: Arc::default(),
        is_told: false,
        behind: None,
        ahead: None,
        strangers: 0,
    };
    if own.rank > 0 {
        meeting.go(None).map_err(broken)?;
    }
    loop {
        bell.silence();
        meeting.gate.admit(&meeting.secret, &meeting.inbox);
        while let Ok(event) = told.try_recv() {
            meeting.hear(event)?;
        }
        if let (Some(_), Some(_)) = (&meeting.behind, &meeting.ahead)
            && let (Some(behind), Some(ahead)) = (meeting.behind.take(), meeting.ahead.take())
        {
            return Ok(Neighbours { behind, ahead });
        }
        if Instant::now() >= deadline {
            return Err(meeting.late(&told));
        }
        let of = [(bell.as_fd(), PollFlags::POLLIN), (meeting.gate.as_fd(), PollFlags::POLLIN)];
        wait(&of, deadline).map_err(broken)?;
    }
}

impl Meeting {
    fn hear(&mut self, event: Event) -> Result<(), RingError> {
        match event {
            Event::Heard(number, caller) => {
                self.gate.heard(number);
                match caller {
                    Ok(caller) => self.receive(caller)?,
                    Err(claimed) => self.strangers += usize::from(claimed),
                }
            }
            Event::Reached(stream) => self.ahead = Some(stream?),
        }
        Ok(())
    }

    /// Somebody has come who knows the secret.
    fn receive(&mut self, caller: Caller) -> Result<(), RingError> {
        let verdict = self.judge(&caller.claim);
        let answered = caller.answer(
            &self.secret,
            verdict.as_ref().copied().map_err(String::as_str),
            Instant::now() + ANSWER,
        );
        if verdict.is_err() || answered.is_err() {
            return Ok(());
        }
        match caller.claim.purpose {
            Purpose::Meet => self.come[caller.claim.rank as usize] = Some((caller.claim.port, caller.stream)),
            Purpose::Join => self.behind = Some(caller.stream),
        }
        self.tell_all()
    }

    /// Whether this is who is expected.
    fn judge(&self, claim: &Claim) -> Result<(), String> {
        let (own, size) = (self.config.rank, self.config.peers.len());
        let (rank, to) = (claim.rank as usize, claim.to as usize);
        if claim.group != self.config.group {
            return Err(format!("it is of group {}, and not of {}", self.config.group, claim.group));
        }
        if claim.size as usize != size {
            return Err(format!("its group has {size} ranks, and not {}", claim.size));
        }
        if to != own {
            return Err(format!("it is rank {own}, and not {to}"));
        }
        let there = match claim.purpose {
            Purpose::Meet if own == 0 && rank > 0 && rank < size => {
                self.come[rank].as_ref().map(|(_, stream)| stream)
            }
            Purpose::Join if rank == self.config.previous() => self.behind.as_ref(),
            Purpose::Meet => return Err(format!("it does not wait for a rank {rank}")),
            Purpose::Join => {
                return Err(format!("rank {} comes before it, and not {rank}", self.config.previous()));
            }
        };
        if there.is_some_and(is_open) {
            return Err(format!("rank {rank} is there already"));
        }
        match self.is_told && claim.purpose == Purpose::Meet {
            true => Err("the ranks have met without it".to_owned()),
            false => Ok(()),
        }
    }

    /// Tells all where all are, once they have come, and goes to the rank after this one.
    fn tell_all(&mut self) -> Result<(), RingError> {
        if self.config.rank > 0 || self.is_told || self.come[1..].iter().any(Option::is_none) {
            return Ok(());
        }
        // Who has gone meanwhile comes again.
        for come in &mut self.come {
            come.take_if(|(_, stream)| !is_open(stream));
        }
        if self.come[1..].iter().any(Option::is_none) {
            return Ok(());
        }
        self.is_told = true;
        let listening = |come: &Option<(u16, TcpStream)>| come.as_ref().map(|(port, _)| *port);
        let ports: Vec<u16> =
            self.come.iter().map(|come| listening(come).unwrap_or(self.config.master_port)).collect();
        let first = ports[1];
        self.tell(&Ok(ports));
        self.go(Some(first))
            .map_err(|error| RingError::Broken { peer: self.config.peer(0), why: error.to_string() })
    }

    /// On rank 0: says what has become of the meeting to all who have come.
    fn tell(&self, table: &Result<Vec<u16>, RingError>) {
        let Ok(bytes) = table_bytes(table) else { return };
        for (_, stream) in self.come.iter().flatten() {
            // Who does not hear it will be missed.
            let _ = send(stream, &bytes, Instant::now() + ANSWER);
        }
    }

    /// Goes to the rank after this one, which listens at this port; or to rank 0 first, to ask where it does.
    fn go(&self, next: Option<u16>) -> io::Result<()> {
        let (config, given_up) = (Arc::clone(&self.config), Arc::clone(&self.given_up));
        let (port, deadline, inbox) = (self.gate.port()?, self.deadline, self.inbox.clone());
        let going = move || {
            let reach = Reach { config: &config, port, deadline, given_up: &given_up };
            let next = next.map_or_else(|| reach.meet().map(|ports| ports[config.next()]), Ok);
            inbox.tell(Event::Reached(next.and_then(|port| reach.join(port))));
        };
        thread::Builder::new().name("ring-reach".to_owned()).spawn(going).map(drop)
    }

    /// The patience is over: who is missing?
    fn late(&mut self, told: &mpsc::Receiver<Event>) -> RingError {
        let (rank, patience) = (self.config.rank, self.config.patience);
        let absent = |missing: Vec<Peer>| RingError::Absent { missing, patience, refused: self.strangers };
        if rank == 0 && !self.is_told {
            let missing = (1..self.config.peers.len()).filter(|rank| self.come[*rank].is_none());
            let error = absent(missing.map(|rank| self.config.peer(rank)).collect());
            self.tell(&Err(error.clone()));
            return error;
        }
        if self.ahead.is_some() {
            return absent(vec![self.config.peer(self.config.previous())]);
        }
        // What kept it from the rank after it, is known in a moment.
        let until = Instant::now() + GRACE;
        while let Ok(event) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Event::Reached(Err(error)) = event {
                return error;
            }
        }
        let why = "its name is still being looked up".to_owned();
        RingError::Unmet { peer: self.config.peer(self.config.next()), patience, why }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

/// Whether the other side has not closed it.
fn is_open(stream: &TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
    let _ = stream.set_nonblocking(false);
    match peeked {
        Ok(count) => count > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}
