//! Text into HTML and Markdown without changing their structure, and numbers into text.

/// Escapes text for HTML content and double- or single-quoted attributes. Characters that cannot stand in HTML, and
/// those that reorder the text around them, are shown as U+FFFD.
pub(super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if hidden(c) => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

/// Escapes text for a line or a table cell of Markdown: no markup, no HTML, no line break.
pub(super) fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' | '$' => {
                out.push('\\');
                out.push(c);
            }
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\n' | '\r' | '\t' => out.push(' '),
            c if hidden(c) => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

/// Text with what cannot stand in HTML, and what reorders the text around it, shown as U+FFFD: what [`html`] shows, but
/// not escaped.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if hidden(c) { '\u{FFFD}' } else { c })
        .collect()
}

fn hidden(c: char) -> bool {
    let reorders =
        matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{200E}' | '\u{200F}');
    reorders || (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

/// `0.4219` as `42.2`.
pub(super) fn percent(rate: f64) -> String {
    let text = format!("{:.1}", rate * 100.0);
    minus(if text == "-0.0" { "0.0".into() } else { text })
}

/// `0.031` as `+3.1`, `-0.02` as `−2.0`: percentage points with their sign.
pub(super) fn points(difference: f64) -> String {
    let text = percent(difference);
    if text.starts_with(|c: char| c.is_ascii_digit()) && text != "0.0" {
        format!("+{text}")
    } else {
        text
    }
}

/// A true minus sign in place of the hyphen of a formatted number.
pub(super) fn minus(text: String) -> String {
    text.replace('-', "\u{2212}")
}

/// Keeps a percent sign on the line of its number.
pub(super) fn bound(text: &str) -> String {
    text.replace(" %", "\u{A0}%")
}

/// Singular or plural by count: `1 seed`, `2 seeds`.
pub(super) fn count(n: usize, noun: &str) -> String {
    format!(
        "{} {noun}{}",
        thousands(n as u64),
        if n == 1 { "" } else { "s" }
    )
}

/// Thousands parted by a narrow no-break space.
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{202F}');
        }
        out.push(digit);
    }
    out
}

/// Parameters in a reader's unit: `135 M`, `8.2 B`.
pub(super) fn parameters(n: u64) -> String {
    match n {
        // Of a model that another program serves.
        0 => "an unknown number of".to_owned(),
        1..1_000_000 => thousands(n),
        1_000_000..1_000_000_000 => format!("{:.0} M", n as f64 / 1e6),
        _ => format!("{:.1} B", n as f64 / 1e9),
    }
}

/// Seconds in a reader's unit: `8.3 s`, `4 min 05 s`, `2 h 07 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{:.1} s", seconds.max(0.0)),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_keeps_no_active_character() {
        assert_eq!(
            html("<b a=\"1\" c='2'>&"),
            "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;"
        );
        assert_eq!(html("a\u{0}b\u{202E}c\nd"), "a\u{FFFD}b\u{FFFD}c\nd");
    }

    #[test]
    fn markdown_cells_stay_one_cell() {
        assert_eq!(
            markdown("a|b\n*c* <i> `d`"),
            "a\\|b \\*c\\* &lt;i&gt; \\`d\\`"
        );
    }

    #[test]
    fn numbers_read_as_a_person_writes_them() {
        assert_eq!(
            (percent(0.42188), percent(-0.0001)),
            ("42.2".into(), "0.0".into())
        );
        assert_eq!(
            (points(0.031), points(-0.02), points(0.0)),
            ("+3.1".into(), "\u{2212}2.0".into(), "0.0".into())
        );
        assert_eq!(parameters(134_515_008), "135 M");
        assert_eq!(thousands(1_234_567), "1\u{202F}234\u{202F}567");
        assert_eq!(
            (duration(8.34), duration(245.0), duration(7620.0)),
            ("8.3 s".into(), "4 min 05 s".into(), "2 h 07 min".into())
        );
        assert_eq!(
            (count(1, "seed"), count(2, "seed")),
            ("1 seed".into(), "2 seeds".into())
        );
    }
}
