//! Brackets that stand where YAML 1.2 does not want them, but everybody else does.

/// Puts a bracket that closes a list or mapping at the end of the line above, and says whether there is one. YAML 1.2
/// wants it to be indented; libyaml and PyYAML do not, and many write it below the key.
pub(super) fn lift(chars: &mut [char], bracket: usize) -> bool {
    if !matches!(chars.get(bracket), Some('}' | ']')) {
        return false;
    }
    let mut end = bracket;
    loop {
        let before = chars.get(..end).unwrap_or_default();
        let Some(newline) = before.iter().rposition(|c| *c != ' ') else { return false };
        let above = before.get(..newline).unwrap_or_default();
        let start = above.iter().rposition(|c| *c == '\n').map_or(0, |newline| newline + 1);
        let line: String = above.iter().skip(start).collect();
        match chars.get_mut(start..=newline) {
            // Nothing is on it, or nothing but a comment.
            Some(all @ [.., '\n']) if line.trim().is_empty() || line.trim_start().starts_with('#') => {
                all.fill(' ');
                end = start;
            }
            // It ends with a comment, which must not swallow the bracket.
            Some([.., last, newline @ '\n']) if line.contains(" #") => {
                (*last, *newline) = ('\n', ' ');
                return true;
            }
            Some([.., newline @ '\n']) => {
                *newline = ' ';
                return true;
            }
            _ => return false,
        }
    }
}
