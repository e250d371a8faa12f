"""Qwen's real vocabulary as a tokenizer.json, from the ranks in the package dashscope.

Byte-pair ranks say which pieces exist and in which order they were learned. The merge
that made a piece is found by running BPE on it with the earlier ranks only: two parts
remain.
"""

import base64
import importlib.util
import json
from pathlib import Path

SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> "
    "<|box_start|> <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> "
    "<|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
# Matched before BPE as well, but kept when special tokens are skipped.
ADDED = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> "
    "<|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>"
).split()
# How Qwen2 and later split a text before BPE: contractions, words with one leading
# sign, single digits, signs, line ends, blanks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_ranks() -> dict[bytes, int]:
    """Piece -> rank. ImportError where dashscope is not installed."""
    found = importlib.util.find_spec("dashscope")
    if found is None:
        raise ImportError("dashscope is not installed")
    path = Path(found.origin).parent / "resources/qwen.tiktoken"
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(piece): int(rank) for piece, rank in lines}


def tokenizer_json(ranks: dict[bytes, int], count: int | None = None) -> dict:
    """The content of a tokenizer.json.

    Args:
      ranks: piece -> rank, without gaps.
      count: keep this many pieces; all if None.
    """
    pieces = sorted(ranks, key=ranks.__getitem__)[:count]
    letters = _byte_letters()
    write = lambda piece: "".join(letters[b] for b in piece)  # noqa: E731
    merges = [
        [write(part) for part in _parts(ranks, piece)]
        for piece in pieces
        if len(piece) > 1
    ]
    added = [
        {
            "id": len(pieces) + n,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token in SPECIAL,
        }
        for n, token in enumerate([*SPECIAL, *ADDED])
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": SPLIT},
                    "behavior": "Isolated",
                    "invert": False,
                },
                byte_level,
            ],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {write(piece): n for n, piece in enumerate(pieces)},
            "merges": merges,
        },
    }


def write_folder(folder: Path, content: dict) -> Path:
    """Writes tokenizer.json and tokenizer_config.json of a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_prefix_space": False,
        "model_max_length": 262144,
        "additional_special_tokens": SPECIAL[1:],
        "added_tokens_decoder": {
            str(t["id"]): {k: v for k, v in t.items() if k != "id"}
            for t in content["added_tokens"]
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _parts(ranks: dict[bytes, int], piece: bytes) -> list[bytes]:
    parts = [bytes([b]) for b in piece]
    while len(parts) > 2:
        pairs = [a + b for a, b in zip(parts, parts[1:], strict=False)]
        known = [(ranks[p], i) for i, p in enumerate(pairs) if p in ranks]
        known = [k for k in known if k[0] < ranks[piece]]
        _, best = min(known)
        parts[best : best + 2] = [pairs[best]]
    return parts


def _byte_letters() -> dict[int, str]:
    """The letter that byte-level BPE writes for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}
