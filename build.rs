//! Three things at build time: where libtorch lies, so that the binary starts without LD_LIBRARY_PATH where it was built
//! (an installed copy also looks in `lib` beside itself); the few lines of C++ for what tch does not bind; and the
//! recipes, environments and games, which become a part of the binary, so that it works from any folder.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    let libtorch = std::env::var("LIBTORCH").expect(
        "LIBTORCH names the folder of libtorch; .cargo/config.toml sets it to what scripts/setup.py makes",
    );
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    compile_native(Path::new(&libtorch));
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

/// C++ against libtorch's headers.
fn compile_native(libtorch: &Path) {
    println!("cargo:rerun-if-changed=src/runtime/native");
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .files(
            ["attention", "collective", "memory", "optim"]
                .map(|name| format!("src/runtime/native/{name}.cpp")),
        )
        .include("src/runtime/native")
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .define("USE_C10D_GLOO", None)
        .warnings(false)
        .opt_level(2)
        .compile("atp_native");
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
