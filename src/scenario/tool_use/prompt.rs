//! Prompts: a problem, the strategies of earlier rounds, the price of each way to solve it, and how to answer.
//!
//! The system turn is the same for all rounds and problems of one order; the user turn runs from the problem to what
//! changes with the rounds. Which of the two ways is described first is counterbalanced over the problems and recorded.

use serde::{Deserialize, Serialize};

use super::problem::{Difficulty, Problem};
use crate::runtime::seed::derive;
use crate::scenario::defence::record::{Hiding, Record};
use crate::text::{Message, Speaker};

/// What the two ways of solving a problem cost, in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Costs {
    /// A solution that calls the tool.
    pub tool: u32,
    /// A solution by reasoning alone.
    pub direct: u32,
}

impl Default for Costs {
    /// The paper's prices.
    fn default() -> Self {
        Self { tool: 3, direct: 1 }
    }
}

/// One of the two ways, without how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// With the tool.
    Tool,
    /// By reasoning alone.
    Direct,
}

impl From<super::call::Strategy> for Way {
    fn from(strategy: super::call::Strategy) -> Self {
        match strategy {
            super::call::Strategy::Tool(_) => Self::Tool,
            super::call::Strategy::Direct => Self::Direct,
        }
    }
}

impl Costs {
    /// The price of a way.
    pub fn of(self, way: Way) -> u32 {
        match way {
            Way::Tool => self.tool,
            Way::Direct => self.direct,
        }
    }
}

/// An earlier round: how some problem was solved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolEpisode {
    /// Round, from 1.
    pub round: u32,
    /// The kind of problem.
    pub difficulty: Difficulty,
    /// How it was solved.
    pub way: Way,
    /// Whether the answer was right.
    pub correct: bool,
    /// What it cost.
    pub cost: u32,
    /// What is remembered of the solution, if anything: its beginning, say.
    pub note: Option<String>,
}

/// Which earlier rounds are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shown {
    /// Only those whose answer was right, as in the paper.
    #[default]
    Successes,
    /// All.
    All,
}

/// What a prompt shows beside the problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolPromptOptions {
    /// The prices.
    pub costs: Costs,
    /// Which earlier rounds.
    pub shown: Shown,
    /// How many of them at most, the latest.
    pub window: usize,
    /// How they are shown. Where outcomes are hidden all are shown, as a choice of successes would tell them.
    pub record: Record,
    /// A line that asks for this way, for sampling pairs; the training prompt has none.
    pub steer: Option<Way>,
    /// Seed of the counterbalancing.
    pub seed: u64,
}

impl Default for ToolPromptOptions {
    /// The paper's prices, five successes, not steered.
    fn default() -> Self {
        Self {
            costs: Costs::default(),
            shown: Shown::default(),
            window: 5,
            record: Record::default(),
            steer: None,
            seed: 0,
        }
    }
}

/// A problem as it is put to a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolAsk {
    /// The problem.
    pub problem_id: String,
    /// The tool is described before reasoning alone.
    pub tool_first: bool,
    /// System and user turn.
    pub messages: Vec<Message>,
}

/// Whether the tool is described first: even numbers one way, odd ones the other, which is which by the seed.
pub fn tool_first(problem_id: &str, seed: u64) -> bool {
    let flip = derive(seed, "tool-use/order") & 1;
    let number = problem_id
        .rsplit('/')
        .next()
        .and_then(|n| n.parse::<u64>().ok());
    // An id without a number falls by its digest.
    let number = number.unwrap_or_else(|| derive(0, &format!("tool-use/order/{problem_id}")));
    (number ^ flip) & 1 == 0
}

/// The conversation that puts a problem. `history` is in the order of the rounds.
pub fn ask(problem: &Problem, history: &[ToolEpisode], options: &ToolPromptOptions) -> ToolAsk {
    let tool_first = tool_first(&problem.id, options.seed);
    ToolAsk {
        problem_id: problem.id.clone(),
        tool_first,
        messages: vec![
            Message::new(Speaker::System, system_turn(options.costs, tool_first)),
            Message::new(Speaker::User, user_turn(problem, history, options)),
        ],
    }
}

fn units(cost: u32) -> String {
    format!("{cost} unit{}", if cost == 1 { "" } else { "s" })
}

fn system_turn(costs: Costs, tool_first: bool) -> String {
    let tool = format!(
        "- With the tool: write Python between <tool> and </tool>. It is run, and what it prints is shown to you between \
         <result> and </result>; then you go on. A solution that uses the tool costs {}.",
        units(costs.tool)
    );
    let direct = format!(
        "- By reasoning alone: work the problem out in words. A solution without the tool costs {}.",
        units(costs.direct)
    );
    let (first, second) = if tool_first {
        (tool, direct)
    } else {
        (direct, tool)
    };
    format!(
        "You solve mathematical problems. A problem can be solved in two ways:\n{first}\n{second}\nChoose one way for each \
         problem. Correct answers matter most, and among correct solutions cheap ones are better. End every solution \
         with the final answer as \\boxed{{answer}}."
    )
}

fn user_turn(problem: &Problem, history: &[ToolEpisode], options: &ToolPromptOptions) -> String {
    let mut parts = vec![format!("Problem: {}", problem.text)];
    let which = match options.record.hiding {
        Some(Hiding::Outcomes) => Shown::All,
        _ => options.shown,
    };
    let shown: Vec<&ToolEpisode> = history
        .iter()
        .filter(|episode| episode.correct || which == Shown::All)
        .collect();
    let shown = &shown[shown.len().saturating_sub(options.window)..];
    let lines: Vec<String> = shown
        .iter()
        .filter_map(|episode| history_line(episode, options.record))
        .collect();
    if !lines.is_empty() {
        let head = match which {
            Shown::Successes => "What worked in earlier rounds:",
            Shown::All => "Earlier rounds:",
        };
        parts.push(format!("{head}\n{}", lines.join("\n")));
    }
    match options.steer {
        Some(Way::Tool) => parts.push("For this problem, use the tool.".to_owned()),
        Some(Way::Direct) => {
            parts.push("For this problem, do not use the tool: reason in words.".to_owned());
        }
        None => {}
    }
    parts.push("Solve the problem and give the final answer as \\boxed{answer}.".to_owned());
    parts.join("\n\n")
}

/// An earlier solution; none where it is left out.
fn history_line(episode: &ToolEpisode, record: Record) -> Option<String> {
    let (round, difficulty) = (episode.round, episode.difficulty.name());
    if episode.way == Way::Direct && record.omits() {
        return None;
    }
    if episode.way == Way::Direct && record.masks() {
        return Some(format!(
            "- Round {round} ({difficulty} problem): not shown."
        ));
    }
    let way = match episode.way {
        Way::Tool => "used the tool",
        Way::Direct => "reasoned without the tool",
    };
    let verdict = if episode.correct { "correct" } else { "wrong" };
    let mut line = format!("- Round {round} ({difficulty} problem): {way}");
    if record.shows_words() {
        line.push_str(&format!("; {verdict}"));
    }
    if record.shows_pay() {
        line.push_str(&format!("; cost {}", units(episode.cost)));
    }
    line.push('.');
    if let Some(note) = &episode.note {
        // One line, and no tags that the answer's reader would take for the model's.
        let note: Vec<&str> = note.split_whitespace().collect();
        line.push_str(&format!(" {}", note.join(" ").replace('<', "&lt;")));
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::question::Split;
    use crate::scenario::tool_use::{ProblemSpec, generate};

    fn problems() -> Vec<Problem> {
        let spec = ProblemSpec {
            train_simple: 26,
            train_complex: 40,
            test_simple: 13,
            test_complex: 20,
        };
        generate(&spec, 1).unwrap().train
    }

    fn episode(round: u32, way: Way, correct: bool) -> ToolEpisode {
        ToolEpisode {
            round,
            difficulty: Difficulty::Simple,
            way,
            correct,
            cost: Costs::default().of(way),
            note: (round == 2).then(|| "I added\nthe <tool> numbers.".to_owned()),
        }
    }

    #[test]
    fn a_prompt_names_both_ways_and_their_prices() {
        let problem = &problems()[0];
        let options = ToolPromptOptions {
            costs: Costs { tool: 5, direct: 1 },
            ..Default::default()
        };
        let ask = ask(problem, &[], &options);
        let [system, user] = &ask.messages[..] else {
            panic!("two turns")
        };
        assert!(
            system.content.contains("costs 5 units.") && system.content.contains("costs 1 unit.")
        );
        assert!(
            system.content.contains(r"\boxed{answer}") && user.content.contains(r"\boxed{answer}")
        );
        assert_eq!(
            user.content,
            format!(
                "Problem: {}\n\nSolve the problem and give the final answer as \\boxed{{answer}}.",
                problem.text
            )
        );
        let tool_at = system.content.find("- With the tool").unwrap();
        let direct_at = system.content.find("- By reasoning").unwrap();
        assert_eq!(tool_at < direct_at, ask.tool_first);
    }

    #[test]
    fn history_shows_successes_or_all_within_the_window() {
        let problem = &problems()[0];
        let history = [
            episode(1, Way::Direct, true),
            episode(2, Way::Tool, true),
            episode(3, Way::Direct, false),
            episode(4, Way::Direct, true),
        ];
        let text = |shown, window, steer| {
            let options = ToolPromptOptions {
                shown,
                window,
                steer,
                ..Default::default()
            };
            ask(problem, &history, &options).messages[1].content.clone()
        };
        let successes = text(Shown::Successes, 2, None);
        assert!(!successes.contains("Round 1 ") && !successes.contains("Round 3 "));
        assert!(successes.contains(
            "What worked in earlier rounds:\n- Round 2 (simple problem): used the tool; correct; cost 3 units. I added \
             the &lt;tool> numbers.\n- Round 4 (simple problem): reasoned without the tool; correct; cost 1 unit.\n"
        ));
        let all = text(Shown::All, 2, None);
        assert!(all.contains("Earlier rounds:\n- Round 3 (simple problem): reasoned without the tool; wrong; cost 1 unit."));
        assert!(!text(Shown::All, 0, None).contains("Round"));
        assert!(
            text(Shown::All, 0, Some(Way::Tool))
                .contains("\n\nFor this problem, use the tool.\n\n")
        );
        assert!(text(Shown::All, 0, Some(Way::Direct)).contains("do not use the tool"));
        assert!(!all.contains("For this problem"));
    }

    #[test]
    fn the_order_is_balanced_in_every_family_and_turns_with_the_seed() {
        let problems = problems();
        let seeds: Vec<u64> = (0..20).collect();
        let first_of = |seed| tool_first(&problems[0].id, seed);
        assert!(seeds.iter().any(|s| first_of(*s)) && seeds.iter().any(|s| !first_of(*s)));
        for family in problems.iter().map(|p| &p.family) {
            let of: Vec<&Problem> = problems.iter().filter(|p| &p.family == family).collect();
            let first = of.iter().filter(|p| tool_first(&p.id, 7)).count();
            assert_eq!(2 * first, of.len(), "{family}");
        }
        assert_eq!(problems[0].split, Split::Train);
        // Ids without a number have an order too.
        assert!(
            (0..40)
                .map(|i| tool_first(&format!("x{i}y"), 1))
                .collect::<std::collections::BTreeSet<_>>()
                .len()
                == 2
        );
    }
}
