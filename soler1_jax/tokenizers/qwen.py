"""Text to token ids and back with Qwen's byte-level BPE.

Everything comes from a Hugging Face folder: `tokenizer.json` holds vocabulary, merges,
normaliser and pre-tokenizer, `tokenizer_config.json` says which tokens end a text and
fill a batch. Ids of special tokens are looked up by name, since fine-tuned checkpoints
add tokens and shrink or grow the table.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from soler1_jax.common.errors import UserError, nearest_hint
from soler1_jax.tokenizers.padding import pad_rows

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
_NEEDED = (IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)


class QwenTokenizer:
    """The vocabulary of a Qwen checkpoint.

    Attributes:
      vocab_size: one more than the largest id; the model's table may have more rows.
      special_ids: added token -> id, for every token that is matched before BPE.
      eos_id, pad_id: ids of the `eos_token` and `pad_token` of the folder.
      im_start_id, im_end_id: ids around a turn.
      vision_start_id, vision_end_id: ids around the patches of a picture.
      image_pad_id, video_pad_id: ids that stand for one merged patch.
    """

    def __init__(self, folder: str | Path) -> None:
        """Reads `tokenizer.json` and, where there is one, `tokenizer_config.json`.

        Raises:
          UserError: a file is missing or unreadable, the two disagree, or the chat
            and vision tokens are not in the vocabulary.
        """
        self._path = Path(folder) / "tokenizer.json"
        if not self._path.is_file():
            raise UserError(
                f"a Qwen tokenizer is a tokenizer.json; {folder} has none; "
                "give the folder of a Hugging Face checkpoint"
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(self._path))
        except Exception as error:  # the library raises the bare class
            reason = str(error).splitlines()[0] if str(error) else "no reason given"
            raise UserError(
                f"a tokenizer.json must be readable; {self._path} is not ({reason}); "
                "copy it again"
            ) from error
        # Padding and cutting belong to whoever makes batches.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.special_ids: Mapping[str, int] = {
            token.content: number
            for number, token in self._tokenizer.get_added_tokens_decoder().items()
        }
        missing = [token for token in _NEEDED if token not in self.special_ids]
        if missing:
            raise UserError(
                f"a Qwen vision-language tokenizer has {' '.join(_NEEDED)} as added "
                f"tokens; {self._path} lacks {' '.join(missing)}; "
                "take the tokenizer.json of a Qwen2-VL, 2.5-VL or 3-VL checkpoint"
            )
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())
        config = read_json(Path(folder) / "tokenizer_config.json", optional=True)
        self._check_added(config)
        self.eos_id = self.token_id(_content(config.get("eos_token")) or IM_END)
        self.pad_id = self.token_id(_content(config.get("pad_token")) or IM_END)
        self.im_start_id, self.im_end_id = map(self.token_id, (IM_START, IM_END))
        self.vision_start_id = self.token_id(VISION_START)
        self.vision_end_id = self.token_id(VISION_END)
        self.image_pad_id, self.video_pad_id = map(
            self.token_id, (IMAGE_PAD, VIDEO_PAD)
        )

    def _check_added(self, config: Mapping[str, Any]) -> None:
        """Raises UserError where the two files give a token two ids."""
        for number, token in config.get("added_tokens_decoder", {}).items():
            name = _content(token)
            found = self.special_ids.get(name)
            if found != int(number):
                raise UserError(
                    f"tokenizer.json and tokenizer_config.json must agree; {name} is "
                    f"{found} in the first and {number} in the second under "
                    f"{self._path.parent}; take both from one checkpoint"
                )

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; special tokens in it become their ids."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(
        self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = False
    ) -> str:
        """Returns the text of ids.

        Args:
          ids: integers [L]; rows of the model's table beyond the vocabulary give "".
          skip_special: leave out turn and vision tokens, padding and the end.
        """
        numbers = np.asarray(ids, np.int64).reshape(-1).tolist()
        return self._tokenizer.decode(numbers, skip_special_tokens=skip_special)

    def token_id(self, token: str) -> int:
        """Returns the id of one token in its written form; UserError if unknown."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise UserError(
                f"a token must be in the vocabulary; got {token!r}"
                f"{nearest_hint(token, self.special_ids)}"
            )
        return found

    def piece(self, token: int) -> str:
        """Returns the written form of one id; "" beyond the vocabulary."""
        return self._tokenizer.id_to_token(int(token)) or ""

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
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        rows = [encoding.ids for encoding in found]
        return pad_rows(rows, texts, length, pad_id=self.pad_id, left=left)


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.
      optional: return {} where there is no such file.

    Raises:
      UserError: missing, not JSON, or not an object.
    """
    if not path.is_file():
        if optional:
            return {}
        raise UserError(
            f"a checkpoint folder has a {path.name}; {path.parent} has none; "
            "copy the file from the checkpoint"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path.name} must be JSON; {path} is not ({error}); copy it again"
        ) from error
    if not isinstance(found, dict):
        raise UserError(
            f"{path.name} holds a JSON object; {path} has a {type(found).__name__}; "
            "copy it again"
        )
    return found


def _content(token: Any) -> str | None:
    """The written form of a token that a config gives as text or as an object."""
    return token.get("content") if isinstance(token, dict) else token
