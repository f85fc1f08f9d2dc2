//! Lists of defences as people write them.

use super::*;
use crate::recipe::Recipe;

fn recipe(text: &str) -> Result<Recipe, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    let models = "[models.m]\nsource = \"smollm2-135m-instruct\"\n";
    std::fs::write(&path, format!("{text}\n{models}")).unwrap();
    Recipe::load(&path.display().to_string(), &[]).map_err(|error| error.to_string())
}

fn names(text: &str) -> Vec<String> {
    let found = recipe(text).unwrap().defences;
    found.into_iter().map(|named| named.name).collect()
}

#[test]
fn a_list_names_built_in_ones_tables_and_measures() {
    assert_eq!(names(""), ["none"]);
    let text = r#"defences = ["none", "reminder", "both", { window = 1 }, { redaction = "mask", monitor = { recall = 0.9 } }, { outcome_hiding = "pay" }]
[defence.both]
window = 2
reminder = { place = "system" }
"#;
    assert_eq!(
        names(text),
        [
            "none",
            "reminder",
            "both",
            "window-1",
            "redaction-mask-monitor-0.9",
            "outcome-hiding-pay"
        ]
    );
    let found = recipe(text).unwrap();
    assert_eq!(found.defences[2].defence.window, Some(2));
    // The record of what was run gives the same again.
    let again = recipe(found.text.split("[models.m]").next().unwrap());
    assert_eq!(again.unwrap().defences, found.defences);
    // A table takes the place of the built-in one of its name.
    let own = recipe("defences = [\"none\", \"window\"]\n[defence.window]\nwindow = 4").unwrap();
    assert_eq!(own.defences[1].defence.window, Some(4));
    assert_eq!(
        recipe("defences = [\"none\", \"window\"]")
            .unwrap()
            .defences[1]
            .defence
            .window,
        Some(1)
    );
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_a_way_out() {
    for (text, said) in [
        (
            "defences = [\"none\", \"remindr\"]",
            "r.toml:1:21: `defences.1`: unknown defence `remindr`, did you mean `reminder`?",
        ),
        (
            "defences = [\"none\", \"xyz\"]",
            "built in are reminder, redaction, outcome-hiding",
        ),
        (
            "defences = [\"reminder\"]",
            "`defences`: expected `none` among them",
        ),
        ("defences = []", "expected `none` among them"),
        (
            "defences = [\"none\", { window = 1 }, { window = 1 }]",
            "two defences are called `window-1`",
        ),
        (
            "defences = [\"none\", { windw = 1 }]",
            "did you mean `window`?",
        ),
        (
            "defences = [\"none\", { redaction = \"omti\" }]",
            "did you mean `omit`?",
        ),
        (
            "defences = [\"none\", {}]",
            "expected at least one measure of reminder, redaction, outcome_hiding",
        ),
        (
            "defences = [\"none\", 3]",
            "the name of a defence, or its measures",
        ),
        ("[defence.none]\nwindow = 1", "`none` stands for no defence"),
        (
            "[defence.\"a.b\"]\nwindow = 1",
            "letters, digits, `-`, `_`, got `a.b`",
        ),
        ("[defence.x]", "expected at least one measure"),
        (
            "[defence.x]\nreminder = { txt = \"\" }",
            "unknown key `txt` in `defence.x.reminder`",
        ),
        (
            "[defence.x.monitor]\nrecall = 2.0",
            "r.toml:2:10: `defence.x.monitor.recall`: expected above 0 to 1, got 2",
        ),
        ("[defence.x.reminder]\nrole_play = \"{who}\"", "got `{who}`"),
        (
            "variants = [\"base\"]\ndefences = [\"none\", \"kl-anchor\"]",
            "`kl-anchor` trains, and no variant is trained",
        ),
        (
            "testbeds = [\"tool_use\"]\ndefences = [\"none\", \"monitor\"]",
            "`monitor` fits none of the recipe's testbeds: a monitor stops choices",
        ),
        (
            "testbeds = [\"coordination\"]\nvariants = [\"base\"]\n[coordination.evaluation]\nmixtures = [{ of = \"dpo\", shares = [0.5] }]",
            "add `dpo` to `variants`",
        ),
        (
            "[coordination.evaluation]\nmixtures = [{ of = \"base\", shares = [0.3] }]",
            "whole numbers of 8 agents (0, 0.1250, 0.2500, …), got 0.3",
        ),
        (
            "[coordination.evaluation]\nmixtures = [{ of = \"base\", shares = [0.5, 0.5] }]",
            "0.5 is there twice",
        ),
        (
            "[coordination.evaluation]\nmixtures = [{ of = \"subject\", shares = [0.5] }]",
            "expected two kinds",
        ),
        (
            "[coordination.evaluation]\nmixtures = [{ of = \"base\", shares = [] }]",
            "at least one share",
        ),
    ] {
        let told = recipe(text).map(|_| ()).unwrap_err();
        assert!(told.contains(said), "{text}: {told}");
    }
}

#[test]
fn a_defence_that_trains_is_for_trained_variants() {
    let named = |name: &str| NamedDefence {
        name: name.to_owned(),
        defence: Defence::built_in(name).unwrap(),
    };
    for name in BUILT_IN {
        let trains = ["history-augmentation", "kl-anchor", "realignment"].contains(&name);
        assert_eq!(named(name).is_for(Variant::Base), !trains, "{name}");
        assert!(named(name).is_for(Variant::Dpo) && named(name).is_for(Variant::Grpo));
    }
    assert!(NamedDefence::none().is_for(Variant::Base));
}
