#!/usr/bin/env bash
# Builds the fuzz targets (clang, sanitizers) and runs each for SECONDS (20), one per core. Usage: tools/fuzz.sh [SECONDS [TARGET...]]
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
fuzz() {  # TARGET SECONDS
  local corpus=build/fuzz/corpus/$1 log=build/fuzz/$1.log
  mkdir -p "$corpus"
  if ! build/fuzz/tests/fuzz/fuzz_"$1" -max_total_time="$2" -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 \
      -artifact_prefix=build/fuzz/crashes/"$1"- "$corpus" "tests/fuzz/seeds/$1" >"$log" 2>&1; then
    tail -40 "$log" >&2
    echo "fuzz: $1: finding, see $log and build/fuzz/crashes" >&2
    return 1
  fi
  echo "fuzz: $1: $(awk '/number_of_executed_units/ {print $2}' "$log") executions in $2 s, no finding"
}
export -f fuzz
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c "fuzz {} $seconds"
