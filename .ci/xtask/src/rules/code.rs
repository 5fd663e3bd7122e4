//! Rust source with everything blanked out that is not code.

/// The same text, byte for byte as long and line for line, with spaces in place of comments, strings
/// and character literals.
pub(super) fn only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + length_of_token(&text[at..], is_word(bytes, at));
        if is_blanked(&bytes[at..end]) {
            for byte in &mut code[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end;
    }
    // Whole tokens were replaced, so no character was cut.
    String::from_utf8_lossy(&code).into_owned()
}

/// The number of the line, from 1, in which the byte at `offset` is.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// Where the file's test module begins; its length if it has none.
pub(super) fn start_of_tests(code: &str) -> usize {
    code.match_indices("#[cfg(test)]")
        .find(|(at, attribute)| {
            let rest = code[at + attribute.len()..].trim_start();
            rest.starts_with("mod ") || rest.starts_with("pub(super) mod ")
        })
        .map_or(code.len(), |(at, _)| at)
}

/// Whether the byte before `at` belongs to a word, so that what begins there is no prefix.
fn is_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn is_blanked(token: &[u8]) -> bool {
    token.len() > 1
        && (token.starts_with(b"//")
            || token.starts_with(b"/*")
            || token.starts_with(b"'")
            || token.ends_with(b"\"")
            || token.ends_with(b"#"))
}

/// How many bytes the comment or literal at the start of `text` has; anything else is one character.
fn length_of_token(text: &str, in_word: bool) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    if let Some(rest) = text.strip_prefix('"') {
        return 1 + quoted(rest, '"');
    }
    if text.starts_with('\'') {
        return character(text);
    }
    if !in_word && let Some(length) = raw_string(text) {
        return length;
    }
    text.chars().next().map_or(1, char::len_utf8)
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length up to and with the closing quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// A character literal, or the quote of a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), _) => 1 + quoted(&text[1..], '\''),
        (_, Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// `r"…"`, `br#"…"#` and so on: no escapes, ends at the quote with as many hashes.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = text[prefix.len()..].find('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = prefix.len() + hashes + 1;
    Some(text[start..].find(&close).map_or(text.len(), |at| start + at + close.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_is_not() {
        for (text, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("a\"b", c)"#, "f(      , c)"),
            ("r#\"a\"b\"# c", "         c"),
            ("br\"\\\" c", "      c"),
            ("'\"' 'a 'b' '\\'' c", "    'a          c"),
            ("for\"x\"", "for   "),
            ("r#type // x", "r#type     "),
            ("\"é\" é", "     é"),
            ("/* open", "       "),
        ] {
            let blanked = only(text);
            assert_eq!(blanked.len(), text.len(), "{text}");
            assert_eq!(blanked, code, "{text}");
        }
    }

    #[test]
    fn the_tests_begin_at_their_module_and_not_at_a_helper() {
        let text = "fn a() {}\n#[cfg(test)]\nfn b() {}\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(line_of(text, start_of_tests(text)), 4);
        assert_eq!(start_of_tests("fn a() {}"), 9);
    }
}
