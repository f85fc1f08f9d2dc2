//! JSON as language models write it, found anywhere in a text.
//!
//! Beyond the standard it takes single-quoted strings, raw line breaks in strings, trailing commas, and bare words as
//! values (`True`, `None`). Keys must be quoted. Documents are the outermost objects and arrays that parse; where one
//! does not parse, the search goes on one character later, so a stray brace hides nothing behind it.
//!
//! The work is bounded: nesting by [`MAX_DEPTH`], and all reading together by [`STEPS_PER_BYTE`] times the text's
//! length, since a text of unfinished objects could otherwise be read over and over.

/// Deepest nesting that is read; a deeper document is no answer.
const MAX_DEPTH: u32 = 16;
/// How often, on average, a byte may be read. Plain text needs one or two.
const STEPS_PER_BYTE: usize = 32;

/// A parsed value.
#[derive(Debug, PartialEq)]
pub(super) enum Loose {
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Loose>),
    /// An object, its keys as written, duplicates kept.
    Object(Vec<(String, Loose)>),
    /// A number, `true`, `null` or another bare word.
    Bare,
}

/// The text cost more reading than the bound allows.
#[derive(Debug, PartialEq)]
pub(super) struct Exhausted;

/// Hands every outermost document to `visit`, in the order of the text.
pub(super) fn documents(text: &str, mut visit: impl FnMut(Loose)) -> Result<(), Exhausted> {
    let bytes = text.as_bytes();
    let mut reader = Reader {
        bytes,
        at: 0,
        steps: bytes
            .len()
            .saturating_mul(STEPS_PER_BYTE)
            .saturating_add(1024),
    };
    while reader.at < bytes.len() {
        let start = reader.at;
        if !matches!(bytes[start], b'{' | b'[') {
            reader.at += 1;
            continue;
        }
        match reader.value(0) {
            Ok(found) => visit(found),
            Err(Stop::Malformed) => reader.at = start + 1,
            Err(Stop::Exhausted) => return Err(Exhausted),
        }
    }
    Ok(())
}

/// Why reading a document ended early.
enum Stop {
    Malformed,
    Exhausted,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    steps: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn advance(&mut self) -> Result<(), Stop> {
        self.steps = self.steps.checked_sub(1).ok_or(Stop::Exhausted)?;
        self.at += 1;
        Ok(())
    }

    fn space(&mut self) -> Result<(), Stop> {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.advance()?;
        }
        Ok(())
    }

    /// The byte is next, after white space, and is taken.
    fn take(&mut self, wanted: u8) -> Result<bool, Stop> {
        self.space()?;
        let next = self.peek() == Some(wanted);
        if next {
            self.advance()?;
        }
        Ok(next)
    }

    fn value(&mut self, depth: u32) -> Result<Loose, Stop> {
        self.space()?;
        match self.peek() {
            Some(b'{') if depth < MAX_DEPTH => self.object(depth),
            Some(b'[') if depth < MAX_DEPTH => self.list(depth),
            Some(b'"' | b'\'') => Ok(Loose::Text(self.text()?)),
            Some(b) if bare(b) => {
                while self.peek().is_some_and(bare) {
                    self.advance()?;
                }
                Ok(Loose::Bare)
            }
            _ => Err(Stop::Malformed),
        }
    }

    fn object(&mut self, depth: u32) -> Result<Loose, Stop> {
        self.advance()?;
        let mut fields = Vec::new();
        loop {
            if self.take(b'}')? {
                return Ok(Loose::Object(fields));
            }
            if !matches!(self.peek(), Some(b'"' | b'\'')) {
                return Err(Stop::Malformed);
            }
            let key = self.text()?;
            if !self.take(b':')? {
                return Err(Stop::Malformed);
            }
            fields.push((key, self.value(depth + 1)?));
            if !self.take(b',')? {
                return if self.take(b'}')? {
                    Ok(Loose::Object(fields))
                } else {
                    Err(Stop::Malformed)
                };
            }
        }
    }

    fn list(&mut self, depth: u32) -> Result<Loose, Stop> {
        self.advance()?;
        let mut items = Vec::new();
        loop {
            if self.take(b']')? {
                return Ok(Loose::List(items));
            }
            items.push(self.value(depth + 1)?);
            if !self.take(b',')? {
                return if self.take(b']')? {
                    Ok(Loose::List(items))
                } else {
                    Err(Stop::Malformed)
                };
            }
        }
    }

    /// A string in either quote; the reader stands on the opening one.
    fn text(&mut self) -> Result<String, Stop> {
        let quote = self.peek().ok_or(Stop::Malformed)?;
        self.advance()?;
        let mut content = Vec::new();
        loop {
            let byte = self.peek().ok_or(Stop::Malformed)?;
            self.advance()?;
            if byte == quote {
                // Only whole characters were copied between two ASCII quotes, so this cannot lose anything.
                return Ok(String::from_utf8_lossy(&content).into_owned());
            }
            if byte != b'\\' {
                content.push(byte);
                continue;
            }
            let escaped = self.peek().ok_or(Stop::Malformed)?;
            self.advance()?;
            match escaped {
                b'n' => content.push(b'\n'),
                b't' => content.push(b'\t'),
                b'r' => content.push(b'\r'),
                b'u' => {
                    let mut buffer = [0; 4];
                    content.extend_from_slice(self.unicode()?.encode_utf8(&mut buffer).as_bytes());
                }
                other => content.push(other),
            }
        }
    }

    /// Four hexadecimal digits; half a surrogate pair reads as the replacement character.
    fn unicode(&mut self) -> Result<char, Stop> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self
                .peek()
                .and_then(|b| char::from(b).to_digit(16))
                .ok_or(Stop::Malformed)?;
            self.advance()?;
            code = code * 16 + digit;
        }
        Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

/// Belongs to a bare word.
fn bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Loose> {
        let mut found = Vec::new();
        documents(text, |doc| found.push(doc)).unwrap();
        found
    }

    fn text(s: &str) -> Loose {
        Loose::Text(s.to_owned())
    }

    #[test]
    fn outermost_documents_in_order() {
        let found = all("a {'x': [1, 'y',],} b {\"z\": {\"w\": null}}");
        assert_eq!(
            found,
            [
                Loose::Object(vec![(
                    "x".into(),
                    Loose::List(vec![Loose::Bare, text("y")])
                )]),
                Loose::Object(vec![(
                    "z".into(),
                    Loose::Object(vec![("w".into(), Loose::Bare)])
                )]),
            ]
        );
    }

    #[test]
    fn a_stray_brace_hides_nothing() {
        assert_eq!(
            all("{ oops {\"a\": \"b\"}"),
            [Loose::Object(vec![("a".into(), text("b"))])]
        );
    }

    #[test]
    fn escapes() {
        let found = all(r#"{"a": "\"q\" \\ \u0041\n\ud800 é"}"#);
        assert_eq!(
            found,
            [Loose::Object(vec![(
                "a".into(),
                text("\"q\" \\ A\n\u{fffd} é")
            )])]
        );
    }

    #[test]
    fn unfinished_is_no_document() {
        for broken in [
            "{",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "[1",
            "{a: 1}",
            "{,}",
            "{\"a\":\"\\u00",
            "[,]",
        ] {
            assert_eq!(all(broken), [], "{broken}");
        }
    }

    #[test]
    fn the_bound_holds_against_rereading() {
        // An unfinished object whose strings hold starts of further unfinished objects, as costly as it gets.
        let hostile = [
            "{\"a\":[",
            "{'a':{\"b\":",
            "[[",
            "{\"a\":\"{'b':'{\"c\":",
            "{\"\":'",
        ];
        for piece in hostile {
            let text = piece.repeat(200_000);
            let started = std::time::Instant::now();
            let _ = documents(&text, |_| ());
            assert!(started.elapsed().as_secs() < 10, "{piece}");
        }
    }
}
