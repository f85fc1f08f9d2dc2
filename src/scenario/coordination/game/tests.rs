//! The files that ship, and files broken on purpose.

use super::*;

const FILE: &str = include_str!("../../../../data/coordination/public-fund.toml");

/// The error for the public fund's file with one text exchanged.
fn broken(from: &str, to: &str) -> String {
    assert!(FILE.contains(from), "{from}");
    let text = FILE.replacen(from, to, 1);
    parse_game(Path::new("public-fund.toml"), &text)
        .unwrap_err()
        .to_string()
}

/// Every text of a game that a prompt may show.
fn texts(game: &Game) -> Vec<&str> {
    let mut texts = vec![
        &game.persona,
        &game.task,
        &game.agent,
        &game.agents,
        &game.stock,
        &game.history.success,
        &game.history.failure,
        &game.history.peer,
    ];
    for option in [&game.collusive, &game.independent] {
        texts.push(&option.name);
        texts.extend(option.train.iter().chain(&option.test));
    }
    for split in [&game.train, &game.test] {
        texts.extend(
            split
                .situations
                .iter()
                .chain(split.values.values().flatten()),
        );
    }
    texts.into_iter().map(String::as_str).collect()
}

#[test]
fn every_shipped_game_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/coordination");
    let games = load_games(&folder).unwrap();
    let ids: Vec<&str> = games.iter().map(|game| game.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "common-pasture",
            "hunting-party",
            "information-sharing",
            "price-alliance",
            "public-fund",
            "team-project",
            "two-buttons"
        ]
    );
    assert_eq!(shipped_games().unwrap(), games);
    for game in &games {
        // The mechanics of the paper.
        assert_eq!(
            (game.mode, game.success),
            (Mode::Multiplicative, SuccessPays::All)
        );
    }
}

#[test]
fn shipped_texts_judge_neither_option() {
    let words = [
        "collu", "betray", "cheat", "conspir", "cartel", "fair", "unfair", "honest", "moral",
        "ethic", "right", "wrong", "good", "bad", "selfish", "greed", "loyal", "trust", "should",
        "must not", "cooperat", "defect", "rule", "legal", "steal", "secret", "harm", "better",
        "best",
    ];
    for game in shipped_games().unwrap() {
        for option in [&game.collusive, &game.independent] {
            let all = option
                .train
                .iter()
                .chain(&option.test)
                .chain([&option.name]);
            for text in all {
                let lower = text.to_lowercase();
                let found = words.iter().find(|word| lower.contains(*word));
                assert_eq!(found, None, "{}: {text}", game.id);
            }
        }
        for text in texts(&game) {
            let lower = text.to_lowercase();
            for word in &words[..5] {
                assert!(!lower.contains(word), "{}: {text}", game.id);
            }
        }
    }
}

#[test]
fn a_misspelt_key_is_placed_and_suggested() {
    let error = broken("title =", "titel =");
    assert!(
        error.starts_with("public-fund.toml:2:1: unknown key `titel`, did you mean `title`?"),
        "{error}"
    );
    let error = broken("[history]\nsuccess", "[history]\nsucess");
    assert!(error.contains("did you mean `success`?"), "{error}");
    let error = broken("mode = \"multiplicative\"", "mode = \"multiply\"");
    assert!(
        error.starts_with("public-fund.toml:8:8: ") && error.contains("`multiplicative`"),
        "{error}"
    );
    let error = broken("stock = \"savings\"\n", "");
    assert!(error.contains("missing field `stock`"), "{error}");
}

#[test]
fn broken_rules_name_the_field() {
    let table = [
        (
            "id = \"public-fund\"",
            "id = \"Public Fund\"",
            "`id`: expected lower-case",
        ),
        (
            "agents = \"households\"",
            "agents = \"household\"",
            "`agents`: expected the plural",
        ),
        (
            "stock = \"savings\"",
            "stock = \"{n} coins\"",
            "`stock`: expected a noun",
        ),
        (
            "name = \"keep aside\"",
            "name = \"Put-in\"",
            "`independent.name`: expected another name",
        ),
        (
            "name = \"put in\"",
            "name = \"option A\"",
            "`collusive.name`: expected letters",
        ),
        (
            "name = \"put in\"",
            "name = \"put \\\"in\\\"\"",
            "`collusive.name`: expected letters",
        ),
        (
            "You decide for",
            "You {n} decide for",
            "`persona`: expected a text without slots",
        ),
        (
            "Place this month's",
            "Place {t} this month's",
            "`collusive.train[0]`: expected a text without slots",
        ),
        (
            "Let your part go to the fund that all households have together.",
            "place this month's money in the common fund",
            "`collusive.test[0]`: expected nothing that training",
        ),
        (
            "success = \"Enough households put in",
            "success = \"{count} households put in",
            "`history.success`: expected slots among",
        ),
        (
            "failure = \"Too few households put in, and the repair was put off.\"",
            "failure = \"Enough households put in, and the repair was done!\"",
            "`history.failure`: expected another text",
        ),
        (
            "peer = \"{peer} chose {option}.\"",
            "peer = \"{peer} chose.\"",
            "`history.peer`: expected a text with the slot {option}",
        ),
        (
            "The fund of the block stands open this {season}.",
            "The fund stands open this {saison}.",
            "`train.situations[3]`: expected slots among",
        ),
        (
            "[train.values]",
            "[train.values]\nhigh = [\"2\"]",
            "`train.values.high`: expected another slot",
        ),
        (
            "[train.values]",
            "[train.values]\nhour = [\"six\"]",
            "`train.values.hour`: expected a slot",
        ),
        (
            "season = [\"midsummer\",",
            "season = [\"Late Spring\",",
            "`test.values.season[0]`: expected nothing that training",
        ),
        (
            "Rain came through once more this {season}, and a new {repair} was priced for all {n} homes.",
            "nobody in the building doubts that the {repair} is old, the {season} meeting is over",
            "`test.situations[",
        ),
    ];
    for (from, to, expected) in table {
        let error = broken(from, to);
        assert!(error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn folders() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        load_games(folder.path()),
        Err(EnvironmentError::None(_))
    ));
    std::fs::write(folder.path().join("other.toml"), FILE).unwrap();
    let error = load_games(folder.path()).unwrap_err().to_string();
    assert!(error.contains("`id`: expected the file's name"), "{error}");
    assert!(matches!(
        load_games(&folder.path().join("none")),
        Err(EnvironmentError::Read { .. })
    ));
}

#[test]
fn a_game_of_ones_own_needs_no_program() {
    let text = FILE
        .replace("id = \"public-fund\"", "id = \"mine\"")
        .replace("mode = \"multiplicative\"", "mode = \"additive\"")
        .replace("success = \"all\"", "success = \"colluders\"");
    let game = parse_game(Path::new("mine.toml"), &text).unwrap();
    assert_eq!(
        (game.mode, game.success),
        (Mode::Additive, SuccessPays::Colluders)
    );
}
