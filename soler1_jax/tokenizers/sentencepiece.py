"""Text to token ids and back with a SentencePiece model.

Fixed ids: 0 padding, 1 unknown, 2 beginning, 3 end, 4 to 8 the markers of a completion,
then the two signs and the ten digits, each always a token of its own.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from soler1_jax.common.errors import UserError, disk_errors

PAD, UNK, BOS, EOS = 0, 1, 2, 3
MARKERS = ("<think>", "</think>", "<answer>", "</answer>", "<image>")
THINK, END_THINK, ANSWER, END_ANSWER, IMAGE = range(4, 9)
_MARKER = re.compile("(" + "|".join(MARKERS) + ")")
PLUS, MINUS = 9, 10
FIRST_DIGIT = 11
SPECIAL_COUNT = 21

# Any English sentence can be written, whatever the training text was.
_LETTERS = "".join(c for c in map(chr, range(33, 127)) if c not in "+-0123456789")


class Tokenizer:
    """A trained vocabulary.

    Attributes:
      vocab_size: number of ids, V.
      model: the serialised SentencePiece model.
      pad_id, eos_id, answer_id: fixed ids, for callers that know tokenizers by protocol.
    """

    pad_id, eos_id, answer_id = PAD, EOS, ANSWER

    def __init__(self, path: str | Path) -> None:
        """Reads a `tokenizer.model`; UserError if it is missing or not one of ours."""
        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"a tokenizer is a file; {path} is not there; check the path"
            )
        self.model = path.read_bytes()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.model)
        except RuntimeError as error:
            raise UserError(
                f"a tokenizer is a SentencePiece model; {path} cannot be read; "
                "restore the file"
            ) from error
        found = [self._processor.PieceToId(m) for m in MARKERS]
        if found != [THINK, END_THINK, ANSWER, END_ANSWER, IMAGE]:
            raise UserError(
                f"the tokenizer needs {' '.join(MARKERS)} as ids 4 to 8; {path} has "
                f"{found}; train one with train_tokenizer"
            )
        self.vocab_size = self._processor.GetPieceSize()
        self._space = self._processor.PieceToId("\u2581")

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without beginning and end.

        What stands between two markers is encoded alone, so that spaces around a marker
        make no difference.
        """
        ids: list[int] = []
        for part in _MARKER.split(text):
            if part in MARKERS:
                ids.append(THINK + MARKERS.index(part))
                continue
            tokens = self._processor.EncodeAsIds(part)
            ids += tokens[1:] if tokens[:1] == [self._space] else tokens
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of ids up to the first end or padding."""
        text, words = "", []
        for token in [*np.asarray(ids).tolist(), EOS]:
            if token not in (PAD, EOS) and not THINK <= token <= IMAGE:
                words.append(token)
                continue
            text, words = text + self._processor.DecodeIds(words), []
            if token in (PAD, EOS):
                break
            text += MARKERS[token - THINK]
        return text

    def piece(self, token: int) -> str:
        """Returns the written form of one id."""
        return self._processor.IdToPiece(int(token))

    def encode_batch(
        self, texts: Sequence[str], length: int, *, end: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes texts to one length, padded on the right.

        Args:
          texts: B texts.
          length: L, ids kept of each.
          end: append the end token.

        Returns:
          ids int32 [B, L] and mask bool [B, L].

        Raises:
          UserError: a text has more than `length` tokens.
        """
        ids = np.zeros((len(texts), length), np.int32)
        mask = np.zeros((len(texts), length), bool)
        for row, text in enumerate(texts):
            tokens = self.encode(text) + ([EOS] if end else [])
            if len(tokens) > length:
                raise UserError(
                    f"a text may have {length} tokens here; {text[:60]!r} has "
                    f"{len(tokens)}; shorten it"
                )
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask

    def save(self, path: str | Path) -> None:
        """Writes the SentencePiece model."""
        with disk_errors(path):
            Path(path).write_bytes(self.model)


def train_tokenizer(
    texts: Iterable[str], path: str | Path, vocab_size: int
) -> Tokenizer:
    """Learns a vocabulary and writes it.

    Args:
      texts: sentences; markers in them are recognised.
      path: file to write.
      vocab_size: upper bound; a small text gives fewer pieces.

    Returns:
      The tokenizer.
    """
    lines = [part for text in texts for part in _parts(text)]
    if not lines:
        raise UserError("a tokenizer learns from texts; got none; give some sentences")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        vocab_size=vocab_size,
        model_type="bpe",
        hard_vocab_limit=False,
        split_digits=True,
        character_coverage=1.0,
        required_chars=_LETTERS,
        user_defined_symbols=[*MARKERS, "+", "-", *"0123456789"],
        pad_id=PAD,
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        num_threads=1,
        minloglevel=2,
    )
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written.getvalue())
    return Tokenizer(path)


def _parts(text: str) -> list[str]:
    lines = _MARKER.sub("\n", text).splitlines()
    return [line.strip() for line in lines if line.strip()]
