//! What a recipe can want of a model that another program serves: decisions in free text, and nothing else.

use super::raw::{RawRecipe, Variant};
use crate::agent::Elicitation;
use crate::agent::endpoint::split_source;
use crate::scenario::Testbed;

/// The first thing that a served model of the recipe cannot do, as the key to change and what is wrong with it.
pub(super) fn check_served<'a>(
    settings: &RawRecipe,
    testbeds: impl Iterator<Item = (Testbed, &'a RawRecipe)>,
) -> Result<(), (String, String)> {
    let models = &settings.models;
    for (name, spec) in models {
        let at = |field: &str| format!("models.{name}.{field}");
        if spec.is_served() {
            split_source(&spec.source).map_err(|problem| (at("source"), problem))?;
            if spec.revision.is_some() {
                let problem = "a server has no revisions: leave it out".to_owned();
                return Err((at("revision"), problem));
            }
        } else if spec.endpoint.is_some() {
            let problem = format!(
                "is for models that a server has: expected `source` to be an address like \
                 `http://127.0.0.1:8000/v1#name`, got `{}`",
                spec.source
            );
            return Err((at("endpoint"), problem));
        }
        if let Some(Err((field, problem))) = spec.endpoint.as_ref().map(|endpoint| endpoint.check())
        {
            return Err((at(&format!("endpoint.{field}")), problem));
        }
    }
    let Some((name, spec)) = models.iter().find(|(_, spec)| spec.is_served()) else {
        return Ok(());
    };
    if let Some(trained) = settings.variants.iter().find(|v| **v != Variant::Base) {
        return Err((
            "variants".into(),
            format!(
                "model `{name}` is served by another program: it can be evaluated, not trained by {}; expected \
                 `variants = [\"base\"]`",
                trained.name()
            ),
        ));
    }
    for (testbed, own) in testbeds {
        if testbed == Testbed::ToolUse {
            return Err((
                "testbeds".into(),
                format!(
                    "model `{name}` is served by another program, which cannot let it go on in its turn after a tool's \
                     result: expected `role_play` and `coordination` alone"
                ),
            ));
        }
        let generation = own.stage_generation.evaluation.over(&own.generation);
        if generation.elicitation != Elicitation::Free {
            let key = match own.stage_generation.evaluation.elicitation {
                Some(_) => "stage_generation.evaluation.elicitation",
                None => "generation.elicitation",
            };
            return Err((
                key.into(),
                format!(
                    "model `{name}` is served by another program, which gives no logits to score options by: expected `free`"
                ),
            ));
        }
        let extensions = spec
            .endpoint
            .as_ref()
            .is_none_or(|endpoint| endpoint.extensions);
        let set = [
            ("top_k", generation.top_k > 0),
            ("min_p", generation.min_p > 0.0),
            ("thinking", generation.thinking.is_some()),
        ];
        if let Some((field, _)) = set.into_iter().find(|(_, set)| *set && !extensions) {
            return Err((
                format!("generation.{field}"),
                format!(
                    "model `{name}` would not be told: leave it out, or set `endpoint.extensions = true` if its server takes it"
                ),
            ));
        }
    }
    Ok(())
}
