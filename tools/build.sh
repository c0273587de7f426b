#!/usr/bin/env bash
# Configures and builds the release preset. Usage: tools/build.sh [TARGET...]; everything without targets.
set -euo pipefail
cd "$(dirname "$0")/.."
log=build/build.log
mkdir -p build
echo "[build] release${*:+: $*} (log: $log)"
if ! cmake --preset release >"$log" 2>&1; then tail -n 20 "$log" >&2; echo "build: configuring failed, see $log" >&2; exit 1; fi
# Ninja's progress only (the log has the compilers' words): one line that is rewritten on a terminal, every tenth step elsewhere.
shown() {
  if [ -t 1 ]; then grep --line-buffered '^\[[0-9]' | awk '{ printf "\r%-100.100s", $0; fflush() } END { print "" }'
  else grep --line-buffered '^\[[0-9]' | awk 'NR % 10 == 1 { print; fflush() }'; fi
}
if ! cmake --build build/release ${*:+--target "$@"} 2>&1 | tee -a "$log" | shown; then
  grep -E -m 20 'error|FAILED' "$log" >&2 || true
  echo "build: failed, see $log" >&2
  exit 1
fi
ln -sfn release/cli/unbend build/unbend
