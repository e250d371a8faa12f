"""Log-probabilities and cross-entropy over a large vocabulary, without its logits.

8,192 tokens times 151,936 words are 5 GB in float32, and as much again for the gradient.
Here the vocabulary is visited in tiles: each tile's logits raise a running maximum and a
running sum (the online softmax of arXiv 1805.02867), and the backward pass computes them
again. Tiles of the vocabulary rather than of the tokens, because then a tile's gradient
is complete when it is made: no float32 copy of the table has to be added to.

Where only some tokens count, as those of answers, they are put first, and no more than the
blocks that hold them meet a tile.

With a mesh, each device keeps its tokens and its part of the vocabulary. A tile is
gathered along the channels just before it is used, so the table is never whole anywhere.

Letters: N tokens, D channels, V words, v words of a tile.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.common.mesh import partition_spec
from soler1_jax.training.counted_tokens import blocks_of
from soler1_jax.training.losses import masked_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """How hidden states become logits: cap * tanh(hidden . table / cap) / temperature.

    Attributes:
      vocab_axis: 0 for a tied embedding [V,D], 1 for a head [D,V].
      temperature: divides the logits.
      cap: bounds them before that (Gemma 2); None for no bound.
      tile: v. Each device holds its tokens times so many float32 logits at a time.
      mesh: where tokens and table lie, by the rules of common/mesh.py; None if they are
        on one device.
    """

    vocab_axis: int = 0
    temperature: float = 1.0
    cap: float | None = None
    tile: int = 2048
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        """Raises UserError for values that cannot work."""
        if self.vocab_axis not in (0, 1):
            raise UserError(
                f"a table's vocabulary is its axis 0 or 1; got {self.vocab_axis}; "
                "give 0 for a tied embedding, 1 for a head"
            )
        require_positive("temperature", self.temperature)
        require_positive("tile", self.tile)
        if self.cap is not None:
            require_positive("cap", self.cap)


def cross_entropy(
    hidden: jax.Array, table: jax.Array, targets: jax.Array, mask: jax.Array, head: Head
) -> jax.Array:
    """Mean cross-entropy over the counted tokens, in nats.

    Args:
      hidden: [...,D], after the last norm; `hidden[..., t, :]` predicts
        `targets[..., t]`.
      table: [V,D] or [D,V], see `Head.vocab_axis`; multiplied in hidden's dtype.
      targets: int32 [...], in [0, V).
      mask: bool [...] or weights, 0 where a token does not count.
      head: from hidden states to logits.

    Returns:
      float32 scalar, 0 if nothing counts: what `losses.next_token` gives for the logits.

    Raises:
      UserError: the shapes do not fit each other or the mesh.
    """
    logprobs = token_logprobs(hidden, table, targets, head, mask != 0)
    return masked_mean(-logprobs, mask)


def token_logprobs(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    head: Head,
    counted: jax.Array | None = None,
) -> jax.Array:
    """Log-probability of each target, float32 [...], in nats.

    Other arguments and errors are those of `cross_entropy`. The gradients of hidden
    states and table are summed in float32 and have their dtypes.

    Args:
      counted: bool [...], which are asked for; the others are 0. None for all.
    """
    if hidden.shape[:-1] != targets.shape or hidden.ndim < 2:
        raise UserError(
            "every hidden state predicts one target; got hidden "
            f"{hidden.shape} and targets {targets.shape}; make them [...,D] and [...]"
        )
    if table.ndim != 2 or table.shape[1 - head.vocab_axis] != hidden.shape[-1]:
        raise UserError(
            f"a table [V,D] has vocab_axis 0, a head [D,V] has 1; got {table.shape} "
            f"with vocab_axis {head.vocab_axis} for D = {hidden.shape[-1]}"
        )
    place = _place(hidden.shape, table.shape, head)
    return _logprobs(hidden, table, targets, counted, head, place)


class _Place(NamedTuple):
    """Mesh axes of each kind of axis, and the specs that they make; empty on no mesh."""

    tokens: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    hidden_spec: PartitionSpec = PartitionSpec()
    table_spec: PartitionSpec = PartitionSpec()


def _place(hidden: tuple[int, ...], table: tuple[int, ...], head: Head) -> _Place:
    if head.mesh is None:
        return _Place()
    names = ("vocab", "embed") if head.vocab_axis == 0 else ("embed", "vocab")
    hidden_spec = partition_spec(
        ("batch", *(None,) * (len(hidden) - 1)), hidden, head.mesh
    )
    table_spec = partition_spec(names, table, head.mesh)
    if hidden_spec[0] is None:
        parts = head.mesh.shape["data"] * head.mesh.shape["fsdp"]
        raise UserError(
            f"the mesh splits tokens into {parts} parts; got {hidden[0]} of them along "
            "the first axis; pad them to a multiple"
        )
    return _Place(
        _axes(hidden_spec[0]),
        _axes(table_spec[head.vocab_axis]),
        _axes(table_spec[1 - head.vocab_axis]),
        hidden_spec,
        table_spec,
    )


def _axes(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _logprobs(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    counted: jax.Array | None,
    head: Head,
    place: _Place,
) -> jax.Array:
    return _forward(hidden, table, targets, counted, head, place)[0]


def _forward(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    counted: jax.Array | None,
    head: Head,
    place: _Place,
) -> tuple[jax.Array, Any]:
    tokens = PartitionSpec(*place.hidden_spec[:-1])
    inputs = (place.hidden_spec, place.table_spec, tokens, tokens)
    run = _on_mesh(_local_forward, head, place, inputs, (tokens, tokens))
    logprobs, normaliser = run(hidden, table, targets, counted)
    return logprobs, (hidden, table, targets, counted, normaliser)


def _backward(
    head: Head, place: _Place, kept: Any, gain: jax.Array
) -> tuple[jax.Array, jax.Array, None, None]:
    tokens = PartitionSpec(*place.hidden_spec[:-1])
    outputs = (place.hidden_spec, place.table_spec)
    inputs = (*outputs, tokens, tokens, tokens, tokens)
    run = _on_mesh(_local_backward, head, place, inputs, outputs)
    return *run(*kept, gain), None, None


_logprobs.defvjp(_forward, _backward)


def _on_mesh(
    function: Callable[..., Any], head: Head, place: _Place, inputs: Any, outputs: Any
) -> Callable[..., Any]:
    """The function on each device's part, with the axes flattened to [N,D] and [N]."""
    run = functools.partial(function, head=head, place=place)
    if head.mesh is None:
        return run
    # types of varying axes are not tracked: the sums over axes are written out below
    return jax.shard_map(
        run, mesh=head.mesh, in_specs=inputs, out_specs=outputs, check_vma=False
    )


def _local_forward(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    counted: jax.Array | None,
    *,
    head: Head,
    place: _Place,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the targets and the log of the normaliser."""
    shape, size = targets.shape, table.shape[head.vocab_axis]
    blocks = blocks_of(counted)
    x = blocks.cut(hidden.reshape(-1, hidden.shape[-1]))
    wanted = blocks.cut(_within(targets, size, place), -1)

    def visit(start: jax.Array | int, width: int, carry: Any) -> Any:
        tile = _tile(table, start, width, x.dtype, head, place)

        def block(at: jax.Array | int, carry: Any) -> Any:
            top, total, chosen = (blocks.get(a, at) for a in carry)
            logits = _logits(blocks.get(x, at), tile, head)
            risen = jnp.maximum(top, logits.max(axis=1))
            total = total * jnp.exp(top - risen)
            total = total + jnp.exp(logits - risen[:, None]).sum(axis=1)
            hit = blocks.get(wanted, at)[:, None] - start == jnp.arange(width)
            chosen = chosen + jnp.where(hit, logits, 0).sum(axis=1)
            new = (risen, total, chosen)
            return tuple(blocks.set(a, b, at) for a, b in zip(carry, new, strict=True))

        return blocks.over(block, carry)

    none = jnp.zeros(x.shape[0], jnp.float32)
    carry = _over_tiles(visit, size, head, (none - jnp.inf, none, none))
    top, total, chosen = (blocks.put_back(a) for a in carry)
    if place.vocab:
        highest = jax.lax.pmax(top, place.vocab)
        total = jax.lax.psum(total * jnp.exp(top - highest), place.vocab)
        top, chosen = highest, jax.lax.psum(chosen, place.vocab)
    normaliser = (top + jnp.log(total)).reshape(shape)
    logprobs = chosen.reshape(shape) - normaliser
    if counted is None:
        return logprobs, normaliser
    # Of an endless normaliser all probabilities are 0, and so is the gradient.
    return jnp.where(counted, logprobs, 0), jnp.where(counted, normaliser, jnp.inf)


def _local_backward(
    hidden: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    counted: jax.Array | None,
    normaliser: jax.Array,
    gain: jax.Array,
    *,
    head: Head,
    place: _Place,
) -> tuple[jax.Array, jax.Array]:
    """Gradients of hidden states and table, in their shapes and dtypes."""
    size, axis = table.shape[head.vocab_axis], head.vocab_axis
    blocks = blocks_of(counted)
    x = blocks.cut(hidden.reshape(-1, hidden.shape[-1]))
    wanted = blocks.cut(_within(targets, size, place), -1)
    gain = gain if counted is None else jnp.where(counted, gain, 0)
    normaliser = blocks.cut(normaliser.reshape(-1, 1), jnp.inf)
    gain = blocks.cut(gain.reshape(-1, 1))
    words = "vd" if axis == 0 else "dv"

    def visit(start: jax.Array | int, width: int, carry: Any) -> Any:
        tile = _tile(table, start, width, x.dtype, head, place)

        def block(at: jax.Array | int, carry: Any) -> Any:
            x_grad, part = carry
            rows, ends, weights = (blocks.get(a, at) for a in (x, normaliser, gain))
            logits = _logits(rows, tile, head)
            hit = blocks.get(wanted, at)[:, None] - start == jnp.arange(width)
            slope = weights * (hit - jnp.exp(logits - ends)) / head.temperature
            if head.cap is not None:
                # the derivative of cap * tanh(x / cap), from its value
                bent = jnp.square(logits * (head.temperature / head.cap))
                slope = slope * (1 - bent)
            slope = slope.astype(x.dtype)
            grown = blocks.get(x_grad, at) + _dot(f"nv,{words}->nd", slope, tile)
            part = part + _dot(f"nv,nd->{words}", slope, rows)
            return blocks.set(x_grad, grown, at), part

        x_grad, table_grad = carry
        empty = jnp.zeros(tile.shape, jnp.float32)
        x_grad, part = blocks.over(block, (x_grad, empty))
        part = _share_out(part, head, place).astype(table.dtype)
        return x_grad, jax.lax.dynamic_update_slice_in_dim(
            table_grad, part, start, axis
        )

    first = (jnp.zeros(x.shape, jnp.float32), jnp.zeros(table.shape, table.dtype))
    x_grad, table_grad = _over_tiles(visit, size, head, first)
    x_grad = x_grad[: targets.size]
    if place.vocab:
        x_grad = jax.lax.psum(x_grad, place.vocab)
    # Rounded first: half of what putting back takes.
    x_grad = blocks.put_back(x_grad.astype(hidden.dtype))
    return x_grad.reshape(hidden.shape), table_grad


def _over_tiles(visit: Callable[..., Any], size: int, head: Head, carry: Any) -> Any:
    """Calls visit(start, width, carry) for each tile; the last one may be narrower."""
    width = min(head.tile, size)
    whole, rest = divmod(size, width)
    carry = jax.lax.fori_loop(
        0, whole, lambda i, kept: visit(i * width, width, kept), carry
    )
    return visit(whole * width, rest, carry) if rest else carry


def _tile(
    table: jax.Array,
    start: jax.Array | int,
    width: int,
    dtype: jnp.dtype,
    head: Head,
    place: _Place,
) -> jax.Array:
    """Words [start, start + width) of this device's part, with all their channels."""
    tile = jax.lax.dynamic_slice_in_dim(table, start, width, head.vocab_axis)
    if tile.dtype != dtype:
        tile = _keep_whole(tile).astype(dtype)
    if place.channels:
        tile = jax.lax.all_gather(
            tile, place.channels, axis=1 - head.vocab_axis, tiled=True
        )
    return tile


def _keep_whole(x: jax.Array) -> jax.Array:
    """The same array, whose bits the compiler must not drop before this place.

    Otherwise XLA's bfloat16 propagation for TPUs rounds the whole table before the loop
    and keeps that copy, 1.2 GB for 151,936 words of 4,096 channels.
    """
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(jax.lax.optimization_barrier(bits), x.dtype)


def _share_out(part: jax.Array, head: Head, place: _Place) -> jax.Array:
    """Sums a tile's gradient over all tokens and keeps this device's channels."""
    if place.channels:
        part = jax.lax.psum_scatter(
            part, place.channels, scatter_dimension=1 - head.vocab_axis, tiled=True
        )
    rest = tuple(a for a in place.tokens if a not in place.channels)
    return jax.lax.psum(part, rest) if rest else part


def _logits(x: jax.Array, tile: jax.Array, head: Head) -> jax.Array:
    """float32 [N,v]."""
    words = "vd" if head.vocab_axis == 0 else "dv"
    logits = _dot(f"nd,{words}->nv", x, tile)
    if head.cap is not None:
        logits = head.cap * jnp.tanh(logits / head.cap)
    return logits / head.temperature


def _dot(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


def _within(targets: jax.Array, size: int, place: _Place) -> jax.Array:
    """Targets counted from the first word of this device's part, int32 [N]."""
    part = jax.lax.axis_index(place.vocab) if place.vocab else 0
    return targets.reshape(-1) - part * size
