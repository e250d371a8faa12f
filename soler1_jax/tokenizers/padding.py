"""Token ids of different length as one array."""

from collections.abc import Sequence

import numpy as np

from soler1_jax.common.errors import UserError


def pad_rows(
    rows: Sequence[Sequence[int]],
    texts: Sequence[str],
    length: int,
    *,
    pad_id: int,
    left: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Pads ids to one length.

    Args:
      rows: B lists of ids.
      texts: what they are, for messages.
      length: L, ids of each.
      pad_id: what fills the rest.
      left: fill on the left, so that every row ends where decoding begins.

    Returns:
      ids int32 [B, L] and mask bool [B, L].

    Raises:
      UserError: a text has more than `length` tokens.
    """
    ids = np.full((len(rows), length), pad_id, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for row, found in enumerate(rows):
        count = len(found)
        if count > length:
            raise UserError(
                f"a text may have {length} tokens here; {texts[row][:60]!r} has "
                f"{count}; shorten it"
            )
        place = slice(length - count, length) if left else slice(0, count)
        ids[row, place] = found
        mask[row, place] = True
    return ids, mask
