"""Makes tests/fuzz/seeds/gguf: small models of every metadata type and every tensor type.

Usage: PYTHONPATH=build/third_party/llama.cpp/gguf-py python tests/fuzz/make_gguf_seeds.py
"""
from pathlib import Path

import gguf
import numpy as np

SEEDS = Path(__file__).parent / "seeds" / "gguf"


def write(name, fill, **options):
    writer = gguf.GGUFWriter(SEEDS / f"{name}.gguf", "llama", **options)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def metadata(writer):
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", "bool"):
        getattr(writer, f"add_{kind}")(f"a.{kind}", 1)
    writer.add_string("a.string", "text")
    writer.add_array("a.integers", [1, -2, 3])
    writer.add_array("a.reals", [0.5, 2.0])
    writer.add_array("a.flags", [True, False])
    writer.add_array("a.strings", ["one", "", "three"])


def tensors(kinds):
    def fill(writer):
        random = np.random.default_rng(3)
        for kind in kinds:
            block, size = gguf.GGML_QUANT_SIZES[kind]
            data = np.frombuffer(random.bytes(2 * size), np.uint8).reshape(2, size)
            writer.add_tensor(kind.name, data, raw_dtype=kind)

    return fill


def custom_alignment(writer):
    writer.add_custom_alignment(64)
    writer.add_tensor("a", np.arange(6, dtype=np.float32).reshape(1, 2, 3))


SEEDS.mkdir(parents=True, exist_ok=True)
write("metadata", metadata)
write("alignment", custom_alignment)
whole = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F64)
kinds = [kind for kind in gguf.GGMLQuantizationType if kind not in whole]
for start in range(0, len(kinds), 6):
    write(f"tensors-{start // 6}", tensors(kinds[start : start + 6]))
