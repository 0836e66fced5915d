//! The rules of the container in which Ray runs: what stands in the manifest goes to `docker run` word by word.

use super::super::finding::Finding;
use super::super::path::Path;
use super::super::rules;
use super::super::words::quoted;
use crate::api::aws::Docker;
use crate::api::docker::{FLAGS, SHORT, SHORT_FLAGS};

/// Options that are not for the manifest, and what holds instead.
const OURS: [(&str, &str); 7] = [
    ("--name", "the container has a name by which it is found"),
    ("--network", NETWORK),
    ("--net", NETWORK),
    ("--detach", DETACH),
    ("-d", DETACH),
    ("--rm", "it is removed before another is started"),
    ("--cidfile", "the container has a name by which it is found"),
];
const NETWORK: &str = "it has the host's network: nodes talk to each other on many ports";
const DETACH: &str = "it runs in the background";

/// Options whose values may hold anything.
const TEXTS: [&str; 6] = ["--annotation", "--env", "--health-cmd", "--label", "-e", "-l"];

/// An item of the list that begins with `-`, as `docker run` takes it.
struct Argument<'a> {
    /// The option, without its value.
    name: &'a str,
    /// Whether its value is in the item, or it takes none.
    complete: bool,
}

/// What is wrong with an instance's container.
pub(super) fn check(docker: &Docker, at: &Path, findings: &mut Vec<Finding>) {
    findings.extend(image(&docker.image, at.key("image")));
    let at = at.key("runOptions");
    let mut open: Option<(usize, Argument<'_>)> = None;
    for (index, item) in docker.run_options.iter().enumerate() {
        let path = at.item(index);
        let before = open.take();
        findings.extend(rules::no_nul(item, path.clone()));
        // `--memory-swap`, `-1`.
        let number =
            item.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if !item.starts_with('-') || item == "-" || number {
            if before.is_none() {
                findings.push(stray(item, path));
            }
            continue;
        }
        findings.extend(before.and_then(|(index, argument)| unfinished(argument.name, at.item(index))));
        let argument = Argument::of(item);
        let finding = match OURS.iter().find(|(name, _)| argument.is(name)) {
            Some((name, help)) => {
                let message = format!("must not be {name}, which Rayconcile sees to, found {}", quoted(item));
                Some(Finding::new(path, message).help(*help))
            }
            None if item.trim_matches('-').is_empty() => Some(stray(item, path)),
            None => several(item, &argument, path),
        };
        findings.extend(finding);
        open = (!argument.complete).then_some((index, argument));
    }
    findings.extend(open.and_then(|(index, argument)| unfinished(argument.name, at.item(index))));
}

fn image(text: &str, path: Path) -> Option<Finding> {
    let rule = "must be an image such as rayproject/ray:2.60.0-py311-gpu";
    let finding = Finding::new(path, format!("{rule}, found {}", quoted(text)));
    if let Some((_, rest)) = text.split_once("://") {
        return Some(finding.help(format!("write {rest}")));
    }
    let good = !text.is_empty() && !text.starts_with('-') && text.chars().all(|c| c.is_ascii_graphic());
    (!good).then_some(finding)
}

/// An item that is neither an option nor the value of one.
fn stray(item: &str, path: Path) -> Finding {
    let message =
        format!("must begin with `-`, or follow an option that takes a value, found {}", quoted(item));
    Finding::new(path, message).help("the image and the command are not given here")
}

/// An item that `docker run` would take for one argument, and that was meant to be two or more.
fn several(item: &str, argument: &Argument<'_>, path: Path) -> Option<Finding> {
    let (first, rest) = item.split_once(char::is_whitespace)?;
    let message = format!("must be one argument, found {}", quoted(item));
    if first.contains('=') {
        let more = item.contains(" -") && !TEXTS.contains(&argument.name);
        return more.then(|| Finding::new(path, message).help("write each option as an item of its own"));
    }
    let rest = rest.trim();
    let letter = first.strip_prefix('-').and_then(|letter| Some((letter.len() == 1, letter.chars().next()?)));
    let long = match letter {
        Some((true, letter)) => SHORT.iter().find(|(short, _)| *short == letter).map(|(_, long)| *long),
        // What follows the letter is its value, and holds the space: `-eGREETING=good morning`.
        _ if !item.starts_with("--") => return None,
        _ => Some(first),
    };
    let two = format!("two items, {} and {}", quoted(first), quoted(rest));
    let help = match long {
        Some(long) => format!("write {}, or {two}", quoted(&format!("{long}={rest}"))),
        None => format!("write {two}"),
    };
    Some(Finding::new(path, message).help(help))
}

/// An option in one letter without its value. Of long ones it is not known for sure that they take any.
fn unfinished(name: &str, path: Path) -> Option<Finding> {
    let finding = Finding::new(path, format!("needs a value, found {}", quoted(name)));
    (!name.starts_with("--")).then(|| finding.help("write it as the next item"))
}

impl<'a> Argument<'a> {
    fn of(item: &'a str) -> Self {
        if item.starts_with("--") {
            let name = item.split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or(item);
            return Self { name, complete: name.len() < item.len() || FLAGS.contains(&name) };
        }
        let letters = item.get(1..).unwrap_or_default();
        match letters.find(|c: char| !SHORT_FLAGS.contains(c)) {
            None => Self { name: item, complete: true },
            Some(0) => {
                let end = 1 + letters.chars().next().map_or(0, char::len_utf8);
                Self { name: item.get(..end).unwrap_or(item), complete: item.len() > end }
            }
            Some(flags) => Self { name: item, complete: letters.len() > flags + 1 },
        }
    }

    /// Whether it is an option of that name: flags in one letter may stand together.
    fn is(&self, name: &str) -> bool {
        let together = |letter: &str| {
            let flags: Option<&str> = self.name.strip_prefix('-').filter(|flags| !flags.starts_with('-'));
            let flags = flags.map(|flags| flags.trim_end_matches(|c: char| !SHORT_FLAGS.contains(c)));
            flags
                .is_some_and(|flags| flags.chars().all(|c| SHORT_FLAGS.contains(c)) && flags.contains(letter))
        };
        match name.strip_prefix('-').filter(|letter| letter.len() == 1) {
            Some(letter) => together(letter),
            None => self.name == name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(items: &[&str]) -> Vec<String> {
        let run_options = items.iter().map(|item| (*item).to_owned()).collect();
        let docker = Docker { image: "rayproject/ray".to_owned(), run_options };
        let mut findings = Vec::new();
        check(&docker, &Path::default(), &mut findings);
        let told = |finding: Finding| match finding.help {
            Some(help) => format!("{}: {} ({help})", finding.path, finding.message),
            None => format!("{}: {}", finding.path, finding.message),
        };
        findings.into_iter().map(told).collect()
    }

    #[test]
    fn options_are_as_docker_takes_them() {
        for good in [
            &["--shm-size=8g", "--volume=/docker_volume:/data"][..],
            &["-v", "/a:/b", "-v/c:/d", "--env", "A=b c", "-eA=b c", "--env=A=-b --c"],
            &["-it", "--init", "--privileged", "--gpus", "all", "--ulimit=nofile=1:2"],
            &["--memory-swap", "-1", "--label=a=b"],
            &["-itv", "/a:/b"],
        ] {
            assert_eq!(told(good), Vec::<String>::new(), "{good:?}");
        }
        for bad in [
            &["/a:/b"][..],
            &[""],
            &["-"],
            &["--"],
            &["--init", "x"],
            &["-it", "bash"],
            &["--name=x"],
            &["--name", "x"],
            &["--net=host"],
            &["--network", "bridge"],
            &["-d"],
            &["-itd"],
            &["--rm"],
            &["-v"],
            &["-v", "--init"],
            &["-v /a:/b"],
            &["--shm-size 8g"],
            &["--shm-size=8g --gpus=all"],
            &["--volume=/a:/b\0"],
        ] {
            assert!(!told(bad).is_empty(), "{bad:?}");
        }
    }

    #[test]
    fn two_arguments_in_one_are_told_apart() {
        let one = |item: &str| told(&[item]).join("\n");
        assert_eq!(
            one("-v /a:/b"),
            r#"runOptions[0]: must be one argument, found "-v /a:/b" (write "--volume=/a:/b", or two items, "-v" and "/a:/b")"#
        );
        assert_eq!(
            one("--shm-size 8g"),
            r#"runOptions[0]: must be one argument, found "--shm-size 8g" (write "--shm-size=8g", or two items, "--shm-size" and "8g")"#
        );
    }
}
