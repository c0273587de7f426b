#!/usr/bin/env python3
"""Checks that includes point down only, in the order of CONTRIBUTING.md. Usage: layering.py [ROOT]

Prints "file:line: what is wrong" for each violation and exits 1 if there is one.
"""
import pathlib
import re
import sys

FOUNDATIONS = {"calculus", "attention", "transport", "structure"}
DOMAINS = {"lm", "diffusion", "tangent", "optimize", "control", "forecast", "scene", "language", "data"}
BELOW_DOMAINS = {"base", "engine", "report", "series", "tensor", "nets"} | FOUNDATIONS

# What each folder of unbend/ may include besides itself.
ALLOWED = {
    "base": set(),
    "engine": {"base"},
    "report": {"base"},
    "series": {"base"},
    "serve": {"base", "engine"},
    "capi": {"base", "engine"},
    "tensor": {"base"},
    **{folder: {"base", "tensor"} for folder in FOUNDATIONS},
    "transport": {"base"},
    "nets": {"base", "tensor"} | FOUNDATIONS,
    **{folder: BELOW_DOMAINS for folder in DOMAINS},
}
WITHOUT_LIBTORCH = {"base", "capi", "control", "engine", "report", "series", "serve", "transport"}
# Domains that know LibTorch only in one subfolder, so that the rest compiles in seconds.
BRIDGES = {"optimize": "bridge"}
ON_LIBTORCH = {"tensor", "calculus", "attention", "nets"}
# Trees beside unbend/ and the other trees that each may include.
TREES = {"cli": {"studies"}, "studies": set(), "python": {"studies"}, "bench": set(), "examples": set(),
         "tests": {"studies", "cli", "bench"}}

LIBTORCH = re.compile(r"(torch|ATen|c10|caffe2)/")
# Headers that pull in the whole C++ front end: they cost seconds in every file that includes ours.
HEAVY = {"torch/torch.h", "torch/all.h", "torch/extension.h"}
INCLUDE = re.compile(r'\s*#\s*include\s*["<]([^">]+)[">]')


def problem(path, included):
    """What is wrong with `path` (parts, relative to the root) including `included`, or None."""
    tree = path[0]
    if tree == "unbend":
        folder = path[1]
        if folder not in ALLOWED:
            return f"unbend/{folder} is not a known folder: add it to tools/layering.py"
        if folder in WITHOUT_LIBTORCH and LIBTORCH.match(included):
            return f"unbend/{folder} must not include LibTorch ({included})"
        if folder in BRIDGES and path[2] != BRIDGES[folder]:
            if LIBTORCH.match(included) or (included.startswith("unbend/") and included.split("/")[1] in ON_LIBTORCH):
                return f"unbend/{folder} includes LibTorch only in {BRIDGES[folder]}/ ({included})"
        if path[-1].endswith(".h") and included in HEAVY:
            return f"a public header must not include <{included}>: use <ATen/ATen.h> or <torch/types.h>"
    first, *rest = included.split("/")
    if first in TREES and first != tree and rest and (tree == "unbend" or first not in TREES[tree]):
        return f"{tree}/ must not include {first}/ ({included})"
    if first != "unbend" or len(rest) < 2 or tree != "unbend":
        return None
    folder, target = path[1], rest[0]
    if target != folder and target not in ALLOWED[folder]:
        return f"unbend/{folder} must not include unbend/{target} ({included})"
    return None


def violations(root):
    for tree in ("unbend", *TREES):
        for path in sorted((root / tree).rglob("*")):
            parts = path.relative_to(root).parts
            if path.suffix not in {".h", ".c", ".cc", ".cu"} or (tree == "unbend" and len(parts) < 3):
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                match = INCLUDE.match(line)
                wrong = match and problem(parts, match.group(1))
                if wrong:
                    yield f"{'/'.join(parts)}:{number}: {wrong}"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    found = list(violations(root))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
