#!/usr/bin/env bash
# The texts for training and evaluation out of Debian's documentation packages (tools/setup.sh texts installs them).
#   tools/texts.sh [MODEL.gguf]    makes build/texts/{train,docs,kjv}.tokens.safetensors with build/unbend
#   tools/texts.sh list SET        prints the files of a set: train, docs (held out) or kjv
#   tools/texts.sh versions SET    prints its packages and their versions
# English HTML only; generated indexes, release logs and single-page copies of split manuals are left out. docs and kjv are for evaluation:
# nothing may be trained on them.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
output=build/texts

die() { printf 'texts: %s\n' "$*" >&2; exit 1; }

packages() {
  case $1 in
    train) echo debian-handbook debian-reference-en debian-policy debmake-doc maint-guide python3.11-doc sqlite3-doc ;;
    docs) echo developers-reference debian-faq aptitude-doc-en ;;
    kjv) echo bible-kjv bible-kjv-text ;;
    *) die "unknown set '$1': use train, docs or kjv" ;;
  esac
}

files() {
  local package
  for package in $(packages "$1"); do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || die "package $package is missing: run tools/setup.sh texts"
  done
  case $1 in
    kjv)
      mkdir -p $output
      [ -s $output/kjv.txt ] || { bible gen1:1-rev22:21 >$output/kjv.txt.part && mv $output/kjv.txt.part $output/kjv.txt; }
      echo $output/kjv.txt ;;
    *)
      for package in $(packages "$1"); do
        dpkg-query -L "$package" | grep -E '\.html$' | case $package in
          debian-handbook) grep /en-US/ ;;
          debian-reference-en | debmake-doc | maint-guide | debian-faq) grep '\.en\.html$' ;;
          *) cat ;;
        esac | grep -vE '/releaselog/|/(genindex[^/]*|search|py-modindex|contents|developers-reference|[a-z]+-policy-1|capi3ref|requirements|doc_[^/]*|keyword_index|sitemap)\.html$' | sort
      done | while read -r file; do if [ -f "$file" ] && [ ! -L "$file" ]; then echo "$file"; fi; done ;;
  esac
}

case ${1:-} in
  list) files "${2:?name a set}" ;;
  versions) dpkg-query -W -f='${Package} ${Version}\n' $(packages "${2:?name a set}") | sort ;;
  *)
    model=${1:-build/models/SmolLM2-135M-Instruct.Q4_1.gguf}
    [ -x build/unbend ] || die "build/unbend is missing: build first"
    mkdir -p $output
    for set in train docs kjv; do
      files $set >$output/$set.list
      mapfile -t paths <$output/$set.list
      build/unbend lm tokens "$model" "${paths[@]}" --out $output/$set.tokens.safetensors
    done ;;
esac
