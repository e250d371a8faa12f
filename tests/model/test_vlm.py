"""The model as a whole: who may influence whom, and cached against uncached."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.errors import UserError
from soler1_jax.model.functional import Functional, Params
from soler1_jax.model.vlm import VLM

PROMPT = jnp.array([[21, 22, 23, 24, 0], [25, 26, 0, 0, 0]])
COMPLETION = jnp.array([[4, 30, 31, 5, 6, 9, 11], [4, 32, 5, 6, 10, 12, 13]])


def _ground(vlm: VLM, frames: jax.Array) -> list[Any]:
    count = frames.shape[0]
    ids = jnp.tile(PROMPT[:1, :2], (count, 1))
    grounded = vlm.ground(vlm.encode(frames), ids, jnp.ones((count, 2), bool))
    return [jax.tree.map(lambda x, i=i: x[i::3], grounded) for i in range(3)]


# One compiled program for all tests that share a configuration and shapes.
@functools.partial(jax.jit, static_argnums=0)
def _run(
    model: Functional,
    params: Params,
    frames: jax.Array,
    prompt: jax.Array,
    completion: jax.Array,
    frame_mask: jax.Array,
) -> Any:
    vlm = model.module(params)
    prefix = vlm.prefix(_ground(vlm, frames), prompt, prompt != 0, frame_mask)
    return vlm.logits(prefix, completion, completion != 0)


def _outputs(
    model: Functional, params: Params, frames: jax.Array, **change: Any
) -> Any:
    everything = jnp.ones((2, 3), bool)
    given = {"prompt": PROMPT, "completion": COMPLETION, "frame_mask": everything}
    return _run(model, params, frames, *(given | change).values())


def _assert_close(a: Any, b: Any, tolerance: float = 2e-5) -> None:
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance),
        a,
        b,
    )


def _cached(model: Functional, params: Params, frames: jax.Array) -> Any:
    def run(params: Params) -> Any:
        vlm = model.module(params)
        prefix = vlm.prefix(_ground(vlm, frames), PROMPT, PROMPT != 0)
        cache, step, state = vlm.prefill(prefix, COMPLETION.shape[1])
        steps = [step]
        for token in COMPLETION.T[:-1]:
            cache, step = vlm.decode_step(cache, token)
            steps.append(step)
        stacked = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *steps)
        return (*stacked, state)

    return jax.jit(run)(params)


@pytest.mark.parametrize(
    ("attention", "scan", "backend"),
    [
        ("bidirectional", False, "cpu"),
        ("causal", True, "cpu"),
        # Decoding with scanned layers, as on accelerators.
        ("causal", True, "tpu"),
        ("causal", True, "gpu"),
    ],
)
def test_cached_decoding_equals_teacher_forcing(
    model: Functional,
    frames: jax.Array,
    attention: str,
    scan: bool,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = dataclasses.replace(
        model.config.text, prefix_attention=attention, scan_layers=scan
    )
    model = Functional(dataclasses.replace(model.config, text=text))
    params = model.init(0)
    forced = _outputs(model, params, frames)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    _assert_close(tuple(forced), _cached(model, params, frames))


def test_frames_are_encoded_on_their_own(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    encode = jax.jit(model.encode)
    together = encode(params, frames)
    for index in range(2):
        alone = encode(params, frames[index : index + 1])
        picked = jax.tree.map(lambda x, i=index: x[i : i + 1], together)
        _assert_close(alone, picked)

    def foreign(frames: jax.Array) -> jax.Array:
        seen = jax.tree.leaves(model.encode(params, frames))
        return sum(jnp.sum(leaf[1]) for leaf in seen)

    # The conversion from uint8 is linear, so float frames give the same derivative.
    influence = jax.jit(jax.grad(foreign))(frames.astype(jnp.float32))
    assert np.all(np.asarray(influence[0]) == 0)
    assert np.any(np.asarray(influence[1]) != 0)


def test_padding_of_the_prompt_changes_nothing(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    longer = jnp.pad(PROMPT, ((0, 0), (0, 4)))
    _assert_close(
        _outputs(model, params, frames), _outputs(model, params, frames, prompt=longer)
    )


def test_what_lies_under_padding_changes_nothing(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    @jax.jit
    def run(prompt: jax.Array) -> Any:
        vlm = model.module(params)
        prefix = vlm.prefix(_ground(vlm, frames), prompt, PROMPT != 0)
        return vlm.logits(prefix, COMPLETION, COMPLETION != 0)

    _assert_close(run(PROMPT), run(jnp.where(PROMPT == 0, 33, PROMPT)))


def test_absent_frames_equal_frames_never_given(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    only_first = jnp.array([[True, False, False]] * 2)
    masked = _outputs(model, params, frames, frame_mask=only_first)

    @jax.jit
    def never_given(params: Params) -> Any:
        vlm = model.module(params)
        prefix = vlm.prefix(_ground(vlm, frames)[:1], PROMPT, PROMPT != 0)
        return vlm.logits(prefix, COMPLETION, COMPLETION != 0)

    _assert_close(masked, never_given(params))


def test_completion_is_causal(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    before = _outputs(model, params, frames)
    changed = COMPLETION.at[:, 3].set(35)
    after = _outputs(model, params, frames, completion=changed)
    _assert_close(before.logits[:, :4], after.logits[:, :4])
    _assert_close(before.state, after.state)
    assert np.abs(before.logits[:, 4:] - after.logits[:, 4:]).min(axis=-1).max() > 1e-6


@pytest.mark.parametrize("which", [0, 1, 2])
def test_every_frame_matters_and_so_does_its_role(
    model: Functional, params: Params, frames: jax.Array, which: int
) -> None:
    before = _outputs(model, params, frames)
    after = _outputs(model, params, frames.at[which].set(255 - frames[which]))
    assert np.abs(before.state[0] - after.state[0]).max() > 1e-4
    _assert_close(before.state[1], after.state[1])
    swapped = _outputs(model, params, frames[jnp.array([2, 1, 0, 3, 4, 5])])
    assert np.abs(before.state[0] - swapped.state[0]).max() > 1e-4


@pytest.mark.slow
def test_scanned_layers_compute_what_unrolled_ones_do(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    config = dataclasses.replace(
        model.config,
        text=dataclasses.replace(model.config.text, scan_layers=True, remat=True),
        vision=dataclasses.replace(model.config.vision, scan_layers=True),
    )
    scanned = Functional(config)

    def stack(layers: dict[str, Any]) -> dict[str, Any]:
        blocks = layers["blocks"]
        ordered = [blocks[str(i)] for i in range(len(blocks))]
        return {"stacked": jax.tree.map(lambda *x: jnp.stack(x), *ordered)}

    moved = dict(params)
    moved["language_model"] = params["language_model"] | {
        "layers": stack(params["language_model"]["layers"])
    }
    moved["visual"] = params["visual"] | {"blocks": stack(params["visual"]["blocks"])}
    assert jax.tree.structure(moved) == jax.tree.structure(scanned.shapes())
    _assert_close(_outputs(model, params, frames), _outputs(scanned, moved, frames))

    def loss(functions: Functional) -> Any:
        return lambda p: jnp.sum(_outputs(functions, p, frames).logits ** 2)

    name = "embed_tokens"
    _assert_close(
        jax.jit(jax.grad(loss(model)))(params)[name],
        jax.jit(jax.grad(loss(scanned)))(moved)[name],
        tolerance=1e-3,
    )


def test_deepstack_enters_at_the_pictures_of_the_first_layers_only(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    @jax.jit
    def run(scale: float) -> Any:
        vlm = model.module(params)
        prefix = vlm.prefix(_ground(vlm, frames), PROMPT, PROMPT != 0)
        scaled = prefix._replace(deepstack=scale * prefix.deepstack)
        return prefix, vlm.logits(scaled, COMPLETION, COMPLETION != 0).state

    prefix, with_it = run(1.0)
    shown = model.config.frame_token_count
    merged = model.config.vision.token_count
    stack = np.asarray(prefix.deepstack)
    assert stack.shape[1:3] == (1, 3 * shown)
    slots = np.arange(3 * shown) % shown >= merged
    assert np.all(stack[:, :, slots] == 0)
    assert np.all(np.abs(stack[:, :, ~slots]).max(axis=-1) > 0)
    without = run(0.0)[1]
    assert np.abs(with_it - without).max() > 1e-4


def test_bfloat16_stays_near_float32(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    half = Functional(dataclasses.replace(model.config, dtype="bfloat16"))
    exact = _outputs(model, params, frames)
    rough = _outputs(half, params, frames)
    assert rough.logits.dtype == jnp.float32
    assert np.abs(exact.logits - rough.logits).max() < 0.15


def test_logical_axes_name_every_dimension(model: Functional) -> None:
    text = dataclasses.replace(model.config.text, scan_layers=True)
    model = Functional(dataclasses.replace(model.config, text=text))
    shapes, treedef = jax.tree.flatten(model.shapes())
    for names, shape in zip(
        treedef.flatten_up_to(model.logical_axes()), shapes, strict=True
    ):
        assert len(names) == len(shape.shape)
    axes = model.logical_axes()["language_model"]["layers"]["stacked"]
    assert axes["mlp"]["gate_proj"]["kernel"] == ("layers", "embed", "mlp")


def test_frames_of_another_size_are_refused(model: Functional, params: Params) -> None:
    with pytest.raises(UserError, match="16x16"):
        model.encode(params, jnp.zeros((1, 32, 32, 3), jnp.uint8))


def test_missing_weights_are_named(model: Functional, params: Params) -> None:
    broken = {k: v for k, v in params.items() if k != "value_head"}
    with pytest.raises(UserError, match="value_head"):
        model.module(broken)


def test_the_same_motion_is_judged_by_the_words(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    """Swapping frames or words changes a comparison; a frame never shown does not."""
    vlm = model.module(params)
    first, previous, current = _ground(vlm, frames)
    act = vlm.compare(first, current, PROMPT, PROMPT != 0).act
    assert act.shape == (2,)
    for other in (
        vlm.compare(current, first, PROMPT, PROMPT != 0),
        vlm.compare(first, current, PROMPT + 1, PROMPT != 0),
        vlm.compare(first, previous, PROMPT, PROMPT != 0),
    ):
        assert not np.allclose(act, other.act)


def test_nouns_are_found_and_not_compared(
    model: Functional, params: Params, frames: jax.Array
) -> None:
    """What a noun names moves the slots; which motion is progress, the verb alone."""
    verb, noun, other = (int(i) for i in PROMPT[0, :3])
    grounding = dataclasses.replace(
        model.config.grounding, noun_ids=(noun, other), unknown_id=1
    )
    config = dataclasses.replace(model.config, grounding=grounding)
    vlm = Functional(config).module(params)
    first, _, current = _ground(vlm, frames)

    def act(*words: int) -> np.ndarray:
        ids = jnp.tile(jnp.asarray(words), (2, 1))
        return np.asarray(vlm.compare(first, current, ids, ids != 0).act)

    assert noun != other and verb not in (noun, other)
    np.testing.assert_array_equal(act(verb, noun), act(verb, other))
    np.testing.assert_array_equal(act(verb, noun), act(verb, 1))
    assert not np.allclose(act(verb, noun), act(verb + 1, noun))
