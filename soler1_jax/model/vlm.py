"""The video-language model: frames and a prompt in, thoughts and progress out.

Frames are encoded one by one and without text, so that what was computed for the first
and previous frame of an episode serves every later query and every sentence.

Letters: N frames, B queries, P places of the prefix (patches in `FrameFeatures`), S
generated tokens, L and Lp words, V token ids, D channels, M phrases.
Paper: arXiv 2603.28730, section 2 (goal, first, previous and current frame -> thought,
answer); architecture: Qwen3-VL (arXiv 2511.21631).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from soler1_jax.common.errors import UserError
from soler1_jax.model.attention import on_cpu, soft_cap
from soler1_jax.model.cache import Cache, begin, mark
from soler1_jax.model.comparison import Change, Comparer
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.decoder import Decoder
from soler1_jax.model.grounding import DenseLogits, Grounded, Grounder
from soler1_jax.model.heads import ReadoutHeads
from soler1_jax.model.layers import Embedding, Linear, parameter
from soler1_jax.model.outputs import Outputs, Step
from soler1_jax.model.patches import Patches
from soler1_jax.model.prefix import (
    Prefix,
    frame_offsets,
    full_mask,
    mixed_prefix,
    near_mask,
    prefix_mask,
    prefix_positions,
)
from soler1_jax.model.prompt import Prompt
from soler1_jax.model.vision import FrameFeatures, VisionTower

FIRST, PREVIOUS, CURRENT = range(3)  # roles of frames


class VLM(nnx.Module):
    """See the module docstring. In hot paths use `functional.functional(model)`."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        text = config.text
        size = text.hidden_size
        self.config = config
        self.visual = VisionTower(
            config.vision,
            size,
            config.dtype,
            wrist_size=config.wrist_size,
            attention=config.attention,
            rngs=rngs,
        )
        self.embed_tokens = Embedding(
            text.vocab_size,
            size,
            ("vocab", "embed"),
            scale=size**-0.5 if text.tie_embeddings else 0.5,
            multiplier=size**0.5 if text.scale_embeddings else None,
            rngs=rngs,
        )
        self.language_model = Decoder(text, config.attention, rngs=rngs)
        if not text.tie_embeddings:
            self.lm_head = Linear(
                (size, text.vocab_size), ("embed", "vocab"), use_bias=False, rngs=rngs
            )
        if config.grounding:
            self.grounder = Grounder(config, rngs=rngs)
            if config.grounding.comparison:
                self.comparer = Comparer(config, rngs=rngs)
        if config.frame_roles:
            roles = jax.random.normal(rngs.params(), (config.frame_roles, size))
            self.frame_roles = parameter(0.5 * roles, (None, "embed"))
        if config.bin_count:
            self.value_head = self._head(config.bin_count, rngs)
        if config.state_size:
            self.state_head = self._head(config.state_size, rngs)
        if config.heads:
            self.heads = ReadoutHeads(config.heads, size, rngs=rngs)

    def _head(self, outputs: int, rngs: nnx.Rngs) -> Linear:
        size = self.config.text.hidden_size
        return Linear((size, outputs), ("embed", None), use_bias=True, rngs=rngs)

    def encode(
        self, frames: jax.Array, wrist: jax.Array | None = None
    ) -> FrameFeatures:
        """Encodes uint8 [N, H, W, 3] frames of the configured size, each on its own.

        Args:
          frames: what the fixed camera sees.
          wrist: what the wrist camera sees, of the same shape; None if it is not
            known. Models without `config.wrist_size` leave it out.
        """
        side = self.config.vision.image_size
        wrist = wrist if self.config.wrist_size else None
        for view in (frames,) if wrist is None else (frames, wrist):
            if view.shape[1:] != (side, side, 3):
                raise UserError(
                    f"model {self.config.name!r} takes {side}x{side} RGB frames; got "
                    f"shape {tuple(view.shape[1:])}; resize them"
                )
        return self.visual(frames, wrist)

    def encode_patches(self, patches: Patches) -> FrameFeatures:
        """Encodes frames of any size, each on its own; needs the linear stem."""
        return self.visual.encode_patches(patches)

    def dense(self, features: FrameFeatures) -> DenseLogits:
        """Classifies every patch (needs `config.grounding`)."""
        return self.grounder.dense(features)

    def ground(
        self, features: FrameFeatures, ids: jax.Array, mask: jax.Array
    ) -> Grounded:
        """Finds the gripper and the named things.

        Args:
          features: of N frames.
          ids: int32 [N, L] words of one thing per frame, or [N, M, L] of several; the
            slot token in `tokens` is that of phrase 0.
          mask: bool, ids' shape; False on padding.

        Returns:
          Grounded; M is 1 for ids [N, L]. Without `config.grounding` the tokens are the
          merged ones and the maps are empty.
        """
        if self.config.grounding is None:
            count = features.patches.shape[0]
            heat = jnp.zeros((count, 0, features.patches.shape[1]))
            empty = jnp.zeros((count, 0, 3))
            return Grounded(features.tokens, features.deepstack, heat, empty)
        return self.grounder(features, ids, mask)

    def prefix(
        self,
        frames: Sequence[Grounded],
        prompt_ids: jax.Array,
        prompt_mask: jax.Array,
        frame_mask: jax.Array | None = None,
        roles: Sequence[int] | None = None,
    ) -> Prefix:
        """Lines up frames and prompt.

        Args:
          frames: in the order in which they are shown, each with leading axis B.
          prompt_ids: int32 [B, Lp], padded on the right.
          prompt_mask: bool [B, Lp], False on padding.
          frame_mask: bool [B, F], False where a query has no such frame; None for all.
          roles: which learned frame vector each frame gets (0 first, 1 previous,
            2 current); None for their place in the list.

        Returns:
          Prefix. Absent frames and padding change nothing but their own places.
        """
        batch, count = prompt_ids.shape[0], len(frames)
        roles = tuple(range(count)) if roles is None else tuple(roles)
        if frame_mask is None:
            frame_mask = jnp.ones((batch, count), bool)
        tokens = [f.tokens for f in frames]
        if self.compares and set(roles) >= {FIRST, PREVIOUS, CURRENT}:
            places = [roles.index(role) for role in (FIRST, PREVIOUS, CURRENT)]
            tokens[places[2]] += self._changes(
                [frames[p] for p in places],
                (prompt_ids, prompt_mask),
                frame_mask[:, jnp.asarray(places)],
            )
        tokens = [self._with_role(t, r) for t, r in zip(tokens, roles, strict=True)]
        words = self.embed_tokens(prompt_ids, self.config.dtype)
        grid, shown = self.config.vision.merged_grid, self.config.frame_token_count
        text = self.config.text
        offsets = frame_offsets(
            grid, shown - grid * grid, plain=text.mrope_section is None
        )
        positions, following = prefix_positions(
            offsets, frame_mask, prompt_mask, text.first_position
        )
        picture_mask = jnp.repeat(frame_mask, shown, axis=1)
        length = jnp.sum(prompt_mask, axis=1, dtype=jnp.int32)
        return Prefix(
            embeds=jnp.concatenate([*tokens, words], axis=1),
            positions=positions,
            deepstack=jnp.concatenate([f.deepstack for f in frames], axis=2),
            mask=jnp.concatenate([picture_mask, prompt_mask], axis=1),
            last=count * shown + jnp.maximum(length - 1, 0),
            next_position=following,
        )

    def mix(self, prompt: Prompt, features: FrameFeatures | None = None) -> Prefix:
        """Embeds a prompt with pictures among its words.

        Args:
          prompt: of `prompt.make_prompt`.
          features: of its patches; None without pictures.
        """
        words = self.embed_tokens(prompt.ids, self.config.dtype)
        return mixed_prefix(words, prompt, features)

    @property
    def compares(self) -> bool:
        """Whether frames are compared with each other."""
        return bool(self.config.grounding and self.config.grounding.comparison)

    def compare(
        self, before: Grounded, now: Grounded, ids: jax.Array, mask: jax.Array
    ) -> Change:
        """What changed between two frames; needs `config.grounding.comparison`.

        Args:
          before, now: frames with leading axis B, grounded with the task's words.
          ids: int32 [B, Lp], the prompt; its nouns are not read.
          mask: bool [B, Lp].
        """
        nouns = self.config.grounding.noun_ids
        if nouns:
            named = jnp.isin(ids, jnp.asarray(nouns))
            ids = jnp.where(named, self.config.grounding.unknown_id, ids)
        return self.comparer(before, now, ids, mask)

    def _changes(
        self,
        frames: Sequence[Grounded],
        words: tuple[jax.Array, jax.Array],
        shown: jax.Array,
    ) -> jax.Array:
        """What the current frame's tokens are told of the two before.

        Args:
          frames: first, previous and current.
          words: ids int32 and mask bool [B, Lp].
          shown: bool [B, 3], which of the frames are there.

        Returns:
          [B, K+2, D], zero but for the slots.
        """
        first, previous, current = frames
        # The gripper's slot learns of the last motion, the thing's of all so far.
        told = [self.compare(f, current, *words).token for f in (previous, first)]
        both = shown[:, 2:] & shown[:, 1::-1]
        slots = jnp.stack(told, axis=1) * both[..., None].astype(told[0].dtype)
        return jnp.pad(slots, ((0, 0), (current.tokens.shape[1] - 2, 0), (0, 0)))

    def _with_role(self, tokens: jax.Array, role: int) -> jax.Array:
        if not self.config.frame_roles:
            return tokens
        return tokens + self.frame_roles[...][role].astype(tokens.dtype)

    def logits(
        self, prefix: Prefix, completion_ids: jax.Array, completion_mask: jax.Array
    ) -> Outputs:
        """Predicts every token of a completion from those before it.

        Args:
          prefix: of `prefix`.
          completion_ids: int32 [B, S], padded on the right.
          completion_mask: bool [B, S].

        Returns:
          Outputs; token 0 is predicted at the last word of the prompt.
        """
        words = self.embed_tokens(completion_ids[:, :-1], prefix.embeds.dtype)
        seen = completion_mask[:, :-1]
        steps = prefix.next_position[:, None] + jnp.arange(seen.shape[1])
        steps = jnp.broadcast_to(steps[:, None], (steps.shape[0], 3, steps.shape[1]))
        positions = jnp.concatenate([prefix.positions, steps], axis=2)
        mask = segments = None
        if self._told_by_segments:
            segments = jnp.concatenate([prefix.mask, seen], axis=1).astype(jnp.int32)
        else:
            mask = full_mask(prefix.mask, seen, bidirectional=self._bidirectional)
        hidden, _ = self.language_model(
            jnp.concatenate([prefix.embeds, words], axis=1),
            positions,
            mask,
            prefix.deepstack,
            near=self._near(mask, positions, prefix.mask.shape[1]),
            segments=segments,
        )
        last = self._last(hidden, prefix)
        places = prefix.embeds.shape[1]
        hidden = jnp.concatenate([last[:, None], hidden[:, places:]], axis=1)
        return Outputs(*self._read(hidden), self._state(last))

    def prompt_logits(self, prefix: Prefix) -> jax.Array:
        """Predicts what follows each place of a prefix: float32 [B, P, V]."""
        return self._read(self._prefill(prefix)[0]).logits

    def hidden_at(self, prefix: Prefix, places: jax.Array) -> jax.Array:
        """Normed hidden states of a prefix at places int32 [B, R]: [B, R, D]."""
        return jnp.take_along_axis(self._prefill(prefix)[0], places[..., None], axis=1)

    def next_logits(self, hidden: jax.Array) -> jax.Array:
        """Predicts what follows hidden states [..., D]: float32 [..., V]."""
        return self._read(hidden).logits

    def prefill(
        self, prefix: Prefix, capacity: int, group: int = 1
    ) -> tuple[Cache, Step, jax.Array]:
        """Runs the prefix once.

        Args:
          prefix: of `prefix` or `mix`, B sequences.
          capacity: S, how many tokens `decode_step` may be given.
          group: G, how often each sequence is continued.

        Returns:
          The cache, predictions of the first token, and the state
          [B * G, state_size], all of B * G sequences, those of a prefix together.
        """
        hidden, layers = self._prefill(prefix)
        last = self._last(hidden, prefix)
        cpu, gpu = on_cpu(self.config.attention), jax.default_backend() == "gpu"
        apart = self.language_model.layers.apart(turned=cpu) if cpu or gpu else None
        cache = begin(self.config, layers, prefix, capacity, group, apart)
        # Read once, whatever the number of continuations.
        found = jax.tree.map(
            lambda a: jnp.repeat(a, group, axis=0),
            (self._read(last), self._state(last)),
        )
        return cache, *found

    def decode_step(self, cache: Cache, token: jax.Array) -> tuple[Cache, Step]:
        """Feeds one token int32 [B]; returns the cache and predictions of the next."""
        cache, mask, near = mark(cache, self.config.text.sliding_window)
        position = jnp.broadcast_to(cache.position[:, None], (token.shape[0], 3))
        hidden, layers = self.language_model(
            self.embed_tokens(token[:, None], self.config.dtype),
            position[..., None],
            mask,
            cache=cache.layers,
            index=cache.index,
            near=near,
            apart=cache.apart,
        )
        cache = cache._replace(
            layers=layers, index=cache.index + 1, position=cache.position + 1
        )
        return cache, self._read(hidden[:, 0])

    def _prefill(self, prefix: Prefix) -> tuple[jax.Array, Any]:
        mask = segments = None
        if self._told_by_segments:
            segments = prefix.mask.astype(jnp.int32)
        else:
            mask = prefix_mask(prefix.mask, bidirectional=self._bidirectional)
        return self.language_model(
            prefix.embeds,
            prefix.positions,
            mask,
            prefix.deepstack,
            near=self._near(mask, prefix.positions, prefix.mask.shape[1]),
            segments=segments,
        )

    def _near(
        self, mask: jax.Array | None, positions: jax.Array, prefix: int
    ) -> jax.Array | None:
        """`mask` within the sliding window, if there is one; `prefix` places come first."""
        text = self.config.text
        if not text.sliding_layers:
            return None
        steps, exempt = positions[:, 0], prefix if self._bidirectional else 0
        return near_mask(mask, steps, steps, text.sliding_window, exempt=exempt)

    @property
    def _bidirectional(self) -> bool:
        return self.config.text.prefix_attention == "bidirectional"

    @property
    def _told_by_segments(self) -> bool:
        """Whether causality and padding are all there is to who sees whom."""
        return not self._bidirectional and not self.config.text.sliding_layers

    def _last(self, hidden: jax.Array, prefix: Prefix) -> jax.Array:
        return jnp.take_along_axis(hidden, prefix.last[:, None, None], axis=1)[:, 0]

    def _read(self, hidden: jax.Array) -> Step:
        if self.config.text.tie_embeddings:
            logits = self.embed_tokens.attend(hidden)
        else:
            logits = self.lm_head(hidden, jnp.float32)
        logits = soft_cap(logits, self.config.text.final_logit_softcapping)
        if not self.config.bin_count:
            return Step(logits, jnp.zeros((*hidden.shape[:-1], 0)))
        return Step(logits, self.value_head(hidden).astype(jnp.float32))

    def _state(self, last: jax.Array) -> jax.Array:
        if not self.config.state_size:
            return jnp.zeros((last.shape[0], 0))
        return self.state_head(last).astype(jnp.float32)
