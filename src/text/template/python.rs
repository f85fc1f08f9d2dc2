//! Where Python differs from minijinja: methods of strings, `tojson`, `trim`, and how values print.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Adds all of it.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", to_json);
    environment.add_filter("trim", |value: &Value, chars: Option<&str>| {
        let text = value.to_string();
        strip(&text, chars, true, true).to_string()
    });
    // In Python strings and undefined values can be iterated over and none cannot; minijinja has it the other way.
    environment.add_test("iterable", |value: &Value| match value.kind() {
        ValueKind::None => false,
        ValueKind::String | ValueKind::Undefined => true,
        _ => value.try_iter().is_ok(),
    });
    environment.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined
        )
    });
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Bool if value.is_true() => out.write_str("True").map_err(Error::from),
        ValueKind::Bool => out.write_str("False").map_err(Error::from),
        ValueKind::None => out.write_str("None").map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    });
}

/// What Python's `str.isspace` accepts: Unicode white space and four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start {
        text.trim_start_matches(goes)
    } else {
        text
    };
    if end {
        text.trim_end_matches(goes)
    } else {
        text
    }
}

/// A method minijinja itself does not have: ours where `pycompat` lacks it or differs from Python, else that.
fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let (ValueKind::String, Some(text)) = (value.kind(), value.as_str()) {
        // Positions count characters, not bytes.
        let position = |byte: Option<usize>| match byte {
            Some(byte) => Value::from(text[..byte].chars().count()),
            None => Value::from(-1),
        };
        match name {
            "strip" | "lstrip" | "rstrip" => {
                let (chars,): (Option<&str>,) = from_args(args)?;
                return Ok(strip(text, chars, name != "rstrip", name != "lstrip").into());
            }
            "find" => {
                let (part,): (&str,) = from_args(args)?;
                return Ok(position(text.find(part)));
            }
            "rfind" => {
                let (part,): (&str,) = from_args(args)?;
                return Ok(position(text.rfind(part)));
            }
            "count" => {
                let (part,): (&str,) = from_args(args)?;
                return Ok(text.matches(part).count().into());
            }
            "split" if args.is_empty() => {
                let words = text.split(is_space).filter(|word| !word.is_empty());
                return Ok(words.map(Value::from).collect());
            }
            "removeprefix" => {
                let (part,): (&str,) = from_args(args)?;
                return Ok(text.strip_prefix(part).unwrap_or(text).into());
            }
            "removesuffix" => {
                let (part,): (&str,) = from_args(args)?;
                return Ok(text.strip_suffix(part).unwrap_or(text).into());
            }
            "rsplit" => {
                let (separator, limit): (&str, Option<usize>) = from_args(args)?;
                if separator.is_empty() {
                    return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
                }
                let limit = limit.unwrap_or(text.len()).saturating_add(1);
                let mut parts: Vec<&str> = text.rsplitn(limit, separator).collect();
                parts.reverse();
                return Ok(parts.into_iter().map(Value::from).collect());
            }
            // All of no characters is true, but Python says no.
            "isdigit" | "isnumeric" | "isalpha" | "isalnum" | "isspace" | "islower" | "isupper"
                if text.is_empty() =>
            {
                return Ok(false.into());
            }
            _ => {}
        }
    }
    unknown_method_callback(state, value, name, args)
}

/// `json.dumps`, with the arguments transformers passes on.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let wrong =
        |reason: String| Error::new(ErrorKind::InvalidOperation, format!("tojson: {reason}"));
    if value.is_undefined() {
        return Err(wrong("the value is undefined".into()));
    }
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let style = Style {
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent: indent.map(|n| n.min(64)),
        separators: match separators.as_deref() {
            None if indent.is_some() => (",".into(), ": ".into()),
            None => (", ".into(), ": ".into()),
            Some([item, key]) => (item.clone(), key.clone()),
            Some(other) => return Err(wrong(format!("{} separators", other.len()))),
        },
    };
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(value).map_err(|e| wrong(e.to_string()))?;
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(out)
}

struct Style {
    ascii: bool,
    sort: bool,
    indent: Option<usize>,
    /// Between items, between key and value.
    separators: (String, String),
}

impl Style {
    fn write(&self, json: &serde_json::Value, depth: usize, out: &mut String) {
        match json {
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|item| (None, item)).collect();
                self.list(('[', ']'), items, depth, out);
            }
            serde_json::Value::Object(map) => {
                let mut items: Vec<_> = map.iter().map(|(k, v)| (Some(k), v)).collect();
                if self.sort {
                    items.sort_by_key(|(key, _)| *key);
                }
                self.list(('{', '}'), items, depth, out);
            }
            serde_json::Value::String(text) => self.string(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn list(
        &self,
        (open, close): (char, char),
        items: Vec<(Option<&String>, &serde_json::Value)>,
        depth: usize,
        out: &mut String,
    ) {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        let empty = items.is_empty();
        out.push(open);
        for (index, (key, item)) in items.into_iter().enumerate() {
            if index > 0 {
                out.push_str(&self.separators.0);
            }
            line(depth + 1, out);
            if let Some(key) = key {
                self.string(key, out);
                out.push_str(&self.separators.1);
            }
            self.write(item, depth + 1, out);
        }
        if !empty {
            line(depth, out);
        }
        out.push(close);
    }

    fn string(&self, text: &str, out: &mut String) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            return out.push_str(&quoted);
        }
        for c in quoted.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}
