#!/bin/sh
# Has libFuzzer search each target, or those named, guided by coverage, on the stable toolchain. Needs a C++ compiler.
#
#     bench/fuzz/run.sh [SECONDS [TARGET...]]        60 seconds each by default
#
# Inputs that reach new code gather in target/fuzz/TARGET and are used again. An input that fails is named at the end
# and written there as crash-*, timeout-* or oom-*: fix what it shows, and move it to bench/fuzz/corpus/TARGET.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-onnx haca npy frame message receipt checkpoint evidence}

# Build scripts and macros must not be instrumented, so a target is named, even if it is this machine's own.
triple=$(rustc -vV | sed -n 's/^host: //p')
root=${CARGO_TARGET_DIR:-target}
export CARGO_TARGET_DIR="$root/fuzz-build"
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-trace-compares"
CARGO_PROFILE_RELEASE_LTO=off RUSTFLAGS="$coverage -Cdebug-assertions -Coverflow-checks" \
    cargo build --release --target "$triple" -p haca-fuzz --features libfuzzer

failed=
for target in $targets; do
    inputs="$root/fuzz/$target"
    mkdir -p "$inputs"
    echo "== $target, $seconds s"
    HACA_FUZZ_TARGET=$target "$CARGO_TARGET_DIR/$triple/release/haca-fuzz" "$inputs" -max_total_time="$seconds" \
        -timeout=20 -rss_limit_mb=4096 -max_len=16384 -artifact_prefix="$inputs/" -print_final_stats=1 \
        -verbosity=1 2>"$inputs.log" || failed="$failed $target"
    grep -E 'panicked|ERROR|Test unit|stat::number_of_executed|^#.*DONE' -A1 "$inputs.log" | grep -v '^--' || true
done
[ -z "$failed" ] || { echo "failed:$failed; the logs lie beside the inputs in $root/fuzz" >&2; exit 1; }
