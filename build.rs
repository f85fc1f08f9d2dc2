//! Two things at build time: where libtorch lies, so that the binary starts without LD_LIBRARY_PATH where it was built
//! (an installed copy also looks in `lib` beside itself); and the recipes, environments and games, which become a
//! part of the binary, so that it works from any folder.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    if let Ok(root) = std::env::var("LIBTORCH") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{root}/lib");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/lib");
    let root =
        PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut text = String::new();
    embed(
        &mut text,
        "RECIPES",
        "The recipes that come with the program: name and text.",
        &root.join("recipes"),
    );
    let environments = root.join("data/role_play");
    embed(
        &mut text,
        "ENVIRONMENTS",
        "The role-play environments: name and text.",
        &environments,
    );
    embed(
        &mut text,
        "GAMES",
        "The coordination games: name and text.",
        &root.join("data/coordination"),
    );
    std::fs::write(out.join("embedded.rs"), text).expect("OUT_DIR is writable");
}

/// A constant list of the TOML files of a folder, sorted by name.
fn embed(text: &mut String, name: &str, purpose: &str, folder: &Path) {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|entries| entries.filter_map(|e| Some(e.ok()?.path())).collect())
        .unwrap_or_default();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    writeln!(
        text,
        "/// {purpose}\npub const {name}: &[(&str, &str)] = &["
    )
    .expect("a string takes everything");
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
        let stem = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        writeln!(text, "    ({stem:?}, include_str!({file:?})),")
            .expect("a string takes everything");
    }
    writeln!(text, "];").expect("a string takes everything");
}
