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

if [ -z "${GUESTS_FROM_DEBIAN:-}" ] && { has_target || { rustup target add "$target" && has_target; }; }; then
  "${cargo[@]}"
else
  echo "no $target target in this toolchain: building its standard library from Debian's packages" >&2
  sysroot=$PWD/target/debian
  version=$(rustc --version | cut -d' ' -f2)
  if [ ! -d "$sysroot/root" ]; then
    mkdir -p "$sysroot/root"
    rust_src=$(apt-cache madison rust-src | awk -v v="$version" 'index($3, v) == 1 { print $3; exit }')
    if [ -z "$rust_src" ]; then
      rm -r "$sysroot"
      echo "Debian offers no rust-src $version; add the target with: rustup target add $target" >&2
      exit 1
    fi
    (cd "$sysroot" && apt-get download "rust-src=$rust_src" wasi-libc && for deb in ./*.deb; do dpkg-deb -x "$deb" root; done)
  fi
  src=$(echo "$sysroot"/root/usr/src/rustc-*)
  export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT="$src"
  CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS+=" -L native=$sysroot/root/usr/lib/$target"
  "${cargo[@]}" -Zbuild-std=std,panic_abort
fi

# The manifests of the workspace are the list of guests; what is no member is no guest.
for guest in */Cargo.toml; do
  name=$(dirname "$guest")
  cp "${CARGO_TARGET_DIR:-target}/$target/release/$name.wasm" "$out/$name.wasm"
done
ls -l "$out"
