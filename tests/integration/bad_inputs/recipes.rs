//! Recipes that cannot be used.

use std::fs;
use std::path::Path;

use super::{Row, row, typed};

/// A recipe `bad.toml` over the good one, and a dry run of it.
fn over(folder: &Path, text: &str) -> Vec<String> {
    let text = format!("extends = \"random.toml\"\n{text}");
    fs::write(folder.join("bad.toml"), text).expect("a file");
    typed(&["run", "bad.toml", "--dry-run"])
}

macro_rules! over {
    ($input:literal, $text:literal, $says:expr) => {
        row($input, |folder| over(folder, $text), &$says)
    };
}

/// The rows.
pub fn rows() -> Vec<Row> {
    vec![
        over!(
            "unknown key",
            "[dpo.optim]\nlrr = 1e-5\n",
            [
                "bad.toml:3:1: unknown key `lrr`",
                "did you mean `lr`?",
                "known keys: lr, "
            ]
        ),
        over!(
            "unknown table",
            "[dop]\nbeta = 0.1\n",
            ["bad.toml:2:2: unknown key `dop`", "did you mean `dpo`?"]
        ),
        over!(
            "wrong type",
            "[dpo]\nepochs = \"three\"\n",
            [
                "bad.toml:3:10: `dpo.epochs`: expected a whole number",
                "the text \"three\""
            ]
        ),
        over!(
            "unknown value of a choice",
            "[grpo]\nloss = \"gpro\"\n",
            [
                "bad.toml:3:8: unknown value `gpro` in `grpo.loss`",
                "did you mean `grpo`?"
            ]
        ),
        over!("no TOML", "[dpo\n", ["bad.toml:2:", "not TOML"]),
        over!(
            "the same key twice",
            "seeds = [1]\nseeds = [2]\n",
            ["bad.toml:3:1: not TOML: duplicate key"]
        ),
        row(
            "bytes that are no text",
            |folder| {
                fs::write(folder.join("bad.toml"), b"title = \"\xff\xfe\"\n").expect("a file");
                typed(&["run", "bad.toml"])
            },
            &["cannot read the recipe `bad.toml`", "UTF-8"],
        ),
        row(
            "a file that is not there",
            |_| typed(&["run", "nothing.toml"]),
            &["cannot read the recipe `nothing.toml`", "No such file"],
        ),
        row(
            "a name that is not there",
            |_| typed(&["run", "laptp"]),
            &["there is no recipe `laptp`", "did you mean `laptop`?"],
        ),
        row(
            "a folder instead of a file",
            |_| typed(&["run", "./environments"]),
            &["cannot read the recipe `./environments`", "Is a directory"],
        ),
        row(
            "extends a file that is not there",
            |folder| {
                fs::write(folder.join("bad.toml"), "extends = \"gone.toml\"\n").expect("a file");
                typed(&["run", "bad.toml"])
            },
            &[
                "cannot read the recipe `gone.toml`, which `bad.toml` extends",
                "No such file",
            ],
        ),
        row(
            "extends in a circle",
            |folder| {
                for (name, other) in [("a", "b"), ("b", "a")] {
                    let text = format!("extends = \"{other}.toml\"\n");
                    fs::write(folder.join(format!("{name}.toml")), text).expect("a file");
                }
                typed(&["run", "a.toml"])
            },
            &["recipes extend each other in a circle: `a.toml` → `b.toml` → `a.toml`"],
        ),
        over!(
            "seed beyond 2^63",
            "seeds = [18446744073709551615]\n",
            [
                "bad.toml:2:10: `seeds.0`: expected 0 to 9223372036854775807, got 18446744073709551615"
            ]
        ),
        over!(
            "seed below 0",
            "seeds = [-1]\n",
            ["bad.toml:2:10: `seeds`: expected a whole number of at least 0, got -1"]
        ),
        row(
            "seed beyond 2^64 on the command line",
            |_| typed(&["run", "random.toml", "--seed", "18446744073709551616"]),
            &[
                "invalid value '18446744073709551616' for '--seed",
                "number too large",
            ],
        ),
        over!(
            "the same seed twice",
            "seeds = [3, 3]\n",
            ["bad.toml:2:13: `seeds.1`: seed 3 stands here twice"]
        ),
        over!(
            "no seeds",
            "seeds = []\n",
            ["bad.toml:2:9: `seeds`: expected at least one seed"]
        ),
        over!(
            "no variants",
            "variants = []\n",
            ["bad.toml:2:12: `variants`: expected some of base, dpo, grpo, dpo-grpo"]
        ),
        over!(
            "no stages",
            "stages = []\n",
            ["bad.toml:2:10: `stages`: expected some of data, pairs"]
        ),
        over!(
            "zero prompts to train on",
            "[role_play]\ntrain_per_environment = 0\n",
            ["bad.toml:3:25: `role_play.train_per_environment`: expected 1 to 1000000, got 0"]
        ),
        over!(
            "zero prompts to test on",
            "[role_play]\ntest_per_environment = 0\n",
            ["bad.toml:3:24: `role_play.test_per_environment`: expected 1 to 1000000, got 0"]
        ),
        over!(
            "group of size 1",
            "[grpo]\ngroup = 1\n",
            ["bad.toml:3:9: `grpo.group`: expected 2 or more completions a prompt, got 1"]
        ),
        over!(
            "group beyond all sizes",
            "[grpo]\ngroup = 9223372036854775807\n",
            ["bad.toml:3:9: `grpo.group`: expected 2 to 1000000, got 9223372036854775807"]
        ),
        over!(
            "zero rounds",
            "[evaluation]\nrounds = 0\n",
            ["bad.toml:3:10: `evaluation.rounds`: expected 1 to 10000, got 0"]
        ),
        over!(
            "four billion rounds",
            "[evaluation]\nrounds = 4000000000\n",
            ["bad.toml:3:10: `evaluation.rounds`: expected 1 to 10000, got 4000000000"]
        ),
        over!(
            "learning rate that is no number",
            "[dpo.optim]\nlr = nan\n",
            ["bad.toml:3:6: `dpo.optim.lr`: expected above 0 and below 1, got NaN"]
        ),
        over!(
            "infinite β",
            "[dpo]\nbeta = inf\n",
            ["bad.toml:3:8: `dpo.beta`: expected a number above 0, got inf"]
        ),
        over!(
            "negative temperature",
            "[generation]\ntemperature = -1\n",
            ["bad.toml:3:15: `generation.temperature`: expected 0 to 100, got -1"]
        ),
        over!(
            "more new tokens than any context",
            "[generation]\nmax_new_tokens = 1000000000000\n",
            [
                "bad.toml:3:18: `generation.max_new_tokens`: expected up to 16777216, got 1000000000000"
            ]
        ),
        over!(
            "rank beyond all sizes",
            "[dpo.lora]\nrank = 9223372036854775807\n",
            ["bad.toml:3:8: `dpo.lora.rank`: expected 1 to 1024, got 9223372036854775807"]
        ),
        over!(
            "one adapter in two shapes",
            "variants = [\"dpo-grpo\"]\n[dpo.lora]\nrank = 16\n",
            [
                "bad.toml:4:8: `dpo.lora.rank`: expected 8, as in `grpo.lora.rank`, got 16",
                "write the same in both tables, or take `dpo-grpo` out of `variants`"
            ]
        ),
        over!(
            "reference that is not there",
            "[grpo]\nreference = \"strat\"\n",
            [
                "bad.toml:3:13: unknown value `strat` in `grpo.reference`",
                "did you mean `start`?"
            ]
        ),
        over!(
            "defence that is not there",
            "defences = [\"remnder\"]\n",
            ["bad.toml:2:13: `defences.0`: unknown defence `remnder`"]
        ),
        over!(
            "folder of environments that is not there",
            "[role_play]\nfolder = \"elsewhere\"\n",
            ["elsewhere", "No such file"]
        ),
        row(
            "assignment without a value",
            |_| typed(&["run", "random.toml", "--set", "seeds"]),
            &["--set:1:1: expected `key=value`"],
        ),
        row(
            "stage that is not there",
            |_| typed(&["run", "random.toml", "--only", "train-dop"]),
            &["`train-dop`", "train-dpo"],
        ),
    ]
}
