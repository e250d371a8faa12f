"""What a run starts from, as the user names it: data, tokenizer, model, mesh."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from soler1_jax.checkpoints.placement import activation_dtype
from soler1_jax.checkpoints.store import load_metadata, load_model
from soler1_jax.common import mesh as meshes
from soler1_jax.common.errors import UserError, require_positive
from soler1_jax.data import selection
from soler1_jax.data.records import Episode
from soler1_jax.data.source import open_source
from soler1_jax.model.config import ModelConfig
from soler1_jax.model.functional import Functional
from soler1_jax.model.presets import preset
from soler1_jax.synthesis.corpus import corpus
from soler1_jax.tokenizers.sentencepiece import UNK, Tokenizer, train_tokenizer
from soler1_jax.training.memory import Joined, Remembered


@dataclasses.dataclass(frozen=True)
class Start:
    """A model to begin with.

    Attributes:
      name: as the user wrote it: a preset or a folder.
      config: of a stored model; None for a preset, which its tokenizer sizes.
      params: stored weights, or None to draw them.
      tokenizer: stored with the weights, or None.
      metadata: stored with the weights.
    """

    name: str
    config: ModelConfig | None = None
    params: Any = None
    tokenizer: Tokenizer | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Which records a run learns from, see data/selection.py.

    Attributes:
      families: task families; all if empty.
      levels: kinds of run, 0 for experts; all if empty.
      records: how many at most; None for all.
      thoughts: whether a completion has its thought.
    """

    families: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    records: int | None = None
    thoughts: bool = True


def load_start(folder: Path) -> Start:
    """Loads a model folder.

    Raises:
      UserError: it is missing or damaged.
    """
    metadata = {k: v for k, v in load_metadata(folder).items() if k != "sha256"}
    return Start(str(folder), *load_model(folder), metadata)


def starting_point(name: str) -> Start:
    """Loads a model folder, or takes the name as a preset.

    Raises:
      UserError: the folder is damaged, or the name is neither.
    """
    if Path(name).is_dir():
        return load_start(Path(name))
    preset(name, vocab_size=64)
    return Start(name)


def model_config(
    start: Start,
    tokenizer: Tokenizer,
    episodes: Sequence[Episode],
    dtype: str | None = None,
) -> ModelConfig:
    """The model's configuration.

    Args:
      start: the model; a new one learns which words are nouns from the data.
      tokenizer: of the model.
      episodes: the training data; all are read for a new model.
      dtype: of activations; None for float32 on a CPU and bfloat16 elsewhere.
    """
    config = start.config or preset(start.name, tokenizer.vocab_size)
    if start.config is None and config.grounding and config.grounding.comparison:
        grounding = dataclasses.replace(
            config.grounding, noun_ids=noun_ids(episodes, tokenizer), unknown_id=UNK
        )
        config = dataclasses.replace(config, grounding=grounding)
    return dataclasses.replace(config, dtype=activation_dtype(dtype))


def noun_ids(episodes: Sequence[Episode], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the words by which tasks name their things, in ascending order."""
    names = {episode.names[episode.named] for episode in episodes}
    return tuple(sorted({i for name in names for i in tokenizer.encode(name)}))


def open_episodes(
    folders: Sequence[Path], start: Start, part: Part | None = None
) -> Remembered:
    """Opens data sets as one and keeps in memory what was read.

    Args:
      folders: of the data sets.
      start: the model, which may look through the wrist's camera or not.
      part: which of their records; None for all.

    Raises:
      UserError: a folder holds no complete data set, or none of the part's records.
    """
    part = part or Part()
    # Any vocabulary will do: nothing but the views is asked for.
    config = start.config or preset(start.name, vocab_size=64)
    sources = [open_source(folder) for folder in folders]
    whole = sources[0] if len(sources) == 1 else Joined(sources)
    chosen = selection.select(
        whole, families=part.families, levels=part.levels, records=part.records
    )
    chosen = chosen if part.thoughts else selection.WithoutThoughts(chosen)
    return Remembered(chosen, wrist=bool(config.wrist_size))


def find_tokenizer(
    path: Path | None, data: Path, out: Path, vocab_size: int
) -> Tokenizer:
    """The tokenizer given, the run's own, or one trained on the data set's texts.

    Args:
      path: a SentencePiece model, or None.
      data: the training data set.
      out: the run's folder; a trained tokenizer is kept there.
      vocab_size: largest vocabulary of a trained one.
    """
    own = out / "tokenizer.model"
    if path is None and not own.exists():
        require_positive("--vocab-size", vocab_size)
        return train_tokenizer(corpus(open_source(data)), own, vocab_size)
    return Tokenizer(path or own)


def exam_episodes(
    folders: Sequence[Path], count: int, *, thoughts: bool = True
) -> list[Episode]:
    """The first `count` episodes of each data set, with their thoughts or without.

    Raises:
      UserError: a folder holds no complete data set.
    """
    require_positive("--exam-episodes", count)
    sources: list[Sequence[Episode]] = [open_source(folder) for folder in folders]
    if not thoughts:
        sources = [selection.WithoutThoughts(source) for source in sources]
    return [s[i] for s in sources for i in range(min(count, len(s)))]


def make_mesh(shape: str | None) -> Mesh:
    """A mesh from "data,fsdp,tensor", or all devices on `data`.

    Raises:
      UserError: three whole numbers are needed, with the right product.
    """
    if not shape:
        return meshes.make_mesh()
    try:
        sizes = [int(part) for part in shape.split(",")]
    except ValueError as error:
        raise UserError(
            f"a mesh is three whole numbers data,fsdp,tensor; got {shape!r}; "
            "give e.g. --mesh 4,1,1"
        ) from error
    return meshes.make_mesh(sizes)


def check_data(episodes: Sequence[Episode], functions: Functional) -> None:
    """Raises UserError unless the frames are what the model looks at."""
    if functions.config.wrist_size and episodes[0].wrist is None:
        raise UserError(
            f"model {functions.config.name!r} looks through the wrist's camera too; the "
            "data set has no such view; make it without --no-wrist"
        )
    size, wanted = episodes[0].external.shape[1], functions.config.vision.image_size
    if size != wanted:
        raise UserError(
            f"model {functions.config.name!r} looks at {wanted}x{wanted} pixels; the "
            f"data set has {size}x{size}; choose another --model or make other data"
        )
