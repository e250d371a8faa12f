"""The record: one episode as the rewarder sees it, with its questions and truth.

One record is one episode of T frames; frame t was taken t * stride control steps
after reset. N is the number of queries. Positions are in metres in the world's
axes, progress in percent with 0 at the first frame.

    Episode
      name        str                 unique in its data set
      task        str                 name of the task, e.g. "lift-red-cube"
      sentence    str                 the task in words
      family      str                 task family, e.g. "lift"
      verb, noun  str                 the task's, e.g. "push_left", "cube"
      split       str                 "train" | "unseen"
      level       int                 0 expert .. 6 random; 7: the run of another task
                                      with the same noun; 8: of a learned policy
      stride      int                 control steps between two frames
      external    uint8 [T,S,S,3]     what the fixed camera sees (RGB)
      wrist       uint8 [T,S,S,3]     what the wrist camera sees (None: not stored)
      semantic    uint8 [T,S,S]       class of each external pixel (CLASSES)
      wrist_semantic  uint8 [T,S,S]   the same of the wrist's pixels (None: not stored)
      names       8 x str             words for each class, "" if it is not nameable
      named       int                 class of the thing that the task names
      colors      int32 [8]           colour of each class, an index of COLORS
      shapes      int32 [8]           shape of each class, an index of SHAPES
      facts       float32 [T,F]       privileged measurements, columns FACTS
      queries     N x Query
        source      str               "progress" | "spatial" | "temporal"
        first, prev, cur  int         frame indices; -1: this frame is not shown
        prompt      str               what is asked (data/text.py)
        completion  str               what should be answered (data/text.py)
        progress    int               percent at `cur`, 0 where source != progress
        previous    int               percent at `prev`, 0 where source != progress
        claims      dict              machine-readable truth: of a thought, kind ->
                                      value (CLAIMS); of a question, see questions.py

The facts are for training targets and for evaluation; a rewarder is never given
them. On disk a record is a tf.train.Example written without TensorFlow (paper
section 3.6 has the row of the original).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import numpy as np
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.core import features as tfds_features

FRAMES = 9
IMAGE_SIZE = 64
SOURCES = ("progress", "spatial", "temporal")
SPLITS = ("train", "unseen")
CLASSES = (
    "background",
    "gripper",
    "object0",
    "object1",
    "plate",
    "slide part",
    "hinge part",
    "fixture base",
)
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "none")
SHAPES = ("cube", "ball", "cylinder", "none")
FACTS = (
    "gripper_x",
    "gripper_y",
    "gripper_z",
    "named_x",
    "named_y",
    "named_z",
    "object0_x",
    "object0_y",
    "object0_z",
    "object1_x",
    "object1_y",
    "object1_z",
    "plate_x",
    "plate_y",
    "plate_z",
    "handle_x",
    "handle_y",
    "handle_z",
    "aperture",
    "slide",
    "hinge",
    "distance",
    "gap",
    "reach",
    "act",
    "contact",
    "grasped",
    "other_contact",
    "other_grasped",
    "progress",
    "success",
)

# What a thought can claim: kind -> values, in the order in which it is said.
CLAIMS: dict[str, tuple[str, ...]] = {
    "motion": ("nearer", "farther", "same"),
    "contact": ("yes", "near", "no"),
    "wrong": ("yes",),
    "grasp": ("yes", "no"),
    "object": ("toward", "away", "still"),
    "state": ("worse", "none", "some", "most", "done"),
    "remains": ("reach", "act", "finish", "nothing"),
    "trend": ("up", "down", "same"),
}


@dataclasses.dataclass(frozen=True)
class Query:
    """One question about an episode, its completion and what makes it true."""

    source: str
    first: int
    prev: int
    cur: int
    prompt: str
    completion: str
    progress: int
    previous: int
    claims: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Episode:
    """One record; fields, shapes and units are drawn in the module docstring."""

    name: str
    task: str
    sentence: str
    family: str
    verb: str
    noun: str
    split: str
    level: int
    stride: int
    external: np.ndarray
    wrist: np.ndarray | None
    semantic: np.ndarray
    wrist_semantic: np.ndarray | None
    names: tuple[str, ...]
    named: int
    colors: np.ndarray
    shapes: np.ndarray
    facts: np.ndarray
    queries: tuple[Query, ...]

    def fact(self, name: str) -> np.ndarray:
        """One column of the facts over time, float32 [T]."""
        return self.facts[:, FACTS.index(name)]

    def position(self, name: str) -> np.ndarray:
        """Position in metres over time, float32 [T,3], of "gripper", "named", ..."""
        column = FACTS.index(f"{name}_x")
        return self.facts[:, column : column + 3]

    @property
    def progress(self) -> np.ndarray:
        """True progress in percent, float32 [T]."""
        return self.fact("progress")

    @property
    def success(self) -> bool:
        """True if the task was solved in at least one frame."""
        return bool((self.fact("success") > 0.5).any())


@functools.lru_cache(maxsize=8)
def features(
    frames: int = FRAMES, size: int = IMAGE_SIZE, wrist: bool = True
) -> tfds_features.FeaturesDict:
    """The TFDS description of a record of T=frames frames of size x size pixels."""

    def tensor(shape: tuple[int, ...], dtype: type) -> tfds_features.Tensor:
        return tfds_features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

    text, integer = tfds_features.Text(), tfds_features.Scalar(np.int32)
    pixels = tensor((frames, size, size, 3), np.uint8)
    spec = {
        "name": text,
        "task": text,
        "sentence": text,
        "family": text,
        "verb": text,
        "noun": text,
        "split": text,
        "level": integer,
        "stride": integer,
        "external": pixels,
        "semantic": tensor((frames, size, size), np.uint8),
        "names": tfds_features.Sequence(text, length=len(CLASSES)),
        "named": integer,
        "colors": tensor((len(CLASSES),), np.int32),
        "shapes": tensor((len(CLASSES),), np.int32),
        "facts": tensor((frames, len(FACTS)), np.float32),
        "queries": tfds_features.Sequence(
            {
                "source": text,
                "first": integer,
                "prev": integer,
                "cur": integer,
                "prompt": text,
                "completion": text,
                "progress": integer,
                "previous": integer,
                "claims": text,
            }
        ),
    }
    if wrist:
        spec["wrist"] = pixels
        spec["wrist_semantic"] = spec["semantic"]
    return tfds_features.FeaturesDict(spec)


def _features_of(episode: Episode) -> tfds_features.FeaturesDict:
    frames, size = episode.external.shape[:2]
    return features(frames, size, episode.wrist is not None)


def serialize(episode: Episode) -> bytes:
    """The record as bytes; equal episodes give equal bytes."""
    row = {field.name: getattr(episode, field.name) for field in _ROW}
    if episode.wrist is None:
        del row["wrist"], row["wrist_semantic"]
    row["names"] = list(episode.names)
    row["queries"] = [
        {**dataclasses.asdict(q), "claims": json.dumps(q.claims, sort_keys=True)}
        for q in episode.queries
    ]
    spec = _features_of(episode)
    encoded = spec.encode_example(row)
    writer = example_serializer.ExampleSerializer(spec.get_serialized_info())
    # protobuf maps have no order of their own, and shards must be reproducible
    return writer.get_tf_example(encoded).SerializeToString(deterministic=True)


_ROW = dataclasses.fields(Episode)


def from_row(row: dict[str, Any]) -> Episode:
    """The episode held by one decoded TFDS row (arrays, bytes, lists)."""
    columns = row["queries"]
    count = len(columns["first"])
    queries = tuple(
        Query(
            **{k: _plain(k, columns[k][i]) for k in columns if k != "claims"},
            claims=json.loads(_text(columns["claims"][i])),
        )
        for i in range(count)
    )
    values: dict[str, Any] = {
        "wrist": row.get("wrist"),
        "wrist_semantic": row.get("wrist_semantic"),
        "names": tuple(_text(name) for name in row["names"]),
        "queries": queries,
    }
    for field in _ROW:
        if field.name not in values:
            values[field.name] = _plain(field.name, row[field.name])
    return Episode(**values)


_TEXTS = {"name", "task", "sentence", "family", "verb", "noun", "split"}
_TEXTS |= {"source", "prompt", "completion"}
_NUMBERS = {"level", "stride", "named", "first", "prev", "cur", "progress", "previous"}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _plain(name: str, value: Any) -> Any:
    if name in _TEXTS:
        return _text(value)
    return int(value) if name in _NUMBERS else value
