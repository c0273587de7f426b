"""Files by the `safetensors` and `numpy` packages through our readers and writers (tensor_tool): equal contents, and for
safetensors equal bytes; what the packages refuse, we refuse."""
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import numpy as np
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file
except ImportError as error:
    print(f"skipped: {error} (tools/setup.sh peers)")
    sys.exit(77)

tool, folder = sys.argv[1], Path(tempfile.mkdtemp(prefix="unbend-parity-"))


def through(path):
    out = path.with_name("out" + path.suffix)
    subprocess.run([tool, path, out], check=True)
    return out


def refuses(path):
    return subprocess.run([tool, path, path.with_name("out" + path.suffix)], capture_output=True).returncode == 3


def check_safetensors():
    types = "bool uint8 int8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 float8_e4m3fn float8_e5m2".split()
    tensors = {f"t.{name}": (torch.randn(3, 5) * 20).abs().to(getattr(torch, name)) for name in types}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), 'quoted "\\é\n': torch.arange(7), "a/1": torch.randn(2, 2)}
    path = folder / "t.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file(tensors, path, metadata)
        out = through(path)
        assert out.read_bytes() == path.read_bytes(), "other bytes than the safetensors package"
        back = load_file(out)
        assert back.keys() == tensors.keys() and all(back[k].dtype == t.dtype and torch.equal(back[k].view(torch.uint8) if t.dim() else back[k],
                                                     t.view(torch.uint8) if t.dim() else t) for k, t in tensors.items())
    metadata = {f"key {i}": "é" * i for i in range(9)}
    save_file(tensors, path, metadata)
    with safe_open(through(path), "pt") as file:
        assert file.metadata() == metadata


def check_refusals():
    good = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]}}
    changes = [("a", "dtype", "F31"), ("a", "shape", [3]), ("a", "shape", [-2]), ("a", "data_offsets", [8, 0]), ("b", "data_offsets", [7, 10]),
               ("b", "data_offsets", [9, 12]), ("b", "shape", [2**40, 2**40]), ("b", "shape", "3")]
    path = folder / "r.safetensors"
    for change in [None, *changes]:
        header = json.loads(json.dumps(good))
        if change:
            header[change[0]][change[1]] = change[2]
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 11)
        try:
            load_file(path)
            theirs = False
        except (SafetensorError, ValueError, OverflowError):
            theirs = True
        assert theirs == refuses(path) == (change is not None), change


def check_npy():
    path = folder / "t.npy"
    for kind in "?bBhHiIqQefd":
        for array in (np.arange(24).astype(kind), np.arange(24).astype(kind).reshape(2, 3, 4), np.array(3).astype(kind), np.zeros((0, 3), kind)):
            for order in (array, np.asfortranarray(array), array[::-1] if array.ndim else array):
                np.save(path, order)
                back = np.load(through(path))
                assert back.dtype == array.dtype and np.array_equal(back, order), (kind, array.shape)
    for version in ((1, 0), (2, 0), (3, 0)):
        with open(path, "wb") as file:
            np.lib.format.write_array(file, np.arange(6.0), version)
        assert np.array_equal(np.load(through(path)), np.arange(6.0))
    np.save(path, np.arange(6.0))
    assert through(path).read_bytes() == path.read_bytes(), "other bytes than numpy.save"
    for bad in (np.arange(3, dtype=">f4"), np.zeros(2, "c8"), np.array(["text"]), np.array([{}], dtype=object), np.zeros(2, [("x", "f4")])):
        np.save(path, bad)
        assert refuses(path), bad.dtype


torch.manual_seed(1)
check_safetensors()
check_refusals()
check_npy()
print("safetensors and .npy files: equal")
