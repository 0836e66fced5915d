//! Machines of a Ray cluster that is not ours, in network namespaces, made by a program beside this file.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{python, repository};

/// Such machines: they end when this is dropped.
pub(crate) struct Machines {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
    /// Ports out here that lead to the head.
    pub(crate) dashboard: u16,
    pub(crate) agent: u16,
    /// Their temporary files.
    pub(crate) directory: PathBuf,
}

impl Machines {
    /// Has a program of `tests/live` make them, and waits until their head serves.
    pub(crate) fn start(program: &str, token: &Path, log: &Path) -> Self {
        let mut process = Command::new(python())
            .arg(repository("tests/live").join(program))
            .arg(token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log).unwrap())
            .spawn()
            .unwrap();
        let (commands, mut answers) = (process.stdin.take(), BufReader::new(process.stdout.take().unwrap()));
        let ready = answer(&mut answers);
        let [dashboard, agent, directory] = ready.split(' ').collect::<Vec<_>>()[..] else {
            panic!("the machines do not start:\n{}", fs::read_to_string(log).unwrap());
        };
        let (dashboard, agent, directory) =
            (dashboard.parse().unwrap(), agent.parse().unwrap(), PathBuf::from(directory));
        Self { process, commands, answers, log: log.to_owned(), dashboard, agent, directory }
    }

    /// The process in the head's network namespace that everything else there ends with.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Cuts a machine off, or mends its link; gives when that was done.
    pub(crate) fn have(&mut self, command: &str) -> f64 {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        assert_eq!(answer(&mut self.answers), command);
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- machines\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
        self.commands = None;
        let ended = self.process.wait().unwrap();
        assert!(ended.success() || std::thread::panicking(), "the machines ended badly: {ended}");
    }
}

fn answer(answers: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}
