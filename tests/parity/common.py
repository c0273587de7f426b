"""What the parity scripts share."""
import struct
import subprocess
import sys
import tempfile
from pathlib import Path


def need(*modules):
    """Exits with CTest's code for a skipped test if a peer is not installed."""
    for module in modules:
        try:
            __import__(module)
        except ImportError as error:
            print(f"skipped: {error} (tools/setup.sh peers)")
            sys.exit(77)


def need_file(path):
    if not Path(path).exists():
        print(f"skipped: {path} is missing (tools/setup.sh model)")
        sys.exit(77)


def run(tool, *arguments):
    """Runs a command of engine_tool; returns what it prints."""
    result = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, arguments))[:200]}: exit code {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def folder():
    return tempfile.TemporaryDirectory(prefix="unbend-parity-")


def encode(tool, model, texts, special=False):
    """Token ids by libllama of each of `texts` (bytes)."""
    import numpy as np

    with folder() as name:
        texts_file, ids_file = Path(name, "texts"), Path(name, "ids")
        texts_file.write_bytes(b"".join(struct.pack("<I", len(text)) + text for text in texts))
        run(tool, "encode", model, texts_file, ids_file, int(special))
        ids = np.fromfile(ids_file, np.int32).tolist()
    result, position = [], 0
    while position < len(ids):
        result.append(ids[position + 1 : position + 1 + ids[position]])
        position += 1 + ids[position]
    assert len(result) == len(texts)
    return result


def logits(tool, model, ids, threads=2):
    """Logits [tokens, vocabulary] by libllama."""
    import numpy as np

    with folder() as name:
        ids_file, logits_file = Path(name, "ids"), Path(name, "logits")
        np.asarray(ids, np.int32).tofile(ids_file)
        run(tool, "logits", model, ids_file, logits_file, threads)
        return np.fromfile(logits_file, np.float32).reshape(len(ids), -1)


def hugging_face_tokenizer(model, special=True):
    """The `tokenizers` object of a GGUF file with SmolLM2's pre-tokenizer: digits one by one, then byte level.
    Without `special`, special tokens are plain text."""
    import gguf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    fields = gguf.GGUFReader(model).fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    texts = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if special:
        control = [text for text, kind in zip(texts, types) if kind == gguf.TokenType.CONTROL]
        tokenizer.add_special_tokens([AddedToken(text, special=True) for text in control])
    return tokenizer
