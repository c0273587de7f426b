"""Token ids of 25,000 strings are equal to Hugging Face `tokenizers`, up to differences of a known cause.

Usage: tokens.py ENGINE_TOOL MODEL
"""
import random
import sys
import unicodedata

import common

common.need("numpy", "gguf", "tokenizers")

SCRIPTS = {  # first and last code point of ranges with letters
    "latin": (0x41, 0x24F), "greek": (0x370, 0x3FF), "cyrillic": (0x400, 0x52F), "armenian": (0x531, 0x58F),
    "hebrew": (0x590, 0x5FF), "arabic": (0x600, 0x6FF), "devanagari": (0x900, 0x97F), "bengali": (0x980, 0x9FF),
    "tamil": (0xB80, 0xBFF), "thai": (0xE00, 0xE7F), "tibetan": (0xF00, 0xFFF), "georgian": (0x10A0, 0x10FF),
    "hangul": (0xAC00, 0xD7A3), "ethiopic": (0x1200, 0x137F), "khmer": (0x1780, 0x17FF), "kana": (0x3040, 0x30FF),
    "han": (0x4E00, 0x9FFF), "gothic": (0x10330, 0x1034A), "mathematical": (0x1D400, 0x1D7FF),
    "emoji": (0x1F300, 0x1FAFF), "symbols": (0x2000, 0x2BFF), "combining": (0x300, 0x36F),
}
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\t\t", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\v", "\f", "\x85", "\ufeff"]
CODE = ["def f(x):\n    return x**2\n", "for (int i = 0; i < n; ++i) {\n\ta[i] += b[i];\n}", "#include <vector>", "SELECT * FROM t WHERE id=42;",
        "x=1;y=2;", "<a href=\"https://example.org/?q=1&r=2\">", "{\"key\": [1, 2.5e-3, null]}", "if not x:\n\t\tpass", "__init__", "camelCaseName",
        "snake_case_name", "0xDEADBEEF", "1e-10", "->", "=>", "!==", "/* comment */", "// TODO", "$HOME/bin", "\\frac{a}{b}"]
ENGLISH = ["the", "I'm", "you'll", "they've", "it's", "WE'RE", "don't", "Dogs", "linearization", "Attention", "is", "all", "you", "need", "state-of-the-art",
           "U.S.A.", "3.14159", "2024", "1,000,000", "50%", "e.g.", "(see", "below)", "\"quoted\"", "'single'", "...", "!?", "naïve", "café", "co-operate"]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "🏳️‍🌈", "🦙", "☃", "✈️", "👨🏿‍🚀"]


def character(rng, low, high):
    while True:
        code = rng.randint(low, high)
        if unicodedata.category(chr(code)) != "Cs":
            return chr(code)


def word(rng):
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(ENGLISH)
    if kind < 0.65:
        low, high = SCRIPTS[rng.choice(list(SCRIPTS))]
        return "".join(character(rng, low, high) for _ in range(rng.randint(1, 8)))
    if kind < 0.75:
        return rng.choice(CODE)
    if kind < 0.82:
        return rng.choice(EMOJI)
    if kind < 0.9:
        return str(rng.randint(0, 10 ** rng.randint(1, 12)))
    if kind < 0.95:
        return "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(1, 10)))
    return character(rng, 0, 0x10FFFF)


def text(rng):
    parts = []
    for _ in range(rng.randint(1, 12)):
        parts.append(word(rng))
        if rng.random() < 0.8:
            parts.append(" " if rng.random() < 0.6 else rng.choice(SPACES))
    return "".join(parts)


def damaged(rng):
    """UTF-8 with bytes replaced, removed, or cut off."""
    data = bytearray(text(rng).encode())
    for _ in range(rng.randint(1, 3)):
        if data:
            data[rng.randrange(len(data))] = rng.randint(0x80, 0xFF)
    return bytes(data[: rng.randint(0, len(data))])


def compare(tool, model, peer, what, texts, strings, special=False):
    """Token ids of `texts` (bytes) by libllama against those of `strings` by `peer`; returns the strings that differ."""
    mine = common.encode(tool, model, texts, special)
    theirs = [encoding.ids for encoding in peer.encode_batch(strings, add_special_tokens=False)]
    different = [(string, a, b) for string, a, b in zip(strings, mine, theirs) if a != b]
    print(f"{what}: {len(strings)} strings, {sum(map(len, mine))} tokens, {len(different)} differ")
    return different


def missing_bytes(peer):
    """The bytes of which the byte-level vocabulary has no token."""
    from tokenizers import pre_tokenizers

    # The alphabet stands for the bytes in the order: printable Latin-1 as itself, then the others from U+0100.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    assert set(letters.values()) == set(pre_tokenizers.ByteLevel.alphabet())
    return {byte for byte, letter in letters.items() if peer.token_to_id(letter) is None}


def main(tool, model):
    common.need_file(model)
    rng = random.Random(20240612)
    peer = common.hugging_face_tokenizer(model, special=False)
    strings = [text(rng) for _ in range(20000)] + ENGLISH + CODE + EMOJI + SPACES + [""]
    different = compare(tool, model, peer, "valid UTF-8", [s.encode() for s in strings], strings)
    texts = [damaged(rng) for _ in range(4000)]
    different += compare(tool, model, peer, "damaged UTF-8", texts, [t.decode(errors="replace") for t in texts])
    peer = common.hugging_face_tokenizer(model, special=True)
    marks = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start", "<repo_name>"]
    strings = ["".join(rng.choice(marks) + text(rng) for _ in range(3)) for _ in range(1000)]
    different += compare(tool, model, peer, "with special tokens", [s.encode() for s in strings], strings, special=True)
    missing = missing_bytes(peer)
    for string, mine, theirs in different:
        assert missing.intersection(string.encode()), f"{string!a}: {mine}, tokenizers {theirs}"
    names = " ".join(f"{byte:02X}" for byte in sorted(missing))
    print(f"all {len(different)} that differ have one of the bytes {names}, for which the vocabulary has no token:")
    print("tokenizers drops such a byte before it merges its neighbours, libllama after it")


main(*sys.argv[1:])
