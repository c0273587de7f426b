#!/usr/bin/env python3
"""Makes docs/methods.md from `unbend methods --json`. Usage: methods_table.py UNBEND [--check]

With --check it writes nothing and exits 1 if the file is out of date.
"""
import json
import pathlib
import subprocess
import sys

TARGET = pathlib.Path(__file__).resolve().parent.parent / "docs" / "methods.md"
FOUNDATIONS = {
    "attention": "Attention to linear-time mixing",
    "calculus": "Functions to linear maps",
    "transport": "Measures to vectors",
    "structure": "Structures to sequences",
}
HEAD = """# Methods
<!-- Generated from unbend/methods.def by tools/methods_table.py: edit that table. -->

A method is one published way of getting from something nonlinear (the teacher) to something linear that is close to it
(the surrogate). `unbend methods` prints the same table; `unbend study SLUG` checks a method's published claims.

- **works**: its study passes in full form.
- **trial**: it can be used and its study runs, but the full study has not passed yet.
- **planned**: nothing can be run yet.
"""


def document(methods):
    parts = [HEAD]
    for foundation, title in FOUNDATIONS.items():
        parts.append(f"\n## {title}\n| slug | method | paper | status |\n|---|---|---|---|\n")
        for m in (m for m in methods if m["foundation"] == foundation):
            paper = f"{m['authors']}, *{m['title']}*, {m['venue']}, [arXiv {m['arxiv']}](https://arxiv.org/abs/{m['arxiv']})"
            parts.append(f"| `{m['slug']}` | {m['name']} | {paper} | {m['status']} |\n")
    return "".join(parts)


def main():
    output = subprocess.run([sys.argv[1], "methods", "--json"], check=True, capture_output=True, text=True).stdout
    text = document(json.loads(output)["methods"])
    if "--check" not in sys.argv[2:]:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET.name} is out of date: run tools/methods_table.py with the path of the unbend command", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
