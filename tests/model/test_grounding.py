"""Heat maps, slots and dense heads."""

import jax
import jax.numpy as jnp
import numpy as np

from soler1_jax.model.functional import Functional, Params
from soler1_jax.model.grounding import patch_centres

PHRASES = jnp.array([[[21, 22], [23, 0]], [[24, 25], [26, 27]]])


def test_several_phrases_equal_one_at_a_time(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    ground = jax.jit(model.ground)
    features = jax.jit(model.encode)(params, frames[:2])
    many = ground(params, features, PHRASES, PHRASES != 0)
    assert many.heat_logits.shape == (2, 3, 16)
    assert many.position.shape == (2, 3, 3)
    for phrase in range(2):
        ids = PHRASES[:, phrase]
        one = ground(params, features, ids, ids != 0)
        np.testing.assert_allclose(
            many.heat_logits[:, [0, phrase + 1]], one.heat_logits, atol=1e-5
        )
        np.testing.assert_allclose(
            many.position[:, [0, phrase + 1]], one.position, atol=1e-5
        )
        if phrase == 0:
            np.testing.assert_allclose(many.tokens, one.tokens, atol=1e-5)


def test_words_move_the_map_and_padding_does_not(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    ground = jax.jit(model.ground)
    features = jax.jit(model.encode)(params, frames[:1])

    def heat(words: list[int], count: int) -> np.ndarray:
        ids = jnp.array([words])
        mask = jnp.arange(len(words))[None] < count
        return np.asarray(ground(params, features, ids, mask).heat_logits[0])

    plain = heat([21, 22], 2)
    np.testing.assert_allclose(heat([21, 22, 30, 31], 2), plain, atol=1e-6)
    other = heat([21, 23], 2)
    np.testing.assert_allclose(other[0], plain[0])
    assert np.abs(other[1] - plain[1]).max() > 1e-4


def test_slots_follow_their_map(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    grounder = model.module(params).grounder
    x = jax.random.normal(jax.random.key(0), (1, 16, 16))
    peaked = jnp.full((1, 2, 16), -40.0).at[:, :, 5].set(40.0)

    def pool(x: jax.Array, logits: jax.Array) -> jax.Array:
        return grounder._under(x, logits, 4)

    slots = pool(x, peaked)
    elsewhere = x.at[:, 9].add(1.0)
    np.testing.assert_allclose(pool(elsewhere, peaked), slots, atol=1e-6)
    here = x.at[:, 5].add(1.0)
    assert np.abs(pool(here, peaked) - slots).max() > 1e-3
    moved = jnp.roll(peaked, 1, axis=-1)
    same = jnp.roll(x, 1, axis=1)
    assert np.abs(pool(same, moved) - slots).max() > 1e-3


def test_the_wrist_view_reaches_the_slots_alone_and_can_be_closed(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    ground, ids = jax.jit(model.ground), PHRASES[:, 0]
    encode = jax.jit(model.encode)
    here, there, without = (
        encode(params, frames[:2], wrist) for wrist in (frames[:2], frames[2:4], None)
    )
    one, other, none = (
        ground(params, f, ids, ids != 0) for f in (here, there, without)
    )
    assert one.wrist_logits.shape == (2, 2, 2 * 2 + 1) and none.wrist_logits is None
    np.testing.assert_allclose(one.tokens[:, :-2], other.tokens[:, :-2], atol=1e-6)
    np.testing.assert_allclose(one.heat_logits, other.heat_logits, atol=1e-6)
    assert np.abs(one.tokens[:, -2:] - other.tokens[:, -2:]).max() > 1e-3
    assert np.abs(one.position - other.position).max() > 1e-5
    # An eye that is closed in one frame of two is no eye there.
    half = here._replace(wrist_seen=jnp.array([True, False]))
    closed = ground(params, half, ids, ids != 0)
    np.testing.assert_allclose(closed.tokens[0], one.tokens[0], atol=1e-6)
    np.testing.assert_allclose(closed.tokens[1], none.tokens[1], atol=1e-6)


def test_patch_centres_are_row_major_within_the_frame() -> None:
    np.testing.assert_allclose(
        patch_centres(2), [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    )


def test_heat_supervision_finds_a_bright_square(model: Functional) -> None:
    """A few steps suffice to point at a thing that words name by brightness."""
    rng = np.random.default_rng(0)
    places = rng.permuted(np.tile(np.arange(16), (64, 1)), axis=1)[:, :2]
    frames = np.full((64, 16, 16, 3), 90, np.uint8)
    for frame, (bright, dark) in zip(frames, places, strict=True):
        for place, value in ((bright, 255), (dark, 0)):
            row, column = 4 * (place // 4), 4 * (place % 4)
            frame[row : row + 4, column : column + 4] = value
    ids = jnp.tile(jnp.array([[[21], [22]]]), (64, 1, 1))

    def heat(params: Params) -> jax.Array:
        vlm = model.module(params)
        features = vlm.encode(jnp.asarray(frames))
        return vlm.ground(features, ids, ids != 0).heat_logits[:, 1:]

    def loss(params: Params) -> jax.Array:
        logs = jax.nn.log_softmax(heat(params))
        return -jnp.mean(jnp.take_along_axis(logs, places[..., None], axis=2))

    @jax.jit
    def step(params: Params) -> Params:
        grads = jax.grad(loss)(params)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        scale = 0.3 / jnp.maximum(norm, 1.0)
        return jax.tree.map(lambda p, g: p - scale * g, params, grads)

    params = model.init(0)
    for _ in range(120):
        params = step(params)
    found = np.asarray(jnp.argmax(jax.jit(heat)(params), axis=-1))
    assert np.mean(found == places) > 0.9
