"""Dequantised tensors are equal bit for bit to the `gguf` Python package's: small ones of every type, and SmolLM2.
Only the payload of a NaN may differ.

Usage: dequantize.py ENGINE_TOOL MODEL
"""
import sys
from pathlib import Path

import common

common.need("numpy", "gguf")
import gguf
import numpy as np


def compare(tool, model, folder):
    """Compares every tensor of `model`; returns how many values of which types."""
    out = Path(folder, "values")
    names = common.run(tool, "dequantize", model, out).split()
    values = np.fromfile(out, np.float32)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    position, counts = 0, {}
    for name in names:
        tensor = tensors[name]
        kind = tensor.tensor_type
        try:
            with np.errstate(all="ignore"):
                expected = gguf.dequantize(tensor.data, kind).reshape(-1)
        except NotImplementedError:
            expected = None
            print(f"{kind.name}: the gguf package cannot dequantise it")
        mine = values[position : position + tensor.n_elements]
        position += tensor.n_elements
        if expected is None:
            continue
        different = (mine.view(np.uint32) != expected.astype(np.float32).view(np.uint32)) & ~(np.isnan(mine) & np.isnan(expected))
        assert not different.any(), (
            f"{name} ({kind.name}): {different.sum()} of {different.size} values differ, at {different.argmax()}: "
            f"{mine[different.argmax()]!r}, gguf {expected[different.argmax()]!r}"
        )
        counts[kind.name] = counts.get(kind.name, 0) + mine.size
    assert position == values.size
    return counts


def small_values(row):
    """Rows of several scales, of zeros, of one sign, constant, and with an outlier."""
    random = np.random.default_rng(7)
    rows = [random.normal(size=row) * scale for scale in (1, 1e-3, 30, 1e-6)]
    rows += [np.zeros(row), np.abs(random.normal(size=row)), -np.abs(random.normal(size=row)), np.full(row, 0.25)]
    rows += [np.where(np.arange(row) == 17, 50, random.normal(size=row)), random.integers(-4, 5, row)]
    return np.stack(rows).astype(np.float32)


def fill_with_noise(model):
    """Overwrites the tensor data with random bytes: every bit pattern a block can have."""
    data = bytearray(model.read_bytes())
    start = min(tensor.data_offset for tensor in gguf.GGUFReader(model).tensors)
    data[start:] = np.random.default_rng(8).bytes(len(data) - start)
    model.write_bytes(data)


def main(tool, model):
    with common.folder() as folder:
        raw, small = Path(folder, "raw"), Path(folder, "small.gguf")
        small_values(512).tofile(raw)
        common.run(tool, "quantize", raw, 512, small)
        counts = compare(tool, small, folder)
        print(f"{len(counts)} types equal: {' '.join(counts)}")
        assert len(counts) >= 25, counts
        fill_with_noise(small)
        print(f"{len(compare(tool, small, folder))} types of random bytes equal")
        if Path(model).exists():
            print(f"{Path(model).name} equal: {compare(tool, model, folder)}")


main(*sys.argv[1:])
