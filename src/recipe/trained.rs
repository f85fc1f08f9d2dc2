//! What can be trained: optimisers, shapes of adapters, and one shape where two methods train the same one.

use super::raw::Variant;
use super::{Document, RecipeError};
use crate::model::LoraConfig;
use crate::training::optim::OptimConfig;

/// The optimiser's numbers are of use; or the field that is not, and why.
pub(super) fn check_optim(optim: &OptimConfig) -> Result<(), (&'static str, String)> {
    let expect = |ok: bool, field, range: &str, got: f64| {
        if ok && got.is_finite() {
            Ok(())
        } else {
            Err((field, format!("expected {range}, got {got}")))
        }
    };
    expect(
        optim.lr > 0.0 && optim.lr < 1.0,
        "optim.lr",
        "above 0 and below 1",
        optim.lr,
    )?;
    expect(
        (0.0..=1.0).contains(&optim.warmup_ratio),
        "optim.warmup_ratio",
        "0 to 1",
        optim.warmup_ratio,
    )?;
    expect(
        (0.0..1.0).contains(&optim.beta1),
        "optim.beta1",
        "0 to below 1",
        optim.beta1,
    )?;
    expect(
        (0.0..1.0).contains(&optim.beta2),
        "optim.beta2",
        "0 to below 1",
        optim.beta2,
    )?;
    expect(optim.eps > 0.0, "optim.eps", "above 0", optim.eps)?;
    expect(
        optim.weight_decay >= 0.0,
        "optim.weight_decay",
        "0 or more",
        optim.weight_decay,
    )?;
    expect(
        optim.max_grad_norm >= 0.0,
        "optim.max_grad_norm",
        "0 or more",
        optim.max_grad_norm,
    )
}

/// An adapter can have this shape; or the field that stands in the way, and why.
pub(super) fn check_lora(lora: &LoraConfig) -> Result<(), (&'static str, String)> {
    if !(1..=1024).contains(&lora.rank) {
        return Err((
            "lora.rank",
            format!("expected 1 to 1024, got {}", lora.rank),
        ));
    }
    if !(lora.alpha.is_finite() && lora.alpha > 0.0) {
        return Err((
            "lora.alpha",
            format!("expected above 0, got {}", lora.alpha),
        ));
    }
    if lora.targets.is_empty() {
        return Err(("lora.targets", "expected at least one layer name".into()));
    }
    for (i, target) in lora.targets.iter().enumerate() {
        if lora.targets[..i].contains(target) {
            return Err((
                "lora.targets",
                format!("`{}` stands here twice", target.name()),
            ));
        }
    }
    Ok(())
}

/// The fields of a shape, as a recipe has them.
fn fields(lora: &LoraConfig) -> [(&'static str, String); 4] {
    let LoraConfig {
        rank,
        alpha,
        targets,
        rslora,
    } = lora;
    // In whatever order they were written.
    let mut targets = targets.clone();
    targets.sort();
    let targets: Vec<&str> = targets.iter().map(|target| target.name()).collect();
    [
        ("rank", rank.to_string()),
        ("alpha", format!("{alpha:?}")),
        ("targets", format!("{targets:?}")),
        ("rslora", rslora.to_string()),
    ]
}

/// GRPO that goes on with the adapter of DPO cannot give it another shape.
pub(super) fn check_one_shape(
    document: &Document,
    dpo: &LoraConfig,
    grpo: &LoraConfig,
) -> Result<(), RecipeError> {
    let mut pairs = fields(dpo).into_iter().zip(fields(grpo));
    let Some(((field, dpo), (_, grpo))) = pairs.find(|(dpo, grpo)| dpo != grpo) else {
        return Ok(());
    };
    let [of_dpo, of_grpo] = ["dpo", "grpo"].map(|table| format!("{table}.lora.{field}"));
    // What was written is told of, rather than a default.
    let written = |path: &str| document.written_at(path).is_some();
    let (place, got, other, expected) = match written(&of_grpo) || !written(&of_dpo) {
        true => (of_grpo, grpo, of_dpo, dpo),
        false => (of_dpo, dpo, of_grpo, grpo),
    };
    let name = Variant::DpoGrpo.name();
    let message = format!(
        "expected {expected}, as in `{other}`, got {got}: `{name}` trains one adapter by both methods; write the same in \
         both tables, or take `{name}` out of `variants`"
    );
    Err(document.error_at(&place, message))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::recipe::Recipe;

    fn told(text: &str) -> Result<(), String> {
        let text = format!("{text}\n[models.m]\nsource = \"smollm2-135m-instruct\"\n");
        let recipe = Recipe::from_text(Path::new("r.toml"), &text, &[]);
        recipe.map(|_| ()).map_err(|error| error.to_string())
    }

    const CHAIN: &str = "variants = [\"dpo-grpo\"]";

    #[test]
    fn an_adapter_that_two_methods_train_has_one_shape() {
        for (written, said) in [
            (
                "[dpo.lora]\nrank = 16",
                "r.toml:3:8: `dpo.lora.rank`: expected 8, as in `grpo.lora.rank`, got 16",
            ),
            (
                "[grpo.lora]\nalpha = 8.0",
                "r.toml:3:9: `grpo.lora.alpha`: expected 16.0, as in `dpo.lora.alpha`, got 8.0",
            ),
            (
                "[dpo.lora]\nrank = 16\n[grpo.lora]\nrank = 4",
                "r.toml:5:8: `grpo.lora.rank`: expected 16, as in `dpo.lora.rank`, got 4",
            ),
            (
                "[dpo.lora]\ntargets = [\"q_proj\"]\n[grpo.lora]\ntargets = [\"v_proj\"]",
                "expected [\"q_proj\"], as in `dpo.lora.targets`, got [\"v_proj\"]",
            ),
            (
                "[grpo.lora]\nrslora = true",
                "expected false, as in `dpo.lora.rslora`, got true",
            ),
            (
                "[tool_use.grpo.lora]\nrank = 4",
                "r.toml:3:8: `grpo.lora.rank`: expected 8",
            ),
        ] {
            let error = told(&format!("{CHAIN}\n{written}")).unwrap_err();
            assert!(error.contains(said), "{written}: {error}");
            assert!(
                error.contains("take `dpo-grpo` out of `variants`"),
                "{error}"
            );
            assert_eq!(told(written), Ok(()), "two adapters may have two shapes");
        }
        let orders = "[dpo.lora]\ntargets = [\"q_proj\", \"v_proj\"]\n\
                      [grpo.lora]\ntargets = [\"v_proj\", \"q_proj\"]";
        assert_eq!(told(&format!("{CHAIN}\n{orders}")), Ok(()));
    }

    #[test]
    fn a_chain_is_asked_what_grpo_is_asked() {
        let greedy = told(&format!("{CHAIN}\n[generation]\ntemperature = 0"));
        assert!(greedy.is_err_and(|e| e.contains("GRPO learns from differing samples")));
        let twice = told("variants = [\"dpo-grpo\", \"base\", \"dpo-grpo\"]");
        assert!(twice.is_err_and(|e| e.contains("`dpo-grpo` stands here twice")));
    }
}
