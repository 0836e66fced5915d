//! From commands that start Ray to what they say of a node. Rayconcile starts Ray itself; of the commands it takes over
//! the parameters of `ray start` and the variables that are exported.

use serde_json::Value;

use super::docker::SECRET;
use super::input::Text;
use super::lost::merge;
use super::shell::{self, Word};
use super::tree::{Note, SECRETS};
use crate::manifest::Part;

/// What the commands say.
#[derive(Clone, Debug, Default)]
pub(super) struct Start<'a> {
    /// Parameters of `ray start`, without their dashes.
    pub(super) parameters: Vec<(String, Text<'a>)>,
    /// Variables.
    pub(super) env: Vec<(String, Text<'a>)>,
    /// What is not converted.
    pub(super) notes: Vec<Note>,
}

/// A line of commands, and what is lost of it.
struct Line<'p, 'a> {
    part: &'p Part<'a>,
    /// What is lost, and why.
    reasons: Vec<String>,
    /// Commands that say nothing here.
    others: Vec<String>,
}

/// Parameters that Rayconcile sees to, whatever their value.
const OURS: [&str; 8] = [
    "address",
    "autoscaling-config",
    "block",
    "dashboard-host",
    "disable-usage-stats",
    "head",
    "node-ip-address",
    "redis-address",
];

/// Parameters that say what holds anyway: the first two are in every configuration that Ray ships.
const ANYWAY: [(&str, &str); 5] = [
    ("object-manager-port", "8076"),
    ("port", "6379"),
    ("ray-client-server-port", "10001"),
    ("dashboard-port", "8265"),
    ("include-dashboard", "true"),
];

/// Parameters without a value (`ray start --help`).
const FLAGS: [&str; 9] = [
    "block",
    "disable-usage-stats",
    "enable-object-reconstruction",
    "enable-resource-isolation",
    "head",
    "no-monitor",
    "no-redirect-output",
    "ray-debugger-external",
    "verbose",
];

const EXPANDS: &str =
    "it takes a shell to tell the value, and Ray is started without one: write the value out.";
const COMMANDS: &str = "Rayconcile starts Ray itself. Such commands belong in `setupCommands`, which are \
                        run once, before Ray, or in the image.";
const QUOTES: &str = "its quotes are not closed.";

/// Reads commands.
pub(super) fn start<'a>(commands: Vec<Text<'a>>) -> Start<'a> {
    let mut start = Start::default();
    for (command, part) in commands {
        match shell::commands(&command) {
            Some(commands) => start.read(&commands, &part),
            None => merge(&mut start.notes, Note::lost(&part, QUOTES)),
        }
    }
    start
}

impl<'a> Start<'a> {
    /// The value of a parameter; of two the last counts.
    pub(super) fn take(&mut self, name: &str) -> Option<Text<'a>> {
        let mut found = None;
        self.parameters.retain(|(known, text)| {
            let is_it = known == name;
            if is_it {
                found = Some(text.clone());
            }
            !is_it
        });
        found
    }

    /// One line's commands. What is lost of it is said at once, for the line stands there but once.
    fn read(&mut self, commands: &[Vec<Word>], part: &Part<'a>) {
        let mut line = Line { part, reasons: Vec::new(), others: Vec::new() };
        for words in commands {
            if !self.command(words, &mut line) {
                line.others.push(format!("`{}`", shell::line(words)));
            }
        }
        if !line.others.is_empty() {
            line.reasons.push(format!("{}: {COMMANDS}", line.others.join(", ")));
        }
        if !line.reasons.is_empty() {
            self.notes.push(Note::lost(part, line.reasons.join(" ")));
        }
    }

    /// Reads a command, and says whether it is one that says something here.
    fn command(&mut self, words: &[Word], line: &mut Line<'_, 'a>) -> bool {
        let assigned = words.iter().take_while(|word| assignment(word).is_some()).count();
        let (variables, words) = words.split_at(assigned);
        let texts: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
        match texts.as_slice() {
            ["ray", "stop", ..] => true,
            ["ulimit", "-n" | "-Sn" | "-Hn", ..] => true,
            ["export", rest @ ..] if !rest.is_empty() && variables.is_empty() => {
                words.iter().skip(1).all(|word| self.variable(word, line))
            }
            ["ray", "start", ..] => {
                for word in variables {
                    if !self.variable(word, line) {
                        line.reasons.push(format!("`{}`: {EXPANDS}", word.raw));
                    }
                }
                self.parameters(words.get(2..).unwrap_or_default(), line);
                true
            }
            _ => false,
        }
    }

    fn variable(&mut self, word: &Word, line: &mut Line<'_, 'a>) -> bool {
        match assignment(word) {
            Some((name, _)) if SECRETS.contains(&name) => {
                line.reasons.push(format!("`{name}`: {SECRET}"));
                true
            }
            Some((name, value)) if !word.expands => {
                self.env.push((name.to_owned(), (value.to_owned(), line.part.clone())));
                true
            }
            _ => false,
        }
    }

    fn parameters(&mut self, words: &[Word], line: &mut Line<'_, 'a>) {
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let Some(parameter) = word.text.strip_prefix("--") else {
                line.reasons.push(format!("`{}`: it is no parameter of `ray start`.", word.raw));
                continue;
            };
            let mut expands = word.expands;
            let (name, value) = match parameter.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None if FLAGS.contains(&parameter) => (parameter, None),
                None => {
                    let value = words.next_if(|next| !next.text.starts_with("--"));
                    expands |= value.is_some_and(|value| value.expands);
                    (parameter, value.map(|value| value.text.clone()))
                }
            };
            self.parameter(name, value, expands, line);
        }
    }

    fn parameter(&mut self, name: &str, value: Option<String>, expands: bool, line: &mut Line<'_, 'a>) {
        let name = if name == "redis-port" { "port" } else { name };
        match value {
            _ if OURS.contains(&name) => {}
            Some(value) if ANYWAY.contains(&(name, value.to_lowercase().as_str())) => {}
            Some(value) if expands => line.reasons.push(format!("`--{name}={value}`: {EXPANDS}")),
            Some(value) => self.parameters.push((name.to_owned(), (value, line.part.clone()))),
            None => self.parameters.push((name.to_owned(), ("true".to_owned(), line.part.clone()))),
        }
    }
}

/// The name and the value of a word that sets a variable.
fn assignment(word: &Word) -> Option<(&str, &str)> {
    let (name, value) = word.text.split_once('=')?;
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_name =
        !name.is_empty() && name.chars().all(inner) && !name.starts_with(|c: char| c.is_ascii_digit());
    is_name.then_some((name, value))
}

/// Labels as `ray start --labels` takes them: `a=b,c=d`, or JSON as before Ray 2.49.
pub(super) fn labels(text: &str) -> Option<Vec<(String, String)>> {
    if let Ok(Value::Object(labels)) = serde_json::from_str(text) {
        return labels.into_iter().map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect();
    }
    let pair = |pair: &str| {
        pair.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',').map(pair).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::manifest::{Foreign, Source};

    /// The parameters, the environment and the reasons of what is lost.
    fn read(commands: &[&str]) -> (Vec<String>, Vec<String>, Vec<String>) {
        let document =
            Foreign::read(Source::new("test", serde_json::json!(commands).to_string(), None)).unwrap();
        let commands = document.root().items().into_iter();
        let commands = commands.map(|part| (part.value().as_str().unwrap().to_owned(), part)).collect();
        let start = start(commands);
        let told = |pairs: Vec<(String, Text<'_>)>| {
            pairs.into_iter().map(|(name, (value, _))| format!("{name}={value}")).collect()
        };
        (told(start.parameters), told(start.env), start.notes.into_iter().map(|note| note.text).collect())
    }

    #[test]
    fn what_ray_ships_says_nothing() {
        for command in [
            "ray stop",
            "ulimit -n 65536; ray start --head --port=6379 --object-manager-port=8076 \
             --autoscaling-config=~/ray_bootstrap_config.yaml --dashboard-host=0.0.0.0",
            "ulimit -n 65536; ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076",
            "ulimit -n 65536; ray start --head --redis-port=6379 --block",
        ] {
            assert_eq!(read(&[command]), (vec![], vec![], vec![]), "{command}");
        }
    }

    #[test]
    fn parameters_and_variables_are_taken_over() {
        let (parameters, env, lost) = read(&[
            "export A=b C='d e' && F=g ray start --num-gpus 2 --resources='{\"x\": 1}' --metrics-export-port=8080 \
             --no-monitor",
        ]);
        assert_eq!(
            parameters,
            ["num-gpus=2", "resources={\"x\": 1}", "metrics-export-port=8080", "no-monitor=true"]
        );
        assert_eq!((env, lost), (vec!["A=b".to_owned(), "C=d e".to_owned(), "F=g".to_owned()], vec![]));
    }

    #[test]
    fn what_else_a_command_does_is_told() {
        let lost = |command: &str| read(&[command]).2;
        assert!(lost("conda activate x && ray start --head")[0].starts_with("`conda activate x`:"));
        assert!(lost("export A=$B; ray start --head")[0].starts_with("`export A=$B`:"));
        assert!(lost("A=$B ray start --head")[0].starts_with("`A=$B`:"));
        assert_eq!(lost("x; y; A=$B ray start --verbose --num-cpus=$X").len(), 1);
        assert!(lost("ray start --num-gpus=$(nvidia-smi -L | wc -l)")[0].contains("num-gpus"));
        assert!(lost("ray start 'x")[0].contains("quotes"));
        assert_eq!(lost("ray start -v").len(), 1);
    }

    #[test]
    fn labels_are_pairs_or_json() {
        let pairs = vec![("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d".to_owned())];
        assert_eq!(labels("a=b,c=d"), Some(pairs.clone()));
        assert_eq!(labels("{\"a\": \"b\", \"c\": \"d\"}"), Some(pairs));
        assert_eq!(labels("a"), None);
    }
}
