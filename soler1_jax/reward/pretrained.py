"""A released Qwen3-VL or PaliGemma 2 checkpoint, ready to be asked.

Takes what its processor returns, as numpy arrays or anything numpy can read. Prompts and
pictures are padded to a few sizes, so that programs are compiled for few shapes.
"""

import contextlib
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from soler1_jax.checkpoints import hf_paligemma
from soler1_jax.checkpoints.converted import is_converted, load_converted
from soler1_jax.checkpoints.hf_config import family_of, read_hf_json
from soler1_jax.checkpoints.hf_weights import load_hf
from soler1_jax.common.errors import UserError
from soler1_jax.data.paligemma_processor import (
    PaliGemmaProcessor,
    load_paligemma_processor,
)
from soler1_jax.data.qwen_processor import QwenProcessor, load_processor
from soler1_jax.model.attention import on_cpu
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional, Params
from soler1_jax.model.patches import Patches
from soler1_jax.model.prefix import Prefix
from soler1_jax.model.prompt import Prompt, make_prompt
from soler1_jax.sampling.methods import GREEDY, Method
from soler1_jax.sampling.unconstrained import Written, write
from soler1_jax.tokenizers.gemma import GemmaTokenizer
from soler1_jax.tokenizers.qwen import QwenTokenizer
from soler1_jax.tokenizers.wording import WORDING, AnyWording, read_wording


class PretrainedVLM:
    """A model and its weights.

    Attributes:
      config: of the model.
      params: tree of parameters, to be replaced freely by one like it.
      stop_ids: tokens that end an answer.
      folder: where it came from; None if from nowhere.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        stop_ids: tuple[int, ...] = (),
        folder: Path | None = None,
    ) -> None:
        self.config, self.params, self.stop_ids = config, params, stop_ids
        self.folder = folder

    @functools.cached_property
    def tokenizer(self) -> QwenTokenizer | GemmaTokenizer:
        """Of the model's words, read at first use; UserError if there is none."""
        kind = GemmaTokenizer if self._is_paligemma() else QwenTokenizer
        return kind(self._folder())

    @functools.cached_property
    def processor(self) -> QwenProcessor | PaliGemmaProcessor:
        """Makes `logits`' arrays, read at first use; UserError if there is none."""
        load = load_paligemma_processor if self._is_paligemma() else load_processor
        return load(self._folder())

    @functools.cached_property
    def wording(self) -> AnyWording | None:
        """How the model is asked for progress, as `soler1 convert --prompt` stored it."""
        path = self._folder() / WORDING
        return read_wording(path) if path.is_file() else None

    def _is_paligemma(self) -> bool:
        return family_of(self.config) is hf_paligemma

    def _folder(self) -> Path:
        if self.folder is None:
            raise UserError(
                "tokenizer, processor and words lie in the model's folder; this model "
                "has none; load it with load_vlm"
            )
        return self.folder

    def logits(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
        image_grid_thw: ArrayLike | None = None,
        pixel_values_videos: ArrayLike | None = None,
        video_grid_thw: ArrayLike | None = None,
        mm_token_type_ids: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
    ) -> jax.Array:
        """Predicts what follows each token.

        Args:
          input_ids: int [B, T].
          attention_mask: [B, T], 0 on padding, left or right; None for none.
          pixel_values, pixel_values_videos: float [patches, channel*time*row*column];
            or pixel_values alone float [M, 3, H, W], as PaliGemma's processor has it.
          image_grid_thw, video_grid_thw: int [M, 3], temporal patches, rows, columns.
          mm_token_type_ids: what the processor also returns; the ids say it already.
          token_type_ids: likewise, of PaliGemma: 0, since a prompt is all prefix.

        Returns:
          float32 [B, T, V]; meaningless on padding.

        Raises:
          UserError: the arrays do not fit each other or the model.
        """
        prompt, patches = self._prompt(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            token_type_ids=token_type_ids,
        )
        out = _logits(Functional(self.config), self.params, prompt, patches)
        return out[:, : np.shape(input_ids)[1]]

    def generate(
        self,
        input_ids: ArrayLike,
        *,
        length: int = 200,
        method: Method = GREEDY,
        seed: int = 0,
        **inputs: ArrayLike | None,
    ) -> Written:
        """Writes an answer to each prompt.

        Args:
          input_ids: int [B, T].
          length: the most tokens of an answer.
          method: how tokens are drawn.
          seed: of the draws.
          inputs: the other arrays that `logits` takes, by name.

        Returns:
          Written, int32 [B, length] tokens and more.

        Raises:
          UserError: the arrays do not fit each other or the model, or see
            `require_generation`.
        """
        require_generation(self.config)
        prompt, patches = self._prompt(input_ids=input_ids, **inputs)
        return _write(
            (Functional(self.config), length, self.stop_ids, method),
            self.params,
            prompt,
            patches,
            jax.random.key(seed),
        )

    def _prompt(
        self,
        *,
        mm_token_type_ids: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        **arrays: Any,
    ) -> tuple[Prompt, Patches | None]:
        _require_prefix(token_type_ids)
        return make_prompt(self.config, **arrays)


def require_generation(config: ModelConfig) -> None:
    """Raises UserError where XLA cannot run the loop that writes token by token.

    On a CPU it has no product of two bfloat16 vectors with a float32 sum.
    """
    if config.dtype == "bfloat16" and on_cpu(config.attention):
        raise UserError(
            "on a CPU text is written in float32; the model was loaded in bfloat16; "
            "load it with dtype='float32'"
        )


def load_vlm(
    path: str | Path, dtype: str = "bfloat16", mesh: Mesh | None = None
) -> PretrainedVLM:
    """Loads a Qwen3-VL or PaliGemma 2 checkpoint from a folder.

    Args:
      path: folder with config.json and safetensors files, as released or as written by
        transformers' `save_pretrained`; or a folder that `soler1 convert` made.
      dtype: of weights and activations, float32 or bfloat16.
      mesh: to spread the weights over by their logical axes; None for the default device.

    Raises:
      UserError: the folder is missing, incomplete or damaged, or of another family.
    """
    load = load_converted if is_converted(path) else load_hf
    config, params = load(path, dtype, mesh)
    return PretrainedVLM(config, params, _stop_ids(Path(path)), Path(path))


def _require_prefix(token_type_ids: ArrayLike | None) -> None:
    if token_type_ids is not None and np.any(token_type_ids):
        raise UserError(
            "a prompt is all prefix, token type 0; got others; give what should follow "
            "it to Functional.logits"
        )


def _stop_ids(folder: Path) -> tuple[int, ...]:
    """Reads the end tokens; none if the checkpoint does not say."""
    for name in ("generation_config.json", "config.json"):
        data = read_hf_json(folder, name) if (folder / name).is_file() else {}
        for part in (data, data.get("text_config") or {}):
            ids = part.get("eos_token_id")
            if ids is not None:
                return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def _precision(config: ModelConfig) -> contextlib.AbstractContextManager:
    """Makes float32 mean float32 where accelerators would multiply in fewer bits."""
    if config.dtype == "float32":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def _prefix(model: Any, prompt: Prompt, patches: Patches | None) -> Prefix:
    features = None if patches is None else model.encode_patches(patches)
    return model.mix(prompt, features)


@functools.partial(jax.jit, static_argnums=0)
def _logits(
    model: Functional, params: Params, prompt: Prompt, patches: Patches | None
) -> jax.Array:
    vlm = model.module(params)
    with _precision(model.config):
        return vlm.prompt_logits(_prefix(vlm, prompt, patches))


@functools.partial(jax.jit, static_argnums=0)
def _write(
    static: tuple[Functional, int, tuple[int, ...], Method],
    params: Params,
    prompt: Prompt,
    patches: Patches | None,
    key: jax.Array,
) -> Written:
    model, length, stop_ids, method = static
    vlm = model.module(params)
    with _precision(model.config):
        return write(
            vlm,
            _prefix(vlm, prompt, patches),
            key,
            length=length,
            stop_ids=stop_ids,
            method=method,
        )
