"""Arguments that do not fit together are refused in one line."""

import jax
import jax.numpy as jnp
import pytest
from soler1_jax.kernels.decode_attention.api import decode_attention

Q, K, L = jnp.zeros((2, 4, 8)), jnp.zeros((2, 5, 2, 8)), jnp.zeros(2, jnp.int32)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((Q[0], K, K, L), {}, r"q must have the 3 dimensions \[B, Hq, D\]"),
        ((Q, K[:1], K, L), {}, "B of k_cache .* must be 2"),
        ((Q, K, K[..., :4], L), {}, "D of v_cache .* must be 8"),
        ((Q, K, K, L[:1]), {}, "B of lengths .* must be 2"),
        ((Q[:, :3], K, K, L), {}, "multiple of that of key heads; got 3 and 2"),
        ((Q, K[:, :0], K[:, :0], L), {}, "T must be at least 1; got 0"),
        ((Q.astype(jnp.float16), K, K, L), {}, "q must be of dtype .*; got float16"),
        ((Q, K.astype(jnp.bfloat16), K, L), {}, "k_cache must be .*; got bfloat16"),
        ((Q, K, K.astype(jnp.int8), L), {}, "v_cache must be .*; got int8"),
        ((Q, K, K, L.astype(float)), {}, "lengths must be of dtype int32"),
        (
            (Q, K.astype(jnp.int8), K.astype(jnp.int8), L),
            {"k_scale": jnp.ones(2)},
            "int8 cache needs k_scale and v_scale; got no v_scale",
        ),
        ((Q, K, K, L), {"k_scale": jnp.ones(3)}, "Hkv of k_scale .* must be 2"),
        ((Q, K, K, L), {"v_scale": jnp.ones((3, 2))}, "B of v_scale .* must be 2"),
        ((Q, K, K, L), {"logit_cap": 0.0}, "logit_cap must be positive; got 0.0"),
        ((Q, K, K, L), {"implementation": "pallas_gpu"}, "takes bfloat16 .*; got float32"),
        ((Q, K, K, L), {"implementation": "cudnn"}, "'cudnn' computes in bfloat16"),
        (
            (*(x.astype(jnp.bfloat16) for x in (Q, K, K)), L),
            {"implementation": "cudnn", "return_lse": True},
            "'cudnn' decodes without",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        decode_attention(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("of", [0, 1, 2])
def test_a_gradient_is_refused(of):
    with pytest.raises(ValueError, match="has no gradient; .* use flash_attention"):
        jax.grad(lambda *x: decode_attention(*x, L).sum(), of)(Q, K, K)
    stopped = jax.lax.stop_gradient
    jax.grad(lambda q: decode_attention(stopped(q), K, K, L).sum())(Q)
