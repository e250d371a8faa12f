"""What the commands that tune a released model have in common."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

# What a continued run may be told otherwise.
MAY_CHANGE = ("log_every", "save_every", "watch_every", "exam", "exam_batches")
MAY_CHANGE += ("mesh", "microbatches", "remat", "keep", "saved_dtype")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningArgs:
    """Options of `soler1 sft-vlm` and `soler1 rlvr-vlm`."""

    model: Path
    """Folder of a Qwen3-VL, as released or converted, or OUT/model of such a run."""
    out: Path
    """Run folder."""
    views: Literal["external_and_wrist", "external", "wrist"] = "external_and_wrist"
    """Cameras in the picture of a progress query."""
    from_zero: bool = False
    """Show neither the previous frame nor the progress stated at it."""
    lora_rank: int = 0
    """Train factors of this rank beside the decoder's kernels, and nothing else."""
    lora_alpha: float = 16.0
    """The factors' product counts lora_alpha / lora_rank."""
    train_encoder: bool = True
    """Train the picture encoder too, where there are no factors."""
    remat: bool = True
    """Compute layers again in the backward pass, so that they need not be kept."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of activations; float32 on a CPU, else bfloat16. Weights learn in float32."""
    saved_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the weights in OUT/model."""
    mesh: str | None = None
    """Devices along data,fsdp,tensor, e.g. 1,8,1; by default all on fsdp."""
    log_every: int = 1
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 100
    """Steps between two checkpoints."""
    watch_every: int = 100
    """Steps between two examinations."""
    keep: int = 2
    """Checkpoints that stay."""

    def intervals(self) -> Any:
        """How often the loop does what, as a `LoopConfig`."""
        from soler1_jax.training.loop import LoopConfig

        return LoopConfig(
            log_every=self.log_every,
            save_every=self.save_every,
            watch_every=self.watch_every,
        )
