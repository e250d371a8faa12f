"""The model folder of a run: always whole, always the best model so far."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from soler1_jax.checkpoints.store import save_model
from soler1_jax.common.run import read_json, write_json
from soler1_jax.model.functional import Functional, Params, parameter_count
from soler1_jax.tokenizers.sentencepiece import Tokenizer


@dataclasses.dataclass(frozen=True)
class Keeper:
    """Writes `model/` of a run's folder.

    Attributes:
      folder: of the run.
      functions: the model.
      tokenizer: of its words.
      metadata: where the model comes from; stored with it.
    """

    folder: Path
    functions: Functional
    tokenizer: Tokenizer
    metadata: Mapping[str, Any]

    def consider(self, params: Params, merit: float, facts: Mapping[str, Any]) -> bool:
        """Saves the model unless an earlier one of this run was better.

        Args:
          params: weights.
          merit: what decides; a higher one is better, NaN never wins.
          facts: figures and the like, stored with the model.

        Returns:
          Whether it was saved.
        """
        marker = self.folder / "best.json"
        best = read_json(marker)["merit"] if marker.exists() else -math.inf
        if math.isnan(merit) or merit < best:
            return False
        save_model(
            self.folder / "model",
            self.functions.config,
            jax.device_get(params),
            self.tokenizer,
            {**self.metadata, **facts},
        )
        write_json(marker, {"merit": merit, **facts})
        return True

    def finish(self, params: Params, steps: int, seconds: float) -> dict[str, Any]:
        """The run's result; saves the last model if none was examined."""
        marker = self.folder / "best.json"
        if not marker.exists():
            self.consider(params, 0.0, {"step": steps})
        return {
            "steps": steps,
            "wall_seconds": seconds,
            "parameters": parameter_count(params),
            "best": read_json(marker),
        }
