"""A small Llama made by `transformers` goes through `import` and gives the same logits by libllama and by our decoder, and the same ids.

Usage: imported.py ENGINE_TOOL MODEL UNBEND    (MODEL lends its vocabulary)
"""
import shutil
import sys
from pathlib import Path

import common

common.need("numpy", "torch", "transformers", "safetensors", "sentencepiece", "gguf")
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = "def f(x):\n    return 3 * x  # Grüße, 世界 🦙 2024"


def save_model(model, folder):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=common.hugging_face_tokenizer(model), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=False,
    )
    teacher = LlamaForCausalLM(config).eval()
    for parameter in teacher.parameters():  # weights of a scale at which attention and activations matter
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.3 if parameter.dim() == 1 else 0.15)
    teacher.save_pretrained(folder)
    return tokenizer, teacher


def refused(tool, arguments, reason):
    """Whether a run of the tool fails with exit code 3 and a message that holds `reason`."""
    import subprocess

    result = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 3 and reason in result.stderr, (result.returncode, result.stderr)
    assert result.stderr.count("\n") == 1, result.stderr


def main(tool, model, unbend):
    common.need_file(model)
    with common.folder() as name:
        folder, out = Path(name, "hf"), Path(name, "out {ftype}.gguf")
        tokenizer, teacher = save_model(model, folder)
        ids = tokenizer.encode(TEXT)
        common.run(tool, "import", folder, out, "f32")
        assert common.encode(tool, out, [TEXT.encode()]) == [ids]

        mine = common.logits(tool, out, ids)
        with torch.no_grad():
            expected = teacher(torch.tensor([ids])).logits[0].numpy()
        difference = np.abs(mine - expected).max()
        print(f"{len(ids)} tokens, logits of standard deviation {expected.std():.2f}: largest difference {difference:.1e}")
        assert expected.std() > 0.5 and difference < 1e-4, difference

        np.save(Path(name, "ids.npy"), np.array(ids, dtype=np.int64))
        common.run(unbend, "lm", "logits", out, "--ids", Path(name, "ids.npy"), "--out", Path(name, "logits.npy"), "--backend", "torch")
        difference = np.abs(np.load(Path(name, "logits.npy")) - expected).max()
        print(f"decoder on LibTorch: largest difference {difference:.1e}")
        assert difference < 1e-4, difference
        Path(name, "ids.npy").unlink(), Path(name, "logits.npy").unlink()

        # Rounding errors of weights and activations, root mean square relative to theirs: 2^-9 / sqrt(3) of bf16; for a
        # block of q8_0 its maximum (2.1 standard deviations) / 127 / sqrt(12). They grow over two layers by less than 20.
        for kind, rounding in (("bf16", 0.0011), ("q8_0", 0.0048)):
            common.run(tool, "import", folder, out, kind)
            error = np.sqrt(np.mean((common.logits(tool, out, ids) - expected) ** 2)) / expected.std()
            print(f"{kind}: root mean square of the difference {error:.4f} standard deviations")
            assert rounding < error < 20 * rounding, (kind, error)

        rewritten = Path(name, "f32.gguf")
        common.run(tool, "rewrite", out, rewritten)
        assert rewritten.stat().st_size > out.stat().st_size
        assert common.encode(tool, rewritten, [TEXT.encode()]) == [ids]

        out.unlink()
        (folder / "config.json").rename(folder / "config.kept")
        (folder / "config.json").write_text('{"architectures": ["NobodysModel"], "model_type": "nobody"}')
        refused(tool, ["import", folder, out, "f32"], "NobodysModel")
        shutil.move(folder / "config.kept", folder / "config.json")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        refused(tool, ["import", folder, out, "f32"], "the converter failed")
        assert sorted(p.name for p in Path(name).iterdir()) == ["f32.gguf", "hf"]


main(*sys.argv[1:])
