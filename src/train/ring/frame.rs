//! What travels between two ranks once they have met: frames of a header and a body.

/// How long a header is, in bytes.
pub(super) const HEADER: usize = 24;
/// How long a piece of a vector is at most, in bytes. Long enough that calls of the system do not count, short enough
/// for a processor's cache.
pub(super) const PIECE: usize = 128 << 10;
/// How long the body of a farewell is at most, in bytes.
const FAREWELL: usize = 64 << 10;

/// Of what type values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Single precision.
    F32 = 1,
    /// Double precision.
    F64 = 2,
}

impl Kind {
    /// Its name in Rust.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }
}

/// Which sum a piece is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// Which one since the ranks met, from 0.
    pub(super) number: u64,
    /// Of what.
    pub(super) kind: Kind,
    /// Of how many.
    pub(super) values: u64,
}

impl Subject {
    /// What a rank gives, for people.
    pub(super) fn words(&self) -> String {
        format!("{} values of {} for sum {}", self.values, self.kind.name(), self.number)
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// "I am here."
    Beat,
    /// Backwards: "I have this many sums in my queue, or had": their pieces can come. What is not asked for would fill
    /// the buffers of a connection, and no beat could pass.
    Ready(u64),
    /// Forwards: the next piece of a sum, in the body.
    Piece(Subject),
    /// "I am leaving", and why, in the body.
    Farewell,
}

/// What comes before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What the frame is.
    pub(super) frame: Frame,
    /// How long the body is, in bytes.
    pub(super) body: usize,
}

impl Header {
    /// As it travels.
    pub(super) fn bytes(&self) -> [u8; HEADER] {
        let (tag, kind, number, values) = match self.frame {
            Frame::Beat => (1, 0, 0, 0),
            Frame::Ready(sums) => (2, 0, sums, 0),
            Frame::Piece(subject) => (3, subject.kind as u8, subject.number, subject.values),
            Frame::Farewell => (4, 0, 0, 0),
        };
        let mut bytes = [0; HEADER];
        bytes[0] = tag;
        bytes[1] = kind;
        bytes[4..8].copy_from_slice(&(self.body as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..].copy_from_slice(&values.to_le_bytes());
        bytes
    }

    /// Reads one. None: it is none.
    pub(super) fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let [tag, kind, _, _, b0, b1, b2, b3, rest @ ..] = *bytes;
        let ([number, values], []) = rest.as_chunks::<8>() else { return None };
        let (number, values) = (u64::from_le_bytes(*number), u64::from_le_bytes(*values));
        let (frame, most) = match (tag, kind) {
            (1, 0) => (Frame::Beat, 0),
            (2, 0) => (Frame::Ready(number), 0),
            (3, 1) => (Frame::Piece(Subject { number, kind: Kind::F32, values }), PIECE),
            (3, 2) => (Frame::Piece(Subject { number, kind: Kind::F64, values }), PIECE),
            (4, 0) => (Frame::Farewell, FAREWELL),
            _ => return None,
        };
        let body = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
        (body <= most).then_some(Self { frame, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        let subject = Subject { number: 7, kind: Kind::F64, values: 1 << 40 };
        for (frame, body) in [
            (Frame::Beat, 0),
            (Frame::Ready(9), 0),
            (Frame::Piece(subject), PIECE),
            (Frame::Piece(Subject { kind: Kind::F32, ..subject }), 0),
            (Frame::Farewell, 300),
        ] {
            let header = Header { frame, body };
            assert_eq!(Header::read(&header.bytes()), Some(header));
        }
    }

    #[test]
    fn junk_is_no_header() {
        assert_eq!(Header::read(&[0; HEADER]), None);
        assert_eq!(Header::read(b"GET / HTTP/1.1\r\nHost: a\r"), None);
        assert_eq!(Header::read(&Header { frame: Frame::Beat, body: 1 }.bytes()), None);
        let subject = Subject { number: 0, kind: Kind::F32, values: 1 };
        assert_eq!(Header::read(&Header { frame: Frame::Piece(subject), body: PIECE + 1 }.bytes()), None);
    }
}
