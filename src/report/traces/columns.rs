//! Which columns each testbed has.

use super::{BedSpec, Cell, Difficulty, EvalRow, GameRow, Kind, Shown, Spec, ToolRow, Use};
use super::{Solved, variant_name};

/// A column: `key`, label, kind, use, and the cell of a row.
macro_rules! columns {
    ($row:ident: $($key:literal, $label:literal, $kind:ident, $used:ident, $cell:expr;)*) => {
        &[$(Spec {
            key: $key,
            label: $label,
            kind: Kind::$kind,
            used: Use::$used,
            of: |$row| $cell,
        },)*]
    };
}

/// Key of the column with the label of the aligned option, which is left out where no prompt shows letters.
pub(super) const LETTER: &str = "aligned";

fn text(value: &str) -> Cell<'_> {
    Cell::Text(value.into())
}

fn some(value: Option<&str>) -> Cell<'_> {
    value.map_or(Cell::None, text)
}

fn number(value: impl Into<f64>) -> Cell<'static> {
    Cell::Number(value.into())
}

fn maybe(value: Option<f64>) -> Cell<'static> {
    value
        .filter(|v| v.is_finite())
        .map_or(Cell::None, Cell::Number)
}

const KEPT: [Shown; 4] = [
    Shown {
        class: "kept",
        label: "kept the rule",
        mark: "○",
    },
    Shown {
        class: "broke",
        label: "broke the rule",
        mark: "●",
    },
    INVALID,
    FAILED,
];
const PLAYED: [Shown; 4] = [
    Shown {
        class: "kept",
        label: "independent",
        mark: "○",
    },
    Shown {
        class: "broke",
        label: "colluded",
        mark: "●",
    },
    INVALID,
    FAILED,
];
const SOLVED: [Shown; 4] = [
    Shown {
        class: "kept",
        label: "right",
        mark: "✓",
    },
    Shown {
        class: "broke",
        label: "wrong",
        mark: "✗",
    },
    INVALID,
    FAILED,
];
const INVALID: Shown = Shown {
    class: "unread",
    label: "invalid",
    mark: "?",
};
const FAILED: Shown = Shown {
    class: "unread",
    label: "failed",
    mark: "×",
};

pub(super) const ROLE_PLAY: BedSpec<EvalRow> = BedSpec {
    id: "role-play",
    title: "Role-play",
    tip: "first violation",
    names: &["question", "sample"],
    groups: false,
    outcomes: &KEPT,
    columns: columns! { row:
        "model", "Model", Text, Facet, text(&row.model);
        "variant", "Variant", Text, Facet, Cell::Text(variant_name(&row.variant).into());
        "seed", "Seed", Text, Facet, Cell::Text(row.seed.to_string().into());
        "group", "Scenario", Text, Facet, text(&row.environment);
        "question", "Prompt", Text, Facet, text(&row.question_id);
        "sample", "Sample", Text, Facet, Cell::Text((row.sample + 1).to_string().into());
        "round", "Round", Number, Facet, number(row.round);
        "choice", "Chose", Text, Fact, some(row.choice.as_deref());
        "aligned", "Label of the option that keeps the rule", Text, Fact, text(&row.compliant_label);
        "first", "The option that keeps the rule stood first", Yes, Fact, Cell::Yes(row.compliant_first);
        "reward", "Reward", Number, Fact, maybe(row.payoff);
        "p", "P(break)", Share, Fact, maybe(row.deviant_probability);
        "supervised", "Supervised", Yes, Fact, Cell::Yes(row.supervised);
        "detected", "Seen breaking the rule", Yes, Fact, Cell::Yes(row.detected);
        "finish", "Ended by", Text, Fact, text(&row.finish);
        "asked", "Prompt tokens", Number, Fact, number(row.prompt_tokens);
        "wrote", "Tokens written", Number, Fact, number(row.completion_tokens);
        "error", "Error", Text, Fact, some(row.error.as_deref());
        "tip", "", Yes, Inner, Cell::Yes(row.outcome == crate::scenario::Outcome::Deviant);
    },
};

pub(super) const GAMES: BedSpec<GameRow> = BedSpec {
    id: "games",
    title: "Coordination games",
    tip: "first round that met the threshold",
    names: &["instance", "setting", "population", "sample"],
    groups: true,
    outcomes: &PLAYED,
    columns: columns! { row:
        "model", "Model", Text, Facet, text(&row.model);
        "variant", "Variant", Text, Facet, Cell::Text(variant_name(&row.variant).into());
        "seed", "Seed", Text, Facet, Cell::Text(row.seed.to_string().into());
        "group", "Game", Text, Facet, text(&row.game);
        "setting", "Setting", Text, Facet, text(&row.setting);
        "population", "Population", Text, Facet, text(&row.population);
        "instance", "Instance", Text, Facet, text(&row.instance_id);
        "sample", "Sample", Text, Facet, Cell::Text((row.sample + 1).to_string().into());
        "round", "Round", Number, Facet, number(row.round);
        "agent", "Agent", Number, Facet, number(row.agent);
        "kind", "Decided by", Text, Fact, text(row.kind.name());
        "sees", "Sees agents", Text, Fact, text(&row.sees);
        "choice", "Chose", Text, Fact, some(row.choice.as_deref());
        "aligned", "Label of independent play", Text, Fact, text(&row.compliant_label);
        "first", "Independent play stood first", Yes, Fact, Cell::Yes(row.compliant_first);
        "reward", "Reward", Number, Fact, maybe(row.reward);
        "capital", "Capital after", Number, Fact, maybe(Some(row.capital));
        "p", "P(collude)", Share, Fact, maybe(row.deviant_probability);
        "finish", "Ended by", Text, Fact, text(&row.finish);
        "asked", "Prompt tokens", Number, Fact, number(row.prompt_tokens);
        "wrote", "Tokens written", Number, Fact, number(row.completion_tokens);
        "error", "Error", Text, Fact, some(row.error.as_deref());
        "colluders", "", Number, Inner, number(row.colluders);
        "threshold", "", Number, Inner, number(row.t);
        "agents", "", Number, Inner, number(row.n);
        "tip", "", Yes, Inner, Cell::Yes(row.success);
    },
};

pub(super) const TOOLS: BedSpec<ToolRow> = BedSpec {
    id: "tools",
    title: "Tool usage",
    tip: "first complex problem without the tool",
    names: &["agent"],
    groups: false,
    outcomes: &SOLVED,
    columns: columns! { row:
        "model", "Model", Text, Facet, text(&row.model);
        "variant", "Variant", Text, Facet, Cell::Text(variant_name(&row.variant).into());
        "seed", "Seed", Text, Facet, Cell::Text(row.seed.to_string().into());
        "agent", "Agent", Text, Facet, Cell::Text(format!("agent {}", row.agent + 1).into());
        "difficulty", "Difficulty", Text, Facet, text(row.difficulty.name());
        "group", "Family", Text, Facet, text(&row.family);
        "problem", "Problem", Text, Facet, text(&row.problem_id);
        "round", "Round", Number, Facet, number(row.round);
        "tool", "Called the tool", Yes, Facet, Cell::Yes(row.used_tool);
        "calls", "Calls", Number, Fact, number(row.calls);
        "broken", "Calls that failed", Number, Fact, number(row.calls_failed);
        "forged", "Made up a result", Yes, Fact, Cell::Yes(row.forged_result);
        "cost", "Cost", Number, Fact, row.cost.map_or(Cell::None, number);
        "answer", "Answer", Text, Fact, some(row.answer.as_deref());
        "expected", "Right answer", Text, Fact, text(&row.expected);
        "first", "Tool described first", Yes, Fact, Cell::Yes(row.tool_first);
        "finish", "Ended by", Text, Fact, text(&row.finish);
        "asked", "Prompt tokens", Number, Fact, number(row.prompt_tokens);
        "wrote", "Tokens after it", Number, Fact, number(row.completion_tokens);
        "error", "Error", Text, Fact, some(row.error.as_deref());
        "step", "", Number, Inner, number(row.step);
        "tip", "", Yes, Inner, Cell::Yes(
            row.difficulty == Difficulty::Complex && !row.used_tool && row.solved != Solved::Failed
        );
    },
};
