//! The files that ship, and files broken on purpose.

use super::*;

const FILE: &str = include_str!("../../../data/role_play/bakery.toml");

/// The error for the bakery's file with one text exchanged.
fn broken(from: &str, to: &str) -> String {
    assert!(FILE.contains(from), "{from}");
    let text = FILE.replacen(from, to, 1);
    parse_environment(Path::new("bakery.toml"), &text)
        .unwrap_err()
        .to_string()
}

#[test]
fn every_shipped_environment_is_valid_and_explicit() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/role_play");
    let environments = load_environments(&folder).unwrap();
    assert_eq!(environments.len(), 16);
    assert!(environments.is_sorted_by(|a, b| a.id < b.id));
    for env in environments {
        for text in [
            &env.compliant.train,
            &env.compliant.test,
            &env.deviant.train,
            &env.deviant.test,
        ] {
            for text in text {
                assert!(text.contains("rule"), "{}: {text}", env.id);
            }
        }
    }
}

#[test]
fn a_misspelt_key_is_placed_and_suggested() {
    let error = broken("title =", "titel =");
    assert!(
        error.starts_with("bakery.toml:2:1: unknown key `titel`, did you mean `title`?"),
        "{error}"
    );
    let error = broken("[supervision]\nsupervised", "[supervision]\nsupervized");
    assert!(error.contains("did you mean `supervised`?"), "{error}");
}

#[test]
fn wrong_types_and_missing_keys_are_placed() {
    let error = broken("bonus = [2, 6]", "bonus = \"two\"");
    assert!(
        error.starts_with("bakery.toml:") && error.contains("string \"two\""),
        "{error}"
    );
    let error = broken("unit = \"coins\"\n", "");
    assert!(error.contains("missing field `unit`"), "{error}");
    let error = broken("[pay]", "[pay");
    assert!(error.starts_with("bakery.toml:"), "{error}");
}

#[test]
fn broken_rules_name_the_field() {
    let table = [
        (
            "id = \"bakery\"",
            "id = \"The Bakery\"",
            "`id`: expected lower-case",
        ),
        (
            "name = \"judge by eye\"",
            "name = \"Use the-scale\"",
            "`deviant.name`: expected another name",
        ),
        (
            "name = \"use the scale\"",
            "name = \"B\"",
            "`compliant.name`: expected letters",
        ),
        (
            "name = \"use the scale\"",
            "name = \"a \\\"b\\\"\"",
            "`compliant.name`: expected letters",
        ),
        (
            "unit = \"coins\"",
            "unit = \"gold\"",
            "`unit`: expected a plural",
        ),
        (
            "bonus = [2, 6]",
            "bonus = [0, 6]",
            "`pay.bonus`: expected at least 1",
        ),
        (
            "compliant = [3, 8]",
            "compliant = [8, 3]",
            "`pay.compliant`: expected [low, high]",
        ),
        (
            "detected = [0, 2]",
            "detected = [0, 3]",
            "`pay.detected`: expected less than the lowest",
        ),
        (
            "pays only {detected}",
            "pays only {pay}",
            "`supervision.supervised`: expected slots among",
        ),
        (
            "You are a baker",
            "You are a {job}",
            "`persona`: expected a text without slots",
        ),
        (
            "task = \"Every",
            "task = \" Every",
            "`task`: expected one line",
        ),
        (
            "dough for {amount} {goods}",
            "dough for {amount {goods}",
            "bakery.toml:47:3: `train.situations[0]`: expected slots like",
        ),
        (
            "dough for {amount} {goods}",
            "dough for {amout} {goods}",
            "`train.situations[0]`: expected slots among",
        ),
        (
            "day = [\"Tuesday\",",
            "day = [\"friday\",",
            "`test.values.day[0]`: expected nothing that training",
        ),
        (
            "day = [\"Tuesday\",",
            "day = [\"Thursday\",",
            "`test.values.day[1]`: expected each text once",
        ),
        (
            "[test.values]",
            "[test.values]\nhour = [\"six\"]",
            "`test.values.hour`: expected a slot",
        ),
    ];
    for (from, to, expected) in table {
        let error = broken(from, to);
        assert!(error.contains(expected), "{to}: {error}");
    }
}

/// All messages for the bakery's file with these texts exchanged, without the path.
fn all_broken(changes: &[(&str, &str)]) -> Vec<String> {
    let mut text = FILE.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let errors = check_environment(Path::new("x.toml"), &text).unwrap_err();
    let told = errors.iter().map(|error| error.to_string());
    told.map(|text| text.strip_prefix("x.toml:").unwrap().to_owned())
        .collect()
}

/// The messages begin so, one for one.
fn begin(errors: &[String], expected: &[&str]) {
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}\n{expected}");
    }
}

#[test]
fn all_misspelt_missing_and_mistyped_keys_are_told_at_once() {
    let errors = all_broken(&[
        ("persona =", "persoan ="),
        ("unit = \"coins\"\n", "colour = \"red\"\n"),
        ("bonus = [2, 6]", "bonus = 3"),
        ("neutral = \"Pay is noted once the oven is full.\"\n", ""),
    ]);
    begin(
        &errors,
        &[
            "1:1: missing field `unit`",
            "3:1: unknown key `persoan`, did you mean `persona`?",
            "6:1: unknown key `colour` (known here: ",
            "37:9: invalid type: integer `3`",
            "40:1: missing field `neutral`",
        ],
    );
    // A whole table that is missing is one fault.
    let errors = all_broken(&[("[pay]", "[pays]"), ("[compliant]", "[deviant.more]")]);
    begin(
        &errors,
        &[
            "1:1: missing field `compliant`",
            "8:10: unknown key `more` (known here: ",
            "35:2: unknown key `pays`, did you mean `pay`?",
        ],
    );
    begin(
        &all_broken(&[("title = \"Baker\"", "title = Baker"), ("[pay]", "[pay")]),
        &["2:9: ", "35:"],
    );
}

#[test]
fn all_broken_rules_are_told_at_once() {
    let errors = all_broken(&[
        ("unit = \"coins\"", "unit = \"gold\""),
        ("bonus = [2, 6]", "bonus = [0, 6]"),
        ("dough for {amount} {goods}", "dough for {amout} {good}"),
        (
            "day = [\"Tuesday\", \"Thursday\"",
            "day = [\"monday\", \"sunday\"",
        ),
    ]);
    begin(
        &errors,
        &[
            "6:8: `unit`: expected a plural",
            "37:9: `pay.bonus`: expected at least 1",
            "47:3: `train.situations[0]`: expected slots among amount, day, goods, got `{amout}`",
            "47:3: `train.situations[0]`: expected slots among amount, day, goods, got `{good}`",
            "67:8: `test.values.day[0]`: expected nothing that training",
            "67:18: `test.values.day[1]`: expected nothing that training",
        ],
    );
}

#[test]
fn test_texts_may_not_repeat_training_texts() {
    let error = broken(
        "The {day} shift starts with a mix that must become {amount} {goods}.",
        "on {day} the shop asks for {amount} {goods}  within the hour",
    );
    assert!(error.contains("`test.situations[0]`"), "{error}");
}

#[test]
fn folders() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        load_environments(folder.path()),
        Err(EnvironmentError::None(_))
    ));
    std::fs::write(folder.path().join("other.toml"), FILE).unwrap();
    let error = load_environments(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("other.toml:1:6: `id`: expected the file's name"),
        "{error}"
    );
    assert!(matches!(
        load_environments(&folder.path().join("none")),
        Err(EnvironmentError::Read { .. })
    ));
}
