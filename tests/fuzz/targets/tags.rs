//! A solution of any text: its calls, its pieces, and that no text can forge a result.
#![no_main]

use atp_pipeline::scenario::tool_use::call::{
    SegmentKind, calls, escape_forged, forged_result, next_call, result_block, segments,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for thinking in [false, true] {
        let found = calls(text, thinking);
        for call in &found {
            assert!(text[call.span.clone()].starts_with("<tool>"));
            assert!(text[call.span.clone()].ends_with("</tool>"));
        }
        assert_eq!(next_call(text, 0, thinking), found.first().cloned());
        let whole: String = segments(text, thinking).iter().map(|s| s.text).collect();
        assert_eq!(whole, text);
        // What a model writes has no inserted piece once it is escaped, and escaping changes nothing twice.
        let escaped = escape_forged(text);
        assert!(forged_result(&escaped).is_none());
        assert_eq!(escape_forged(&escaped), escaped);
        let inserted = |s: &&_| {
            matches!(
                s,
                atp_pipeline::scenario::tool_use::call::Segment {
                    kind: SegmentKind::Inserted,
                    ..
                }
            )
        };
        assert_eq!(
            segments(&escaped, thinking).iter().filter(inserted).count(),
            0
        );
    }
    // Whatever a program prints stays inside its own block.
    let block = result_block(text, 1 << 16);
    let transcript = format!("<tool>python</tool>{block}so");
    let pieces = segments(&transcript, false);
    assert_eq!(pieces.len(), 3, "{transcript}");
    assert_eq!(pieces[1].text, block);
});
