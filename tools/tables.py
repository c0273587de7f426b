#!/usr/bin/env python3
"""Makes arrays of the tables that scikit-learn carries, as .npy files.

Usage: tables.py PACKAGE_FOLDER TARGET_FOLDER

iris/inputs.npy [150, 4] float64 (cm) and labels.npy [150] int64 (Fisher 1936); digits8/images.npy [1797, 8, 8] uint8 (0 to 16)
and labels.npy [1797] int64 (test part of UCI's "Optical Recognition of Handwritten Digits", Alpaydin and Kaynak 1998); breast_cancer [569, 30] float64, labels 0
(malignant) and 1 (Wolberg, Street and Mangasarian 1993); wine [178, 13] float64, labels 0 to 2 (Forina et al. 1988);
diabetes/inputs.npy [442, 10] and targets.npy [442] float64 (Efron, Hastie, Johnstone and Tibshirani 2004).
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
    for name, shape in (("breast_cancer.csv", (569, 30)), ("wine_data.csv", (178, 13))):
        with open(source / name, newline="") as file:
            rows = [[float(value) for value in row] for row in list(csv.reader(file))[1:]]
        assert (len(rows), len(rows[0])) == (shape[0], shape[1] + 1)
        values = [value for row in rows for value in row[:-1]]
        save(target / name[:name.index(".")].removesuffix("_data"),
             ("inputs.npy", "<f8", shape, struct.pack(f"<{len(values)}d", *values)), [int(row[-1]) for row in rows])
    (target / "diabetes").mkdir(parents=True, exist_ok=True)
    for name, array, shape in (("diabetes_data_raw", "inputs", (442, 10)), ("diabetes_target", "targets", (442,))):
        with gzip.open(source / f"{name}.csv.gz", "rt") as file:
            values = [float(value) for value in file.read().split()]
        (target / "diabetes" / f"{array}.npy").write_bytes(npy("<f8", shape, struct.pack(f"<{len(values)}d", *values)))
    with gzip.open(source / "digits.csv.gz", "rt", newline="") as file:
        rows = [[int(float(value)) for value in row] for row in csv.reader(file)]
    assert len(rows) == 1797 and all(len(row) == 65 for row in rows)
    pixels = bytes(value for row in rows for value in row[:64])
    save(target / "digits8", ("images.npy", "|u1", (1797, 8, 8), pixels), [row[64] for row in rows])


if __name__ == "__main__":
    main()
