#!/usr/bin/env bash
# Runs clang-tidy (.clang-tidy) on our sources. Usage: tools/tidy.sh [PATH...]
# Without paths: the command and the folders without LibTorch (a file with LibTorch takes half a minute).
# Needs a configured build (cmake --preset release), whose compile commands it reads.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${UNBEND_BUILD:-build/release}
command -v clang-tidy-14 >/dev/null || { echo "tidy: clang-tidy-14 not found: run tools/setup.sh analysis" >&2; exit 1; }
[ -f "$build/compile_commands.json" ] || { echo "tidy: $build/compile_commands.json not found: run cmake --preset release" >&2; exit 1; }
[ $# -gt 0 ] || set -- unbend/base unbend/engine unbend/report cli

mapfile -t files < <(git ls-files --cached --others --exclude-standard -- "$@" | grep '\.cc$')
[ ${#files[@]} -gt 0 ] || { echo "tidy: no sources under: $*" >&2; exit 1; }
printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy-14 -p "$build" --quiet 2> >(grep -v 'warnings\? generated' >&2)
