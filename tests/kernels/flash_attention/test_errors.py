"""What flash attention refuses, in one line that names the fix."""

import jax.numpy as jnp
import pytest
from soler1_jax.kernels.flash_attention import api

X = jnp.zeros((2, 8, 4, 16))
ONES = jnp.ones((2, 8), jnp.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": X[0]}, r"q must have the 4 dimensions .* got shape \[8, 4, 16\]"),
        ({"k": X[:, :4]}, r"Tk of v .* must be 4 .* got shape \[2, 8, 4, 16\]"),
        ({"k": X[:, :, :3], "v": X[:, :, :3]}, "multiple .* got 4 and 3"),
        ({"q": X.astype(jnp.float16)}, "bfloat16 or float32; got float16"),
        ({"k": X.astype(jnp.bfloat16)}, "k must be of dtype float32; got bfloat16"),
        ({"q": X[:, :0]}, "Tq must be 1 or more; got 0"),
        ({"q_segments": ONES}, "must come together"),
        ({"q_segments": ONES[:, :3], "kv_segments": ONES}, "Tq of q_segments"),
        ({"q_segments": ONES, "kv_segments": ONES + 0.5}, "int32; got float32"),
        ({"logit_cap": 0.0}, "logit_cap must be positive; got 0.0"),
        ({"implementation": "metal"}, "got 'metal'"),
        ({"implementation": "pallas_gpu"}, "takes bfloat16 .*; got float32"),
        ({"implementation": "cudnn", "logit_cap": 2.0}, "got dtype float32, logit_cap"),
        ({"implementation": "interpret", "blocks": (64, 128)}, "multiples of 128"),
        ({"blocks": (0, 8)}, "two positive multiples of 1"),
    ],
)
def test_refuses(change, message):
    arguments = {"q": X, "k": X, "v": X, **change}
    with pytest.raises(ValueError, match=message) as caught:
        api.flash_attention(**arguments)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
