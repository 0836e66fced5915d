//! How ranks meet, whoever else comes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rayconcile::train::{Peer, Ring, RingConfig, RingError};

use super::{PATIENCE, config, connecting, free_port};

/// For those who wait in vain.
const SHORT: Duration = Duration::from_secs(1);

/// A connection to rank 0, once it listens.
fn knock(port: u16) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        thread::yield_now();
    }
}

/// Whether these have become a ring.
fn add_up(rings: Vec<Ring>) {
    let size = rings.len();
    let sums: Vec<_> = rings.iter().map(|ring| ring.sum(vec![1.0_f64; 3])).collect();
    for sum in sums {
        assert_eq!(sum.wait().unwrap(), [size as f64; 3]);
    }
}

/// All of them have met.
fn rings(ranks: Vec<thread::JoinHandle<Result<Ring, RingError>>>) -> Vec<Ring> {
    ranks.into_iter().map(|rank| rank.join().unwrap().unwrap()).collect()
}

fn peer(rank: usize) -> Peer {
    Peer { rank, address: "127.0.0.1".to_owned() }
}

#[test]
fn strangers_are_in_nobodys_way() {
    let port = free_port();
    let first = connecting(config(0, 3, port));
    let silent: Vec<_> = (0..150).map(|_| knock(port)).collect();
    for words in
        ["GET / HTTP/1.1\r\n\r\n", "rayconcile ring1", "rayconcile ring1 and then thirty-two bytes more...."]
    {
        let mut stream = knock(port);
        stream.write_all(words.as_bytes()).unwrap();
        drop(stream);
        let mut stream = knock(port);
        stream.write_all(words.as_bytes()).unwrap();
        stream.write_all(&[0; 100_000]).unwrap_or_default();
    }
    // What it said is no proof, sent back by somebody who was given a number to answer.
    let mut parrot = knock(port);
    parrot.write_all(b"rayconcile ring1aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb").unwrap();
    let mut number = [0; 32];
    parrot.read_exact(&mut number).unwrap();
    parrot.write_all(&[&number[..], &number[..]].concat()).unwrap();
    let others = [1, 2].map(|rank| connecting(config(rank, 3, port)));
    add_up(rings([first].into_iter().chain(others).collect()));
    drop(silent);
}

#[test]
fn another_secret_opens_nothing() {
    let port = free_port();
    let mut impostor = config(1, 2, port);
    (impostor.secret, impostor.patience) = (b"of another".to_vec(), SHORT);
    let first = connecting(config(0, 2, port));
    drop(knock(port));
    let error = Ring::connect(impostor).err().unwrap();
    let RingError::Unmet { peer: whom, why, .. } = &error else { panic!("{error}") };
    assert_eq!((whom, why.as_str()), (&peer(0), "what listens there does not know the group's secret"));
    add_up(rings(vec![first, connecting(config(1, 2, port))]));
}

/// What rank 0 says to one who knows the secret, but should not be there.
fn refusal(change: impl Fn(&mut RingConfig)) -> String {
    let port = free_port();
    let first = connecting(config(0, 3, port));
    let mut wrong = config(1, 3, port);
    change(&mut wrong);
    let error = Ring::connect(wrong).err().unwrap();
    assert!(matches!(&error, RingError::Refused { peer: by, .. } if *by == peer(0)), "{error}");
    let others = [1, 2].map(|rank| connecting(config(rank, 3, port)));
    add_up(rings([first].into_iter().chain(others).collect()));
    error.to_string()
}

#[test]
fn a_rank_of_another_group_is_told_so() {
    assert_eq!(
        refusal(|config| config.group = 8),
        "rank 0 (127.0.0.1) refuses this rank: it is of group 7, and not of 8"
    );
    assert_eq!(
        refusal(|config| config.peers.truncate(2)),
        "rank 0 (127.0.0.1) refuses this rank: its group has 3 ranks, and not 2"
    );
}

#[test]
fn a_rank_comes_once() {
    let port = free_port();
    let first = connecting(config(0, 3, port));
    let (sender, done) = channel();
    for _ in 0..2 {
        let sender = sender.clone();
        thread::spawn(move || sender.send(Ring::connect(config(1, 3, port))).unwrap());
    }
    let error = done.recv_timeout(PATIENCE).unwrap().err().unwrap();
    assert_eq!(error, RingError::Refused { peer: peer(0), why: "rank 1 is there already".to_owned() });
    let mut met = rings(vec![first, connecting(config(2, 3, port))]);
    met.insert(1, done.recv_timeout(PATIENCE).unwrap().unwrap());
    add_up(met);
}

/// Rank 0 says who is missing, to those who came too.
#[test]
fn a_rank_never_comes() {
    let port = free_port();
    let mut first = config(0, 4, port);
    first.patience = SHORT;
    let ranks = [connecting(first), connecting(config(2, 4, port))];
    let _stranger = knock(port);
    for rank in ranks {
        let error = rank.join().unwrap().err().unwrap();
        assert_eq!(
            error.to_string(),
            "rank 1 (127.0.0.1) and rank 3 (127.0.0.1) have not come to the meeting of the ranks within 1s"
        );
    }
}

#[test]
fn rank_0_never_comes() {
    let mut alone = config(1, 2, free_port());
    alone.patience = SHORT;
    let error = Ring::connect(alone).err().unwrap();
    assert!(matches!(&error, RingError::Unmet { peer: whom, .. } if *whom == peer(0)), "{error}");
    assert!(error.to_string().starts_with("could not meet rank 0 (127.0.0.1) within 1s: Connection refused"));
}

/// A rank that comes, and is gone before the others have, can come again.
#[test]
fn a_rank_comes_again() {
    let port = free_port();
    let first = connecting(config(0, 3, port));
    let mut hasty = config(1, 3, port);
    hasty.patience = SHORT;
    let error = Ring::connect(hasty).err().unwrap();
    assert!(error.to_string().ends_with("it still waits for other ranks"), "{error}");
    let others = [1, 2].map(|rank| connecting(config(rank, 3, port)));
    add_up(rings([first].into_iter().chain(others).collect()));
}

/// As behind a door that has the address: rank 0 listens everywhere then.
#[test]
fn an_address_need_not_be_the_machines_own() {
    let port = free_port();
    let mut first = config(0, 2, port);
    first.peers[0] = "192.0.2.1".to_owned();
    add_up(rings(vec![connecting(first), connecting(config(1, 2, port))]));
}

#[test]
fn a_taken_port_is_waited_for() {
    let port = free_port();
    let holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut first = config(0, 2, port);
    first.patience = Duration::ZERO;
    assert!(matches!(Ring::connect(first).err().unwrap(), RingError::Listen { .. }));
    let first = connecting(config(0, 2, port));
    drop(holder);
    add_up(rings(vec![first, connecting(config(1, 2, port))]));
}

#[test]
fn what_is_no_ring_is_refused() {
    let broken: [fn(&mut RingConfig); 4] = [
        |config| config.peers.clear(),
        |config| config.secret.clear(),
        |config| config.rank = 2,
        |config| config.silence = Duration::ZERO,
    ];
    for change in broken {
        let mut config = config(0, 2, free_port());
        change(&mut config);
        assert!(matches!(Ring::connect(config).err().unwrap(), RingError::Unusable(_)));
    }
}
