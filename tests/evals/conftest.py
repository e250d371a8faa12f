"""Made-up episodes whose pixels tell the progress, and rewarders that read them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from soler1_jax.common.rewarder import Rewarder, TaskText, certain_verdict
from soler1_jax.data import records, text

SIZE = 8
THOUGHTS = ("", "gripper nearer, progress up", "gripper farther, progress down")


class Memory(NamedTuple):
    """Episode state of a rewarder that keeps its previous answer."""

    previous_progress: jax.Array


def episode_of(progress, index=0, family="lift", split="unseen"):
    """An episode whose pixels are progress + 100 and whose claims follow it."""
    progress = np.asarray(progress, np.float32)
    facts = np.zeros((len(progress), len(records.FACTS)), np.float32)
    facts[:, records.FACTS.index("progress")] = progress
    facts[:, records.FACTS.index("distance")] = 0.5 - progress / 400
    facts[:, records.FACTS.index("success")] = progress >= 100
    frames = np.broadcast_to(
        (progress + 100).astype(np.uint8)[:, None, None, None],
        (len(progress), SIZE, SIZE, 3),
    ).copy()
    return records.Episode(
        name=f"episode-{index}",
        task=f"{family}-red-cube",
        sentence=f"{family} the red cube",
        family=family,
        verb=family,
        noun="cube",
        split=split,
        level=0,
        stride=5,
        external=frames,
        wrist=None,
        wrist_semantic=None,
        semantic=np.zeros(frames.shape[:3], np.uint8),
        names=("",) * 8,
        named=2,
        colors=np.zeros(8, np.int32),
        shapes=np.zeros(8, np.int32),
        facts=facts,
        queries=(),
    )


@pytest.fixture
def make_episode():
    """The maker above."""
    return episode_of


@pytest.fixture
def make_rewarder():
    """Returns a maker of rewarders: gain * pixels + copy * previous answer.

    `words` makes it think aloud, truly if the progress rises. `truth` makes it use the
    true progress instead of the pixels.
    """

    def make(gain=1.0, copy=0.0, words=False, truth=False, views=("external",)):
        def start(params, views, task, key):
            batch = task.ids.shape[0]
            return Memory(jnp.zeros(batch)) if copy else {"last": jnp.zeros(batch)}

        def score(params, state, seen, key, true):
            assert (true is not None) == truth, "only the oracle is handed the truth"
            pixels = true if truth else seen["external"][:, 0, 0, 0] - 100.0
            memory = state.previous_progress if copy else state["last"]
            answer = params["gain"] * pixels + copy * memory
            verdict = certain_verdict(answer, token_count=1)
            if words:
                rises = answer > memory
                verdict = verdict.replace(
                    tokens=jnp.where(rises, 1, 2).astype(jnp.int32)[:, None]
                )
            return (Memory(answer) if copy else {"last": answer}), verdict

        def prepare(sentences):
            shape = (len(sentences), 2)
            return TaskText(jnp.ones(shape, jnp.int32), jnp.ones(shape, bool))

        def decode(tokens):
            return text.progress_completion(THOUGHTS[int(tokens[0])], 7)

        return Rewarder(
            params={"gain": jnp.float32(gain)},
            name="fake",
            views=() if truth else views,
            image_size=0 if truth else SIZE,
            uses_truth=truth,
            start=start,
            score=score,
            prepare=prepare,
            decode=decode,
        )

    return make
