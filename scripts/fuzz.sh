#!/bin/sh
# Build and run one fuzz target: scripts/fuzz.sh TARGET [RUNS | build | keep]
#
# Does what `cargo fuzz run` does, on the stable toolchain: coverage counters by RUSTFLAGS, libFuzzer by libfuzzer-sys.
# Seeds lie in tests/fuzz/corpus/TARGET.tar.xz; what is found goes to target/fuzz/corpus/TARGET, so that the repository
# stays as it is, until `keep` packs the smallest texts that cover as much as all of them. A text that takes longer than
# 10 s or more than 2 GiB counts as a crash. FUZZ_ARGS adds options of libFuzzer.
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
seeds=target/fuzz/seeds/$target
packed=tests/fuzz/corpus/$target.tar.xz
rm -rf "$seeds"
mkdir -p "$work" "$seeds"
tar -xJf "$packed" -C "$seeds"
limit=4096
[ "$target" = scenario ] && limit=8192
[ "$target" = gguf ] && limit=8192
if [ "$runs" = keep ]; then
    kept=target/fuzz/kept/$target
    rm -rf "$kept"
    mkdir -p "$kept"
    "target/fuzz/$triple/release/$target" -merge=1 -max_len=$limit "$kept" "$seeds" "$work"
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$kept" -cJf "$packed.new" .
    mv "$packed.new" "$packed"
    echo "$packed: $(ls "$kept" | wc -l) texts"
    exit
fi
exec "target/fuzz/$triple/release/$target" "$work" "$seeds" -runs="$runs" -max_len=$limit \
    -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$work-" ${FUZZ_ARGS:-}
