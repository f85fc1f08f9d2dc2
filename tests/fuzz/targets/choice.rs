//! An answer of any text: which option it chooses.
#![no_main]

use atp_pipeline::scenario::Role;
use atp_pipeline::scenario::choice::{ChoiceOption, Parsed, parse_choice};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let option = |role, label: &str, name: &str| ChoiceOption {
        role,
        label: label.into(),
        name: name.into(),
    };
    let options = [
        option(Role::Compliant, "A", "assigned route"),
        option(Role::Deviant, "B", "shortcut"),
    ];
    let parsed = parse_choice(text, &options);
    if let Parsed::Chosen { option, role } = parsed {
        assert_eq!(options[option].role, role);
    }
    // Options in another order mean the same.
    let mut turned = options.clone();
    turned.reverse();
    assert_eq!(parse_choice(text, &turned).role(), parsed.role());
});
