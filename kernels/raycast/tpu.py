"""The TPU kernel: rays in lanes, geoms as scalars.

Dimension letters: R rays, S rows of 128 rays, M geoms or triangles of a group, N numbers
of a table.

A step holds some rows of rays in registers and loops over the geoms. What a geom is, as
far as it does not depend on the ray, has been reduced to some ten to forty numbers (see
`tables`); they lie in scalar memory, are read one by one and multiply whole registers of
rays. The formulas are those of the XLA implementation, called with numbers where that has
arrays. The nearest hit is carried as inverse distance, geom and cosine: in a kernel
nothing is computed again for each of them, so no packing is needed and the precision is
float32's.

The triangles of a mesh are looped over only if a ray of the step may meet the sphere
around the mesh.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from soler1_jax.kernels.raycast import primitives, tables
from soler1_jax.kernels.raycast.shapes import FAR, NEAR, Geoms, Hits, Rays

Array = jax.Array

LANES = 128
_ROWS = 16
"""Rows of a step: two registers for each quantity, some ten of which are alive."""


class Layout(NamedTuple):
    """Where a pytree of terms lies in a table: M records of the same form.

    Attributes:
      start: index of the first number.
      count: M.
      shapes: the shape of each leaf of a record.
      tree: the record's structure.
    """

    start: int
    count: int
    shapes: tuple[tuple[int, ...], ...]
    tree: Any

    @property
    def stride(self) -> int:
        """Numbers of a record."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def read(self, table: Any, index: Any) -> Any:
        """Return a record; arrays become nested tuples of scalars."""
        at = self.start + index * self.stride
        leaves = []
        for shape in self.shapes:
            leaves.append(_nested(table, at, shape))
            at = at + int(np.prod(shape))
        return jax.tree.unflatten(self.tree, leaves)


def _nested(table: Any, at: Any, shape: tuple[int, ...]) -> Any:
    if not shape:
        return table[0, at]
    step = int(np.prod(shape[1:]))
    return tuple(_nested(table, at + i * step, shape[1:]) for i in range(shape[0]))


def lay_out(records: Sequence[Any]) -> tuple[Array, tuple[Layout, ...]]:
    """Return one table [1, N] of several pytrees with leaves [M, ...], and where each lies."""
    numbers, layouts, start = [], [], 0
    for record in records:
        leaves, tree = jax.tree.flatten(record)
        count = leaves[0].shape[0]
        flat = [leaf.reshape(count, -1).astype(jnp.float32) for leaf in leaves]
        numbers.append(jnp.concatenate(flat, axis=1).reshape(-1))
        shapes = tuple(leaf.shape[1:] for leaf in leaves)
        layouts.append(Layout(start, count, shapes, tree))
        start += count * layouts[-1].stride
    return jnp.concatenate(numbers)[None], tuple(layouts)


class _Walk(NamedTuple):
    """A group as the kernel loops over it.

    Attributes:
      group: gives the functions.
      record: layout of (terms, index of the geom).
      ball: layout of the sphere's terms; None without.
    """

    group: tables.Group
    record: Layout
    ball: Layout | None


def _plan(groups: list[tables.Group], shared: Any) -> tuple[Array, Layout, list[_Walk]]:
    """Return the table, the layout of what all geoms share, and the walks."""
    # the functions stay, the arrays go to the table
    records = [jax.tree.map(lambda x: x[None], shared)]
    for group in groups:
        records.append((group.terms, jnp.asarray(group.members)))
        if group.ball is not None:
            records.append(jax.tree.map(lambda x: x[None], group.ball))
    table, layouts = lay_out(records)
    rest = iter(layouts[1:])
    walks = [
        _Walk(
            group._replace(terms=None, members=None, ball=None),
            next(rest),
            next(rest) if group.ball is not None else None,
        )
        for group in groups
    ]
    return table, layouts[0], walks


def _enter_kernel(
    table: Any,
    u_ref: Any,
    v_ref: Any,
    distance_ref: Any,
    geom_ref: Any,
    cosine_ref: Any,
    *,
    shared: Layout,
    walks: list[_Walk],
) -> None:
    square, light = shared.read(table, 0)
    u, v = u_ref[...], v_ref[...]
    picture = primitives.Picture(u, v, (u * u, u * v, v * v), u, u)
    picture = picture._replace(
        squared=primitives.quadratic(square, picture),
        light=primitives.linear(light, picture),
    )

    def nearer(index: Any, best: tuple, walk: _Walk) -> tuple:
        terms, geom = walk.record.read(table, index)
        w, cosine = walk.group.function(terms, picture)
        better = (w > best[0]) & (w <= 1 / NEAR)
        found = (w, jnp.full_like(w, geom), cosine)
        return tuple(jnp.where(better, a, b) for a, b in zip(found, best, strict=True))

    best = (jnp.full_like(u, 1 / FAR), jnp.full_like(u, -1.0), jnp.zeros_like(u))
    for walk in walks:
        count = walk.record.count
        if walk.ball is not None:
            wanted = walk.group.ball_function(walk.ball.read(table, 0), picture)
            count = jnp.where(jnp.max(wanted) > 0, count, 0)
        best = jax.lax.fori_loop(0, count, functools.partial(nearer, walk=walk), best)
    w, geom, cosine = best
    met = geom >= 0
    distance_ref[...] = jnp.where(met, 1.0 / w, FAR)
    geom_ref[...] = geom.astype(jnp.int32)
    bounded = jnp.minimum(jnp.maximum(cosine, 0.0), 1.0)
    cosine_ref[...] = jnp.where(met, bounded, 0.0)


def _shade_kernel(
    table: Any,
    u_ref: Any,
    v_ref: Any,
    distance_ref: Any,
    geom_ref: Any,
    dark_ref: Any,
    *,
    walks: list[_Walk],
) -> None:
    z = distance_ref[...]
    x, y = u_ref[...] * z, v_ref[...] * z
    own = geom_ref[...].astype(jnp.float32)

    def darker(index: Any, dark: Array, walk: _Walk) -> Array:
        (form, origin, terms), geom = walk.record.read(table, index)
        shaded = walk.group.function(terms, tables.local_point(form, origin, x, y, z))
        return jnp.where(shaded & (own != geom), 1.0, dark)

    dark = jnp.zeros_like(z)
    for walk in walks:
        count = walk.record.count
        if walk.ball is not None:
            form, origin, terms = walk.ball.read(table, 0)
            point = tables.local_point(form, origin, x, y, z)
            wanted = walk.group.ball_function(terms, point)
            count = jnp.where(jnp.max(wanted) > 0, count, 0)
        dark = jax.lax.fori_loop(0, count, functools.partial(darker, walk=walk), dark)
    dark_ref[...] = dark.astype(jnp.int32)


def _tiles(values: Array, rows: int, filler: float) -> Array:
    """Return [R] as [S, 128], with rows to spare that are filled."""
    count = values.shape[0]
    whole = -(-count // (rows * LANES)) * rows * LANES
    padded = jnp.pad(values, (0, whole - count), constant_values=filler)
    return padded.reshape(-1, LANES)


def _call(
    kernel: Any,
    name: str,
    table: Array,
    values: list[tuple[Array, float]],
    dtypes: tuple[Any, ...],
    operations: int,
    interpret: Any,
) -> tuple[Array, ...]:
    """Run a kernel over tiles of rays; values come with what fills spare rays."""
    count = values[0][0].shape[0]
    rows = min(_ROWS, -(-count // (8 * LANES)) * 8)
    tiles = [_tiles(x, rows, filler) for x, filler in values]
    block = pl.BlockSpec((rows, LANES), lambda i: (i, 0))
    results = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(tiles[0].shape, dtype) for dtype in dtypes],
        grid=(tiles[0].shape[0] // rows,),
        in_specs=[
            pl.BlockSpec(table.shape, lambda i: (0, 0), memory_space=pltpu.SMEM),
            *[block] * len(tiles),
        ],
        out_specs=[block] * len(dtypes),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=pl.CostEstimate(
            flops=operations * tiles[0].size,
            transcendentals=0,
            bytes_accessed=4
            * (table.size + (len(tiles) + len(dtypes)) * tiles[0].size),
        ),
        interpret=interpret,
        name=name,
    )(table, *tiles)
    return tuple(x.reshape(-1)[:count] for x in results)


def cast(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    to_light: Array,
    *,
    interpret: Any = False,
) -> Hits:
    """Return the nearest hits; see `api.cast`.

    Args:
      interpret: False, or `pltpu.InterpretParams` to run without a TPU.
    """
    groups = tables.enter_groups(geom_types, geoms, rays, to_light)
    shared = (primitives.square(rays.basis), to_light @ rays.basis)
    table, layout, walks = _plan(groups, shared)
    distance, geom, cosine = _call(
        functools.partial(_enter_kernel, shared=layout, walks=walks),
        "raycast_enter",
        table,
        [(rays.u, 0.0), (rays.v, 0.0)],
        (jnp.float32, jnp.int32, jnp.float32),
        # a number of a geom's takes part in about one multiplication and addition
        2 * table.size,
        interpret,
    )
    return Hits(distance, geom, cosine)


def occluded(
    geom_types: tuple[int, ...],
    geoms: Geoms,
    rays: Rays,
    hits: Hits,
    to_light: Array,
    *,
    interpret: Any = False,
) -> Array:
    """Return whether each hit lies in shadow; see `api.occluded`.

    Args:
      interpret: as for `cast`.
    """
    groups = tables.shade_groups(geom_types, geoms, rays, to_light)
    if not groups:
        return jnp.zeros(rays.u.shape, bool)
    table, _, walks = _plan(groups, jnp.zeros(1))
    (dark,) = _call(
        functools.partial(_shade_kernel, walks=walks),
        "raycast_shade",
        table,
        [(rays.u, 0.0), (rays.v, 0.0), (hits.distance, 1.0), (hits.geom, -1)],
        (jnp.int32,),
        2 * table.size,
        interpret,
    )
    return dark > 0
