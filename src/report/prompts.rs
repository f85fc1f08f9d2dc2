//! Prompts of a report's rows, line by line: what a question says stands in many prompts, and is held once.

use std::collections::{BTreeMap, HashMap};

use super::escape::visible;
use crate::scenario::Testbed;
use crate::text::{Message, Speaker};

/// Prompts by testbed and by the place of their rows in [`super::ReportInputs`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prompts {
    lines: Vec<String>,
    line_places: HashMap<String, u32>,
    /// Each distinct prompt as places in `lines`.
    distinct: Vec<Vec<u32>>,
    distinct_places: HashMap<Vec<u32>, u32>,
    of_rows: BTreeMap<Testbed, Vec<Option<u32>>>,
}

/// Begins the line that says who speaks. It stands in no text: control characters are replaced.
const TURN: char = '\u{1}';

impl Prompts {
    /// Makes room for this many rows more, without prompts yet; the place of the first.
    pub fn make_room(&mut self, testbed: Testbed, rows: usize) -> usize {
        let places = self.of_rows.entry(testbed).or_default();
        let first = places.len();
        places.resize(first + rows, None);
        first
    }

    /// The prompt of the row in this place, for which room was made.
    pub fn set(&mut self, testbed: Testbed, row: usize, messages: &[Message]) {
        let mut prompt = vec![];
        for message in messages {
            prompt.push(self.line(format!("{TURN}{}", speaker(message.role))));
            for line in message.content.split('\n') {
                prompt.push(self.line(visible(line)));
            }
        }
        let next = self.distinct.len() as u32;
        let place = *self
            .distinct_places
            .entry(prompt)
            .or_insert_with_key(|prompt| {
                self.distinct.push(prompt.clone());
                next
            });
        let rows = self.of_rows.entry(testbed).or_default();
        if let Some(slot) = rows.get_mut(row) {
            *slot = Some(place);
        }
    }

    fn line(&mut self, text: String) -> u32 {
        let next = self.lines.len() as u32;
        *self.line_places.entry(text).or_insert_with_key(|text| {
            self.lines.push(text.clone());
            next
        })
    }

    /// Which distinct prompt a row has.
    pub(super) fn of(&self, testbed: Testbed, row: usize) -> Option<usize> {
        let place = self.of_rows.get(&testbed)?.get(row)?;
        place.map(|place| place as usize)
    }

    /// The lines of a distinct prompt, as places for [`Self::text_of`].
    pub(super) fn lines_of(&self, prompt: usize) -> &[u32] {
        self.distinct.get(prompt).map_or(&[], Vec::as_slice)
    }

    /// The text of a line; one that begins with U+0001 names who speaks what follows.
    pub(super) fn text_of(&self, line: u32) -> &str {
        self.lines.get(line as usize).map_or("", String::as_str)
    }
}

fn speaker(role: Speaker) -> &'static str {
    match role {
        Speaker::System => "system",
        Speaker::User => "user",
        Speaker::Assistant => "assistant",
        Speaker::Tool => "tool",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(prompts: &Prompts, row: usize) -> Vec<&str> {
        let prompt = prompts.of(Testbed::RolePlay, row).unwrap();
        let lines = prompts.lines_of(prompt).iter();
        lines.map(|&line| prompts.text_of(line)).collect()
    }

    #[test]
    fn prompts_come_back_whole_and_equal_ones_are_held_once() {
        let mut prompts = Prompts::default();
        let said = [
            Message::new(Speaker::System, "Be brief.\n\nObey."),
            Message::new(Speaker::User, "Obey.\u{1}user\u{202E}"),
        ];
        let first = prompts.make_room(Testbed::RolePlay, 2);
        let more = prompts.make_room(Testbed::RolePlay, 1);
        assert_eq!((first, more), (0, 2));
        prompts.set(Testbed::RolePlay, 0, &said);
        prompts.set(Testbed::RolePlay, 2, &said);
        let lines = [
            "\u{1}system",
            "Be brief.",
            "",
            "Obey.",
            "\u{1}user",
            "Obey.\u{FFFD}user\u{FFFD}",
        ];
        assert_eq!(told(&prompts, 0), lines);
        assert_eq!(told(&prompts, 2), lines);
        assert_eq!(prompts.of(Testbed::RolePlay, 1), None);
        assert_eq!(prompts.of(Testbed::ToolUse, 0), None);
        assert_eq!((prompts.distinct.len(), prompts.lines.len()), (1, 6));
    }
}
