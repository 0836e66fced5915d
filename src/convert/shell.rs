//! As much of a shell's grammar as it takes to read options out of a command line. Nothing is ever run.

/// A word of a command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// What it is without its quotes.
    pub(super) text: String,
    /// What stands there.
    pub(super) raw: String,
    /// Whether a shell would have put something else in its place.
    pub(super) expands: bool,
}

/// The simple commands of a line, each as its words; none if its quotes are not closed.
pub(super) fn commands(line: &str) -> Option<Vec<Vec<Word>>> {
    let mut reader = Reader { rest: line.chars().peekable(), commands: vec![Vec::new()], word: None };
    while let Some(c) = reader.rest.next() {
        reader.read(c)?;
    }
    reader.end_word();
    Some(reader.commands.into_iter().filter(|words| !words.is_empty()).collect())
}

/// The words of a line; none if its quotes are not closed, or it is more than one command.
pub(super) fn words(line: &str) -> Option<Vec<Word>> {
    let mut commands = commands(line)?;
    match commands.len() {
        0 => Some(Vec::new()),
        1 => commands.pop(),
        _ => None,
    }
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    commands: Vec<Vec<Word>>,
    word: Option<Word>,
}

impl Reader<'_> {
    /// Reads on from a character outside of quotes.
    fn read(&mut self, c: char) -> Option<()> {
        match c {
            ';' | '\n' | '|' => self.end_command(),
            '&' if self.after_redirection() => self.add(c, false),
            '&' => self.end_command(),
            c if c.is_whitespace() => self.end_word(),
            '#' if self.word.is_none() => while self.rest.next_if(|c| *c != '\n').is_some() {},
            '\\' => match self.rest.next()? {
                '\n' => {}
                c => {
                    self.raw('\\');
                    self.add(c, false);
                }
            },
            '\'' => self.single()?,
            '"' => self.double()?,
            '$' | '`' => self.expansion(c)?,
            '~' => {
                let starts = self.word.as_ref().is_none_or(|word| word.text.ends_with(['=', ':']));
                self.add(c, starts);
            }
            c => self.add(c, matches!(c, '*' | '?' | '(' | ')' | '<' | '>')),
        }
        Some(())
    }

    fn single(&mut self) -> Option<()> {
        self.raw('\'');
        loop {
            match self.rest.next()? {
                '\'' => break,
                c => self.add(c, false),
            }
        }
        self.raw('\'');
        Some(())
    }

    fn double(&mut self) -> Option<()> {
        self.raw('"');
        loop {
            match self.rest.next()? {
                '"' => break,
                '\\' => match self.rest.next()? {
                    '\n' => {}
                    c => {
                        self.raw('\\');
                        if !matches!(c, '"' | '\\' | '$' | '`') {
                            self.word.get_or_insert_default().text.push('\\');
                        }
                        self.add(c, false);
                    }
                },
                c @ ('$' | '`') => self.expansion(c)?,
                c => self.add(c, false),
            }
        }
        self.raw('"');
        Some(())
    }

    /// What a shell puts something else in the place of: to its end, if it is in brackets or backquotes.
    fn expansion(&mut self, c: char) -> Option<()> {
        self.add(c, true);
        let (open, close) = match (c, self.rest.peek()) {
            ('`', _) => ('`', '`'),
            (_, Some('(')) => ('(', ')'),
            (_, Some('{')) => ('{', '}'),
            _ => return Some(()),
        };
        let mut depth = usize::from(c == '`');
        loop {
            let c = self.rest.next()?;
            self.add(c, true);
            if c == close {
                depth -= 1;
            } else if c == open {
                depth += 1;
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn after_redirection(&self) -> bool {
        self.word.as_ref().is_some_and(|word| word.raw.ends_with(['>', '<']))
    }

    fn add(&mut self, c: char, expands: bool) {
        self.raw(c);
        let word = self.word.get_or_insert_default();
        word.text.push(c);
        word.expands |= expands;
    }

    /// A character that is there, but no part of what the word means.
    fn raw(&mut self, c: char) {
        self.word.get_or_insert_default().raw.push(c);
    }

    fn end_word(&mut self) {
        if let (Some(word), Some(command)) = (self.word.take(), self.commands.last_mut()) {
            command.push(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        self.commands.push(Vec::new());
    }
}

/// Words as they stand in a line.
pub(super) fn line(words: &[Word]) -> String {
    words.iter().map(|word| word.raw.as_str()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texts(line: &str) -> Vec<Vec<String>> {
        let commands = commands(line).unwrap();
        commands.into_iter().map(|words| words.into_iter().map(|word| word.text).collect()).collect()
    }

    #[test]
    fn lines_are_split_as_a_shell_does() {
        for (line, expected) in [
            ("", vec![]),
            (
                "ulimit -n 65536; ray start --head",
                vec![vec!["ulimit", "-n", "65536"], vec!["ray", "start", "--head"]],
            ),
            (
                "a && b || c | d & e\nf",
                vec![vec!["a"], vec!["b"], vec!["c"], vec!["d"], vec!["e"], vec!["f"]],
            ),
            (r#"a --x='{"y": 1}' "b c" d\ e"#, vec![vec!["a", r#"--x={"y": 1}"#, "b c", "d e"]]),
            (r#"a "q\"q" 'w\w' "e\e" ''"#, vec![vec!["a", "q\"q", "w\\w", "e\\e", ""]]),
            ("a \\\n  b # c\nd", vec![vec!["a", "b"], vec!["d"]]),
            ("a > b 2>&1", vec![vec!["a", ">", "b", "2>&1"]]),
            ("a;;b", vec![vec!["a"], vec!["b"]]),
            ("a=$(b | c $(d)) \"${e;}\" `f; g` $h", vec![vec!["a=$(b | c $(d))", "${e;}", "`f; g`", "$h"]]),
        ] {
            assert_eq!(texts(line), expected, "{line}");
        }
        for open in ["a 'b", "a \"b", "a \"b\\", "a \\", "$(a", "`a", "${a"] {
            assert_eq!(commands(open), None, "{open}");
        }
        assert_eq!(words("a b").map(|words| words.len()), Some(2));
        assert_eq!(words("a; b"), None);
    }

    #[test]
    fn what_a_shell_would_change_is_marked() {
        let expands = |line: &str| words(line).unwrap()[0].expands;
        for line in ["$HOME/x", "\"$HOME\"", "`x`", "~/x", "-v=~/x", "a*", "\"a`b`\""] {
            assert!(expands(line), "{line}");
        }
        for line in ["'$HOME'", "\\$HOME", "\"\\$HOME\"", "x~", "'a*'", "\"a*\""] {
            assert!(!expands(line), "{line}");
        }
        assert_eq!(line(&words("a \"b c\" 'd'").unwrap()), "a \"b c\" 'd'");
    }
}
