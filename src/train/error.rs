//! What can go wrong in training, and what is said then.

use std::path::PathBuf;

use super::RingError;

/// Why a program cannot train, or go on training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A variable that a worker is started with is not what it should be.
    #[error("{variable} is {found}, expected {expected}")]
    Environment {
        /// The variable's name.
        variable: &'static str,
        /// Its value, in quotes, or that it has none.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// What the program wants cannot be done.
    #[error("{field} is {found}, expected {expected}")]
    Plan {
        /// The field of [`Plan`](super::Plan).
        field: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// Calls that are not in the order that training has.
    #[error("{0}")]
    Order(&'static str),
    /// A variable is used in a stage that was said to be without it.
    #[error("{variable} belongs to another stage than {stage}, which uses it too: cut the model elsewhere")]
    Shared {
        /// The variable.
        variable: String,
        /// Where else it is used: the stage's number, counted from the input.
        stage: usize,
    },
    /// The supervisor cannot be asked, or gives an answer that is none.
    #[error("cannot ask the supervisor for {what}: {reason}")]
    Supervisor {
        /// What was asked for.
        what: &'static str,
        /// Why it was not answered.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the program keeps of its own could be saved, but not restored.
    #[error("what the program keeps of its own cannot be read back: {reason}")]
    Own {
        /// Why.
        reason: String,
    },
    /// A checkpoint is not one of this program, or is damaged.
    #[error("cannot restore {}: {reason}", path.display())]
    Checkpoint {
        /// The checkpoint, or the file in it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The other replicas are out of reach, or one of them has ended.
    #[error("cannot train with the other replicas: {0}")]
    Peers(#[from] RingError),
    /// torch refuses an operation.
    #[error("torch: {0}")]
    Torch(#[from] tch::TchError),
}
