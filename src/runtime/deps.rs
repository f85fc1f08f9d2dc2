//! Where `scripts/setup.py` left what it fetched: `ATP_DEPS`, or a folder `.deps` here, beside the program, or where it was built.
//!
//! Libraries are loaded from there, so a folder that is found and not named must belong to whoever runs the program, to whom the
//! program belongs, or to root.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The places to look in, first to last.
pub fn places() -> impl Iterator<Item = PathBuf> {
    // SAFETY: asks for a number.
    let user = unsafe { libc::geteuid() };
    let exe = std::env::current_exe().ok();
    let beside: Vec<PathBuf> = exe
        .iter()
        .flat_map(|exe| exe.ancestors().skip(1).take(4).map(|p| p.join(".deps")))
        .collect();
    let owner = |path: &Path| std::fs::metadata(path).ok().map(|m| m.uid());
    let trusted = [Some(0), Some(user), exe.as_deref().and_then(owner)];
    let found = [PathBuf::from(".deps")]
        .into_iter()
        .chain(beside)
        .chain([Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps")])
        .filter(move |place| owner(place).is_some_and(|uid| trusted.contains(&Some(uid))));
    let named = std::env::var_os("ATP_DEPS").map(PathBuf::from);
    named.into_iter().chain(found)
}

/// The first of them that has this file, by an absolute path.
pub fn find(file: &str) -> Option<PathBuf> {
    let found = places().map(|place| place.join(file)).find(|f| f.is_file());
    found.map(|file| std::path::absolute(&file).unwrap_or(file))
}
