//! The one answer parser of problems: what number a model's text ends on.
//!
//! Thoughts, tool calls and results do not count (what a result says is not yet what the model says). In what is left:
//!
//! 1. the last `\boxed{…}` that is not empty; if its content is no number, there is no answer;
//! 2. else the last "the answer is …" or "Answer: …" that a number follows;
//! 3. else the last number.
//!
//! Everything is one pass over the text, whatever it holds.

use super::call::visible;
use super::notation::{normalise, numbers, scan};
use super::number::Numeric;

/// Commands whose content is text or type style: they go, the content stays.
const WRAPPERS: [&str; 14] = [
    "text",
    "textbf",
    "textit",
    "textrm",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mbox",
    "boxed",
    "fbox",
    "bf",
    "displaystyle",
    "operatorname",
];

/// The answer of a model's text.
pub fn extract(text: &str) -> Option<Numeric> {
    let text = visible(text);
    if let Some(content) = last_box(&text) {
        return value(content);
    }
    let text = normalise(&text);
    said(&text).or_else(|| numbers(&text).last().map(|(number, ..)| number))
}

/// Whether a model's text gives this answer (a canonical text, such as `12`, `3/4` or `0.5`).
pub fn is_correct(text: &str, answer: &str) -> bool {
    let (Some(got), Some(expected)) = (extract(text), Numeric::parse(answer)) else {
        return false;
    };
    got.matches(&expected)
}

/// Content of the box that closes last, empty ones left out. Braces are matched with a stack, so that it is one pass.
pub(crate) fn last_box(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut found = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                let rest = &text[at + 1..];
                let name = ["boxed", "fbox"].into_iter().find(|n| rest.starts_with(n));
                let Some(name) = name else {
                    // An escaped brace is text.
                    at += if matches!(bytes.get(at + 1), Some(b'{' | b'}' | b'\\')) {
                        2
                    } else {
                        1
                    };
                    continue;
                };
                at += 1 + name.len();
                while bytes.get(at) == Some(&b' ') {
                    at += 1;
                }
                match bytes.get(at) {
                    Some(b'{') => {
                        open.push(Some(at + 1));
                        at += 1;
                    }
                    Some(b) if b.is_ascii_digit() => found = Some(&text[at..at + 1]), // \boxed 5
                    _ => {}
                }
                continue;
            }
            b'{' => open.push(None),
            b'}' => {
                if let Some(Some(start)) = open.pop() {
                    let content = &text[start..at];
                    if !content.trim().is_empty() {
                        found = Some(content);
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The number that an answer's text stands for; `None` where it is an expression, a list or no number.
///
/// Words may stand before and after (`about 12 apples`, `5 cm^2`), and of an equation the right side counts.
pub(crate) fn value(content: &str) -> Option<Numeric> {
    let text = normalise(&plain(content));
    let right = text.rsplit(['=', '≈']).next().unwrap_or("");
    let right = right.rsplit("\\approx").next().unwrap_or("");
    let mut text = right.trim_matches(|c: char| c.is_whitespace() || "*`~:!".contains(c));
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}')] {
        let inner = text.strip_prefix(open).and_then(|t| t.strip_suffix(close));
        text = inner.unwrap_or(text).trim();
    }
    // Words before the number, but no operators and no single letters (`n 5`).
    let start = text
        .char_indices()
        .find(|(at, c)| {
            c.is_ascii_digit()
                || (*c == '\\')
                || (!c.is_alphabetic()
                    && !" :,'".contains(*c)
                    && scan(text.as_bytes(), *at).is_some())
        })
        .map(|(at, _)| at)?;
    let mut before = text[..start]
        .split([' ', ':', ','])
        .filter(|word| !word.is_empty());
    if before.any(|word| word.chars().count() < 2) {
        return None;
    }
    let (number, end) = scan(text.as_bytes(), start)?;
    unit(&text[end..]).then_some(number)
}

/// Whether what follows a number can be its unit.
fn unit(rest: &str) -> bool {
    let attached = rest.starts_with(|c: char| c.is_ascii_alphabetic());
    let rest_trimmed = rest.trim().trim_end_matches('.');
    if rest_trimmed.is_empty() {
        return true;
    }
    let first: String = rest_trimmed
        .chars()
        .take_while(|c| c.is_alphabetic())
        .collect();
    // `5x` is algebra, `5m` a length.
    if attached && first.len() == 1 && !"mgslhdtJNWVKC".contains(first.as_str()) {
        return false;
    }
    let allowed = |c: char| c.is_alphabetic() || c.is_whitespace() || "./'-°$€£¥%,()".contains(c);
    // A power belongs to a unit's name: `cm^2`.
    let mut letters = false;
    let mut chars = rest_trimmed.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '^' {
            let power = chars.next();
            if !letters && power != Some('°') || !matches!(power, Some('2' | '3' | '°')) {
                return false;
            }
        } else if !allowed(c) {
            return false;
        }
        letters |= c.is_alphabetic();
    }
    letters || rest_trimmed.chars().all(|c| "^°$€£¥%".contains(c))
}

/// Without LaTeX's dress: `\text{…}` and its kin opened, delimiters, degrees and spacing commands taken out.
fn plain(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    let mut rest = content;
    while let Some(at) = rest.find(['\\', '$']) {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if rest.as_bytes()[at] == b'$' {
            // A dollar before a number is its currency; elsewhere it delimits mathematics.
            if after.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') {
                out.push(' ');
            }
            rest = after;
            continue;
        }
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let name = &after[..letters];
        if WRAPPERS.contains(&name) {
            out.push(' ');
            rest = &after[letters..];
            if let Some(inner) = rest.strip_prefix('{') {
                // The closing brace is dropped with the others below.
                out.push('\u{1}');
                rest = inner;
            }
        } else if matches!(name, "left" | "right" | "quad" | "qquad" | "big" | "Big") {
            out.push(' ');
            rest = &after[letters..];
        } else if matches!(name, "circ" | "degree") {
            out.push('°');
            rest = &after[letters..];
        } else {
            out.push('\\');
            rest = after;
        }
    }
    out.push_str(rest);
    opened_braces(&out)
}

/// Takes out the braces that [`plain`] opened, each marked by a control character at its start.
fn opened_braces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut open = Vec::new();
    for c in text.chars() {
        match c {
            '\u{1}' => open.push(true),
            '{' => {
                open.push(false);
                out.push('{');
            }
            '}' => {
                if open.pop() == Some(true) {
                    out.push(' ');
                } else {
                    out.push('}');
                }
            }
            _ => out.push(c),
        }
    }
    out.replace("^{°}", "^°")
}

/// The number after the last "answer is" or "answer:" that has one, on its line or the next that is not empty.
fn said(text: &str) -> Option<Numeric> {
    let lower = text.to_ascii_lowercase();
    let mut end = text.len();
    let mut found = None;
    // From the back; each piece between two mentions is looked at once.
    while let Some(at) = lower[..end].rfind("answer") {
        let after = &text[at + "answer".len()..end];
        let after = after.trim_start_matches(['*', ' ', '_']);
        let mark = after
            .strip_prefix(':')
            .or_else(|| after.strip_prefix('='))
            .or_else(|| strip_word(after, "is"))
            .or_else(|| strip_word(after, "would be"))
            .or_else(|| strip_word(after, "equals"));
        if let Some(rest) = mark {
            let line = rest
                .lines()
                .map(str::trim)
                .find(|l| !l.trim_matches(|c: char| "*:$[]\\_ ".contains(c)).is_empty());
            found = line.and_then(stated);
        }
        if found.is_some() {
            break;
        }
        end = at;
    }
    found
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(word.len())?;
    let ends = !rest.starts_with(|c: char| c.is_alphanumeric());
    (head.eq_ignore_ascii_case(word) && ends).then_some(rest)
}

/// The number that a line states: behind its last equals sign, else the first one.
fn stated(line: &str) -> Option<Numeric> {
    let line = normalise(&plain(line));
    // A sentence ends where a full stop is followed by a space.
    let sentence = line.split(". ").next().unwrap_or(&line);
    let right = sentence.rsplit('=').next().unwrap_or(sentence);
    numbers(right)
        .next()
        .or_else(|| numbers(sentence).next())
        .map(|(number, ..)| number)
}

#[cfg(test)]
mod tests;
