//! A solution of any text: the number it ends on, and the number it is as a whole.
#![no_main]

use atp_pipeline::scenario::tool_use::Numeric;
use atp_pipeline::scenario::tool_use::answer::{extract, is_correct};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(number) = extract(text) {
        assert!(number.matches(&number), "{number:?}");
        let _ = number.to_f64();
        let _ = number.as_ratio();
    }
    let _ = is_correct(text, "12");
    if let Some(number) = Numeric::parse(text) {
        assert!(number.matches(&number), "{number:?}");
        // A number is what it is written as.
        if let Some(again) = Numeric::parse(&number.to_string()) {
            assert!(number.matches(&again), "{number:?} and {again:?}");
        }
    }
});
