#!/bin/sh
# Runs a fuzz target for some seconds: tests/fuzz/run.sh TARGET [SECONDS]
#
# The targets are the files of tests/fuzz/targets. A stable toolchain and a C++ compiler (for libFuzzer) are all it
# takes: only our own crates, and those that read what strangers send, are told to count which ways were taken. What
# was found goes to tests/fuzz/found/TARGET, where inputs that crash, hang or eat memory are named after that. What
# the seeds reach is kept in tests/fuzz/corpus/TARGET; neither is committed.
set -eu
cd "$(dirname "$0")"
target=${1:?"usage: run.sh TARGET [SECONDS]; targets: $(ls targets | sed 's/\.rs$//' | tr '\n' ' ')"}
seconds=${2:-120}
mkdir -p "found/$target" "corpus/$target"
# Seeds: what is in `seeds`, the examples' modules, and layers of them.
[ ! -d "seeds/$target" ] || cp "seeds/$target"/* "corpus/$target/"
case $target in
  module | manifest) cp ../../guest-examples/built/h*.wasm "corpus/$target/" ;;
  layer)
    tar -cf "corpus/layer/plain" -C ../../guest-examples hello/Cargo.toml README.md
    gzip -c "corpus/layer/plain" > "corpus/layer/gzip"
    ! command -v zstd > /dev/null || zstd -qfc "corpus/layer/plain" > "corpus/layer/zstd"
    ;;
esac
RUSTC_WRAPPER="$PWD/rustc.sh" cargo build --release --bin "$target" --features "$target"
exec "${CARGO_TARGET_DIR:-target}/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
  -max_len=262144 -artifact_prefix="found/$target/" "corpus/$target"
