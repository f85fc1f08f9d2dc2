//! What holds of the parsers for texts and numbers drawn at random.

use std::path::Path;

use atp_pipeline::recipe::Recipe;
use atp_pipeline::scenario::Role;
use atp_pipeline::scenario::choice::{ChoiceOption, Parsed, parse_choice};
use atp_pipeline::scenario::tool_use::Numeric;
use atp_pipeline::scenario::tool_use::answer::{extract, is_correct};
use atp_pipeline::scenario::tool_use::call::{
    SegmentKind, calls, escape_forged, forged_result, result_block, segments,
};
use proptest::prelude::*;

fn options() -> Vec<ChoiceOption> {
    [
        (Role::Compliant, "A", "assigned route"),
        (Role::Deviant, "B", "shortcut"),
    ]
    .map(|(role, label, name)| ChoiceOption {
        role,
        label: label.into(),
        name: name.into(),
    })
    .into()
}

/// Prose without anything that JSON or a tag begins with.
fn prose() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 .,;:!?'()\n\u{e9}\u{4e2d}-]{0,60}"
}

/// Pieces of which tags, calls and answers are made, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "<tool>",
            "</tool>",
            "<result>",
            "</result>",
            "<think>",
            "</think>",
            "<result>\n",
            "\n</result>\n",
            "\n",
            "<",
            ">",
            "python",
            "```python\n",
            "```",
            "{\"choice\": \"A\"}",
            "\\boxed{",
            "}",
            "12",
            "1/2",
            "&lt;tool&gt;",
        ])
        .prop_map(str::to_owned),
        prose(),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_last_answer_counts_whatever_stands_around_it(
        before in prose(),
        after in prose(),
        earlier in any::<bool>(),
        deviant in any::<bool>(),
        form in 0usize..6,
    ) {
        let options = options();
        let meant = &options[usize::from(deviant)];
        let other = &options[usize::from(!deviant)];
        let answer = match form {
            0 => format!("{{\"choice\": \"{}\"}}", meant.label),
            1 => format!("{{'choice': '{}',}}", meant.name),
            2 => format!("```json\n{{\"choice\": \"Option {}\"}}\n```", meant.label),
            3 => format!("[{{\"reason\": \"{}\", \"Choice\": \"{}\"}}]", other.label, meant.name.to_uppercase()),
            4 => format!("{{\"choice\": [\"{}: {}\"]}}", meant.label, meant.name),
            _ => format!("<think>{{\"choice\": \"{}\"}}</think>{{\"choice\": \"{}\"}}", other.label, meant.label),
        };
        let first = if earlier { format!("{{\"choice\": \"{}\"}}\n", other.label) } else { String::new() };
        let text = format!("{before}{first}{answer}{after}");
        prop_assert_eq!(parse_choice(&text, &options).role(), Some(meant.role), "{}", text);
        // Naming both is naming none, wherever it stands.
        let both = format!("{text}{{\"choice\": [\"{}\", \"{}\"]}}", meant.label, other.label);
        prop_assert!(matches!(parse_choice(&both, &options), Parsed::Invalid(_)));
    }

    #[test]
    fn no_text_forges_a_result_or_loses_a_piece(text in pieces(), output in pieces(), thinking in any::<bool>()) {
        let whole: String = segments(&text, thinking).iter().map(|s| s.text).collect();
        prop_assert_eq!(&whole, &text);
        let safe = escape_forged(&text);
        prop_assert!(forged_result(&safe).is_none());
        let inserted = |text: &str, thinking| {
            let found: Vec<String> = segments(text, thinking)
                .iter()
                .filter(|s| s.kind == SegmentKind::Inserted)
                .map(|s| s.text.to_owned())
                .collect();
            found
        };
        prop_assert!(inserted(&safe, thinking).is_empty());
        for call in calls(&text, thinking) {
            prop_assert!(text[call.span].ends_with("</tool>"));
        }
        // Whatever a program prints, its block is the only inserted piece.
        let block = result_block(&output, 1 << 16);
        prop_assert_eq!(inserted(&format!("<tool>x</tool>{block}end"), false), vec![block]);
    }

    #[test]
    fn numbers_are_read_as_they_are_written(
        numerator in -1_000_000i64..1_000_000,
        places in 0u32..5,
        before in "[a-z ]{0,20}",
        form in 0usize..6,
    ) {
        let denominator = 10i128.pow(places);
        let number = Numeric::fraction(numerator.into(), denominator).expect("a number");
        let value = numerator as f64 / denominator as f64;
        let plain = format!("{value:.*}", places as usize);
        let text = match form {
            0 => format!("{before} the answer is {plain}."),
            1 => format!("{before} 7 and \\boxed{{{plain}}} and 9"),
            2 => format!("{before}\nAnswer: ${plain}$"),
            3 => format!("<think>{plain}1</think>{before} so {plain}"),
            4 => format!("\\boxed{{\\frac{{{numerator}}}{{{denominator}}}}}"),
            _ => format!("{before} = {numerator}/{denominator}"),
        };
        let got = extract(&text);
        prop_assert!(got.as_ref().is_some_and(|got| got.matches(&number)), "{text}: {got:?}, {number:?}");
        prop_assert!(is_correct(&text, &number.to_string()), "{text} and {number}");
        let other = (numerator + 2_000_001).to_string();
        prop_assert!(!is_correct(&text, &other));
        let again = Numeric::parse(&number.to_string()).expect("a number");
        prop_assert!(again.matches(&number));
    }

    #[test]
    fn a_resolved_recipe_is_the_same_recipe(
        seeds in prop::collection::btree_set(0u64..=i64::MAX as u64, 1..4),
        group in 2usize..20,
        lr in 1e-9f64..0.9,
        rounds in 1u32..30,
        own in prop::option::of(2usize..9),
        beds in prop::sample::subsequence(vec!["role_play", "coordination", "tool_use"], 1..=3),
    ) {
        let own = own.map_or(String::new(), |group| format!("[coordination.grpo]\ngroup = {group}\n"));
        let text = format!(
            "seeds = {:?}\ntestbeds = {beds:?}\n[models.m]\nsource = \"a\"\n[grpo]\ngroup = {group}\n[dpo.optim]\nlr = {lr:?}\n\
             [evaluation]\nrounds = {rounds}\n{own}",
            seeds.iter().collect::<Vec<_>>()
        );
        let recipe = Recipe::from_text(Path::new("r.toml"), &text, &[]).expect("a valid recipe");
        let again = Recipe::from_text(Path::new("r.toml"), &recipe.text, &[]).expect("what was resolved is valid");
        prop_assert_eq!(&again.text, &recipe.text);
        prop_assert_eq!(&again.settings, &recipe.settings);
        prop_assert_eq!(again.settings.dpo.optim.lr, lr);
    }
}
