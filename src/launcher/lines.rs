//! How what a controller in a cluster says is told from what the job's workers write: all of it is the output of one
//! Ray job. A line that begins with a mark is the controller's.

/// The mark. Ray's dashboard shows it too, so it is a word.
pub const MARK: &str = "[rayconcile] ";

/// A piece of a Ray job's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What workers have written, with its line breaks.
    Output(String),
    /// What the controller says: a line without its end.
    Status(String),
}

/// Takes output apart, as it comes.
#[derive(Debug, Default)]
pub struct Lines {
    /// What has come of a line that may be the controller's, or of a character.
    waiting: Vec<u8>,
    /// Whether the beginning of the present line was given already.
    inside: bool,
}

impl Lines {
    /// The pieces that are known with these bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.waiting.extend_from_slice(bytes);
        let mut pieces = Vec::new();
        let mut output = String::new();
        while let Some(end) = self.waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.waiting.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.strip_prefix(MARK).filter(|_| !self.inside) {
                Some(said) => {
                    pieces.extend(full(&mut output));
                    pieces.push(Piece::Status(said.trim_end().to_owned()));
                }
                None => output.push_str(&line),
            }
            self.inside = false;
        }
        // Of a line that is not whole, a progress bar's for example, what is whole characters.
        if self.inside || !MARK.as_bytes().starts_with(&self.waiting[..self.waiting.len().min(MARK.len())]) {
            let whole = match std::str::from_utf8(&self.waiting) {
                Ok(text) => text.len(),
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => self.waiting.len(),
            };
            let part: Vec<u8> = self.waiting.drain(..whole).collect();
            self.inside |= !part.is_empty();
            output.push_str(&String::from_utf8_lossy(&part));
        }
        pieces.extend(full(&mut output));
        pieces
    }
}

fn full(output: &mut String) -> Option<Piece> {
    (!output.is_empty()).then(|| Piece::Output(std::mem::take(output)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a text that arrives in pieces of a size.
    fn taken(text: &str, size: usize) -> (String, Vec<String>) {
        let mut lines = Lines::default();
        let (mut output, mut said) = (String::new(), Vec::new());
        for piece in text.as_bytes().chunks(size).flat_map(|bytes| lines.take(bytes)) {
            match piece {
                Piece::Output(text) => output.push_str(&text),
                Piece::Status(line) => said.push(line),
            }
        }
        (output, said)
    }

    #[test]
    fn lines_are_told_apart_however_they_arrive() {
        let text =
            "epoch 1\n[rayconcile] Running\n[ray] not ours\n[rayconcile] two\nß ½ [rayconcile] no\nlast";
        for size in 1..text.len() {
            let (output, said) = taken(text, size);
            assert_eq!(output, "epoch 1\n[ray] not ours\nß ½ [rayconcile] no\nlast", "in pieces of {size}");
            assert_eq!(said, ["Running", "two"]);
        }
    }

    #[test]
    fn a_line_that_grows_is_shown_as_it_grows() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"10%"), [Piece::Output("10%".to_owned())]);
        assert_eq!(lines.take(b"\r20%"), [Piece::Output("\r20%".to_owned())]);
        assert_eq!(lines.take(b"[rayco"), [Piece::Output("[rayco".to_owned())]);
        assert_eq!(lines.take(b"\n[rayco"), [Piece::Output("\n".to_owned())]);
        assert_eq!(lines.take(b"ncile] x\n"), [Piece::Status("x".to_owned())]);
    }
}
