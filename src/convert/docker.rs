//! From `docker` to the container of a node: options one by one, and what they set in the environment on its own.

use std::collections::VecDeque;

use super::input::{Fields, Findings, Text, flag, is_nothing, text, texts};
use super::lost::{self, merge};
use super::shell::{self, Word};
use super::tree::{Block, Node, Note, SECRETS};
use crate::api::docker::{FLAGS, SHORT, SHORT_FLAGS};
use crate::manifest::Part;

/// Options that say what holds here anyway, or matter only to who starts a container by hand.
const ANYWAY: [&str; 8] = [
    "--rm",
    "--detach",
    "--interactive",
    "--tty",
    "--net=host",
    "--network=host",
    "--restart=always",
    "--restart=unless-stopped",
];

const EXPANDS: &str = "a shell would have put something else in the place of its `$`, `~` or `*`; here options go to \
                       `docker run` as they are. Write out what was meant.";
const PASSED_ON: &str = "it passes a variable of the machine on: give it in `env` with its value.";
const NO_IMAGE: &str = "without an image there is no container.";
const PORTS: &str = "the container has the machine's network: what listens in it can be reached as it is.";
pub(super) const SECRET: &str = "whoever is on the instance could read it. Give the role of \
                                 provider.aws.iamInstanceProfile the permission instead.";

/// The container of a node.
#[derive(Debug, Default)]
pub(super) struct Container<'a> {
    /// Its image; without one there is no container.
    pub(super) image: Option<Text<'a>>,
    /// The arguments of `docker run`.
    options: Vec<Text<'a>>,
    /// The environment.
    pub(super) env: Vec<(String, Text<'a>)>,
    /// What is not converted.
    pub(super) notes: Vec<Note>,
}

/// The container of the head, or of a worker whose node type has settings of its `own`.
pub(super) fn container<'a>(
    shared: Option<&Part<'a>>,
    own: Option<&Part<'a>>,
    role: &str,
    findings: &mut Findings,
) -> Container<'a> {
    let get = |name: &str| {
        let part = own.and_then(|own| own.get(name)).or_else(|| shared.and_then(|shared| shared.get(name)));
        part.filter(|part| !is_nothing(part.value()))
    };
    let image = get(&format!("{role}_image")).or_else(|| get("image"));
    let mut container =
        Container { image: image.and_then(|part| text(&part, findings)), ..Container::default() };
    let mut list = |name: &str| get(name).map(|part| texts(&part, findings)).unwrap_or_default();
    let options = [list("run_options"), list(&format!("{role}_run_options"))].concat();
    container.read(options);
    container
}

/// What of `docker` has no equivalent, beside options.
pub(super) fn notes(docker: &Part<'_>, findings: &mut Findings) -> Vec<Note> {
    let mut fields = Fields::of(docker, findings);
    for name in
        ["image", "head_image", "worker_image", "run_options", "head_run_options", "worker_run_options"]
    {
        fields.take(name);
    }
    for name in ["pull_before_run", "pull"] {
        docker.get(name).and_then(|part| flag(&part, findings));
    }
    let some = |name: &str| docker.get(name).filter(|part| !is_nothing(part.value()));
    let mut notes = Vec::new();
    if let (Some(image), Some(_), Some(_)) = (some("image"), some("head_image"), some("worker_image")) {
        notes.push(Note::lost(&image, "`head_image` and `worker_image` are taken."));
    }
    notes.extend(lost::notes(&mut fields, lost::DOCKER));
    notes.extend(lost::rest(&mut fields));
    notes
}

impl<'a> Container<'a> {
    /// What the manifest says of it, if there is one.
    pub(super) fn node(&mut self) -> Option<Node<'a>> {
        let Some((image, from)) = &self.image else {
            let options = self.options.drain(..).map(|(_, part)| part);
            let unused: Vec<_> = options.chain(self.env.drain(..).map(|(_, (_, part))| part)).collect();
            unused.iter().for_each(|part| self.lose(part, NO_IMAGE));
            return None;
        };
        let mut docker = Block::default();
        docker.need("image", image.as_str(), from);
        let mut options = Block::default();
        for (option, from) in &self.options {
            options.push(option.as_str(), from);
        }
        docker.set_some("runOptions", Node::List(options));
        Some(Node::Map(docker))
    }

    /// Reads options. `docker run` is given all of them on one line, so that an option's value may be the next item.
    fn read(&mut self, options: Vec<Text<'a>>) {
        let mut words = VecDeque::new();
        for (text, part) in options {
            match shell::words(&text) {
                Some(found) => words.extend(found.into_iter().map(|word| (word, part.clone()))),
                None => self.lose(&part, "its quotes are not closed, or it is more than one command."),
            }
        }
        while let Some((word, part)) = words.pop_front() {
            let mut name = word.text.clone();
            if !name.starts_with('-') || name.trim_matches('-').is_empty() {
                self.lose(&part, "an option begins with `-`.");
                continue;
            }
            let mut expands = word.expands;
            if takes_value(&name) {
                let separate =
                    |(value, _): &(Word, Part<'_>)| !value.raw.starts_with('-') || is_number(&value.text);
                if let Some((value, _)) = words.front().filter(|next| separate(next)).cloned() {
                    words.pop_front();
                    expands |= value.expands;
                    name = format!("{name}={}", value.text);
                }
            }
            for option in long(&name) {
                self.option(&option, expands, &part);
            }
        }
    }

    fn option(&mut self, option: &str, expands: bool, part: &Part<'a>) {
        let (name, value) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            _ if ANYWAY.contains(&option) => {}
            ("--env", Some(variable)) => self.variable(variable, expands, part),
            ("--publish" | "--publish-all" | "--expose", _) => self.lose(part, PORTS),
            _ if expands => self.lose(part, EXPANDS),
            _ => self.options.push((option.to_owned(), part.clone())),
        }
    }

    fn variable(&mut self, variable: &str, expands: bool, part: &Part<'a>) {
        let (name, value) =
            variable.split_once('=').map_or((variable, None), |(name, value)| (name, Some(value)));
        match value {
            _ if SECRETS.contains(&name) => {
                merge(&mut self.notes, Note::hidden(part, format!("{name}: {SECRET}")))
            }
            None => self.lose(part, PASSED_ON),
            Some(_) if expands => self.lose(part, EXPANDS),
            Some(value) => self.env.push((name.to_owned(), (value.to_owned(), part.clone()))),
        }
    }

    fn lose(&mut self, part: &Part<'_>, why: &str) {
        let note = Note::lost(part, why);
        // An item with two options that are lost for one reason is one line.
        if !self.notes.iter().any(|known| known.text == note.text && known.lines.ends_with(&note.lines)) {
            merge(&mut self.notes, note);
        }
    }
}

fn is_number(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether an option's value is the next word.
fn takes_value(option: &str) -> bool {
    match option.strip_prefix("--") {
        Some(_) => {
            !option.contains('=') && !FLAGS.contains(&option) && !["--rm", "--detach"].contains(&option)
        }
        // Flags in one letter may stand together, the last one may take a value.
        None => {
            option.chars().skip(1).position(|c| !SHORT_FLAGS.contains(c)) == Some(option.chars().count() - 2)
        }
    }
}

/// An option by its long name; several flags in one letter as several.
fn long(option: &str) -> Vec<String> {
    if option.starts_with("--") {
        return vec![option.to_owned()];
    }
    let mut options = Vec::new();
    let mut letters = option.chars().skip(1);
    while let Some(letter) = letters.next() {
        let flag = match letter {
            'd' => "--detach",
            'i' => "--interactive",
            't' => "--tty",
            'P' => "--publish-all",
            'q' => "--quiet",
            _ => {
                let value: String = letters.collect();
                let value = value.strip_prefix('=').unwrap_or(&value);
                let name = SHORT.iter().find(|(short, _)| *short == letter);
                options.push(name.map_or_else(|| option.to_owned(), |(_, name)| format!("{name}={value}")));
                break;
            }
        };
        options.push(flag.to_owned());
    }
    options
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::manifest::{Foreign, Source};

    /// The options, the environment and the number of what is lost.
    fn read(options: &[&str]) -> (Vec<String>, Vec<String>, usize) {
        let text = serde_json::json!({"image": "ray", "run_options": options}).to_string();
        let document = Foreign::read(Source::new("test", text, None)).unwrap();
        let mut findings = Findings::default();
        let container = container(Some(&document.root()), None, "head", &mut findings);
        assert!(findings.problems.is_empty());
        let env = container.env.into_iter().map(|(name, (value, _))| format!("{name}={value}"));
        let options = container.options.into_iter().map(|(option, _)| option);
        (options.collect(), env.collect(), container.notes.iter().map(|note| note.settings).sum())
    }

    #[test]
    fn an_option_is_one_argument() {
        for (given, expected) in [
            (&["-v /a:/b"][..], &["--volume=/a:/b"][..]),
            (&["-v", "/a:/b"], &["--volume=/a:/b"]),
            (&["-v/a:/b", "-v=/c:/d"], &["--volume=/a:/b", "--volume=/c:/d"]),
            (&["--ulimit nofile=65536:65536"], &["--ulimit=nofile=65536:65536"]),
            (&["--shm-size=8g --gpus all"], &["--shm-size=8g", "--gpus=all"]),
            (&["--gpus '\"device=0,1\"'"], &["--gpus=\"device=0,1\""]),
            (&["--privileged --init", "-it"], &["--privileged", "--init"]),
            (&["-itv /a:/b", "--net=host", "--rm -d"], &["--volume=/a:/b"]),
            (&["--memory-swap -1"], &["--memory-swap=-1"]),
            (&["--cap-add SYS_PTRACE --cap-add=SYS_ADMIN"], &["--cap-add=SYS_PTRACE", "--cap-add=SYS_ADMIN"]),
        ] {
            assert_eq!(
                read(given),
                (expected.iter().map(|o| (*o).to_owned()).collect(), vec![], 0),
                "{given:?}"
            );
        }
    }

    #[test]
    fn the_environment_is_read_out() {
        let (options, env, lost) = read(&["-e A=b -eC=d", "--env E='f g'", "--env=H=", "--env-file=/x"]);
        assert_eq!((options, lost), (vec!["--env-file=/x".to_owned()], 0));
        assert_eq!(env, ["A=b", "C=d", "E=f g", "H="]);
    }

    #[test]
    fn what_a_shell_would_change_is_lost() {
        for lost in
            ["-v $HOME/x:/x", "-e A=$B", "-e A", "-p 80:80", "-e AWS_SECRET_ACCESS_KEY=x", "image", "-v 'x"]
        {
            let (options, env, count) = read(&[lost, "--init"]);
            assert_eq!((options, env, count), (vec!["--init".to_owned()], vec![], 1), "{lost}");
        }
    }
}
