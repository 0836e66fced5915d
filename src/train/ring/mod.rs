//! Sums over all replicas of a group: ring all-reduce over TCP. There is no torch in it.
//!
//! - How the ranks meet, and know each other: `meeting`, `gate` (who comes), `reach` (whom one goes to), `handshake`.
//! - What travels, and where: `path` (pure), `frame`, `link`, `element`.
//! - What makes the sums: `exchange`, on a thread of its own; `doorbell` wakes it.
//!
//! Each rank has two connections: one to the rank after it, to which values go, and one from the rank before it. On
//! both, both sides beat. A rank that fails tells its neighbours why before it closes, and they tell theirs. So all
//! ranks end with an error that names the one that is to blame.
//!
//! A connection counts once both of its ends have shown that they know the group's secret. What travels on it
//! afterwards is neither encrypted nor signed: whoever can change packets between the ranks can change sums.

mod doorbell;
mod element;
mod error;
mod exchange;
mod frame;
mod gate;
mod handshake;
mod link;
mod meeting;
mod path;
mod reach;

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use doorbell::Button;
use element::{Sum, Task};
use exchange::Exchange;
use link::Link;

pub use element::Element;
pub use error::{Peer, RingError};

/// What makes a ring.
#[derive(Clone)]
pub struct RingConfig {
    /// Which of the replicas this one is, from 0.
    pub rank: usize,
    /// The addresses of all replicas, in the order of ranks, without ports. Several can have the same one.
    pub peers: Vec<String>,
    /// Where rank 0 listens while the ranks meet. The others listen wherever there is room.
    pub master_port: u16,
    /// What only the replicas of this group know. It never travels.
    pub secret: Vec<u8>,
    /// Which of the job's groups these replicas are: another one's are refused.
    pub group: u64,
    /// How long the ranks may take to meet.
    pub patience: Duration,
    /// How long nothing may come from a neighbour, not even a beat, before it is taken for dead. One that computes
    /// beats; so does one that has nothing to add up for hours.
    pub silence: Duration,
}

impl RingConfig {
    /// One of the ranks, for an error.
    fn peer(&self, rank: usize) -> Peer {
        Peer { rank, address: self.peers.get(rank).cloned().unwrap_or_default() }
    }

    /// The rank after this one.
    fn next(&self) -> usize {
        (self.rank + 1) % self.peers.len()
    }

    /// The rank before this one.
    fn previous(&self) -> usize {
        (self.rank + self.peers.len() - 1) % self.peers.len()
    }

    fn check(&self) -> Result<(), RingError> {
        let (rank, size) = (self.rank, self.peers.len());
        let problem = match () {
            () if rank >= size => format!("there is no rank {rank} among {size}"),
            () if size > 1 && self.secret.is_empty() => "the group's secret is empty".to_owned(),
            () if self.silence.is_zero() => "no replica can be heard all the time".to_owned(),
            () => return Ok(()),
        };
        Err(RingError::Unusable(problem))
    }
}

/// The replicas of one group, connected to a ring.
///
/// Dropping it ends its thread and its connections, in good order: the other ranks can finish the sums that this one
/// has waited for, and no others. Sums that were not waited for are given up. It takes a second at most, and that only
/// if a neighbour does not answer.
pub struct Ring {
    size: usize,
    /// Nothing is to be exchanged where there is one replica.
    worker: Option<Worker>,
    ended: Arc<OnceLock<RingError>>,
}

/// The thread that makes the sums.
struct Worker {
    tasks: mpsc::Sender<Box<dyn Task>>,
    button: Button,
    thread: JoinHandle<()>,
}

impl Ring {
    /// Meets the other replicas.
    ///
    /// # Errors
    ///
    /// What was given is unusable; or not all ranks have met within the patience: the error names those missing, or
    /// the one that could not be met.
    pub fn connect(config: RingConfig) -> Result<Self, RingError> {
        config.check()?;
        let (size, ended) = (config.peers.len(), Arc::new(OnceLock::new()));
        if size == 1 {
            return Ok(Self { size, worker: None, ended });
        }
        let own = config.peer(config.rank);
        let (next, previous) = (config.peer(config.next()), config.peer(config.previous()));
        let (silence, patience) = (config.silence, config.patience);
        let neighbours = meeting::meet(config)?;
        let broken = |error: std::io::Error| RingError::Broken { peer: own.clone(), why: error.to_string() };
        let (bell, button) = doorbell::doorbell().map_err(broken)?;
        let (sender, tasks) = mpsc::channel();
        let exchange = Exchange {
            own: own.clone(),
            size,
            silence,
            // A neighbour begins to beat once it has met its other one too.
            behind: Link::new(neighbours.behind, previous, patience).map_err(broken)?,
            ahead: Link::new(neighbours.ahead, next, patience).map_err(broken)?,
            tasks,
            bell,
            ended: Arc::clone(&ended),
        };
        let thread =
            thread::Builder::new().name("ring".to_owned()).spawn(|| exchange.run()).map_err(broken)?;
        Ok(Self { size, worker: Some(Worker { tasks: sender, button, thread }), ended })
    }

    /// How many replicas there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds up what the replicas give: value by value, with the same bits on all of them. It is queued; sums are made
    /// in the order in which they were asked for, which has to be the same on all ranks, and so have the numbers of
    /// values.
    pub fn sum<T: Element>(&self, values: Vec<T>) -> Pending<Vec<T>> {
        let (done, sum) = mpsc::sync_channel(1);
        match &self.worker {
            // The other end is there.
            None => drop(done.send(values)),
            Some(worker) => {
                // If the thread has ended, whoever waits learns why.
                drop(worker.tasks.send(Box::new(Sum::new(values, done))));
                worker.button.ring();
            }
        }
        Pending { sum, ended: Arc::clone(&self.ended) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Some(Worker { tasks, button, thread }) = self.worker.take() {
            drop(tasks);
            button.ring();
            // What it has to say it has said in `ended`.
            let _ = thread.join();
        }
    }
}

/// A sum that is being made.
#[must_use = "a sum that nobody waits for may be given up"]
pub struct Pending<T> {
    sum: mpsc::Receiver<T>,
    ended: Arc<OnceLock<RingError>>,
}

impl<T> Pending<T> {
    /// Waits for it.
    ///
    /// # Errors
    ///
    /// The ring has ended before; all its sums since have this error. Where it has broken, the last sum may have been
    /// made on some ranks, and not on others.
    pub fn wait(self) -> Result<T, RingError> {
        self.sum.recv().map_err(|_| {
            let unknown = || RingError::Unusable("its thread has ended".to_owned());
            self.ended.get().cloned().unwrap_or_else(unknown)
        })
    }
}
