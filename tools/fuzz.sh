#!/usr/bin/env bash
# Builds the fuzz targets (clang, sanitizers) and runs each for SECONDS (20). Usage: tools/fuzz.sh [SECONDS [TARGET...]]
# What is found lies in build/fuzz/crashes; new inputs that reach new code are kept in build/fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-20}
shift || true
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "fuzz: SECONDS must be a positive number, not '$seconds'" >&2; exit 2; }
command -v clang++-14 >/dev/null || { echo "fuzz: clang++-14 not found: run tools/setup.sh analysis" >&2; exit 1; }
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for source in tests/fuzz/fuzz_*.cc; do targets+=("$(basename "${source##*fuzz_}" .cc)"); done
fi

cmake --preset fuzz >/dev/null
cmake --build build/fuzz --target "${targets[@]/#/fuzz_}" -j2
mkdir -p build/fuzz/crashes
for target in "${targets[@]}"; do
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus"
  log=build/fuzz/$target.log
  if ! build/fuzz/tests/fuzz/fuzz_"$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 \
      -artifact_prefix=build/fuzz/crashes/"$target"- "$corpus" "tests/fuzz/seeds/$target" >"$log" 2>&1; then
    tail -40 "$log" >&2
    echo "fuzz: $target: finding, see $log and build/fuzz/crashes" >&2
    exit 1
  fi
  executions=$(awk '/number_of_executed_units/ {print $2}' "$log")
  echo "fuzz: $target: $executions executions in $seconds s, no finding"
done
