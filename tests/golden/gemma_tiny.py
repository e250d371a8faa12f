"""A small vocabulary of Gemma's kind, trained on the spot, in both files' forms.

`tokenizer.model` is what SentencePiece trains with Gemma's settings; `tokenizer.json`
says the same in the words of the `tokenizers` library.
"""

import io
import json
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

TEXTS = (
    "Lift the red cube above the table.",
    "move the gripper nearer to the blue cube, then close it",
    "detect cube ; gripper",
    "  two  spaces and a\ttab\n\nand lines\n",
    "progress is 37 % (not -12.5 %)",
    "größer, déjà vu, 日本語 and an emoji 🤖",
    "answer en what is the robot arm doing?",
)
CONTROL = ("<pad>", "<eos>", "<bos>")
SYMBOLS = ("<mask>", "<start_of_turn>", "<loc0000>", "<loc0001>", "<seg000>")
IMAGE = "<image>"


def write_folder(folder: Path, *, form: str = "both", vocab_size: int = 420) -> Path:
    """Writes a tokenizer folder: form "model", "json" or "both"."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = _train(vocab_size)
    image = pieces.GetPieceSize()
    if form != "json":
        (folder / "tokenizer.model").write_bytes(pieces.serialized_model_proto())
        (folder / "added_tokens.json").write_text(json.dumps({IMAGE: image}))
    if form != "model":
        _json(pieces).save(str(folder / "tokenizer.json"))
    config = {f"{name[1:-1]}_token": name for name in CONTROL}
    config["added_tokens_decoder"] = {str(image): {"content": IMAGE, "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _train(vocab_size: int) -> sentencepiece.SentencePieceProcessor:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=written,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        model_type="bpe",
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=list(SYMBOLS),
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.LoadFromSerializedProto(written.getvalue())
    return pieces


def _json(pieces: sentencepiece.SentencePieceProcessor) -> tokenizers.Tokenizer:
    names = [pieces.IdToPiece(i) for i in range(pieces.GetPieceSize())]
    vocab = {name: number for number, name in enumerate(names)}
    merges = []
    for number, name in enumerate(names):
        # Trained pieces are in the order in which they were merged; characters follow.
        if number < 4 or pieces.IsByte(number) or name in SYMBOLS:
            continue
        for cut in range(1, len(name)):
            pair = name[:cut], name[cut:]
            if pair[0] in vocab and pair[1] in vocab:
                merges.append(pair)
    made = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_special_tokens([AddedToken(t, normalized=False) for t in CONTROL])
    made.add_tokens([AddedToken(t, normalized=False) for t in SYMBOLS])
    made.add_special_tokens([AddedToken(IMAGE, normalized=False)])
    return made
