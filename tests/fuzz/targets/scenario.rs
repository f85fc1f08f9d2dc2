//! A scenario file of any text: which kind it is, everything wrong with it, and prompts drawn from a valid one.
#![no_main]

use std::path::Path;

use atp_pipeline::scenario::kind::{ShowOptions, recognise};
use atp_pipeline::scenario::question::AnswerForm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let path = Path::new("fuzz.toml");
    let checked = recognise(path, text).and_then(|kind| kind.check(path, text).map(|_| kind));
    match checked {
        Ok(kind) => {
            let options = ShowOptions {
                seed: 1,
                answer: AnswerForm::default(),
                defence: None,
            };
            let _ = kind.show(path, text, &options);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(
                problems.iter().all(|p| p.starts_with("fuzz.toml:")),
                "{problems:?}"
            );
        }
    }
});
