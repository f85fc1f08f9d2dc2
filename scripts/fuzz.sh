#!/bin/sh
# Build and run one fuzz target: scripts/fuzz.sh TARGET [RUNS]
#
# Does what `cargo fuzz run` does, on the stable toolchain: coverage counters by RUSTFLAGS, libFuzzer by libfuzzer-sys.
# Seeds lie in tests/fuzz/corpus/TARGET; what is found goes to target/fuzz/corpus/TARGET, so that the repository
# stays as it is. A text that takes longer than 10 s or more than 2 GiB counts as a crash. FUZZ_ARGS adds options of
# libFuzzer.
set -eu
target=$1
runs=${2:-10000000}
cd "$(dirname "$0")/.."
triple=x86_64-unknown-linux-gnu
export RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
cargo build --release --target $triple --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz --bin "$target"
[ "$runs" = build ] && exit
work=target/fuzz/corpus/$target
mkdir -p "$work"
limit=4096
[ "$target" = scenario ] && limit=8192
[ "$target" = gguf ] && limit=8192
exec "target/fuzz/$triple/release/$target" "$work" "tests/fuzz/corpus/$target" -runs="$runs" -max_len=$limit \
    -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$work-" ${FUZZ_ARGS:-}
