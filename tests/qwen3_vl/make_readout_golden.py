"""Writes what torch's heads on transformers' trunk say, so that tests need neither.

    python tests/qwen3_vl/make_readout_golden.py

Needs the `parity` extra. Written with transformers 5.24 and torch 2.13.
`readout_golden.npz` holds, for each model of `readout_cases.HEADS`, float32:

    <case>/progress, <case>/success, <case>/preference   logits at the markers
    <case>/likelihood                                    of the answer, log, [B]
"""

import numpy as np
import torch
from qwen3_vl_cases import CASES, batch, prompts, stored_weights
from readout_cases import GOLDEN, HEADS, with_heads
from readout_reference import reference_model, reference_readouts


def main() -> None:
    """Writes the file beside this one."""
    torch.set_num_threads(1)
    golden = {}
    for name, heads in HEADS.items():
        weights = stored_weights(with_heads(name))
        model = reference_model(CASES[name].hf(), heads, weights)
        said = reference_readouts(model, batch(prompts(CASES[name])))
        golden |= {f"{name}/{kind}": value for kind, value in said.items()}
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
