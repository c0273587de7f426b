#!/usr/bin/env bash
# Checks that every C++ file of ours is formatted as .clang-format says. Usage: tools/check_format.sh [--fix]
set -euo pipefail
cd "$(dirname "$0")/.."

command -v clang-format-14 >/dev/null || { echo "check_format: clang-format-14 not found: run tools/setup.sh analysis" >&2; exit 1; }
mapfile -t files < <(git ls-files --cached --others --exclude-standard -- '*.h' '*.cc' '*.cu' '*.cuh')

if [ "${1:-}" = --fix ]; then
  clang-format-14 -i "${files[@]}"
  exit
fi
bad=0
for file in "${files[@]}"; do
  [ -f "$file" ] || continue
  difference=$(clang-format-14 "$file" | diff -u --label "$file" --label "$file (formatted)" "$file" - | head -20) || true
  [ -z "$difference" ] || { printf '%s\n' "$difference"; bad=$((bad + 1)); }
done
if [ $bad -gt 0 ]; then
  echo "check_format: $bad of ${#files[@]} files are not formatted: run tools/check_format.sh --fix" >&2
  exit 1
fi
