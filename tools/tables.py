#!/usr/bin/env python3
"""Makes arrays of the two tables that scikit-learn carries, as .npy files.

Usage: tables.py PACKAGE_FOLDER TARGET_FOLDER

iris/inputs.npy [150, 4] float64 (cm) and labels.npy [150] int64 (Fisher 1936); digits8/images.npy [1797, 8, 8] uint8 (0 to 16)
and labels.npy [1797] int64 (test part of UCI's "Optical Recognition of Handwritten Digits", Alpaydin and Kaynak 1998).
"""
import csv
import gzip
import pathlib
import struct
import sys

from digits import npy


def save(folder, inputs, labels):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / inputs[0]).write_bytes(npy(*inputs[1:]))
    (folder / "labels.npy").write_bytes(npy("<i8", (len(labels),), struct.pack(f"<{len(labels)}q", *labels)))


def main():
    source, target = pathlib.Path(sys.argv[1]) / "sklearn" / "datasets" / "data", pathlib.Path(sys.argv[2])
    with open(source / "iris.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    values = [float(value) for row in rows for value in row[:4]]
    assert len(rows) == 150
    save(target / "iris", ("inputs.npy", "<f8", (150, 4), struct.pack("<600d", *values)), [int(row[4]) for row in rows])
    with gzip.open(source / "digits.csv.gz", "rt", newline="") as file:
        rows = [[int(float(value)) for value in row] for row in csv.reader(file)]
    assert len(rows) == 1797 and all(len(row) == 65 for row in rows)
    pixels = bytes(value for row in rows for value in row[:64])
    save(target / "digits8", ("images.npy", "|u1", (1797, 8, 8), pixels), [row[64] for row in rows])


if __name__ == "__main__":
    main()
