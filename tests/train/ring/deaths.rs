//! What the others learn when one of them ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use std::{env, io, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rayconcile::train::{Peer, Ring, RingError};

use super::{PATIENCE, config, free_port, on_ranks};

/// How a process that is a rank is told which: rank, size, port and silence in milliseconds.
const RANK: &str = "RAYCONCILE_TEST_RANK";
/// How it begins its lines.
const MARK: &str = "ring says ";

/// A process that is one of the ranks. For each line on its standard input it makes a sum, of so many values; "on" is
/// one of large sums without end.
struct Rank {
    process: Child,
    says: Receiver<String>,
}

impl Rank {
    fn start(rank: usize, size: usize, port: u16, silence: Duration) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "ring::deaths::rank", "--nocapture"])
            .env(RANK, format!("{rank} {size} {port} {}", silence.as_millis()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, says) = channel();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The test's own name stands before the first one.
                if let Some((_, words)) = line.split_once(MARK) {
                    let _ = sender.send(words.to_owned());
                }
            }
        });
        Self { process, says }
    }

    fn tell(&mut self, words: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{words}").unwrap();
    }

    fn hear(&self) -> String {
        self.says.recv_timeout(PATIENCE).unwrap()
    }

    /// What it says last: why its ring has ended.
    fn error(&self) -> RingError {
        loop {
            if let Some(error) = self.hear().strip_prefix("error ") {
                return serde_json::from_str(error).unwrap();
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ranks as processes, which have met.
fn ranks<const N: usize>(silence: Duration) -> [Rank; N] {
    let port = free_port();
    let mut rank = 0;
    let ranks = [(); N].map(|()| {
        rank += 1;
        Rank::start(rank - 1, N, port, silence)
    });
    for rank in &ranks {
        assert_eq!(rank.hear(), "met");
    }
    ranks
}

/// No test, but one of the processes.
#[test]
fn rank() {
    let Ok(words) = env::var(RANK) else { return };
    let numbers: Vec<usize> = words.split(' ').map(|word| word.parse().unwrap()).collect();
    let mut config = config(numbers[0], numbers[1], numbers[2].try_into().unwrap());
    config.silence = Duration::from_millis(numbers[3] as u64);
    let ring = Ring::connect(config).unwrap();
    println!("{MARK}met");
    let sum = |count: usize| match ring.sum(vec![1.0_f32; count]).wait() {
        Ok(_) => println!("{MARK}summed"),
        Err(error) => {
            println!("{MARK}error {}", serde_json::to_string(&error).unwrap());
            std::process::exit(0);
        }
    };
    for line in io::stdin().lines() {
        match line.unwrap().as_str() {
            "on" => loop {
                sum(4_000_000);
            },
            count => sum(count.parse().unwrap()),
        }
    }
}

fn peer(rank: usize) -> Peer {
    Peer { rank, address: "127.0.0.1".to_owned() }
}

#[test]
fn one_is_killed_in_the_middle_of_a_sum() {
    let mut ranks = ranks::<4>(PATIENCE * 10);
    for rank in &mut ranks {
        rank.tell("on");
    }
    for rank in &ranks {
        assert_eq!(rank.hear(), "summed");
    }
    ranks[2].signal(Signal::SIGKILL);
    for rank in [0, 1, 3] {
        let error = ranks[rank].error();
        assert_eq!(error, RingError::Closed(peer(2)), "rank {rank}");
        assert_eq!(
            error.to_string(),
            "rank 2 (127.0.0.1) has closed its connection: it has ended or was killed"
        );
    }
}

#[test]
fn one_is_killed_while_others_wait_for_it() {
    let mut ranks = ranks::<4>(PATIENCE * 10);
    for rank in [0, 2, 3] {
        ranks[rank].tell("4000000");
    }
    ranks[1].signal(Signal::SIGKILL);
    for rank in [0, 2, 3] {
        assert_eq!(ranks[rank].error(), RingError::Closed(peer(1)), "rank {rank}");
    }
}

#[test]
fn one_of_two_is_killed_while_nothing_is_added_up() {
    let mut ranks = ranks::<2>(PATIENCE * 10);
    ranks[0].signal(Signal::SIGKILL);
    ranks[0].process.wait().unwrap();
    ranks[1].tell("1");
    assert_eq!(ranks[1].error(), RingError::Closed(peer(0)));
}

/// As far as the others can see, its machine is gone: its connections stay open.
#[test]
fn one_is_stopped() {
    let silence = Duration::from_secs(2);
    let mut ranks = ranks::<4>(silence);
    for rank in &mut ranks {
        rank.tell("on");
    }
    for rank in &ranks {
        assert_eq!(rank.hear(), "summed");
    }
    ranks[3].signal(Signal::SIGSTOP);
    for rank in [0, 1, 2] {
        assert_eq!(ranks[rank].error(), RingError::Silent { peer: peer(3), silence }, "rank {rank}");
    }
    // It learns what it is taken for.
    ranks[3].signal(Signal::SIGCONT);
    let error = ranks[3].error();
    assert!(matches!(&error, RingError::Silent { peer, .. } if peer.rank == 3), "{error}");
}

/// All that is queued ends with the same error, and so does what comes later.
#[test]
fn one_leaves_in_good_order() {
    let (port, size) = (free_port(), 4);
    let rank = |rank: usize| {
        thread::spawn(move || {
            let ring = Ring::connect(config(rank, size, port)).unwrap();
            let first = ring.sum(vec![rank as f64; 100_000]);
            if rank == 1 {
                assert_eq!(first.wait().unwrap()[0], 6.0);
                return vec![];
            }
            let queued: Vec<_> = [5, 1_000_000, 5].map(|count| ring.sum(vec![1.0_f32; count])).into();
            assert_eq!(first.wait().unwrap()[0], 6.0, "for it everything was there");
            let mut errors: Vec<_> = queued.into_iter().map(|sum| sum.wait().unwrap_err()).collect();
            errors.push(ring.sum(vec![1.0_f32]).wait().unwrap_err());
            errors
        })
    };
    let ranks: Vec<_> = (0..size).map(rank).collect();
    for (rank, errors) in ranks.into_iter().map(|rank| rank.join().unwrap()).enumerate() {
        for error in errors {
            assert_eq!(error, RingError::Left(peer(1)), "rank {rank}");
        }
    }
}

#[test]
fn sums_outlive_their_ring_only_as_errors() {
    let errors = on_ranks(2, |_| {}, |_, rank| rank);
    assert_eq!(errors, [0, 1]);
    let port = free_port();
    let other = super::connecting(config(1, 2, port));
    let ring = Ring::connect(config(0, 2, port)).unwrap();
    let other = other.join().unwrap().unwrap();
    let pending = ring.sum(vec![1.0_f32; 1_000_000]);
    drop(ring);
    assert_eq!(pending.wait(), Err(RingError::Left(peer(0))));
    assert_eq!(other.sum(vec![1.0_f32; 1_000_000]).wait(), Err(RingError::Left(peer(0))));
}
