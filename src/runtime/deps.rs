//! Where `scripts/setup.py` left what it fetched: `ATP_DEPS`, or a folder `.deps` here, beside the program, or where it was built.

use std::path::{Path, PathBuf};

/// The places to look in, first to last.
pub fn places() -> impl Iterator<Item = PathBuf> {
    let exe = std::env::current_exe().ok();
    let beside: Vec<PathBuf> = exe
        .iter()
        .flat_map(|exe| exe.ancestors().skip(1).take(4).map(|p| p.join(".deps")))
        .collect();
    let named = std::env::var_os("ATP_DEPS").map(PathBuf::from);
    named
        .into_iter()
        .chain([PathBuf::from(".deps")])
        .chain(beside)
        .chain([Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps")])
}

/// The first of them that has this file, by an absolute path.
pub fn find(file: &str) -> Option<PathBuf> {
    let found = places().map(|place| place.join(file)).find(|f| f.is_file());
    found.map(|file| std::path::absolute(&file).unwrap_or(file))
}
