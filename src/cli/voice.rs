//! What is said while a job is attended to: its workers' output, and what becomes of it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::printer::Printer;
use crate::launcher::lines::MARK;

/// Where it goes.
pub(super) struct Voice {
    printer: Printer,
    /// Whether all of it goes to one place, where it is told apart by a mark: on the head of a cluster.
    marked: bool,
    /// Whether the workers are in the middle of a line.
    inside: AtomicBool,
}

impl Voice {
    /// Output to standard output, the rest to standard error.
    pub(super) fn new(printer: Printer) -> Self {
        Self { printer: printer.persistent(), marked: false, inside: AtomicBool::new(false) }
    }

    /// All to standard output, as the output of a Ray job.
    pub(super) fn marked(printer: Printer) -> Self {
        Self { marked: true, ..Self::new(printer) }
    }

    /// What workers have written, as it is.
    pub(super) fn output(&self, text: &str) {
        if !text.is_empty() {
            self.inside.store(!text.ends_with('\n'), Ordering::Relaxed);
            self.printer.raw(text);
        }
    }

    /// What becomes of the job, in whole lines.
    pub(super) fn status(&self, text: &str) {
        if !self.marked {
            return self.printer.talk(text);
        }
        // The mark is one at the beginning of a line only.
        let mut marked = if self.inside.swap(false, Ordering::Relaxed) { "\n" } else { "" }.to_owned();
        for line in text.lines() {
            marked.push_str(&format!("{MARK}{line}\n"));
        }
        self.printer.raw(&marked);
    }
}
