"""A tiny model of Qwen3-VL's kind, and records with pictures of several sizes."""

import dataclasses

import numpy as np

from soler1_jax.data.packing import Example, RowShape, make_example
from soler1_jax.model import presets
from soler1_jax.model.config import MediaTokens, ModelConfig

VOCAB, IMAGE, VIDEO = 96, 91, 92
SHAPE = RowShape(rows=4, length=40, pictures=3, patches=16)


def config(*, tie: bool = False) -> ModelConfig:
    """All that Qwen3-VL has, at about 40,000 parameters."""
    large = presets.preset("qwen3-vl-2b", VOCAB)
    return dataclasses.replace(
        large,
        vision=dataclasses.replace(
            large.vision,
            image_size=16,
            patch_size=4,
            hidden_size=16,
            intermediate_size=32,
            depth=2,
            num_heads=2,
            position_grid=4,
            deepstack_indexes=(0, 1),
        ),
        text=dataclasses.replace(
            large.text,
            hidden_size=32,
            intermediate_size=64,
            depth=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            mrope_section=(4, 2, 2),
            tie_embeddings=tie,
        ),
        media=MediaTokens(image=IMAGE, video=VIDEO, start=93, end=94),
        dtype="float32",
    )


def raw(
    model: ModelConfig, seed: int, grids: list[tuple[int, int]], words: int
) -> tuple[list[int], np.ndarray, dict[str, np.ndarray]]:
    """Pictures with words between, then `words` more; weights on the last half of them.

    Args:
      model: of `config`.
      seed: of all draws.
      grids: tokens down and across of each picture.
      words: at least 2.
    """
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    for down, across in grids:
        ids += [93, *[IMAGE] * (down * across), 94]
    ids += rng.integers(0, 90, words).tolist()
    weights = np.zeros(len(ids), np.float32)
    weights[-(words // 2) :] = rng.choice([0.5, 1.0, 2.0], words // 2)
    pictures = {}
    if grids:
        side = model.vision.spatial_merge_size
        thw = np.array([(1, side * down, side * across) for down, across in grids])
        size = (int(thw.prod(axis=1).sum()), model.vision.patch_values)
        pictures["pixel_values"] = rng.uniform(-1, 1, size).astype(np.float32)
        pictures["image_grid_thw"] = thw
    return ids, weights, pictures


def record(
    model: ModelConfig, seed: int, grids: list[tuple[int, int]], words: int
) -> Example:
    """`raw`, laid out."""
    ids, weights, pictures = raw(model, seed, grids, words)
    return make_example(model, ids, weights, **pictures)


def raws(model: ModelConfig) -> list[tuple]:
    """Seven records of 8 to 26 tokens: with none, one and two pictures."""
    made = [
        ([(2, 2)], 9),
        ([(1, 3), (2, 1)], 12),
        ([], 8),
        ([(2, 2)], 16),
        ([(1, 1)], 6),
        ([], 20),
        ([(1, 4), (2, 2)], 10),
    ]
    return [raw(model, i, grids, words) for i, (grids, words) in enumerate(made)]


def records(model: ModelConfig) -> list[Example]:
    """`raws`, laid out."""
    return [make_example(model, ids, w, **rest) for ids, w, rest in raws(model)]
