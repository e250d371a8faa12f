"""The reference itself against other people's attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import normal, relative_errors, sorted_segments, with_gradients
from soler1_jax.kernels.flash_attention import reference


@pytest.mark.parametrize("causal", [False, True])
def test_reference_equals_jax_nn(causal):
    rng = np.random.default_rng(0)
    q = normal(rng, "float32", 2, 33, 6, 24)
    k, v = (normal(rng, "float32", 2, 33, 3, 24) for _ in range(2))
    segments = np.maximum(sorted_segments(rng, 3, 2, 33), 1)

    def ours(q, k, v):
        return reference.flash_attention(
            q, k, v, causal=causal, q_segments=segments, kv_segments=segments
        )

    def theirs(q, k, v):
        mask = segments[:, None, :, None] == segments[:, None, None, :]
        return jax.nn.dot_product_attention(
            q, k, v, mask=jnp.asarray(mask), is_causal=causal, return_residual=True
        )

    weights = [rng.normal(size=q.shape), np.zeros(q.shape[:3])]
    got = with_gradients(ours, (q, k, v), weights, "float64")
    exact = with_gradients(theirs, (q, k, v), weights, "float64")
    # the softmax of jax.nn is float32 in any case
    assert max(relative_errors(got, exact, 2)) < 1e-6


@pytest.mark.parity
@pytest.mark.parametrize("keys", [20, 33])
def test_reference_counts_from_the_end_as_flash_attention_does(keys):
    torch = pytest.importorskip("torch")
    from torch.nn.attention.bias import causal_lower_right

    rng = np.random.default_rng(0)
    q = normal(rng, "float32", 2, 20, 4, 16)
    k, v = (normal(rng, "float32", 2, keys, 2, 16) for _ in range(2))
    weights = [rng.normal(size=q.shape), np.zeros(q.shape[:3])]

    def ours(q, k, v):
        return reference.flash_attention(q, k, v, causal=True, softmax_scale=0.3)

    out, _, *gradients = with_gradients(ours, (q, k, v), weights, "float64")
    tensors = [
        torch.tensor(np.asarray(x, np.float64), requires_grad=True) for x in (q, k, v)
    ]
    heads_first = [x.transpose(1, 2) for x in tensors]
    got = torch.nn.functional.scaled_dot_product_attention(
        *heads_first,
        attn_mask=torch.as_tensor(causal_lower_right(20, keys)._materialize()),
        scale=0.3,
        enable_gqa=True,
    ).transpose(1, 2)
    (got * torch.tensor(weights[0])).sum().backward()
    theirs = [x.detach().numpy() for x in (got, *(t.grad for t in tensors))]
    assert max(relative_errors([out, *gradients], theirs, 1)) < 1e-12
