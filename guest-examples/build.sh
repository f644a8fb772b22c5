#!/usr/bin/env bash
# Builds every guest into guest-examples/built/NAME.wasm (or into the folder given as argument).
#
# The ordinary way is the wasm32-wasip2 target of this toolchain, which rustup adds if it can. Where it
# cannot, a Debian system builds the standard library itself from Debian's rust-src of the same
# version and wasi-libc, both only unpacked into a private folder.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-built}
mkdir -p "$out"
out=$(cd "$out" && pwd)
target=wasm32-wasip2
cargo=(cargo build --workspace --release --target "$target" --locked)
export CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS="--remap-path-prefix=$PWD=guests --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"

has_target() { [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; }

# Unpacks Debian's rust-src of this compiler's version and its wasi-libc below $sysroot, with apt's lists
# and caches in there too: the machine's own packages stay as they are.
fetch_from_debian() {
  local site suite apt rust_src
  site=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 2>/dev/null | head -n 1)
  mkdir -p "$sysroot"/{lists/partial,cache/archives/partial,unpacked}
  for suite in stable-backports testing unstable; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site $suite main"
  done >"$sysroot/sources.list"
  apt=(-qq -o "Dir::State::lists=$sysroot/lists" -o "Dir::Cache=$sysroot/cache" -o APT::Sandbox::User=root
    -o "Dir::Etc::sourcelist=$sysroot/sources.list" -o Dir::Etc::sourceparts=-)
  apt-get "${apt[@]}" update
  rust_src=$(apt-cache "${apt[@]}" madison rust-src | awk -v v="$version" 'index($3, v) == 1 { print $3; exit }')
  if [ -z "$rust_src" ]; then
    echo "Debian offers no rust-src $version; add the target with: rustup target add $target" >&2
    return 1
  fi
  (cd "$sysroot" && apt-get "${apt[@]}" download "rust-src=$rust_src" wasi-libc &&
    for deb in ./*.deb; do dpkg-deb -x "$deb" unpacked; done && mv unpacked root)
}

if [ -z "${GUESTS_FROM_DEBIAN:-}" ] && { has_target || { rustup target add "$target" && has_target; }; }; then
  "${cargo[@]}"
else
  echo "no $target target in this toolchain: building its standard library from Debian's packages" >&2
  sysroot=$PWD/target/debian
  version=$(rustc --version | cut -d' ' -f2)
  if [ ! -d "$sysroot/root" ]; then
    fetch_from_debian
  fi
  src=$(echo "$sysroot"/root/usr/src/rustc-*/library)
  export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT="$src"
  CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS+=" -L native=$sysroot/root/usr/lib/$target"
  "${cargo[@]}" -Zbuild-std=std,panic_abort
fi

# A folder with a manifest is a guest of that name, and each of its `src/bin` is one. `kit` is a library of the others.
for source in */src/main.rs */src/bin/*.rs {handler,preview3,routes,routes3}/src/lib.rs; do
  case $source in
    */src/bin/*) name=$(basename "$source" .rs) ;;
    *) name=${source%%/*} ;;
  esac
  cp "${CARGO_TARGET_DIR:-target}/$target/release/$name.wasm" "$out/$name.wasm"
done
# C programs for WASI 0.1. Without a compiler that has its C library (zig has), those that are built already stay.
if command -v zig >/dev/null; then zig=(zig); else zig=(python3 -m ziglang); fi
for source in preview1/*.c; do
  if "${zig[@]}" version >/dev/null 2>&1; then
    "${zig[@]}" cc -target wasm32-wasi -Os -s -o "$out/$(basename "$source" .c).wasm" "$source"
    chmod 644 "$out/$(basename "$source" .c).wasm"
  else
    echo "no zig to build $source with (pip install ziglang)" >&2
  fi
done
ls -l "$out"
