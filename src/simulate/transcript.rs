//! What happened, in lines for people.

use std::collections::VecDeque;

use super::clock::Ms;

/// The newest lines of what happened; none while nobody wants to read them.
#[derive(Default)]
pub(super) struct Transcript {
    limit: usize,
    lines: VecDeque<String>,
}

impl Transcript {
    /// Keeps so many lines.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, lines: VecDeque::new() }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.limit > 0
    }

    /// Adds a line, which is made only if it is kept.
    pub(super) fn say(&mut self, at: Ms, line: impl FnOnce() -> String) {
        if self.limit == 0 {
            return;
        }
        if self.lines.len() == self.limit {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>9}  {}", clock(at), line()));
    }

    pub(super) fn text(&self) -> String {
        self.lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

/// `12.345`, `1:02:03.456`: seconds, and what is more.
fn clock(at: Ms) -> String {
    let (minutes, seconds, millis) = (at / 60_000, at / 1000 % 60, at % 1000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}.{millis:03}"),
        (0, minutes) => format!("{minutes}:{seconds:02}.{millis:03}"),
        (hours, minutes) => format!("{hours}:{minutes:02}:{seconds:02}.{millis:03}"),
    }
}
