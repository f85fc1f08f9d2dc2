//! Recipes that are right, and what is said of those that are not.

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    name: String,
    #[serde(default)]
    seed: u64,
    train: Option<Train>,
    elicitation: Option<Elicitation>,
    #[serde(default)]
    models: Vec<Model>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Train {
    learning_rate: f64,
    #[serde(default)]
    epochs: u32,
    #[serde(default)]
    method: Method,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Method {
    #[default]
    Dpo,
    Grpo,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Elicitation {
    Free { max_tokens: u32 },
    Score { temperature: f64 },
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    path: String,
}

fn decode(text: &str) -> Result<Recipe, RecipeError> {
    parse_toml(Path::new("r.toml"), text)
}

fn error(text: &str) -> String {
    decode(text).unwrap_err().to_string()
}

/// Base and overrides on a text, decoded.
fn with(text: &str, assignments: &[&str]) -> Result<Recipe, RecipeError> {
    let mut document = Document::from_text(Path::new("r.toml"), text)?;
    assignments.iter().try_for_each(|set| document.set(set))?;
    document.decode()
}

const GOOD: &str = "name = 'a'\n\n[train]\nlearning_rate = 1e-5\nepochs = 12\n";

#[test]
fn a_good_recipe_decodes() {
    let train = decode(GOOD).unwrap().train.unwrap();
    assert_eq!((train.learning_rate, train.epochs), (1e-5, 12));
}

#[test]
fn an_unknown_key_is_shown_with_its_place_and_the_nearest_one() {
    assert_eq!(
        error("name = 'a'\n[train]\n  learning_rat = 1e-5\n"),
        "r.toml:3:3: unknown key `learning_rat` in `train`, did you mean `learning_rate`?\n  \
           |\n\
         3 |   learning_rat = 1e-5\n  \
           |   ^^^^^^^^^^^^\n  \
           = known keys: learning_rate, epochs, method"
    );
    let text = error("name = 'a'\n[[models]]\npath = 'x'\n[[models]]\nquark = 1\n");
    assert!(
        text.starts_with("r.toml:5:1: unknown key `quark` in `models`\n"),
        "{text}"
    );
}

#[test]
fn an_unknown_key_behind_a_tag_has_its_own_place() {
    let text = error("name = 'a'\n[elicitation]\nkind = 'free'\nmax_token = 3\n");
    assert!(
        text.starts_with(
            "r.toml:4:1: unknown key `max_token` in `elicitation`, did you mean `max_tokens`?"
        ),
        "{text}"
    );
}

#[test]
fn wrong_types_and_values_say_what_is_expected() {
    let text = error("name = 'a'\n[train]\nlearning_rate = 'fast'\n");
    assert!(
        text.starts_with(
            "r.toml:3:17: `train.learning_rate`: expected a number, got the text \"fast\"\n"
        ),
        "{text}"
    );
    let text = error("name = 'a'\nseed = -1\n");
    assert!(
        text.starts_with("r.toml:2:8: `seed`: expected a whole number of at least 0, got -1\n"),
        "{text}"
    );
    let text = error("name = 'a'\ntrain = 3\n");
    assert!(text.contains("`train`: expected a table, got 3"), "{text}");
    let text = error("name = 'a'\n[train]\nlearning_rate = 1\nmethod = 'grop'\n");
    assert!(
        text.starts_with(
            "r.toml:4:10: unknown value `grop` in `train.method`, did you mean `grpo`?"
        ),
        "{text}"
    );
    assert!(text.ends_with("= possible values: dpo, grpo"), "{text}");
}

#[test]
fn missing_keys_are_named() {
    assert_eq!(error("seed = 1\n"), "r.toml:1:1: missing key `name`");
    let text = error("name = 'a'\n[train]\nepochs = 1\n");
    assert!(
        text.starts_with("r.toml:2:1: missing key `learning_rate` in `train`"),
        "{text}"
    );
}

#[test]
fn what_is_not_toml_is_shown() {
    let text = error("name = 'ä'\nseed = = 2\n");
    assert!(text.starts_with("r.toml:2:8: not TOML: "), "{text}");
    assert!(text.contains("2 | seed = = 2\n"), "{text}");
    // The column counts characters, not bytes.
    let text = error("name = 'ä' x\n");
    assert!(text.starts_with("r.toml:1:12: not TOML"), "{text}");
    assert!(error("name = 'a").starts_with("r.toml:1:"));
}

#[test]
fn assignments_lie_over_the_file() {
    let recipe = with(
        GOOD,
        &[
            "train.learning_rate=5e-6",
            "seed = 7",
            "name=b c",
            "train.method=grpo",
        ],
    );
    let recipe = recipe.unwrap();
    let train = recipe.train.unwrap();
    assert_eq!(
        (train.learning_rate, train.epochs, train.method),
        (5e-6, 12, Method::Grpo)
    );
    assert_eq!((recipe.seed, recipe.name.as_str()), (7, "b c"));
    let models = "name = 'a'\n[[models]]\npath = 'x'\n[[models]]\npath = 'y'\n";
    let recipe = with(models, &["models.1.path=z"]).unwrap();
    let paths: Vec<_> = recipe
        .models
        .iter()
        .map(|model| model.path.as_str())
        .collect();
    assert_eq!(paths, ["x", "z"]);
}

#[test]
fn a_wrong_assignment_is_shown_as_such() {
    let text = with(GOOD, &["train.learning_rat=1"])
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with(
            "--set:1:7: unknown key `learning_rat` in `train`, did you mean `learning_rate`?\n"
        ),
        "{text}"
    );
    assert!(text.contains("1 | train.learning_rat=1\n"), "{text}");
    let text = with(GOOD, &["train.epochs=many"]).unwrap_err().to_string();
    assert!(text.contains("--set:1:14: `train.epochs`: expected a whole number of at least 0, got the text \"many\""), "{text}");
    for (assignment, part) in [
        ("train", "expected `key=value`"),
        ("=1", "not TOML"),
        ("a b=1", "not TOML"),
        ("seed=", "not TOML"),
        ("seed=[1", "not TOML"),
        ("seed=1\nname='x'", "one line"),
        ("extends=other.toml", "unknown key `extends`"),
        ("models.0.path=x", "expected a list"),
    ] {
        let text = with(GOOD, &[assignment]).unwrap_err().to_string();
        assert!(
            text.starts_with("--set:1:") && text.contains(part),
            "{assignment}: {text}"
        );
    }
}

#[test]
fn a_recipe_extends_another_and_errors_name_the_file_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    write("base.toml", GOOD);
    let child = write(
        "child.toml",
        "extends = 'base.toml'\nname = 'b'\n[train]\nepochs = 1\n",
    );
    let mut document = Document::load(&child).unwrap();
    let recipe: Recipe = document.decode().unwrap();
    let train = recipe.train.unwrap();
    assert_eq!(
        (recipe.name.as_str(), train.learning_rate, train.epochs),
        ("b", 1e-5, 1)
    );
    document.set("train.epochs=3").unwrap();
    let resolved = document.resolved().unwrap();
    assert_eq!(resolved["train"]["epochs"].as_integer(), Some(3));
    assert!(!resolved.contains_key(EXTENDS));

    write("base.toml", &GOOD.replace("learning_rate", "lerning_rate"));
    let text = Document::load(&child)
        .unwrap()
        .decode::<Recipe>()
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("base.toml:4:1: unknown key `lerning_rate`"),
        "{text}"
    );
    write("base.toml", "extends = 'child.toml'");
    let text = Document::load(&child).unwrap_err().to_string();
    assert!(
        text.contains("circle") && text.matches("child.toml").count() == 2,
        "{text}"
    );
    write("base.toml", "extends = 'none.toml'");
    let text = Document::load(&child).unwrap_err().to_string();
    assert!(
        text.contains("none.toml") && text.contains("base.toml` extends"),
        "{text}"
    );
    write("base.toml", "extends = 3");
    let text = Document::load(&child).unwrap_err().to_string();
    assert!(
        text.contains("base.toml:1:11: `extends`: expected the path"),
        "{text}"
    );
}

#[test]
fn another_kind_replaces_the_whole_table() {
    let free = "name = 'a'\n[elicitation]\nkind = 'free'\nmax_tokens = 3\n";
    let recipe = with(free, &["elicitation={kind='score', temperature=1}"]).unwrap();
    assert_eq!(
        recipe.elicitation,
        Some(Elicitation::Score { temperature: 1.0 })
    );
    let recipe = with(free, &["elicitation.max_tokens=5"]).unwrap();
    assert_eq!(
        recipe.elicitation,
        Some(Elicitation::Free { max_tokens: 5 })
    );
}

#[test]
fn a_check_beyond_types_finds_the_place_of_a_value() {
    let mut document = Document::from_text(Path::new("r.toml"), GOOD).unwrap();
    let at = |document: &Document, path: &str| document.error_at(path, "expected more").to_string();
    let text = at(&document, "train.epochs");
    assert!(
        text.starts_with("r.toml:5:10: `train.epochs`: expected more\n"),
        "{text}"
    );
    assert!(at(&document, "train.beta").starts_with("r.toml:3:1: "));
    assert_eq!(at(&document, "beta"), "r.toml:1:1: `beta`: expected more");
    document.set("train.epochs=0").unwrap();
    assert!(at(&document, "train.epochs").starts_with("--set:1:14: "));
}
