//! Where libtorch lies, so that the targets start without LD_LIBRARY_PATH.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let libtorch = std::env::var("LIBTORCH").expect(".cargo/config.toml of the repository sets it");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
}
