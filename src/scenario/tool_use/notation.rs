//! Finding numbers in text: one pass, no backtracking beyond the number at hand.
//!
//! [`normalise`] turns the spellings of signs, spaces, products and fractions (Unicode, LaTeX) into few; [`scan`] reads
//! the number that begins at a byte of the normalised text.

use super::number::Numeric;

/// The text with one spelling for each thing: `-` for minus signs and dashes, `*` for products, `_` between digits for
/// spaces that group them, `^5` for superscripts, `\frac` for its kin, ` 1/2` for `½`.
pub(super) fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let digit_before = out.ends_with(|c: char| c.is_ascii_digit());
        match c {
            '\u{2212}' | '\u{2013}' | '\u{fe63}' | '\u{ff0d}' | '\u{2010}' | '\u{2011}' => {
                out.push('-')
            }
            '\u{d7}' | '\u{b7}' | '\u{22c5}' => out.push('*'),
            '\u{a0}' | '\u{2009}' | '\u{202f}' => {
                let digit_after = chars.peek().is_some_and(|(_, c)| c.is_ascii_digit());
                out.push(if digit_before && digit_after {
                    '_'
                } else {
                    ' '
                });
            }
            '\u{ff10}'..='\u{ff19}' => out.push((b'0' + (c as u32 - 0xff10) as u8) as char),
            '\u{ff0e}' => out.push('.'),
            '\u{ff05}' => out.push('%'),
            '½' => out.push_str(" 1/2"),
            '⅓' => out.push_str(" 1/3"),
            '⅔' => out.push_str(" 2/3"),
            '¼' => out.push_str(" 1/4"),
            '¾' => out.push_str(" 3/4"),
            _ if superscript(c).is_some() => {
                out.push('^');
                out.extend(superscript(c));
                while let Some(next) = chars.peek().and_then(|(_, c)| superscript(*c)) {
                    out.push(next);
                    chars.next();
                }
            }
            '\\' => {
                let skipped = command(&text[at + 1..], digit_before, &mut out);
                for _ in 0..skipped {
                    chars.next();
                }
            }
            '{' if digit_before && text[at..].starts_with("{,}") => {
                out.push(',');
                chars.next();
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

fn superscript(c: char) -> Option<char> {
    let at = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻".chars().position(|s| s == c)?;
    "0123456789-".chars().nth(at)
}

/// The command after a backslash, rewritten; returns how many (ASCII) characters it took.
fn command(rest: &str, digit_before: bool, out: &mut String) -> usize {
    for (name, replacement) in [
        ("dfrac", "\\frac"),
        ("tfrac", "\\frac"),
        ("cfrac", "\\frac"),
        ("times", "*"),
        ("cdot", "*"),
        ("%", "%"),
        ("$", "$"),
        ("(", " "),
        (")", " "),
        ("[", " "),
        ("]", " "),
    ] {
        if rest.starts_with(name) {
            out.push_str(replacement);
            return name.len();
        }
    }
    for (name, groups) in [
        (",", true),
        ("!", true),
        (";", false),
        (":", false),
        (" ", false),
    ] {
        if rest.starts_with(name) {
            // `12\,345` and `12{,}\!345` group digits.
            let digit_after = rest[1..].starts_with(|c: char| c.is_ascii_digit());
            if groups && digit_after && digit_before {
                out.push('_');
            } else if !(name == "!" && out.ends_with(',')) {
                out.push(' ');
            }
            return 1;
        }
    }
    out.push('\\');
    0
}

/// The number that begins at this byte of a normalised text, and where it ends.
///
/// It may not begin within a word or number (`x2`, `v1.5`), and a sign counts only where nothing stands directly before
/// it that could be subtracted from.
pub(super) fn scan(text: &[u8], at: usize) -> Option<(Numeric, usize)> {
    let before = at.checked_sub(1).map(|i| text[i]);
    let (mut i, mut negative, mut signed) = (at, false, false);
    let currency = |i: usize| match &text[i..] {
        [b'$', ..] => 1,
        rest if rest.starts_with("€".as_bytes()) => 3,
        rest if rest.starts_with("£".as_bytes()) || rest.starts_with("¥".as_bytes()) => 2,
        _ => 0,
    };
    for _ in 0..2 {
        if i < text.len() && !signed && matches!(text[i], b'-' | b'+') {
            let operand = |b: u8| {
                b.is_ascii_alphanumeric()
                    || matches!(b, b')' | b']' | b'-' | b'+' | b'.' | b'_' | b'%')
            };
            if i == at && before.is_some_and(operand) {
                return None;
            }
            negative = text[i] == b'-';
            signed = true;
            i += 1;
        }
        if i < text.len() {
            i += currency(i);
        }
    }
    if i == at && before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80) {
        return None;
    }
    let (number, mut end) = match fraction_command(text, i) {
        Some(read) => read,
        None => plain(text, i)?,
    };
    let mut number = if negative { number.negated() } else { number };
    let mut sign = text[end..].iter().position(|b| *b != b' ').map(|n| end + n);
    sign = sign.filter(|at| text[*at] == b'%' && *at <= end + 1);
    if let Some(at) = sign {
        number = number.with_percent();
        end = at + 1;
    }
    // `12ab` is no number (a unit of one word is: `12km`), and neither is `0x1f` or `1e`.
    let rest = &text[end..];
    let letters = rest
        .iter()
        .take(3)
        .take_while(|b| b.is_ascii_alphabetic())
        .count();
    if rest.first() == Some(&b'_') || (letters == 1 && rest.first() == Some(&b'e')) {
        return None;
    }
    if rest.first() == Some(&b'x') && rest.get(1).is_some_and(u8::is_ascii_hexdigit) {
        return None;
    }
    Some((number, end))
}

/// An unsigned number with what may follow it: exponent, fraction bar, a fraction as the rest of a mixed number.
fn plain(text: &[u8], at: usize) -> Option<(Numeric, usize)> {
    let spelled = spelled(text, at)?;
    let end = spelled.end;
    if spelled.decimals.is_empty() && spelled.exponent.is_none() {
        let number = spelled.number();
        if let Some((fraction, end)) = fraction_command(text, end) {
            // 3\frac{1}{2}
            return Some((number.plus(&fraction)?, end));
        }
        if let Some((divisor, end)) = bar(text, end) {
            return Some((number.over(&divisor)?, end));
        }
        // 3 1/2: the part must be below one.
        if text.get(end) == Some(&b' ')
            && let Some(top) = whole(text, end + 1)
            && let Some((bottom, end)) = bar(text, top.end)
            && let Some(part) = top.number().over(&bottom)
            && part.to_f64() < 1.0
            && let Some(sum) = number.plus(&part)
        {
            return Some((sum, end));
        }
        return Some((number, end));
    }
    Some((spelled.number(), end))
}

/// `/ 7` after a numerator: the divisor, not zero. One space may stand on each side.
fn bar(text: &[u8], at: usize) -> Option<(Numeric, usize)> {
    let at = at + usize::from(text.get(at) == Some(&b' '));
    if text.get(at) != Some(&b'/') {
        return None;
    }
    let at = at + 1 + usize::from(text.get(at + 1) == Some(&b' '));
    let divisor = whole(text, at)?;
    let number = divisor.number();
    (number.to_f64() != 0.0).then_some((number, divisor.end))
}

/// `\frac{3}{4}`, `\frac34`: both parts numbers.
fn fraction_command(text: &[u8], at: usize) -> Option<(Numeric, usize)> {
    let rest = text.get(at..)?;
    if !rest.starts_with(b"\\frac") {
        return None;
    }
    let (top, at) = group(text, at + 5)?;
    let (bottom, at) = group(text, at)?;
    Some((top.over(&bottom)?, at))
}

/// A number in braces, or a single digit.
fn group(text: &[u8], at: usize) -> Option<(Numeric, usize)> {
    let at = at + usize::from(text.get(at) == Some(&b' '));
    match text.get(at)? {
        b'{' => {
            let skip = |mut at: usize| {
                while text.get(at) == Some(&b' ') {
                    at += 1;
                }
                at
            };
            let start = skip(at + 1);
            let negative = text.get(start) == Some(&b'-');
            let spelled = spelled(text, start + usize::from(negative))?;
            let end = skip(spelled.end);
            let number = spelled.number();
            (text.get(end) == Some(&b'}'))
                .then_some((if negative { number.negated() } else { number }, end + 1))
        }
        digit if digit.is_ascii_digit() => {
            Some((Numeric::integer(i128::from(digit - b'0')), at + 1))
        }
        _ => None,
    }
}

/// The parts of a spelled number.
struct Spelled {
    whole: String,
    decimals: String,
    exponent: Option<i64>,
    end: usize,
}

impl Spelled {
    fn number(&self) -> Numeric {
        Numeric::from_parts(&self.whole, &self.decimals, self.exponent)
    }
}

/// Digits with separators between groups of three.
fn whole(text: &[u8], at: usize) -> Option<Spelled> {
    let run = |at: usize| {
        text[at.min(text.len())..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let first = run(at);
    if first == 0 {
        return None;
    }
    let mut digits = text[at..at + first].to_vec();
    let mut end = at + first;
    // What is longer than 3 digits has no separators.
    let mark = text
        .get(end)
        .copied()
        .filter(|b| first <= 3 && matches!(b, b',' | b'_'));
    while mark.is_some() && text.get(end) == mark.as_ref() {
        // Looks at four digits at most: a longer run is another number.
        let group = text[end + 1..]
            .iter()
            .take(4)
            .take_while(|b| b.is_ascii_digit())
            .count();
        if group != 3 {
            break;
        }
        digits.extend_from_slice(&text[end + 1..end + 4]);
        end += 4;
    }
    Some(Spelled {
        whole: String::from_utf8(digits).unwrap_or_default(),
        decimals: String::new(),
        exponent: None,
        end,
    })
}

/// Whole part, decimals, exponent.
fn spelled(text: &[u8], at: usize) -> Option<Spelled> {
    let digit = |at: usize| text.get(at).is_some_and(u8::is_ascii_digit);
    let mut read = if text.get(at) == Some(&b'.') && digit(at + 1) {
        Spelled {
            whole: String::new(),
            decimals: String::new(),
            exponent: None,
            end: at,
        }
    } else {
        whole(text, at)?
    };
    if text.get(read.end) == Some(&b'.') && digit(read.end + 1) {
        let start = read.end + 1;
        read.end = start;
        while digit(read.end) {
            read.end += 1;
        }
        read.decimals = String::from_utf8_lossy(&text[start..read.end]).into_owned();
        if text.get(read.end) == Some(&b'.') && digit(read.end + 1) {
            return None; // 1.2.3 is a version
        }
    }
    if let Some((exponent, end)) = exponent(text, read.end) {
        (read.exponent, read.end) = (Some(exponent), end);
    } else if read.whole == "10"
        && read.decimals.is_empty()
        && let Some((exponent, end)) = power(text, read.end)
    {
        // 10^5 without a mantissa
        read.whole = "1".into();
        (read.exponent, read.end) = (Some(exponent), end);
    }
    Some(read)
}

/// `e5`, `E-3`, `* 10^5`, `x10^{5}`, `*10**5`.
fn exponent(text: &[u8], at: usize) -> Option<(i64, usize)> {
    if matches!(text.get(at), Some(b'e' | b'E')) {
        let (value, end) = signed(text, at + 1)?;
        let word = text.get(end).is_some_and(|b| b.is_ascii_alphabetic());
        return (!word).then_some((value, end));
    }
    let space = |at: usize| at + usize::from(text.get(at) == Some(&b' '));
    let at = space(at);
    if !matches!(text.get(at), Some(b'*' | b'x')) {
        return None;
    }
    let at = space(at + 1);
    if !text.get(at..)?.starts_with(b"10") {
        return None;
    }
    power(text, at + 2)
}

/// `^5`, `^{5}`, `**5` after a ten.
fn power(text: &[u8], at: usize) -> Option<(i64, usize)> {
    let rest = text.get(at..)?;
    if rest.starts_with(b"**") {
        return signed(text, at + 2);
    }
    if rest.first() != Some(&b'^') {
        return None;
    }
    if rest.get(1) == Some(&b'{') {
        let (value, end) = signed(text, at + 2)?;
        return (text.get(end) == Some(&b'}')).then_some((value, end + 1));
    }
    signed(text, at + 1)
}

fn signed(text: &[u8], at: usize) -> Option<(i64, usize)> {
    let sign = matches!(text.get(at), Some(b'-' | b'+'));
    let start = at + usize::from(sign);
    let mut end = start;
    while text.get(end).is_some_and(u8::is_ascii_digit) {
        end += 1;
    }
    // Six digits are beyond any use; longer ones are not exponents.
    if end == start || end - start > 6 {
        return None;
    }
    let size: i64 = std::str::from_utf8(&text[start..end]).ok()?.parse().ok()?;
    Some((if text[at] == b'-' { -size } else { size }, end))
}

/// Whether the word or version number before goes on at this byte.
fn in_word(text: &[u8], at: usize) -> bool {
    match text.get(at) {
        Some(b'.') => text.get(at + 1).is_some_and(u8::is_ascii_digit),
        Some(b) => b.is_ascii_alphanumeric() || *b == b'_',
        None => false,
    }
}

/// All numbers of a normalised text, each with its start and end.
pub(super) fn numbers(text: &str) -> impl Iterator<Item = (Numeric, usize, usize)> + '_ {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let start = at;
            let begins = matches!(
                bytes[at],
                b'0'..=b'9' | b'-' | b'+' | b'.' | b'$' | b'\\' | 0xc2 | 0xe2
            );
            if let Some((number, end)) = begins.then(|| scan(bytes, at)).flatten() {
                at = end;
                return Some((number, start, end));
            }
            // What is no number is skipped to its end: a run of digits is looked at once.
            at += 1;
            while bytes[start].is_ascii_alphanumeric() && in_word(bytes, at) {
                at += 1;
            }
        }
        None
    })
}
