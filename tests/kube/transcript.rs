//! The page docs/kubectl.md: what kubectl shows, as it does. The test writes the page anew and compares; with
//! RAYCONCILE_ACCEPT set it keeps what it has written.

use std::fs;
use std::path::Path;

use crate::support::Kube;

/// The page: what is said, and the commands that are run, line by line. A block after `file NAME` is that file.
const PAGE: &str = include_str!("transcript.md");

#[test]
fn the_transcript_in_the_docs_is_what_kubectl_shows() {
    let kube = Kube::new(&[]);
    // In their turn: what is shown depends on what was said of it before.
    let mut page = String::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("```yaml file ") {
            let text: String =
                lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            kube.write(name, &text);
            page.push_str(&format!("```yaml\n# {name}\n{text}```\n"));
        } else if let Some(command) = line.strip_prefix("$ ") {
            let said = kube.sh(&format!("{command} 2>&1"));
            let shown = plain(&kube, &said.out);
            page.push_str(&format!("$ {command}\n{shown}"));
        } else if let Some(condition) =
            line.strip_prefix("<!-- until ").and_then(|rest| rest.strip_suffix(" -->"))
        {
            kube.wait(condition, || (kube.sh(condition).code == 0).then_some(()));
        } else {
            page.push_str(&format!("{line}\n"));
        }
    }
    kube.finish();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kubectl.md");
    if std::env::var_os("RAYCONCILE_ACCEPT").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let known = fs::read_to_string(&path).unwrap_or_default();
    let first = known.lines().zip(page.lines()).find(|(known, new)| known != new);
    assert!(
        known == page,
        "docs/kubectl.md is not what kubectl shows: {first:?}; `make docs-kubectl` writes it anew"
    );
}

/// A text without what differs from run to run.
fn plain(kube: &Kube, text: &str) -> String {
    let text = text.replace(kube.path("").to_str().unwrap(), "");
    let mut plain = String::new();
    for line in text.lines() {
        let mut words = Vec::new();
        for word in line.split(' ') {
            words.push(same(word));
        }
        plain.push_str(words.join(" ").trim_end());
        plain.push('\n');
    }
    plain
}

/// A word, or what stands for all that it could have been.
fn same(word: &str) -> String {
    let bare = word.trim_matches(|c: char| "\"',()".contains(c));
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    let is_age = bare.ends_with(['s', 'm']) && digits(&bare[..bare.len() - 1]);
    let is_temporary = bare.starts_with("/tmp/LIVE-") || bare.starts_with("/tmp/MERGED-");
    let stand_in = if bare.len() == 36 && bare.matches('-').count() == 4 {
        "0b6d7a52-..."
    } else if bare.starts_with("202") && bare.contains('T') && bare.ends_with('Z') {
        "2026-11-28T13:00:00Z"
    } else if is_age {
        // What comes after it stays where it is.
        return word.replace(bare, &format!("{:1$}", "5s", bare.len()));
    } else if is_temporary {
        return bare.split('/').next_back().unwrap_or_default().to_owned();
    } else if let Some((address, _)) =
        bare.rsplit_once(':').filter(|(at, port)| at.contains("127.0.0.1") && digits(port))
    {
        return word.replace(bare, &format!("{address}:34000"));
    } else {
        return word.to_owned();
    };
    word.replace(bare, stand_in)
}
