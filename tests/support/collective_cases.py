"""Small programs whose collectives can be counted by hand.

Run as a script, it compiles them for eight devices of this process and prints their texts
as JSON; a process has as many CPU devices as it had when it started.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = {"data": 2, "fsdp": 2, "tensor": 2}
SIDE = 256
BYTES = SIDE * SIDE * 4


def texts(devices: Sequence[jax.Device]) -> dict[str, str]:
    """Compiles all cases for eight devices; name -> text."""
    mesh = Mesh(np.array(devices).reshape(tuple(AXES.values())), tuple(AXES))
    lax, spec = jax.lax, PartitionSpec

    def text(function: Any, came: PartitionSpec, goes: PartitionSpec) -> str:
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=came, out_specs=goes, check_vma=False
        )
        sharding = NamedSharding(mesh, came)
        x = jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32, sharding=sharding)
        return jax.jit(mapped).lower(x).compile().as_text()

    def gather(x: jax.Array) -> jax.Array:
        return lax.all_gather(x, "fsdp", tiled=True)

    def gather_over_two(x: jax.Array) -> jax.Array:
        return lax.all_gather(x, ("data", "tensor"), tiled=True)

    def scatter(x: jax.Array) -> jax.Array:
        return lax.psum_scatter(x, "tensor", tiled=True)

    def shift(x: jax.Array) -> jax.Array:
        return lax.ppermute(x, "data", [(0, 1), (1, 0)])

    def loop(x: jax.Array) -> jax.Array:
        def body(c: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.sin(lax.psum(c, "tensor")), None

        return lax.scan(body, x, None, length=7)[0]

    def nested(x: jax.Array) -> jax.Array:
        def outer(c: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.cos(loop(c)), None

        return lax.scan(outer, x, None, length=3)[0]

    def until(x: jax.Array) -> jax.Array:
        with jax.named_scope("wait"):
            return lax.while_loop(
                lambda c: jnp.sum(c) < 9, lambda c: jnp.sin(lax.psum(c, "data")), x
            )

    whole = spec()
    return {
        "gather": text(gather, spec("fsdp"), whole),
        "gather over two": text(gather_over_two, spec(("data", "tensor")), whole),
        "scatter": text(scatter, whole, spec("tensor")),
        "shift": text(shift, whole, whole),
        "loop": text(loop, whole, whole),
        "nested": text(nested, whole, whole),
        "until": text(until, whole, whole),
    }


if __name__ == "__main__":
    # else a kept program may lack the names that these have
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    print(json.dumps(texts(jax.devices()[:8])))
