#!/bin/sh
# A release from what `cargo build --release` left: the program, its library, completions, manual, the set-up
# script of the small model, licence; with a SHA-256 sum beside it. `sh scripts/dist.sh --no-libtorch` leaves libtorch
# out, for those who have 2.11.0 already and set LD_LIBRARY_PATH.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=atp-pipeline-$version-x86_64-linux
out=target/dist
root=$out/$name
rm -rf "$root" && mkdir -p "$root/lib" "$root/share/man/man1" "$root/share/completions" "$root/scripts"
cp target/release/atp-pipeline "$root/"
cp README.md CHANGELOG.md LICENSE SECURITY.md ARCHITECTURE.md BENCHMARKS.md "$root/"
cp src/report/font/LICENSE "$root/LICENSE.Inter"
cp scripts/setup.py "$root/scripts/"
if [ "${1:-}" != --no-libtorch ]; then
    # The binary looks in `lib` beside itself; only what it needs, links followed.
    for library in libtorch_cpu.so libc10.so libgomp.so.1 libcupti.so.13 libcudart.so.13 libshm.so; do
        found=$(find -L "${LIBTORCH:-.deps/libtorch}/lib" -maxdepth 1 -name "$library" | head -n 1)
        [ -z "$found" ] || cp -L "$found" "$root/lib/"
    done
fi
"$root/atp-pipeline" man --out "$root/share/man/man1"
for shell in bash zsh fish; do
    "$root/atp-pipeline" completions $shell > "$root/share/completions/atp-pipeline.$shell"
done
# The same content gives the same bytes.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" -C "$out" -cf - "$name" \
    | gzip -n > "$out/$name.tar.gz"
cd "$out" && sha256sum "$name.tar.gz" > "$name.tar.gz.sha256"
echo "$out/$name.tar.gz"
cat "$name.tar.gz.sha256"
