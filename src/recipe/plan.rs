//! A recipe that was checked: what types cannot say is said here, once, with the place in the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::built_in::{read_embedded, read_file_or_embedded};
use super::defences::{NamedDefence, resolve};
use super::raw::{RawRecipe, TESTBED_TABLES, Variant};
use super::served::check_served;
use super::trained::{check_lora, check_one_shape, check_optim};
use super::{Document, RecipeError};
use crate::agent::ModelSpec;
use crate::runtime::embedded::RECIPES;
use crate::scenario::Testbed;
use crate::scenario::coordination::seats::AgentKind;
use crate::training::dpo::DpoLoss;

/// Recipe that is run where none is named.
pub const DEFAULT_RECIPE: &str = "laptop";

/// A valid recipe.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Name of the file without its ending; names the run directory.
    pub name: String,
    /// Folder that relative paths start from.
    pub base: PathBuf,
    /// Its settings.
    pub settings: RawRecipe,
    /// Its defences in their order, `none` among them.
    pub defences: Vec<NamedDefence>,
    /// The same as each testbed sees them: its own tables laid over those at the top.
    testbeds: BTreeMap<Testbed, RawRecipe>,
    /// The whole recipe as it was resolved, as TOML.
    pub text: String,
}

impl Recipe {
    /// Load by path, or by the name of one that comes with the program, with assignments laid over it.
    pub fn load(which: &str, assignments: &[String]) -> Result<Self, RecipeError> {
        let (document, name, base) = Self::document(which, assignments)?;
        Self::check(&document, name, base)
    }

    /// The sources of a recipe, not yet checked, with its name and folder.
    pub(super) fn document(
        which: &str,
        assignments: &[String],
    ) -> Result<(Document, String, PathBuf), RecipeError> {
        let path = Path::new(which);
        let embedded = RECIPES.iter().any(|(name, _)| *name == which) && !path.is_file();
        let is_name = !which.contains(['/', '\\', '.']);
        let mut document = match embedded {
            true => Document::load_with(Path::new(&format!("{which}.toml")), &read_embedded)?,
            false if is_name && !path.is_file() => {
                let known: Vec<&str> = RECIPES.iter().map(|(name, _)| *name).collect();
                let near = super::nearest(which, &known).map(|n| format!("; did you mean `{n}`?"));
                return Err(RecipeError::NoSuchRecipe {
                    name: which.into(),
                    help: near.unwrap_or_else(|| {
                        format!("; it is no file, and the program has {}", known.join(", "))
                    }),
                });
            }
            false => Document::load_with(path, &read_file_or_embedded)?,
        };
        for assignment in assignments {
            document.set(assignment)?;
        }
        let base = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let name = match embedded {
            true => which.to_owned(),
            false => path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        };
        Ok((document, name, base.into()))
    }

    /// A recipe whose text is given; `path` is for messages and for what it extends.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn from_text(path: &Path, text: &str, assignments: &[String]) -> Result<Self, RecipeError> {
        let mut document = Document::from_text(path, text)?;
        for assignment in assignments {
            document.set(assignment)?;
        }
        let base = path.parent().unwrap_or(Path::new("")).into();
        let name = path.file_stem().unwrap_or_default();
        Self::check(&document, name.to_string_lossy().into_owned(), base)
    }

    /// Put one model in place of the recipe's, named after the last part of its source.
    ///
    /// # Errors
    /// A served model, where the recipe wants something that one cannot do.
    pub fn replace_models(&mut self, source: String) -> Result<(), RecipeError> {
        let last = source
            .trim_end_matches('/')
            .rsplit(['/', '#'])
            .next()
            .unwrap_or(&source);
        let name: String = last
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        let models: BTreeMap<_, _> = [(name, ModelSpec::new(source))].into();
        for settings in self.testbeds.values_mut() {
            settings.models = models.clone();
        }
        self.settings.models = models;
        self.text = resolved(&self.settings, &self.testbeds);
        let own = self.testbeds.iter().map(|(testbed, own)| (*testbed, own));
        check_served(&self.settings, own)
            .map_err(|(key, problem)| RecipeError::Setting { key, problem })
    }

    /// The settings as a testbed sees them.
    pub fn of(&self, testbed: Testbed) -> &RawRecipe {
        self.testbeds.get(&testbed).unwrap_or(&self.settings)
    }

    fn check(document: &Document, name: String, base: PathBuf) -> Result<Self, RecipeError> {
        let sections = || Testbed::ALL.into_iter().map(Testbed::key);
        let top = document.seen_by(None, sections(), TESTBED_TABLES);
        let settings: RawRecipe = top.decode()?;
        check_matrix(&top, &settings)?;
        check_methods(&top, &settings)?;
        let defences = resolve(&top, &settings)?;
        let mut testbeds = BTreeMap::new();
        // The others are read, too: a slip in them is better told today.
        for testbed in Testbed::ALL {
            let seen = document.seen_by(Some(testbed.key()), sections(), TESTBED_TABLES);
            let own: RawRecipe = seen.decode()?;
            check_methods(&seen, &own)?;
            if settings.testbeds.contains(&testbed) {
                testbeds.insert(testbed, own);
            }
        }
        let own = testbeds.iter().map(|(testbed, own)| (*testbed, own));
        check_served(&settings, own)
            .map_err(|(path, problem)| document.error_at(&path, problem))?;
        let text = resolved(&settings, &testbeds);
        Ok(Self {
            name,
            base,
            settings,
            defences,
            testbeds,
            text,
        })
    }
}

/// The whole recipe as TOML: what stands at the top, and where a testbed has settings of its own, all of its tables.
/// Testbeds that are not asked for are left out. Read again, it gives the same recipe.
fn resolved(settings: &RawRecipe, testbeds: &BTreeMap<Testbed, RawRecipe>) -> String {
    let table = |settings: &RawRecipe| toml::Table::try_from(settings).unwrap_or_default();
    let mut whole = table(settings);
    for testbed in Testbed::ALL {
        let Some(own) = testbeds.get(&testbed).map(table) else {
            whole.remove(testbed.key());
            continue;
        };
        for key in TESTBED_TABLES {
            if let (Some(value), Some(section)) = (own.get(*key), whole.get_mut(testbed.key()))
                && let Some(section) = section.as_table_mut()
                && toml::Table::try_from(settings)
                    .ok()
                    .as_ref()
                    .and_then(|t| t.get(*key))
                    != Some(value)
            {
                section.insert((*key).to_owned(), value.clone());
            }
        }
    }
    toml::to_string_pretty(&whole).unwrap_or_default()
}

/// What is done for each of: seeds, variants, models, testbeds.
fn check_matrix(document: &Document, settings: &RawRecipe) -> Result<(), RecipeError> {
    let fail = |path: &str, message: String| Err(document.error_at(path, message));
    if settings.seeds.is_empty() {
        return fail("seeds", "expected at least one seed".into());
    }
    for (i, seed) in settings.seeds.iter().enumerate() {
        // TOML's whole numbers end there, and so does what a recipe can say of itself.
        if i64::try_from(*seed).is_err() {
            return fail(
                &format!("seeds.{i}"),
                format!("expected 0 to {}, got {seed}", i64::MAX),
            );
        }
        if settings.seeds[..i].contains(seed) {
            return fail(
                &format!("seeds.{i}"),
                format!("seed {seed} stands here twice"),
            );
        }
    }
    for (i, variant) in settings.variants.iter().enumerate() {
        if settings.variants[..i].contains(variant) {
            return fail(
                &format!("variants.{i}"),
                format!("`{}` stands here twice", variant.name()),
            );
        }
    }
    for (i, testbed) in settings.testbeds.iter().enumerate() {
        if settings.testbeds[..i].contains(testbed) {
            return fail(
                &format!("testbeds.{i}"),
                format!("`{}` stands here twice", testbed.key()),
            );
        }
    }
    if settings.testbeds.is_empty() {
        return fail(
            "testbeds",
            "expected some of role_play, coordination, tool_use".into(),
        );
    }
    if settings
        .data_seed
        .is_some_and(|seed| i64::try_from(seed).is_err())
    {
        return fail("data_seed", format!("expected 0 to {}", i64::MAX));
    }
    if settings.stages.as_ref().is_some_and(Vec::is_empty) {
        let message = "expected some of data, pairs, train-dpo, train-grpo, evaluate, report, or no such key for all";
        return fail("stages", message.into());
    }
    if settings.variants.is_empty() {
        return fail(
            "variants",
            "expected some of base, dpo, grpo, dpo-grpo".into(),
        );
    }
    let games = &settings.coordination.evaluation;
    for (kind, variant) in [
        (AgentKind::Dpo, Variant::Dpo),
        (AgentKind::Grpo, Variant::Grpo),
    ] {
        let played = settings.testbeds.contains(&Testbed::Coordination) && games.seats(kind);
        if played && !settings.trains(variant) {
            let name = kind.name();
            return fail(
                "coordination.evaluation",
                format!(
                    "agents of kind `{name}` play, but none is trained; add `{name}` to `variants`"
                ),
            );
        }
    }
    if settings.models.is_empty() {
        return fail(
            "models",
            "expected at least one model, for example `[models.smollm2]`".into(),
        );
    }
    for name in settings.models.keys() {
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(fine) || name.starts_with('.') {
            let message =
                format!("expected a model name of letters, digits, `-`, `_`, `.`, got `{name}`");
            return fail(&format!("models.{name}"), message);
        }
    }
    Ok(())
}

/// How it is done: generation, training, evaluation, as one testbed sees them.
fn check_methods(document: &Document, settings: &RawRecipe) -> Result<(), RecipeError> {
    let fail = |path: &str, message: String| Err(document.error_at(path, message));
    let stage = &settings.stage_generation;
    for (place, generation) in [
        ("generation", settings.generation.clone()),
        (
            "stage_generation.pairs",
            stage.pairs.over(&settings.generation),
        ),
        (
            "stage_generation.grpo",
            stage.grpo.over(&settings.generation),
        ),
        (
            "stage_generation.evaluation",
            stage.evaluation.over(&settings.generation),
        ),
    ] {
        if let Err((field, problem)) = generation.check() {
            return fail(&format!("{place}.{field}"), problem);
        }
    }
    let grpo_temperature = stage.grpo.over(&settings.generation).temperature;
    // Far beyond what anybody runs, and far below where sizes overflow.
    const MANY: u64 = 1_000_000;
    let counts = [
        (
            "role_play.train_per_environment",
            u64::from(settings.role_play.train_per_environment),
            MANY,
        ),
        (
            "role_play.test_per_environment",
            u64::from(settings.role_play.test_per_environment),
            MANY,
        ),
        ("pairs.attempts", u64::from(settings.pairs.attempts), MANY),
        ("dpo.epochs", settings.dpo.epochs, MANY),
        ("dpo.micro_batch", settings.dpo.micro_batch as u64, MANY),
        ("dpo.accumulation", settings.dpo.accumulation as u64, MANY),
        ("dpo.max_length", settings.dpo.max_length as u64, 1 << 24),
        (
            "dpo.checkpoint_every",
            settings.dpo.checkpoint_every,
            u64::MAX,
        ),
        ("grpo.epochs", settings.grpo.epochs, MANY),
        (
            "grpo.prompts_per_step",
            settings.grpo.prompts_per_step as u64,
            MANY,
        ),
        ("grpo.iterations", settings.grpo.iterations, MANY),
        (
            "grpo.checkpoint_every",
            settings.grpo.checkpoint_every,
            u64::MAX,
        ),
        (
            "evaluation.rounds",
            u64::from(settings.evaluation.rounds),
            10_000,
        ),
        (
            "evaluation.samples",
            u64::from(settings.evaluation.samples),
            MANY,
        ),
    ];
    for (path, count, most) in counts {
        if !(1..=most).contains(&count) {
            let range = match most {
                u64::MAX => "1 or more".to_owned(),
                most => format!("1 to {most}"),
            };
            return fail(path, format!("expected {range}, got {count}"));
        }
    }
    if settings.grpo.group < 2 {
        let message = format!(
            "expected 2 or more completions a prompt, got {}: an advantage is relative to its group",
            settings.grpo.group
        );
        return fail("grpo.group", message);
    }
    if settings.grpo.group as u64 > MANY {
        let got = settings.grpo.group;
        return fail("grpo.group", format!("expected 2 to {MANY}, got {got}"));
    }
    if grpo_temperature <= 0.0 && settings.variants.iter().any(|v| v.is_by_grpo()) {
        return fail(
            "generation.temperature",
            "expected above 0: GRPO learns from differing samples".into(),
        );
    }
    let positive = [
        ("dpo.beta", settings.dpo.beta, true),
        ("grpo.beta", settings.grpo.beta, false),
        ("grpo.epsilon_low", settings.grpo.epsilon_low, true),
        ("grpo.epsilon_high", settings.grpo.epsilon_high, true),
        (
            "grpo.sampling_correction_cap",
            settings.grpo.sampling_correction_cap,
            true,
        ),
    ];
    for (path, value, above) in positive {
        if !value.is_finite() || value < 0.0 || (above && value == 0.0) {
            let range = if above { "above 0" } else { "0 or more" };
            return fail(path, format!("expected a number {range}, got {value}"));
        }
    }
    let reward = &settings.grpo.reward;
    for (name, value) in [
        ("compliant", reward.compliant),
        ("deviant", reward.deviant),
        ("invalid", reward.invalid),
    ] {
        if !value.is_finite() {
            let path = format!("grpo.reward.{name}");
            return fail(&path, format!("expected a finite number, got {value}"));
        }
    }
    let prior = settings.tool_use.reward.prior;
    if !(prior > 0.0 && prior.is_finite()) {
        let message = format!(
            "expected a number above 0, got {prior}: without it solutions that always win have no finite strength"
        );
        return fail("tool_use.reward.prior", message);
    }
    let evaluation = &settings.evaluation;
    if let Err((field, problem)) = evaluation.pattern.check(evaluation.rounds) {
        return fail(&format!("evaluation.pattern.{field}"), problem);
    }
    if !(0.0..=1.0).contains(&evaluation.detection) {
        let got = evaluation.detection;
        return fail(
            "evaluation.detection",
            format!("expected 0 to 1, got {got}"),
        );
    }
    if let Err((field, problem)) = settings.coordination.evaluation.check() {
        return fail(&format!("coordination.evaluation.{field}"), problem);
    }
    if let Err(problem) = settings.coordination.draw.check() {
        return fail("coordination.draw", problem.to_string());
    }
    if let Err((field, problem)) = settings.tool_use.evaluation.check() {
        return fail(&format!("tool_use.evaluation.{field}"), problem);
    }
    if let Err(problem) = settings.tool_use.sandbox.check() {
        return fail("tool_use.sandbox", problem.to_string());
    }
    if !(0.0..0.5).contains(&settings.dpo.label_smoothing) {
        let got = settings.dpo.label_smoothing;
        return fail(
            "dpo.label_smoothing",
            format!("expected 0 to below 0.5, got {got}"),
        );
    }
    if settings.dpo.label_smoothing > 0.0 && settings.dpo.loss != DpoLoss::Sigmoid {
        let message = format!(
            "expected 0, got {}: it is part of the loss `sigmoid` alone",
            settings.dpo.label_smoothing
        );
        return fail("dpo.label_smoothing", message);
    }
    for (table, optim, lora) in [
        ("dpo", &settings.dpo.optim, &settings.dpo.lora),
        ("grpo", &settings.grpo.optim, &settings.grpo.lora),
    ] {
        if let Err((field, problem)) = check_optim(optim).and_then(|()| check_lora(lora)) {
            return fail(&format!("{table}.{field}"), problem);
        }
    }
    if settings.variants.contains(&Variant::DpoGrpo) {
        check_one_shape(document, &settings.dpo.lora, &settings.grpo.lora)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str, assignments: &[&str]) -> Result<Recipe, RecipeError> {
        let text = format!("[models.m]\nsource = \"smollm2-135m-instruct\"\n{text}");
        let mut document = Document::from_text(Path::new("r.toml"), &text)?;
        for assignment in assignments {
            document.set(assignment)?;
        }
        Recipe::check(&document, "r".into(), ".".into())
    }

    const TWO: &str = "[grpo]\ngroup = 6\nepochs = 2\n[coordination.grpo]\ngroup = 8\n[coordination.grpo.optim]\nlr = 3e-6\n";

    #[test]
    fn a_testbeds_own_tables_lie_over_those_at_the_top() {
        let beds = "testbeds=[\"role_play\", \"coordination\"]";
        let found = recipe(TWO, &[beds]).unwrap();
        assert_eq!(found.settings.grpo.group, 6);
        let own = &found.of(Testbed::Coordination).grpo;
        assert_eq!((own.group, own.epochs, own.optim.lr), (8, 2, 3e-6));
        let other = &found.of(Testbed::RolePlay).grpo;
        assert_eq!((other.group, other.optim.lr), (6, 5e-6));
        // An assignment lies over what the file says in the same place.
        let set = recipe(TWO, &[beds, "coordination.grpo.group=4"]).unwrap();
        assert_eq!(set.of(Testbed::Coordination).grpo.group, 4);
    }

    #[test]
    fn the_resolved_text_gives_the_same_recipe_again() {
        let beds = "testbeds=[\"coordination\", \"tool_use\"]";
        let found = recipe(TWO, &[beds]).unwrap();
        let document = Document::from_text(Path::new("r.toml"), &found.text).unwrap();
        let again = Recipe::check(&document, "r".into(), ".".into()).unwrap();
        assert_eq!(again.text, found.text);
        for testbed in [Testbed::Coordination, Testbed::ToolUse] {
            assert_eq!(again.of(testbed).grpo, found.of(testbed).grpo);
            assert_eq!(again.of(testbed).generation, found.of(testbed).generation);
        }
        assert!(!found.text.contains("role_play.folder") && !found.text.contains("[role_play]"));
    }

    #[test]
    fn what_is_wrong_in_a_testbed_is_told_with_its_place() {
        let wrong = |text: &str| recipe(text, &[]).unwrap_err().to_string();
        let told = wrong("[coordination.grpo]\ngroup = 1\n");
        assert!(
            told.contains("r.toml:4:") && told.contains("expected 2 or more"),
            "{told}"
        );
        let told = wrong("[tool_use.grpo]\ngruop = 8\n");
        assert!(
            told.contains("r.toml:4:") && told.contains("group"),
            "{told}"
        );
        for (text, expected) in [
            ("[grpo.reward]\ndeviant = nan\n", "grpo.reward.deviant"),
            ("[tool_use.reward]\nprior = 0.0\n", "tool_use.reward.prior"),
            (
                "[tool_use.evaluation]\nsimple_per_round = 4294967295\n",
                "tool_use.evaluation.simple_per_round",
            ),
            (
                "[dpo]\nloss = \"ipo\"\nlabel_smoothing = 0.1\n",
                "dpo.label_smoothing",
            ),
        ] {
            let told = wrong(text);
            assert!(told.contains(expected), "{told}");
        }
        let told = wrong("[coordination.evaluation]\nrounds = 0\n");
        assert!(told.contains("coordination.evaluation.rounds"), "{told}");
    }
}
