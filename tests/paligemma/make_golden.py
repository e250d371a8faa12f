"""Writes what transformers computes, so that tests need neither it nor torch.

    python tests/paligemma/make_golden.py

Needs the `parity` extra and two minutes on one core. Written with transformers 5.24 and
torch 2.13; `golden.npz` holds, for each model of `paligemma_cases`:

    <case>/logits     float32, at the places `sampled` chooses, prompts padded right
    <case>/argmax     uint8 [B, T], at all places
    <case>/tokens     uint8 [B, 64], generated greedily with its cache, padded left
    <case>/vision     float32, every ninth token of the batch's pictures
"""

import json
import shutil

import numpy as np
import torch
from paligemma_cases import (
    CASES,
    CHECKPOINT,
    GOLDEN,
    LISTINGS,
    RELEASED,
    SMALLEST,
    STEPS,
    batch,
    listing,
    prompts,
    released,
    sampled,
    stored_weights,
)
from paligemma_reference import (
    reference,
    reference_logits,
    reference_shapes,
    reference_tokens,
    reference_vision,
)


def main() -> None:
    """Writes all files beside this one."""
    torch.set_num_threads(1)
    golden = {}
    for name, case in CASES.items():
        model = reference(case.hf(), stored_weights(case.config()))
        made = prompts(case)
        right, left = batch(made), batch(made, left=True)
        logits = reference_logits(model, right)
        golden[f"{name}/logits"] = logits[sampled(right["attention_mask"])]
        golden[f"{name}/argmax"] = logits.argmax(-1).astype(np.uint8)
        golden[f"{name}/tokens"] = reference_tokens(model, left, STEPS).astype(np.uint8)
        golden[f"{name}/vision"] = reference_vision(model, right)[:, ::9]
    np.savez_compressed(GOLDEN, **golden)

    shutil.rmtree(CHECKPOINT, ignore_errors=True)
    model = reference(SMALLEST.hf(), stored_weights(SMALLEST.config()))
    model.to(torch.bfloat16).save_pretrained(CHECKPOINT, max_shard_size="8KB")
    for path in CHECKPOINT.iterdir():
        path.chmod(0o644)

    listings = {name: listing(reference_shapes(released(name))) for name in RELEASED}
    LISTINGS.write_text(json.dumps(listings, indent=1) + "\n")


if __name__ == "__main__":
    main()
