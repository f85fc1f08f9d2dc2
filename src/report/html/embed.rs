//! Data inside a page, and the digests by which a page's own styles and scripts are known.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

/// A source of a Content-Security-Policy: `sha256-…` of a style's or script's text.
pub(super) fn digest(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

/// gzip, the same bytes for the same input: the header holds neither name nor time.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::new(6));
    // Writing to memory does not fail; should it, the bytes would be missing and the page say so.
    let _ = out.write_all(bytes);
    out.finish().unwrap_or_default()
}

/// An element that holds compressed bytes. base64 has no character that HTML or a script could read otherwise.
pub(super) fn element(id: &str, compressed: &[u8]) -> String {
    format!(
        "<script type=\"application/gzip\" id=\"{id}\">{}</script>\n",
        STANDARD.encode(compressed)
    )
}
