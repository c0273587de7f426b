"""Makes tests/fuzz/seeds/gguf: small files of every metadata type and every tensor type; seeds/model: models that run.

Usage: PYTHONPATH=build/third_party/llama.cpp/gguf-py python tests/fuzz/make_gguf_seeds.py
"""
from pathlib import Path

import gguf
import numpy as np

SEEDS = Path(__file__).parent / "seeds"


def write(name, fill, family="llama", **options):
    (SEEDS / name).parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(SEEDS / f"{name}.gguf", family, **options)
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


def model(mixer=None, options="{}", bias=False):
    """One layer, 2 heads of 4 that share one key head, 5 tokens."""
    def fill(writer):
        writer.add_block_count(1)
        writer.add_embedding_length(8)
        writer.add_head_count(2)
        writer.add_head_count_kv(1)
        writer.add_feed_forward_length(8)
        writer.add_context_length(16)
        writer.add_layer_norm_rms_eps(1e-5)
        if mixer:
            writer.add_array("unbend.mixers", [mixer])
            writer.add_string("unbend.options", options)
        random = np.random.default_rng(4)
        tensor = lambda name, *shape: writer.add_tensor(name, random.standard_normal(shape, dtype=np.float32))
        tensor("token_embd.weight", 5, 8)
        tensor("output_norm.weight", 8)
        for name, *shape in (("attn_norm", 8), ("attn_q", 8, 8), ("attn_k", 4, 8), ("attn_v", 4, 8), ("attn_output", 8, 8),
                             ("ffn_norm", 8), ("ffn_gate", 8, 8), ("ffn_up", 8, 8), ("ffn_down", 8, 8)):
            tensor(f"blk.0.{name}.weight", *shape)
        if bias:
            for name, width in (("q", 8), ("k", 4), ("v", 4)):
                tensor(f"blk.0.attn_{name}.bias", width)
        if mixer == "hybrid":
            tensor("blk.0.mixer.query_map", 2, 4, 2)
            tensor("blk.0.mixer.key_map", 1, 4, 2)
            tensor("blk.0.mixer.log_scale", 2)
            tensor("blk.0.mixer.gate_weight", 1, 8)
            tensor("blk.0.mixer.gate_bias", 1)

    return fill


write("gguf/metadata", metadata)
write("gguf/alignment", custom_alignment)
write("model/softmax", model())
write("model/biases", model(bias=True), "qwen2")
write("model/window", model("window", '{"window": 2, "sinks": 1}'))
write("model/hybrid", model("hybrid", '{"window": 2, "sinks": 1, "state_heads": "kv", "gate": true, "linear": true}'))
whole = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F64)
kinds = [kind for kind in gguf.GGMLQuantizationType if kind not in whole]
for start in range(0, len(kinds), 6):
    write(f"gguf/tensors-{start // 6}", tensors(kinds[start : start + 6]))
