"""Text to token ids and back with Gemma's SentencePiece vocabulary.

Everything comes from a Hugging Face folder: `tokenizer.json`, or where there is none
`tokenizer.model` with the tokens added to it in `added_tokens.json` or
`tokenizer_config.json`. Both give the same ids. Ids of special tokens are looked up by
name. Spaces are kept as they are: nothing is stripped and none is put in front.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece
import tokenizers

from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.tokenizers.padding import pad_rows
from soler1_jax.tokenizers.qwen import read_json

PAD, EOS, BOS, IMAGE = "<pad>", "<eos>", "<bos>", "<image>"


class GemmaTokenizer:
    """The vocabulary of a Gemma or PaliGemma checkpoint.

    Attributes:
      vocab_size: one more than the largest id; the model's table may have more rows.
      special_ids: token -> id, for every token that is matched before the pieces.
      bos_id, eos_id, pad_id: ids of the folder's tokens of these names.
      image_id: id that stands for one patch of a picture; None if there is none.
    """

    def __init__(self, folder: str | Path) -> None:
        """Reads the folder's tokenizer and, where there is one, its config.

        Raises:
          UserError: a file is missing or unreadable, two of them disagree, or the tokens
            of beginning, end and padding are not in the vocabulary.
        """
        folder = Path(folder)
        config = read_json(folder / "tokenizer_config.json", optional=True)
        added = _added(folder, config)
        if (folder / "tokenizer.json").is_file():
            self._path = folder / "tokenizer.json"
            self._backend: _Backend = _Json(self._path)
        elif (folder / "tokenizer.model").is_file():
            self._path = folder / "tokenizer.model"
            self._backend = _Model(self._path, added)
        else:
            raise UserError(
                "a Gemma tokenizer is a tokenizer.json or a tokenizer.model; "
                f"{folder} has neither; give the folder of a Hugging Face checkpoint"
            )
        for name, number in added.items():
            if self._backend.find(name) != number:
                raise UserError(
                    f"the files of a tokenizer must agree; {name} is "
                    f"{self._backend.find(name)} in {self._path} and {number} beside it; "
                    "take all from one checkpoint"
                )
        self.special_ids: Mapping[str, int] = self._backend.special_ids
        self.vocab_size = self._backend.vocab_size
        names = {
            kind: _content(config.get(f"{kind}_token")) or usual
            for kind, usual in (("bos", BOS), ("eos", EOS), ("pad", PAD))
        }
        self.bos_id, self.eos_id, self.pad_id = map(self.token_id, names.values())
        self.bos_token = names["bos"]
        self.image_id = self._backend.find(IMAGE)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; special tokens in it become their ids."""
        return self._backend.encode(text)

    def decode(
        self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = False
    ) -> str:
        """Returns the text of ids.

        Args:
          ids: integers [L]; rows of the model's table beyond the vocabulary give "".
          skip_special: leave out pictures, padding, beginning and end.
        """
        numbers = np.asarray(ids, np.int64).reshape(-1).tolist()
        known = [number for number in numbers if 0 <= number < self.vocab_size]
        return self._backend.decode(known, skip_special)

    def token_id(self, token: str) -> int:
        """Returns the id of one token in its written form; UserError if unknown."""
        found = self._backend.find(token)
        if found is None:
            raise UserError(
                f"a token must be in the vocabulary of {self._path}; got {token!r}"
                f"{nearest_hint(token, self.special_ids)}"
            )
        return found

    def piece(self, token: int) -> str:
        """Returns the written form of one id; "" beyond the vocabulary."""
        number = int(token)
        return self._backend.piece(number) if 0 <= number < self.vocab_size else ""

    def encode_batch(
        self, texts: Sequence[str], length: int, *, left: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes texts to one length.

        Args:
          texts: B texts.
          length: L, ids of each.
          left: pad on the left, so that every row ends where decoding begins.

        Returns:
          ids int32 [B, L] and mask bool [B, L].

        Raises:
          UserError: a text has more than `length` tokens.
        """
        rows = [self.encode(text) for text in texts]
        return pad_rows(rows, texts, length, pad_id=self.pad_id, left=left)


class _Backend(Protocol):
    """What reads one of the two files."""

    vocab_size: int
    special_ids: Mapping[str, int]

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int], skip_special: bool) -> str: ...

    def find(self, token: str) -> int | None: ...

    def piece(self, token: int) -> str: ...


class _Json:
    """A `tokenizer.json`."""

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises the bare class
            raise _unreadable(path, error) from error
        # Padding and cutting belong to whoever makes batches.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_ids = {token.content: number for number, token in added.items()}
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int], skip_special: bool) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special)

    def find(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def piece(self, token: int) -> str:
        return self._tokenizer.id_to_token(token) or ""


class _Model:
    """A `tokenizer.model` and the tokens added to it."""

    def __init__(self, path: Path, added: Mapping[str, int]) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(path.read_bytes())
        except RuntimeError as error:
            raise _unreadable(path, error) from error
        count = self._pieces.GetPieceSize()
        # SentencePiece never finds its own control tokens in a text.
        control = {
            self._pieces.IdToPiece(i): i
            for i in range(count)
            if self._pieces.IsControl(i)
        }
        self.special_ids = control | {
            name: number for name, number in added.items() if not self._has(name)
        }
        self.vocab_size = max(count, 1 + max(self.special_ids.values(), default=0))
        self._names = {number: name for name, number in self.special_ids.items()}
        # The longest first, so that no token hides one that starts with it.
        longest = sorted(self.special_ids, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest)) + ")")

    def _has(self, name: str) -> bool:
        # Unknown pieces share an id.
        return self._pieces.IdToPiece(self._pieces.PieceToId(name)) == name

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._split.split(text):
            if part in self.special_ids:
                ids.append(self.special_ids[part])
            elif part:
                ids += self._pieces.EncodeAsIds(part)
        return ids

    def decode(self, ids: list[int], skip_special: bool) -> str:
        text, words = "", []
        for number in ids:
            if number not in self._names:
                words.append(number)
                continue
            text, words = text + self._pieces.DecodeIds(words), []
            text += "" if skip_special else self._names[number]
        return text + self._pieces.DecodeIds(words)

    def find(self, token: str) -> int | None:
        if token in self.special_ids:
            return self.special_ids[token]
        return self._pieces.PieceToId(token) if self._has(token) else None

    def piece(self, token: int) -> str:
        if token in self._names:
            return self._names[token]
        known = token < self._pieces.GetPieceSize()
        return self._pieces.IdToPiece(token) if known else ""


def _added(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Tokens and ids that the files beside the vocabulary name."""
    found = dict(read_json(folder / "added_tokens.json", optional=True))
    for number, token in config.get("added_tokens_decoder", {}).items():
        found[_content(token)] = int(number)
    return found


def _content(token: Any) -> str | None:
    """The written form of a token that a config gives as text or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else "no reason given"
    return UserError(
        f"a {path.name} must be readable; {path} is not ({reason}); copy it again"
    )
