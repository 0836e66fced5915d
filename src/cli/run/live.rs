//! What `run` shows while the job runs: on a terminal a few lines that change, elsewhere lines when something does.

use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::api::object::AdaptDLJob;
use crate::api::status::AdaptDLJobStatus;
use crate::api::words::count;
use crate::cli::events::short_line;
use crate::cli::printer::Printer;
use crate::cli::text::{age, maybe_age};
use crate::client::EventView;

/// Shows one job.
pub(super) struct View {
    printer: Printer,
    screen: Option<Screen>,
    /// What was last said where there is no terminal.
    said: Mutex<String>,
}

/// The lines that change.
struct Screen {
    bars: MultiProgress,
    state: ProgressBar,
    progress: ProgressBar,
    workers: ProgressBar,
}

impl View {
    pub(super) fn new(printer: Printer) -> Self {
        let screen = printer.terminal.then(Screen::new);
        Self { printer, screen, said: Mutex::default() }
    }

    /// Shows the job as it is now.
    pub(super) fn show(&self, job: &AdaptDLJob) {
        let status = &job.status;
        let (state, workers) = (state(job), workers(status));
        match &self.screen {
            Some(screen) => {
                screen.state.set_message(state);
                screen.progress.set_message(progress(status));
                screen.workers.set_message(workers);
            }
            None => {
                // Progress alone is not worth a line.
                let said = format!("{}{}{workers}", status.phase, status.message);
                let mut before = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if *before != said {
                    *before = said;
                    let progress = progress(status);
                    let progress = if progress.is_empty() { progress } else { format!("   {progress}") };
                    self.printer.data(&format!("{}{progress}", plain_state(status)));
                }
            }
        }
    }

    /// Tells of an event.
    pub(super) fn tell(&self, event: &EventView) {
        self.say(&short_line(event));
    }

    /// Says something that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.screen {
            Some(screen) => screen.say(text),
            None => self.printer.data(text),
        }
    }

    /// Takes the changing lines away.
    pub(super) fn finish(&self) {
        if let Some(screen) = &self.screen {
            // A bar that is only cleared away is drawn again at its next tick.
            [&screen.workers, &screen.progress, &screen.state]
                .into_iter()
                .for_each(ProgressBar::finish_and_clear);
        }
    }
}

impl Screen {
    fn new() -> Self {
        let bars = MultiProgress::new();
        let line = |template: &str| {
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
            bars.add(ProgressBar::new_spinner().with_style(style))
        };
        let state = line("{spinner:.cyan} {msg}");
        state.enable_steady_tick(std::time::Duration::from_millis(120));
        let (progress, workers) = (line("  {msg}"), line("  {msg}"));
        Self { bars, state, progress, workers }
    }

    fn say(&self, text: &str) {
        let _ = self.bars.println(text);
    }
}

fn state(job: &AdaptDLJob) -> String {
    let status = &job.status;
    let message = status.message.lines().next().unwrap_or_default();
    format!("{} {} for {}   {message}", job.metadata.key(), status.phase, maybe_age(status.phase_since))
}

fn plain_state(status: &AdaptDLJobStatus) -> String {
    let workers = format!("{} of {}", status.replicas, count(status.desired_replicas, "worker"));
    let message = status.message.lines().next().unwrap_or_default();
    let time = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
    format!("{time} {}, {workers}: {message}", status.phase).trim_end_matches(": ").to_owned()
}

fn progress(status: &AdaptDLJobStatus) -> String {
    let Some(progress) = &status.progress else { return String::new() };
    let mut parts = vec![format!("step {}", progress.steps)];
    parts.extend(progress.step_rate.map(|rate| format!("{rate:.1} steps/s")));
    parts.extend(progress.epoch.map(|epoch| format!("epoch {epoch}")));
    parts.extend(progress.batch_size.map(|size| format!("batch {size}")));
    parts.extend(progress.goodput.as_ref().map(|goodput| format!("goodput {:.0}/s", goodput.goodput)));
    if let Some(checkpoint) = &status.checkpoint {
        parts.push(format!("checkpoint {} ago", age(checkpoint.saved)));
    }
    parts.join("   ")
}

fn workers(status: &AdaptDLJobStatus) -> String {
    let workers = status
        .workers
        .iter()
        .map(|worker| format!("rank {} on {}: {}", worker.rank, worker.node, worker.state));
    workers.collect::<Vec<_>>().join("   ")
}
