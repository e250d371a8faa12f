"""Keys and values while text is written: prompts once, and what each completion adds.

All completions of a prompt read its one copy, and each reads no more of its own part than
it has written.

Letters: B prompts, G completions of each, N = B * G, P places of a prompt, S places of a
completion, h query heads, g key-value heads, d channels of a head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from soler1_jax.kernels.decode_attention.api import decode_attention
from soler1_jax.kernels.flash_attention.api import merge_partials
from soler1_jax.model.attention import MASKED, LayerCache, soft_cap
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.segment_attention import implementation_for_mesh, over_mesh

# A TPU keeps whole rows of so many numbers; caches of narrower heads would be padded and
# copied for the kernel at every token.
_LANES = 128


class Rows(NamedTuple):
    """Keys and values as `decode_attention` takes them."""

    keys: jax.Array  # [B, C, g, d]
    values: jax.Array  # [B, C, g, d]

    def write(self, key: jax.Array, value: jax.Array, index: jax.Array | int) -> "Rows":
        """See `LayerCache.write`."""
        update = jax.lax.dynamic_update_slice_in_dim
        return Rows(
            update(self.keys, key, index, axis=1),
            update(self.values, value, index, axis=1),
        )


class SplitCache(NamedTuple):
    """Keys and values of one layer."""

    prompt: LayerCache | Rows  # B sequences of P places, padding last
    lengths: jax.Array  # int32 [B], of prompts
    own: LayerCache | Rows  # N of S places; completions of a prompt lie together


def splits(config: ModelConfig, group: int) -> bool:
    """Whether the cache is split while `group` completions of a prompt are written.

    Not for layers with a sliding window, for the kernel knows only where keys end.
    Single completions are split only on TPUs: elsewhere one cache is as fast, and
    compiles to less.
    """
    if config.text.sliding_layers:
        return False
    if _kernel(config.attention) is not None:
        return config.text.head_dim % _LANES == 0
    return group > 1


def _kernel(implementation: str | None) -> str | None:
    """The program of `decode_attention`; None for plain products.

    Those are faster on a CPU than its XLA program. Its GPU program has not been run with
    as many queries a key head, nor with caches as short, as this needs.
    """
    chosen = implementation_for_mesh(implementation)
    if chosen is None and jax.default_backend() == "tpu":
        return "pallas_tpu"
    return chosen if chosen in ("pallas_tpu", "interpret") else None


def split(
    config: ModelConfig,
    layers: tuple[LayerCache, ...],
    mask: jax.Array,
    capacity: int,
    group: int,
) -> tuple[SplitCache, ...]:
    """Makes caches for completions from the keys and values of their prompts.

    Args:
      config: of the model.
      layers: one `LayerCache` a layer.
      mask: bool [B, P], False on padding, wherever it is.
      capacity: S.
      group: G.
    """
    lay = Rows if _kernel(config.attention) else LayerCache.lay
    # Positions are in the keys already, so what is there may move up over what is not.
    order = jnp.argsort(~mask, axis=1, stable=True)
    lengths = jnp.sum(mask, axis=1, dtype=jnp.int32)
    gather = jax.vmap(lambda rows, places: rows[places])

    def one(keys: jax.Array, values: jax.Array) -> SplitCache:
        rows = jnp.moveaxis(keys, -1, 1), jnp.swapaxes(values, 1, 2)
        rows = tuple(gather(x, order) for x in rows)
        batch, _, heads, size = rows[0].shape
        # One place at least: a step is traced even if none is taken.
        shape = (batch * group, max(capacity, 1), heads, size)
        empty = jnp.zeros(shape, keys.dtype)
        return SplitCache(lay(*rows), lengths, lay(empty, empty))

    return tuple(one(*layer) for layer in layers)


def attend_split(
    query: jax.Array,
    cache: SplitCache,
    written: jax.Array | int,
    *,
    divisor: float | None = None,
    cap: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Softmax attention of one token a completion, with grouped heads.

    Args:
      query: [N, 1, h, d].
      cache: of the layer.
      written: how many places of the completions count.
      divisor: scores are divided by its root; None for d.
      cap: of `attention.soft_cap` on the scores.
      implementation: `ModelConfig.attention`, by which the cache was made.

    Returns:
      [N, 1, h, d] in query's dtype.
    """
    batch = len(cache.lengths)
    rows = query.reshape(batch, -1, *query.shape[2:])
    scale = (divisor or query.shape[-1]) ** -0.5
    if isinstance(cache.own, LayerCache):
        out = _attend_plain(rows, cache, written, scale, cap)
    else:
        kernel = _kernel(implementation)
        out = _attend_kernel(rows, cache, written, scale, cap, kernel)
    return out.reshape(query.shape)


def _attend_plain(
    query: jax.Array,
    cache: SplitCache,
    written: jax.Array | int,
    scale: float,
    cap: float | None,
) -> jax.Array:
    """[B, G, h, d]: one product for all that share a key head, one softmax over both."""
    batch, group, _, size = query.shape
    heads, places = cache.prompt.keys.shape[1], cache.prompt.keys.shape[3]
    # One matrix a key head of a prompt, and one a key head of a completion.
    shared = query.reshape(batch, group, heads, -1, size)
    by_prompt = jnp.swapaxes(shared, 1, 2).reshape(batch, heads, -1, size)
    by_completion = shared.reshape(batch * group, heads, -1, size)

    def score(rows: jax.Array, keys: jax.Array, count: jax.Array) -> jax.Array:
        scores = jnp.matmul(rows, keys, preferred_element_type=jnp.float32)
        seen = jnp.arange(keys.shape[3]) < count
        return jnp.where(seen, soft_cap(scores * scale, cap), MASKED)

    def fold(x: jax.Array) -> jax.Array:
        """[N, g, r, X] -> [B, g, G * r, X]."""
        x = jnp.swapaxes(x.reshape(batch, group, *x.shape[1:]), 1, 2)
        return x.reshape(batch, heads, -1, x.shape[-1])

    before = score(by_prompt, cache.prompt.keys, cache.lengths[:, None, None, None])
    own = fold(score(by_completion, cache.own.keys, written))
    weights = jax.nn.softmax(jnp.concatenate([before, own], axis=-1), axis=-1)
    weights = weights.astype(cache.own.values.dtype)
    before, own = weights[..., :places], weights[..., places:]
    own = own.reshape(batch, heads, group, -1, own.shape[-1])
    own = jnp.swapaxes(own, 1, 2).reshape(batch * group, heads, -1, own.shape[-1])
    out = jnp.matmul(before, cache.prompt.values, preferred_element_type=jnp.float32)
    out += fold(jnp.matmul(own, cache.own.values, preferred_element_type=jnp.float32))
    out = out.reshape(batch, heads, group, -1, size).astype(query.dtype)
    return jnp.swapaxes(out, 1, 2).reshape(query.shape)


def _attend_kernel(
    query: jax.Array,
    cache: SplitCache,
    written: jax.Array | int,
    scale: float,
    cap: float | None,
    kernel: str | None,
) -> jax.Array:
    """[B, G, h, d]: both parts apart, merged by their log-normalisers.

    On several devices, prompts and heads are spread as by `attend_segments`.
    """
    group, size = query.shape[1], query.shape[-1]
    options = {
        "softmax_scale": scale,
        "logit_cap": cap,
        "return_lse": True,
        "implementation": kernel,
    }

    def run(query, prompt_keys, prompt_values, keys, values, lengths, own_lengths):
        """Of one device: queries as above, keys and values [B, P or G * S, g, d]."""
        batch, heads = len(query), prompt_keys.shape[2]
        # All queries that share a prompt's key head are its group.
        rows = jnp.swapaxes(query.reshape(batch, group, heads, -1, size), 1, 2)
        out, lse = decode_attention(
            rows.reshape(batch, -1, size),
            prompt_keys,
            prompt_values,
            lengths,
            **options,
        )
        out = jnp.swapaxes(out.reshape(rows.shape), 1, 2)
        lse = jnp.swapaxes(lse.reshape(rows.shape[:-1]), 1, 2)
        own, own_lse = decode_attention(
            query.reshape(batch * group, -1, size),
            keys.reshape(batch * group, -1, heads, size),
            values.reshape(batch * group, -1, heads, size),
            jnp.repeat(own_lengths, group),
            **options,
        )
        shape = query.shape
        out, _ = merge_partials(
            out.reshape(shape),
            lse.reshape(shape[:-1]),
            own.reshape(shape),
            own_lse.reshape(shape[:-1]),
        )
        return out

    batch = len(query)
    own = (x.reshape(batch, -1, *x.shape[2:]) for x in cache.own)
    lengths = cache.lengths, jnp.full(batch, written, jnp.int32)
    return over_mesh(run, (query, *cache.prompt, *own), lengths)
