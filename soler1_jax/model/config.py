"""Configuration of the video-language model, from nano to released checkpoints.

Every difference between sizes and families lives here; the modules hold no code that is
one model's own. The names of quantities follow the published configurations of Qwen3-VL
and, for what only that family has, of PaliGemma 2. What it has is off by default.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from soler1_jax.common.errors import UserError, nearest_hint

CELL_PIXELS = 4  # side of the squares with which the conv stem starts
_PARTS = ("vision", "text", "grounding", "heads", "media")
_ATTENTION = ("xla", "pallas_tpu", "pallas_gpu", "interpret")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The picture encoder: a transformer over the patches of one frame.

    Attributes:
      image_size: side of the square input in pixels.
      patch_size: side of one patch in pixels.
      temporal_patch_size: frames per patch of the linear stem (a still picture is
        repeated); Qwen3-VL uses 2.
      stem: "linear" is one matrix per patch; "conv" shrinks 4x4 pixels linearly, applies
        `stem_depth` residual 3x3 convolutions, then one of stride `patch_size // 4`.
      stem_size: channels of the conv stem.
      stem_depth: residual 3x3 convolutions of the conv stem.
      cell_size: channels of the 4x4-pixel cells on which things are located; what the
        conv stem saw there joins what the blocks made of the patch. 0: things are
        located on patches.
      hidden_size: channels of a patch.
      intermediate_size: hidden channels of the feed-forward layers.
      depth: transformer blocks.
      num_heads: attention heads.
      position_grid: side of the learned position table, interpolated to the frame.
      position_scale: standard deviation of the table at initialisation.
      rotary: whether queries and keys also turn with row and column.
      spatial_merge_size: side of the square of patches that one token merges.
      merger: "mlp" norms, joins and applies a feed-forward layer; "linear" norms and
        applies one matrix.
      merger_hidden: hidden channels of a merger; None for the merged width.
      deepstack_indexes: blocks whose output is added in the first decoder layers.
      scan_layers, remat: as in `TextConfig`.
    """

    image_size: int
    patch_size: int
    temporal_patch_size: int = 1
    stem: Literal["linear", "conv"] = "linear"
    stem_size: int = 0
    stem_depth: int = 0
    cell_size: int = 0
    hidden_size: int
    intermediate_size: int
    depth: int
    num_heads: int
    position_grid: int
    position_scale: float = 0.02
    rotary: bool = True
    spatial_merge_size: int = 2
    merger: Literal["mlp", "linear"] = "mlp"
    merger_hidden: int | None = None
    deepstack_indexes: tuple[int, ...] = ()
    scan_layers: bool = False
    remat: bool = False

    @property
    def grid(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def patch_count(self) -> int:
        """P, patches of a frame."""
        return self.grid**2

    @property
    def map_patch(self) -> int:
        """Side in pixels of the places on which things are located."""
        return CELL_PIXELS if self.cell_size else self.patch_size

    @property
    def map_grid(self) -> int:
        """Such places along one side of a frame."""
        return self.image_size // self.map_patch

    @property
    def map_size(self) -> int:
        """Channels of such a place."""
        return self.cell_size or self.hidden_size

    @property
    def patch_values(self) -> int:
        """Numbers of a patch of the linear stem: channel, time, row, column."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_grid(self) -> int:
        """Tokens along one side of a frame."""
        return self.grid // self.spatial_merge_size

    @property
    def token_count(self) -> int:
        """K, merged tokens of a frame."""
        return self.merged_grid**2

    def __post_init__(self) -> None:
        side = self.patch_size * self.spatial_merge_size
        if self.image_size % side:
            raise UserError(
                f"the picture must hold whole tokens of {side} pixels; image_size is "
                f"{self.image_size}; choose a multiple of {side}"
            )
        if self.rotary and self.hidden_size % (4 * self.num_heads):
            raise UserError(
                "axial rotary positions need vision heads of a multiple of 4 channels; "
                f"got {self.hidden_size} channels in {self.num_heads} heads; change one"
            )
        if self.hidden_size % self.num_heads:
            raise UserError(
                "every vision head has equally many channels; "
                f"got {self.hidden_size} in {self.num_heads} heads; change one"
            )
        if self.stem == "conv" and self.patch_size % CELL_PIXELS:
            raise UserError(
                f"the conv stem starts with 4x4 pixels; patch_size is {self.patch_size}; "
                "choose a multiple of 4"
            )
        if self.cell_size and self.stem != "conv":
            raise UserError(
                "cells are what the conv stem sees; got cell_size "
                f"{self.cell_size} with stem {self.stem!r}; set one of them"
            )
        if any(not 0 <= i < self.depth for i in self.deepstack_indexes):
            raise UserError(
                f"deepstack indexes name blocks 0 to {self.depth - 1}; got "
                f"{self.deepstack_indexes}; change deepstack_indexes or depth"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The decoder.

    Attributes:
      vocab_size: token ids.
      hidden_size: channels of a token, D.
      intermediate_size: hidden channels of the gated feed-forward layers.
      depth: layers.
      num_heads, num_kv_heads, head_dim: grouped-query attention.
      activation: of the gated feed-forward layers; "gelu" is its tanh form.
      rope_theta: base of the rotary frequencies.
      mrope_section: rotary frequencies that turn with time, height and width; they sum
        to head_dim // 2. None for plain rotary positions: every token, of a picture or
        not, is one further than the last.
      first_position: position of a prompt's first token.
      norm_eps: added to the mean square in RMSNorm.
      norm_offset: added to RMSNorm's scale. 1 where scales are stored less one.
      qk_norm: RMSNorm on queries and keys.
      sandwich_norms: RMSNorm on what attention and feed-forward return, too.
      query_pre_attn_scalar: attention scores are divided by its root; None for head_dim.
      attn_logit_softcapping, final_logit_softcapping: c in c tanh(x / c), which bounds
        attention scores and logits; None for no bound.
      sliding_window: tokens that a token sees in the layers of `sliding_layers`, itself
        included; None for all. A bidirectional prefix sees all of itself in any layer.
      sliding_layers: those layers.
      scale_embeddings: words enter as their vectors times the root of hidden_size.
      tie_embeddings: the output matrix is the embedding table.
      prefix_attention: whether pictures and prompt see each other both ways.
      scan_layers, remat: stack and scan the layers; recompute all in the backward pass.
      lora_rank, lora_alpha: of each layer's `layers.Lora`; rank 0 for none.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    activation: Literal["silu", "gelu"] = "silu"
    rope_theta: float
    mrope_section: tuple[int, int, int] | None
    first_position: int = 0
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    qk_norm: bool = True
    sandwich_norms: bool = False
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    sliding_window: int | None = None
    sliding_layers: tuple[int, ...] = ()
    scale_embeddings: bool = False
    tie_embeddings: bool = False
    prefix_attention: Literal["causal", "bidirectional"] = "causal"
    scan_layers: bool = False
    remat: bool = False
    lora_rank: int = 0
    lora_alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.mrope_section and sum(self.mrope_section) != self.head_dim // 2:
            raise UserError(
                "mrope_section must sum to half of head_dim, "
                f"{self.head_dim // 2}; got {self.mrope_section}; change one of them"
            )
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                "every key-value head serves equally many query heads; got "
                f"{self.num_heads} and {self.num_kv_heads}; make one divide the other"
            )
        if any(not 0 <= i < self.depth for i in self.sliding_layers):
            raise UserError(
                f"sliding layers are among 0 to {self.depth - 1}; got "
                f"{self.sliding_layers}; change sliding_layers or depth"
            )
        if self.sliding_layers and not self.sliding_window:
            raise UserError(
                "sliding layers have a window of one token or more; got sliding_window "
                f"{self.sliding_window}; set it, or drop sliding_layers"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroundingConfig:
    """Heat maps of named things, and the tokens pooled by them.

    Attributes:
      size: channels of the text query and of the patch keys.
      coordinate_frequencies: sine-cosine pairs per coordinate of a heat map's centre.
      class_count, color_count, shape_count: outputs of the dense patch heads.
      comparison: whether the current frame is compared with the first and the previous
        one in the light of the sentence (model/comparison.py).
      noun_ids: ids of words that name things; the comparison reads `unknown_id` for them.
        The slots have found the thing, and what is progress must follow from the verb.
      unknown_id: see `noun_ids`.
    """

    size: int = 64
    coordinate_frequencies: int = 4
    class_count: int = 8
    color_count: int = 7
    shape_count: int = 4
    comparison: bool = False
    noun_ids: tuple[int, ...] = ()
    unknown_id: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class MediaTokens:
    """Token ids that stand for pictures in a prompt, as a checkpoint's processor writes it.

    Attributes:
      image, video: placeholder of one merged patch of a picture or of a video; None for
        models that know no videos.
      start, end: around the placeholders of each frame; None for none.
    """

    image: int
    video: int | None = None
    start: int | None = None
    end: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """Heads on hidden states, as Robometer's checkpoints have them (model/heads.py).

    Attributes:
      progress_bins: outputs of the progress head; 1 for a single number.
      preference, similarity: whether there are such heads.
      pooling: whether there is a vector to pool a frame's tokens by. It and the similarity
        head are not read from, but kept so that nothing of a checkpoint is lost.
    """

    progress_bins: int = 10
    preference: bool = True
    similarity: bool = False
    pooling: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole model.

    Attributes:
      name: preset it came from.
      vision, text: encoder and decoder.
      grounding: None for models without heat maps (no slot tokens).
      wrist_size: side in pixels at which the wrist camera's view is encoded, by the same
        encoder; 0 for models that do not look at it. It reaches the decoder through the
        slots alone, so it needs `grounding`.
      frame_roles: learned vectors added to the tokens of the first, previous and current
        frame; 0 for none.
      bin_count: outputs of the value head; 0 for none.
      state_size: outputs of the state head; 0 for none.
      heads: on hidden states at marker tokens; None for none.
      media: placeholders of pictures in a prompt; None for models whose frames are
        given beside the prompt.
      dtype: of activations; parameters may have another.
      attention: see `segment_attention.attend_segments`; None by platform.
    """

    name: str
    vision: VisionConfig
    text: TextConfig
    grounding: GroundingConfig | None = None
    wrist_size: int = 0
    frame_roles: int = 0
    bin_count: int = 0
    state_size: int = 0
    heads: HeadsConfig | None = None
    media: MediaTokens | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["xla", "pallas_tpu", "pallas_gpu", "interpret"] | None = None

    def __post_init__(self) -> None:
        if self.wrist_size and (
            self.grounding is None
            or self.wrist_size % self.vision.patch_size
            or self.vision.image_size % self.wrist_size
        ):
            raise UserError(
                "a wrist view needs grounding, whole patches and a size that divides "
                f"image_size {self.vision.image_size}; got wrist_size "
                f"{self.wrist_size}; choose another, or 0 for none"
            )
        if self.attention not in (None, *_ATTENTION):
            raise UserError(
                f"attention is None or one of {', '.join(_ATTENTION)}; got "
                f"{self.attention!r}; leave it out to choose by platform"
            )
        if len(self.vision.deepstack_indexes) > self.text.depth:
            raise UserError(
                "each deepstack level enters one decoder layer; got "
                f"{len(self.vision.deepstack_indexes)} levels for {self.text.depth} "
                "layers; drop levels or add layers"
            )

    @property
    def wrist_grid(self) -> int:
        """Patches along one side of the wrist view."""
        return self.wrist_size // self.vision.patch_size

    @property
    def wrist_map_grid(self) -> int:
        """Places along one side of the wrist view, see `VisionConfig.map_patch`."""
        return self.wrist_size // self.vision.map_patch

    @property
    def wrist_map_patch(self) -> int:
        """Side of such a place in pixels of the wrist view as it comes, or 0."""
        if not self.wrist_size:
            return 0
        return self.vision.image_size // self.wrist_map_grid

    @property
    def frame_token_count(self) -> int:
        """Tokens of a frame in the decoder's prefix: merged ones and two slots."""
        return self.vision.token_count + (2 if self.grounding else 0)

    def to_json(self) -> dict[str, Any]:
        """Returns plain dictionaries, lists and numbers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ModelConfig":
        """Inverse of `to_json`; raises UserError for unknown or missing fields."""
        parts = (VisionConfig, TextConfig, GroundingConfig, HeadsConfig, MediaTokens)
        fields = dict(data)
        for key, part in zip(_PARTS, parts, strict=True):
            if fields.get(key) is not None:
                fields[key] = _build(part, fields[key])
        return _build(cls, fields)


def _build(cls: type, data: Any) -> Any:
    if not isinstance(data, Mapping):
        raise UserError(
            f"{cls.__name__} is stored as a JSON object; got {type(data).__name__}; "
            "restore config.json"
        )
    names = {f.name for f in dataclasses.fields(cls)}
    for key in data:
        if key not in names:
            raise UserError(
                f"unknown field {key!r} of {cls.__name__}{nearest_hint(key, names)}"
            )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(
            f"{cls.__name__} lacks fields; {error}; restore config.json"
        ) from error
