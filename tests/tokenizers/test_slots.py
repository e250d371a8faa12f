"""Room for patches: as many pads as merged patches, a time before each of a video."""

import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.tokenizers.slots import (
    VideoSlot,
    expand_slots,
    patch_times,
    token_count,
)

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def _picture(pad: str, count: int) -> str:
    return f"<|vision_start|>{f'<|{pad}_pad|>' * count}<|vision_end|>"


def test_images_get_their_own_number_of_tokens():
    text = f"a{IMAGE}b{IMAGE}c"
    expanded = expand_slots(text, [(1, 4, 6), (1, 2, 2)])
    assert expanded == f"a{_picture('image', 6)}b{_picture('image', 1)}c"
    assert expand_slots("no pictures") == "no pictures"


def test_merge_size_counts():
    assert token_count((1, 48, 74), 2) == 888
    assert token_count((3, 4, 4), 4) == 3
    with pytest.raises(UserError, match="got 4 x 5"):
        token_count((1, 4, 5), 2)


def test_videos_become_pictures_with_times():
    slot = VideoSlot(grid=(2, 4, 4), times=(0.25, 1.251))
    frames = "".join(f"<{t} seconds>{_picture('video', 4)}" for t in ("0.2", "1.3"))
    text = f"see {VIDEO} ?"
    kept = expand_slots(text, videos=[slot])
    assert kept == f"see <|vision_start|>{frames}<|vision_end|> ?"
    replaced = expand_slots(text, videos=[slot], keep_video_wrapper=False)
    assert replaced == f"see {frames} ?"
    # A pad without a wrapper is a slot all the same.
    bare = expand_slots("<|video_pad|>", videos=[slot], keep_video_wrapper=False)
    assert bare == frames


def test_images_and_videos_keep_their_order():
    slots = [VideoSlot(grid=(1, 2, 2), times=(t,)) for t in (1.0, 2.0)]
    text = f"{VIDEO}{IMAGE}{VIDEO}"
    expanded = expand_slots(text, [(1, 2, 4)], slots, keep_video_wrapper=False)
    one = _picture("video", 1)
    assert expanded == (f"<1.0 seconds>{one}{_picture('image', 2)}<2.0 seconds>{one}")


def test_time_of_a_patch_is_midway():
    assert patch_times([0, 10, 20, 30], fps=10.0) == (0.5, 2.5)
    # The last frame fills up the last patch.
    assert patch_times([0, 10, 20], fps=10.0) == (0.5, 2.0)
    assert patch_times([4], fps=2.0) == (2.0,)
    assert patch_times([0, 1, 5, 6, 7], 1.0, temporal_patch_size=3) == (2.5, 6.5)


def test_numbers_must_match():
    with pytest.raises(UserError, match="got 1 for 2"):
        expand_slots(IMAGE * 2, [(1, 2, 2)])
    with pytest.raises(UserError, match="every video .* got 0 for 1"):
        expand_slots(VIDEO)
    with pytest.raises(UserError, match="got 1 for 2"):
        VideoSlot(grid=(2, 2, 2), times=(0.0,))
    with pytest.raises(UserError, match="got none"):
        patch_times([], 2.0)
    with pytest.raises(UserError, match="fps must be positive"):
        patch_times([0], 0.0)
