//! How two ranks show each other that they know the group's secret, without saying it.
//!
//! Whoever connects says hello with a number of its own, gets the other's, and then says what it wants, with an
//! HMAC-SHA256 over both numbers and that. The other side answers with another one. Both numbers are drawn anew each
//! time, and the two sides' digests begin differently: neither what was overheard nor what is sent back is any use.
//! Everything has a length that is known or small, and a time after which it must have come.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

/// How connections of a ring begin.
const HELLO: &[u8; 16] = b"rayconcile ring1";
/// How long a refusal may be, in bytes.
const REASON: usize = 1 << 10;
/// How long a claim is on its way, in bytes.
const CLAIM: usize = 23;

type Nonce = [u8; 32];
type Digest = [u8; 32];

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To meet the other ranks, at rank 0.
    Meet,
    /// To be the connection between a rank and the one after it.
    Join,
}

/// What whoever connects says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) purpose: Purpose,
    /// Where it listens.
    pub(super) port: u16,
    /// Who it is.
    pub(super) rank: u32,
    /// Whom it wants.
    pub(super) to: u32,
    /// How many ranks there are.
    pub(super) size: u32,
    pub(super) group: u64,
}

impl Claim {
    fn bytes(&self) -> [u8; CLAIM] {
        let mut bytes = [0; CLAIM];
        bytes[0] = self.purpose as u8;
        bytes[1..3].copy_from_slice(&self.port.to_le_bytes());
        bytes[3..7].copy_from_slice(&self.rank.to_le_bytes());
        bytes[7..11].copy_from_slice(&self.to.to_le_bytes());
        bytes[11..15].copy_from_slice(&self.size.to_le_bytes());
        bytes[15..].copy_from_slice(&self.group.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; CLAIM]) -> Option<Self> {
        let [purpose, p0, p1, r0, r1, r2, r3, t0, t1, t2, t3, s0, s1, s2, s3, group @ ..] = *bytes;
        let purpose = match purpose {
            0 => Purpose::Meet,
            1 => Purpose::Join,
            _ => return None,
        };
        Some(Self {
            purpose,
            port: u16::from_le_bytes([p0, p1]),
            rank: u32::from_le_bytes([r0, r1, r2, r3]),
            to: u32::from_le_bytes([t0, t1, t2, t3]),
            size: u32::from_le_bytes([s0, s1, s2, s3]),
            group: u64::from_le_bytes(group),
        })
    }
}

/// What both sides put into their digests.
struct Transcript {
    hello: Nonce,
    reply: Nonce,
    claim: [u8; CLAIM],
}

impl Transcript {
    /// The digest of one side, over what it says beyond the claim.
    fn mac(&self, secret: &[u8], side: &[u8], words: &[u8]) -> io::Result<Hmac<Sha256>> {
        let mut mac = Hmac::new_from_slice(secret).map_err(io::Error::other)?;
        for part in [HELLO.as_slice(), side, &self.hello, &self.reply, &self.claim, words] {
            mac.update(part);
        }
        Ok(mac)
    }
}

/// The sides.
const CALLER: &[u8] = b"caller";
const HOST: &[u8] = b"listen";

/// What came of a call.
pub(super) enum Answer {
    /// The other side knows the secret, and agrees.
    Welcome,
    /// It knows the secret, and does not agree.
    Refused(String),
}

/// Calls: shows who this is, and looks whether the other side knows the secret. An error may be a stranger's doing.
pub(super) fn call(
    stream: &TcpStream,
    secret: &[u8],
    claim: &Claim,
    deadline: Instant,
) -> io::Result<Answer> {
    let hello = nonce();
    send(stream, &[HELLO.as_slice(), &hello].concat(), deadline)?;
    let transcript = Transcript { hello, reply: receive(stream, deadline)?, claim: claim.bytes() };
    let digest = transcript.mac(secret, CALLER, &[])?.finalize().into_bytes();
    send(stream, &[transcript.claim.as_slice(), &digest].concat(), deadline)?;
    let head: [u8; 2] = receive(stream, deadline)?;
    let length = usize::from(u16::from_le_bytes(head));
    if length > REASON {
        return Err(nonsense());
    }
    let mut reason = vec![0; length];
    receive_into(stream, &mut reason, deadline)?;
    let digest: Digest = receive(stream, deadline)?;
    if transcript.mac(secret, HOST, &reason)?.verify_slice(&digest).is_err() {
        return Err(io::Error::other("what listens there does not know the group's secret"));
    }
    Ok(match reason.is_empty() {
        true => Answer::Welcome,
        false => Answer::Refused(String::from_utf8_lossy(&reason).into_owned()),
    })
}

/// Somebody who has called, and knows the secret.
pub(super) struct Caller {
    pub(super) stream: TcpStream,
    pub(super) claim: Claim,
    transcript: Transcript,
}

/// Listens to somebody who has connected. None: it does not know the secret, and is told so in a way that shows that
/// this side's is another one.
pub(super) fn listen(stream: TcpStream, secret: &[u8], deadline: Instant) -> io::Result<Option<Caller>> {
    if receive::<16>(&stream, deadline)? != *HELLO {
        return Err(nonsense());
    }
    let (hello, reply) = (receive(&stream, deadline)?, nonce());
    send(&stream, &reply, deadline)?;
    let claim = receive(&stream, deadline)?;
    let digest: Digest = receive(&stream, deadline)?;
    let transcript = Transcript { hello, reply, claim };
    if transcript.mac(secret, CALLER, &[])?.verify_slice(&digest).is_err() {
        answer(&stream, &transcript, secret, "the secret is another one", deadline)?;
        return Ok(None);
    }
    let claim = Claim::read(&claim).ok_or_else(nonsense)?;
    Ok(Some(Caller { stream, claim, transcript }))
}

impl Caller {
    /// Answers: welcome, or why not.
    pub(super) fn answer(
        &self,
        secret: &[u8],
        verdict: Result<(), &str>,
        deadline: Instant,
    ) -> io::Result<()> {
        answer(&self.stream, &self.transcript, secret, verdict.err().unwrap_or_default(), deadline)
    }
}

/// An empty reason is a welcome.
fn answer(
    stream: &TcpStream,
    transcript: &Transcript,
    secret: &[u8],
    reason: &str,
    deadline: Instant,
) -> io::Result<()> {
    let reason = &reason.as_bytes()[..reason.len().min(REASON)];
    let digest = transcript.mac(secret, HOST, reason)?.finalize().into_bytes();
    let length = (reason.len() as u16).to_le_bytes();
    send(stream, &[length.as_slice(), reason, &digest].concat(), deadline)
}

/// A number that nobody has seen before.
fn nonce() -> Nonce {
    let mut nonce = [0; 32];
    let (first, second) = nonce.split_at_mut(16);
    first.copy_from_slice(Uuid::new_v4().as_bytes());
    second.copy_from_slice(Uuid::new_v4().as_bytes());
    nonce
}

fn nonsense() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "what is there is no rank of a ring")
}

/// Sends all of it, until the deadline.
pub(super) fn send(mut stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_patient(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives so many bytes, until the deadline.
pub(super) fn receive<const N: usize>(stream: &TcpStream, deadline: Instant) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    receive_into(stream, &mut bytes, deadline)?;
    Ok(bytes)
}

/// Fills this, until the deadline: however slowly it comes, not longer.
pub(super) fn receive_into(mut stream: &TcpStream, bytes: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut got = 0;
    while got < bytes.len() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut bytes[got..]) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed")),
            Ok(count) => got += count,
            Err(error) if is_patient(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether only time has passed.
fn is_patient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// How long it is until the deadline.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::Error::new(ErrorKind::TimedOut, "no answer in time")),
        false => Ok(left),
    }
}
