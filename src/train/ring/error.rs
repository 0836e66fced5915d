//! Why a ring does not come about, or has ended.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One of the replicas, as errors name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Which.
    pub rank: usize,
    /// Where it is.
    pub address: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "rank {} ({})", self.rank, self.address)
    }
}

/// Why a ring does not come about, or has ended. A rank that finds out tells the others: they all have the same error,
/// as far as they can still be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RingError {
    /// No ring can be made of what was given.
    #[error("no ring can be made: {0}")]
    Unusable(String),
    /// There is nowhere to listen.
    #[error("cannot listen at {address}: {why}")]
    Listen {
        /// Address and port.
        address: String,
        /// What the system says.
        why: String,
    },
    /// Some ranks did not come.
    #[error("{} not come to the meeting of the ranks within {patience:?}{}", names(missing), strangers(*refused))]
    Absent {
        /// Which.
        missing: Vec<Peer>,
        /// How long they were waited for.
        patience: Duration,
        /// How many connections came meanwhile from whoever does not know the group's secret.
        refused: usize,
    },
    /// A rank could not be met.
    #[error("could not meet {peer} within {patience:?}: {why}")]
    Unmet {
        /// Which.
        peer: Peer,
        /// How long it was tried.
        patience: Duration,
        /// What the last try came to.
        why: String,
    },
    /// A rank knows the group's secret, and wants nothing of this one.
    #[error("{peer} refuses this rank: {why}")]
    Refused {
        /// Which.
        peer: Peer,
        /// What it says.
        why: String,
    },
    /// The connection of a rank ended without a word.
    #[error("{0} has closed its connection: it has ended or was killed")]
    Closed(Peer),
    /// The connection to a rank does not work any more.
    #[error("the connection to {peer} is lost: {why}")]
    Lost {
        /// Which.
        peer: Peer,
        /// What the system says.
        why: String,
    },
    /// Nothing came from a rank, not even a beat.
    #[error("{peer} has been silent for {silence:?}: it is stopped, or its machine is gone")]
    Silent {
        /// Which.
        peer: Peer,
        /// For how long.
        silence: Duration,
    },
    /// A rank has dropped its ring, in good order.
    #[error("{0} has left the ring")]
    Left(Peer),
    /// Two ranks do not mean the same sum.
    #[error("the ranks do not add up the same: {first} gives {} and {second} gives {}", given.0, given.1)]
    Mismatch {
        /// One of the two.
        first: Peer,
        /// The other.
        second: Peer,
        /// What they give, in this order.
        given: (String, String),
    },
    /// A rank has sent what makes no sense.
    #[error("{peer} has sent what makes no sense: {what}")]
    Garbled {
        /// Which.
        peer: Peer,
        /// What is wrong with it.
        what: String,
    },
    /// A rank cannot go on by itself.
    #[error("the ring's thread on {peer} cannot go on: {why}")]
    Broken {
        /// Which.
        peer: Peer,
        /// What the system says.
        why: String,
    },
}

/// "rank 1 (10.0.0.6) and rank 2 (10.0.0.7) have".
fn names(peers: &[Peer]) -> String {
    let names: Vec<String> = peers.iter().map(Peer::to_string).collect();
    match names.as_slice() {
        [] => "some rank has".to_owned(),
        [one] => format!("{one} has"),
        [others @ .., last] => format!("{} and {last} have", others.join(", ")),
    }
}

fn strangers(refused: usize) -> String {
    match refused {
        0 => String::new(),
        1 => "; 1 connection did not know the group's secret".to_owned(),
        _ => format!("; {refused} connections did not know the group's secret"),
    }
}
