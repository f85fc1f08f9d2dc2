//! A chat template of any text, rendered for a conversation: refused or rendered, within its limits.
#![no_main]

use atp_pipeline::runtime::guard::is_guarded;
use atp_pipeline::text::{ChatTemplate, Limits, Message, RenderOptions, Speaker};
use libfuzzer_sys::fuzz_target;

/// The template library panics in some reversed slices, which the program makes an error: those are no finding.
fn overlook_guarded_panics() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_guarded() {
            abort(panic);
        }
    }));
}

fuzz_target!(init: overlook_guarded_panics(), |source: &str| {
    let limits = Limits {
        steps: 20_000,
        bytes: 1 << 20,
        memory: 1 << 30,
    };
    let Ok(template) = ChatTemplate::limited(source, Some("<s>"), Some("</s>"), limits) else {
        return;
    };
    let messages = [
        Message::new(Speaker::System, "Keep the rule."),
        Message::new(Speaker::User, "  What now? {{ bos_token }} "),
        Message::new(Speaker::Assistant, "<think>\nhm\n</think>\n\nA"),
        Message::new(Speaker::User, "And now?"),
    ];
    for thinking in [None, Some(false)] {
        let options = RenderOptions {
            thinking,
            ..RenderOptions::prompt()
        };
        if let Ok(text) = template.render(&messages, &options) {
            assert!(text.len() <= limits.bytes);
        }
    }
});
