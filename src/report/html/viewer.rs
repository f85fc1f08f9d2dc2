//! The trace viewer's place in a page and its data: columns as JSON, texts and prompts in blocks, all compressed.
//!
//! The page opens with the columns; a block of texts is unpacked when one of its texts is shown or searched. 100 000 rows
//! thus cost a page little before they are read.

use std::fmt::Write as _;

use rayon::prelude::*;
use serde_json::json;

use super::embed::{element, gzip};
use super::page::Page;
use crate::report::escape::{count, html, thousands};
use crate::report::traces::Traces;

const SCRIPT: &str = include_str!("viewer.js");
const LIST: &str = include_str!("list.js");
/// Bytes of texts in a block.
const TEXTS: usize = 1 << 19;
/// Prompts in a block.
const PROMPTS: usize = 4096;

/// The section; nothing without rows.
pub(super) fn viewer(page: &mut Page, traces: &Traces) {
    let rows: usize = traces.beds.iter().map(|bed| bed.rows).sum();
    if rows == 0 {
        return;
    }
    page.section("traces", "Traces");
    let prompts = if traces.prompts.is_empty() {
        " Prompts were not at hand when this page was written."
    } else {
        " Prompts are made again from the questions and the rows before them, by what made them in the run; what the \
         model's chat template adds around the turns is not shown."
    };
    let cut = traces.cut.map_or(String::new(), |cut| {
        format!(
            " Texts are cut at {} bytes to keep the page small; the tables hold them whole.",
            thousands(cut as u64)
        )
    });
    let _ = write!(
        page.body,
        "<p>All {} of the run: what was asked, what the model wrote, what it earned.{}{}</p>\n\
         <div id=\"viewer\" class=\"viewer\">\n\
         <p class=\"caveat waiting\">The viewer needs JavaScript and a browser that can unpack gzip (any of 2023 or \
         later). Without them, a sample of the decisions stands in the tables above.</p>\n</div>\n",
        count(rows, "decision"),
        html(prompts),
        html(&cut),
    );
    let texts = text_blocks(&traces.texts);
    let prompts: Vec<&[Vec<u32>]> = traces.prompts.chunks(PROMPTS).collect();
    let mut starts = vec![];
    let mut first = 0;
    for block in &texts {
        starts.push(first);
        first += block.len();
    }
    let index = json!({
        "beds": traces.beds,
        "texts": starts,
        "prompts": PROMPTS,
        "textCount": traces.texts.len(),
    });
    let mut blocks: Vec<(String, Vec<u8>)> = vec![("traces-index".into(), bytes(&index))];
    blocks.push(("traces-lines".into(), bytes(&traces.lines)));
    // No text holds U+0000: control characters were replaced.
    let joined = |(i, block): (usize, &&[String])| (format!("traces-texts-{i}"), block.join("\0"));
    blocks.extend(
        texts
            .iter()
            .enumerate()
            .map(joined)
            .map(|(id, t)| (id, t.into_bytes())),
    );
    let of = |(i, block): (usize, &&[Vec<u32>])| (format!("traces-prompts-{i}"), bytes(block));
    blocks.extend(prompts.iter().enumerate().map(of));
    let elements: Vec<String> = blocks
        .par_iter()
        .map(|(id, bytes)| element(id, &gzip(bytes)))
        .collect();
    for element in elements {
        page.body.push_str(&element);
    }
    page.script(LIST);
    page.script(SCRIPT);
}

fn bytes(value: &(impl serde::Serialize + ?Sized)) -> Vec<u8> {
    // Columns, strings and numbers always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Texts in blocks of about [`TEXTS`] bytes.
fn text_blocks(texts: &[String]) -> Vec<&[String]> {
    let mut blocks = vec![];
    let (mut first, mut size) = (0, 0);
    for (place, text) in texts.iter().enumerate() {
        size += text.len();
        if size >= TEXTS {
            blocks.push(&texts[first..=place]);
            (first, size) = (place + 1, 0);
        }
    }
    if first < texts.len() {
        blocks.push(&texts[first..]);
    }
    blocks
}
