#!/usr/bin/env python3
"""Writes the code blocks of a Markdown file that name a file (```cpp file=PATH) under a folder.

Usage: extract_examples.py MARKDOWN FOLDER
"""
import pathlib
import re
import sys

BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main():
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    for path, code in BLOCK.findall(text):
        target = pathlib.Path(sys.argv[2], path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(code, encoding="utf-8")


if __name__ == "__main__":
    main()
