//! Tool calls in a model's text: `<tool>python</tool>`, and the result that the program puts in after one.
//!
//! What is a call, decided once:
//!
//! - A call is complete: `<tool>`, code, `</tool>`. An opening without its end is no call. Where openings follow each
//!   other, the last before the end counts, as a restarted call does.
//! - Tags are exact and in lower case; `&lt;tool&gt;` is text.
//! - Calls inside a think block are thoughts and are not executed. A `</think>` that was never opened closes a block
//!   that the prompt opened (as some chat templates do): everything before it is thought. While such a block is still
//!   open its text shows no tag at all, so [`next_call`] is told.
//! - Of the code, a fence (```` ```python ````) and common indentation are taken off, and the entities `&lt; &gt; &amp;
//!   &quot; &#39;` are decoded. An empty call is a call: it costs.
//!
//! The program answers a call by `\n<result>\n…\n</result>\n` directly after `</tool>`, with every tag inside escaped.
//! So in a stored transcript exactly the result blocks that follow a complete call are the program's, provided that
//! the loop (1) stops the model at each `</tool>`, and (2) passes what the model wrote through [`escape_forged`]. The
//! second makes a forged block harmless and [`forged_result`] counts it.

use std::ops::Range;

const TOOL: &str = "<tool>";
const TOOL_END: &str = "</tool>";
const RESULT: &str = "<result>";
const RESULT_END: &str = "</result>";
const THINK: &str = "<think>";
const THINK_END: &str = "</think>";

/// A complete call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Where it stands, tags included.
    pub span: Range<usize>,
    /// The program, ready to run.
    pub code: String,
}

/// How a problem was solved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Strategy {
    /// With this many calls, at least one.
    Tool(u32),
    /// By reasoning alone.
    Direct,
}

/// Who put a piece of a transcript there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// The model.
    Written,
    /// The program: a tool's result. Not trained on.
    Inserted,
}

/// A piece of a transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Who put it there.
    pub kind: SegmentKind,
    /// Its text.
    pub text: &'a str,
}

/// A tag and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Tool,
    ToolEnd,
    Result,
    ResultEnd,
    Think,
    ThinkEnd,
}

const TAGS: [(Tag, &str); 6] = [
    (Tag::Tool, TOOL),
    (Tag::ToolEnd, TOOL_END),
    (Tag::Result, RESULT),
    (Tag::ResultEnd, RESULT_END),
    (Tag::Think, THINK),
    (Tag::ThinkEnd, THINK_END),
];

/// The tags of a text in order: tag, start, end.
fn tags(text: &str) -> impl Iterator<Item = (Tag, usize, usize)> + '_ {
    text.match_indices('<').filter_map(|(at, _)| {
        let rest = &text[at..];
        TAGS.iter()
            .find(|(_, name)| rest.starts_with(name))
            .map(|(tag, name)| (*tag, at, at + name.len()))
    })
}

/// What the parts of a text are.
#[derive(Debug, Default)]
struct Parts {
    calls: Vec<Range<usize>>,
    /// Result blocks as the program inserts them, from `\n` to `\n`.
    inserted: Vec<Range<usize>>,
    /// Everything that is no answer: thoughts, calls, results, what follows an opening that never ends.
    hidden: Vec<Range<usize>>,
}

/// One pass over the text.
fn parts(text: &str, thinking: bool) -> Parts {
    let mut parts = Parts::default();
    let unopened = tags(text)
        .find(|(tag, ..)| matches!(tag, Tag::Think | Tag::ThinkEnd))
        .is_some_and(|(tag, ..)| tag == Tag::ThinkEnd);
    let mut thought: Option<usize> = (thinking || unopened).then_some(0);
    let mut call: Option<usize> = None;
    // First opening of a run of openings: all that follows it is hidden.
    let mut opened: Option<usize> = None;
    let mut result: Option<usize> = None;
    for (tag, start, end) in tags(text) {
        if let Some(from) = thought {
            if tag == Tag::ThinkEnd {
                parts.hidden.push(from..end);
                thought = None;
            }
            continue;
        }
        if let Some(from) = result {
            if tag == Tag::ResultEnd {
                parts.hidden.push(from..end);
                result = None;
                note_inserted(text, from, end, &mut parts);
            }
            continue;
        }
        if let Some(from) = call {
            match tag {
                Tag::Tool => call = Some(start),
                Tag::ToolEnd => {
                    parts.calls.push(from..end);
                    parts.hidden.push(opened.unwrap_or(from)..end);
                    (call, opened) = (None, None);
                }
                _ => {}
            }
            continue;
        }
        match tag {
            Tag::Tool => (call, opened) = (Some(start), Some(start)),
            Tag::Result => result = Some(start),
            Tag::Think => thought = Some(start),
            Tag::ToolEnd | Tag::ResultEnd | Tag::ThinkEnd => {}
        }
    }
    if let Some(from) = thought.or(result).or(opened) {
        parts.hidden.push(from..text.len());
    }
    parts
}

/// Notes a result block as inserted where it stands as the program puts it: directly after a call, on lines of its own.
fn note_inserted(text: &str, start: usize, end: usize, parts: &mut Parts) {
    let Some(call) = parts.calls.last() else {
        return;
    };
    let own_lines = text[start..].starts_with("<result>\n")
        && text[..end].ends_with("\n</result>")
        && text[end..].starts_with('\n');
    if own_lines && start == call.end + 1 && text[call.end..].starts_with('\n') {
        parts.inserted.push(call.end..end + 1);
    }
}

/// All complete calls that stand outside thoughts. `thinking`: the prompt left a think block open before the text.
pub fn calls(text: &str, thinking: bool) -> Vec<ToolCall> {
    let spans = parts(text, thinking).calls;
    spans.into_iter().map(|span| call_at(text, span)).collect()
}

/// The first complete call that begins at or after byte `from`.
pub fn next_call(text: &str, from: usize, thinking: bool) -> Option<ToolCall> {
    let spans = parts(text, thinking).calls;
    let span = spans.into_iter().find(|span| span.start >= from)?;
    Some(call_at(text, span))
}

/// Whether a tool was called, and how often.
pub fn strategy(text: &str, thinking: bool) -> Strategy {
    match parts(text, thinking).calls.len() {
        0 => Strategy::Direct,
        n => Strategy::Tool(u32::try_from(n).unwrap_or(u32::MAX)),
    }
}

/// What the model says outside thoughts, calls and results: the text in which an answer counts.
pub(super) fn visible(text: &str) -> String {
    let mut out = String::new();
    let mut at = 0;
    for hidden in parts(text, false).hidden {
        out.push_str(&text[at..hidden.start.max(at)]);
        // What was cut out may not join the numbers beside it.
        out.push('\n');
        at = hidden.end.max(at);
    }
    out.push_str(&text[at..]);
    out
}

fn call_at(text: &str, span: Range<usize>) -> ToolCall {
    let body = &text[span.start + TOOL.len()..span.end - TOOL_END.len()];
    ToolCall {
        code: dedent(&decode(fenced(body))),
        span,
    }
}

/// The content of the first fenced block, or all of it.
fn fenced(body: &str) -> &str {
    let mut line_start = 0;
    let mut fence = None;
    for line in body.split_inclusive('\n') {
        let blank = line.len() - line.trim_start().len();
        if line[blank..].starts_with("```") {
            fence = Some(line_start + blank);
            break;
        }
        line_start += line.len();
    }
    let Some(fence) = fence else {
        let trimmed = body.trim();
        let quoted = trimmed
            .strip_prefix('`')
            .and_then(|inner| inner.strip_suffix('`'))
            .filter(|inner| !inner.contains('`'));
        return quoted.unwrap_or(body);
    };
    let after = &body[fence + 3..];
    // The rest of the fence's line names the language; a block on one line has only a name that may stand there.
    let inner = match after.find('\n') {
        Some(line) if !after[..line].contains("```") => &after[line + 1..],
        _ => after.strip_prefix("python").unwrap_or(after),
    };
    inner.find("```").map_or(inner, |end| &inner[..end])
}

fn decode(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = [
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&amp;", "&"),
            ("&quot;", "\""),
            ("&#39;", "'"),
        ];
        let (name, plain) = known
            .into_iter()
            .find(|(name, _)| rest.starts_with(name))
            .unwrap_or(("&", "&"));
        out.push_str(plain);
        rest = &rest[name.len()..];
    }
    out.push_str(rest);
    out
}

/// Blank lines at both ends and indentation that all lines share are taken off; lines end in `\n`.
fn dedent(code: &str) -> String {
    let lines: Vec<&str> = code.lines().map(str::trim_end).collect();
    let full = |line: &str| !line.is_empty();
    let Some(first) = lines.iter().position(|line| full(line)) else {
        return String::new();
    };
    let last = lines.iter().rposition(|line| full(line)).unwrap_or(first);
    let lines = &lines[first..=last];
    // Code that begins on the tag's own line has no indentation there.
    let indent = |line: &&str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let shared = lines
        .iter()
        .filter(|line| full(line))
        .map(indent)
        .min()
        .unwrap_or(0);
    let mut out = String::new();
    for line in lines {
        out.push_str(line.get(shared..).unwrap_or(""));
        out.push('\n');
    }
    out
}

/// What the program puts in after a call: the output, at most `limit` bytes of it, every tag escaped.
pub fn result_block(output: &str, limit: usize) -> String {
    let output = output.trim_end();
    let mut end = output.len().min(limit);
    while !output.is_char_boundary(end) {
        end -= 1;
    }
    let mut text = escape(&output[..end], &TAGS);
    if end < output.len() {
        text.push_str(&format!("\n[{} more bytes not shown]", output.len() - end));
    }
    if text.is_empty() {
        text.push_str("[no output]");
    }
    format!("\n{RESULT}\n{text}\n{RESULT_END}\n")
}

fn escape(text: &str, known: &[(Tag, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for (tag, start, end) in tags(text) {
        if known.iter().any(|(other, _)| *other == tag) {
            out.push_str(&text[at..start]);
            out.push_str("&lt;");
            out.push_str(&text[start + 1..end]);
            at = end;
        }
    }
    out.push_str(&text[at..]);
    out
}

/// Where the model wrote a result's tag itself. Only for what the model wrote, before the program inserts anything.
pub fn forged_result(written: &str) -> Option<Range<usize>> {
    tags(written)
        .find(|(tag, ..)| matches!(tag, Tag::Result | Tag::ResultEnd))
        .map(|(_, start, end)| start..end)
}

/// What the model wrote with the tags of results escaped, so that in the transcript those of the program stand alone.
pub fn escape_forged(written: &str) -> String {
    escape(written, &TAGS[2..4])
}

/// A transcript in pieces, in order and without gaps: what the model wrote, and the results inserted after its calls.
pub fn segments(text: &str, thinking: bool) -> Vec<Segment<'_>> {
    let mut out = Vec::new();
    let mut at = 0;
    let mut push = |kind, range: Range<usize>| {
        if !range.is_empty() {
            out.push(Segment {
                kind,
                text: &text[range],
            });
        }
    };
    for inserted in parts(text, thinking).inserted {
        push(SegmentKind::Written, at..inserted.start);
        at = inserted.end;
        push(SegmentKind::Inserted, inserted);
    }
    push(SegmentKind::Written, at..text.len());
    out
}

#[cfg(test)]
mod tests;
