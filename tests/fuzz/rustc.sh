#!/bin/sh
# rustc, with coverage counted in what is fuzzed. Cargo calls it with the real one as its first argument.
case "${CARGO_PKG_NAME:-}" in
  coracle-* | tar | ruzstd | wasmparser | hickory-proto)
    case " $* " in
      *" --crate-type proc-macro "* | *" build_script_"*) exec "$@" ;;
    esac
    exec "$@" -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
  *) exec "$@" ;;
esac
