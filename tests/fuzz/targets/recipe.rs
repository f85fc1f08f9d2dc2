//! A recipe of any text, with an assignment of any text laid over it (what follows the first NUL).
#![no_main]

use std::path::Path;

use atp_pipeline::recipe::Recipe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // No file is read: `extends` would make what is found depend on the machine.
    if text.contains("extends") || text.contains('\\') {
        return;
    }
    let (text, set) = text.split_once('\0').unwrap_or((text, ""));
    let set: Vec<String> = (!set.is_empty())
        .then(|| set.to_owned())
        .into_iter()
        .collect();
    match Recipe::from_text(Path::new("fuzz.toml"), text, &set) {
        // What was resolved gives the same recipe again.
        Ok(recipe) => {
            let again = Recipe::from_text(Path::new("fuzz.toml"), &recipe.text, &[]);
            let again = again.unwrap_or_else(|e| panic!("{e}\n{}", recipe.text));
            assert_eq!(again.text, recipe.text);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
