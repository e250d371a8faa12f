"""A converted model in a folder: a Hugging Face folder with other weights.

    config.json, tokenizer.json, ...   as in the folder it was made from
    weights/                           an Orbax checkpoint, see `orbax_arrays`
    soler1_prompt.json                 how a rewarder is asked, if it was given
    soler1_conversion.json             what it was made from, and a list of its files

The last file is also in the Hugging Face folders that we write.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from soler1_jax.checkpoints.hf_config import read_hf_json
from soler1_jax.checkpoints.hf_heads import with_heads
from soler1_jax.checkpoints.orbax_arrays import check_arrays, read_arrays
from soler1_jax.checkpoints.placement import placed, require_dtype
from soler1_jax.checkpoints.safetensors_files import DTYPES
from soler1_jax.common.errors import UserError
from soler1_jax.common.run import write_json
from soler1_jax.model.config import HeadsConfig, ModelConfig
from soler1_jax.model.functional import Params

FORMAT = 1
ABOUT, WEIGHTS = "soler1_conversion.json", "weights"


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What a folder says of its own making.

    Attributes:
      source: digest of what it was made from and how, see `fingerprint`.
      files: path in the folder -> bytes.
      dtypes: tensor of the Hugging Face checkpoint -> the format's name of its dtype,
        where it is not that of its parameter.
      names: released name of a tensor -> what that checkpoint calls it, where it differs.
      head_twice: whether that checkpoint is tied and stored its embeddings as head too.
      heads: fields of its read-out heads, a `HeadsConfig`; None for none.
      word_head: False for a checkpoint with such heads and no head over words.
    """

    source: str
    files: Mapping[str, int]
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    head_twice: bool = False
    heads: Mapping[str, Any] | None = None
    word_head: bool = True

    def changed(self, folder: Path) -> str | None:
        """Names a file that is missing or has another length; None if there is none."""
        for name, size in self.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                return name
        return None


def is_converted(folder: str | Path) -> bool:
    """Whether a folder holds a converted model."""
    folder = Path(folder)
    return (folder / ABOUT).is_file() and (folder / WEIGHTS).is_dir()


def load_converted(
    folder: str | Path, dtype: str = "bfloat16", mesh: Mesh | None = None
) -> tuple[ModelConfig, Params]:
    """Reads a converted model.

    Args:
      folder: written by `soler1 convert`.
      dtype: of the parameters and of the activations, float32 or bfloat16.
      mesh: to spread the parameters over by their logical axes; each device reads its
        share only. None for the default device.

    Returns:
      The configuration, and parameters on their devices.

    Raises:
      UserError: the folder is missing, incomplete or damaged, or its parts do not fit.
    """
    require_dtype(dtype)
    folder = Path(folder)
    config, _ = checked_folder(folder, dtype)
    return config, read_arrays(folder / WEIGHTS, placed(config, dtype, mesh))


def checked_folder(folder: Path, dtype: str = "bfloat16") -> tuple[ModelConfig, About]:
    """Reads what a converted folder says of itself, and compares it with its files.

    Raises:
      UserError: a file or an array is missing, left over or of another size.
    """
    about = read_about(folder)
    config = with_heads(
        read_hf_json(folder),
        None if about.heads is None else HeadsConfig(**about.heads),
        word_head=about.word_head,
        name=folder.resolve().name,
        dtype=dtype,
    )
    if changed := about.changed(folder):
        raise UserError(
            f"a converted model must be as it was written; {folder / changed} is "
            "missing or has another length; copy the whole folder, or convert it, again"
        )
    check_arrays(folder / WEIGHTS, placed(config, dtype))
    return config, about


def read_about(folder: Path) -> About:
    """Reads `soler1_conversion.json`; UserError if it is not what we write."""
    data = read_hf_json(folder, ABOUT)
    try:
        if data.pop("format") != FORMAT:
            raise UserError(
                f"this version reads converted models of format {FORMAT}; {folder} has "
                "another; convert it again"
            )
        about = About(**data)
        if not {*about.dtypes.values()} <= DTYPES.keys():
            raise TypeError(about.dtypes)
        if not all(isinstance(name, str) for name in about.names.values()):
            raise TypeError(about.names)
        dict(about.files)
        if about.heads is not None:
            HeadsConfig(**about.heads)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / ABOUT} is not as it was written; convert the model again"
        ) from error
    return about


def write_about(folder: Path, **fields: Any) -> None:
    """Writes `soler1_conversion.json` of a folder whose other files are all there."""
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
    about = dataclasses.asdict(About(files=files, **fields))
    write_json(folder / ABOUT, {"format": FORMAT, **about})


def fingerprint(files: Iterable[Path], options: Mapping[str, Any]) -> str:
    """A digest of names, sizes and times of files, and of what is done with them."""
    seen = []
    for path in sorted(files):
        stat = path.stat()
        seen.append([path.name, stat.st_size, stat.st_mtime_ns])
    text = json.dumps([seen, dict(options)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
