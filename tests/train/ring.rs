//! The ring, with threads for ranks where they only add up, and processes where they are killed.

mod deaths;
mod meetings;
mod sums;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rayconcile::train::{Ring, RingConfig, RingError};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that nobody on this machine has now, above those that the kernel gives to whoever asks for any.
fn free_port() -> u16 {
    let mut drawn = std::iter::repeat_with(|| fastrand::u16(61_000..));
    drawn.find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()).unwrap()
}

/// What one of so many ranks on this machine needs.
fn config(rank: usize, size: usize, port: u16) -> RingConfig {
    RingConfig {
        rank,
        peers: vec!["127.0.0.1".to_owned(); size],
        master_port: port,
        secret: b"of this group only".to_vec(),
        group: 7,
        patience: PATIENCE,
        silence: PATIENCE,
    }
}

/// Connects on a thread.
fn connecting(config: RingConfig) -> thread::JoinHandle<Result<Ring, RingError>> {
    thread::spawn(move || Ring::connect(config))
}

/// Does this on so many ranks, which keep their rings until all have done it, and gives what came of it in their order.
fn on_ranks<T: Send + 'static>(
    size: usize,
    change: impl Fn(&mut RingConfig),
    program: impl Fn(&Ring, usize) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let (port, program) = (free_port(), Arc::new(program));
    let ranks: Vec<_> = (0..size)
        .map(|rank| {
            let mut config = config(rank, size, port);
            change(&mut config);
            let program = Arc::clone(&program);
            thread::spawn(move || {
                let ring = Ring::connect(config).unwrap();
                (program(&ring, rank), ring)
            })
        })
        .collect();
    let done: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    done.into_iter().map(|(result, _)| result).collect()
}
