"""Hugging Face folders to converted ones and back, a piece of a tensor at a time.

Everything that can be told without reading all numbers is checked before anything is
written. Tensors keep their bits and dtypes, files around the weights are copied. Memory
holds a few pieces (`orbax_arrays.PIECE_BYTES`), whatever the size of the model.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soler1_jax.checkpoints.conversion import Options, Plan
from soler1_jax.checkpoints.converted import (
    ABOUT,
    fingerprint,
    is_converted,
    read_about,
    write_about,
)
from soler1_jax.checkpoints.hf_config import CONFIG, read_hf_json
from soler1_jax.checkpoints.new_folder import new_folder
from soler1_jax.checkpoints.to_hf import plan_hf
from soler1_jax.checkpoints.to_orbax import plan_orbax
from soler1_jax.common.errors import UserError, disk_errors, require_space
from soler1_jax.common.run import write_json
from soler1_jax.tokenizers.wording import WORDING, Wording, read_wording, wording_bytes

# Not copied along: weights of any kind, and what is written anew.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack")
_INDEX = ".index.json"
_OWN = (ABOUT, WORDING, CONFIG)
_DTYPE_FIELDS = ("dtype", "torch_dtype")


@dataclasses.dataclass(frozen=True)
class Converted:
    """What was done.

    Attributes:
      tensors: in the Hugging Face checkpoint.
      nbytes: of its weights.
      fresh: False if all of it was there already.
    """

    tensors: int
    nbytes: int
    fresh: bool


def convert(
    source: str | Path,
    target: str | Path,
    options: Options | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Converted:
    """Converts a Qwen3-VL checkpoint.

    Args:
      source: folder of a Hugging Face checkpoint in safetensors files, or a converted one
        if `options.to` is "hf".
      target: folder to be made. One that holds this very conversion is left alone.
      options: how.
      report: called with the bytes of weights written so far, and in all.

    Raises:
      UserError: the source is incomplete, damaged or no Qwen3-VL; a number does not fit
        the dtype; the target holds something else; the disk is full.
    """
    source, target = Path(source), Path(target).absolute()
    options = options or Options()
    _check_places(source, target, options)
    options = dataclasses.replace(options, wording=_wording(source, options))
    plan = (
        plan_orbax(source, options)
        if options.to == "orbax"
        else plan_hf(source, options)
    )
    digest = _digest(source, plan, options)
    if _there(target, digest):
        return Converted(plan.tensors, plan.nbytes, fresh=False)
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    require_space(target.parent, plan.nbytes)
    written = 0

    def count(nbytes: int) -> None:
        nonlocal written
        written += nbytes
        if report:
            report(written, plan.nbytes)

    with new_folder(target) as folder:
        _write_around(source, folder, options)
        plan.write(folder, count)
        write_about(folder, source=digest, **plan.about)
    return Converted(plan.tensors, plan.nbytes, fresh=True)


def _check_places(source: Path, target: Path, options: Options) -> None:
    if not source.is_dir():
        raise UserError(f"a model is a folder; {source} is not there; check the path")
    if is_converted(source) and options.to == "orbax":
        raise UserError(
            f"a Hugging Face folder is converted; {source} has been already; "
            "load it as it is, or turn it back with --to hf"
        )
    if not is_converted(source) and options.to == "hf":
        raise UserError(
            f"a converted folder is turned back; {source} holds no {ABOUT} beside "
            "weights; leave out --to hf"
        )
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UserError(
            f"the new folder lies outside the old one; got {target} for {source}; "
            "choose another"
        )


def _there(target: Path, digest: str) -> bool:
    """Whether the target is this conversion, complete; UserError if it is another thing."""
    if target.is_file():
        raise UserError(f"a folder is made; {target} is a file; choose another")
    if not target.is_dir() or not any(target.iterdir()):
        return False
    if (target / ABOUT).is_file():
        about = read_about(target)
        if about.source == digest and about.changed(target) is None:
            return True
    raise UserError(
        f"a new or empty folder is needed; {target} holds something that is not this "
        "conversion; remove it or choose another"
    )


def _wording(source: Path, options: Options) -> Wording | None:
    if options.wording is not None or not (source / WORDING).is_file():
        return options.wording
    return read_wording(source / WORDING)


def _digest(source: Path, plan: Plan, options: Options) -> str:
    asked = dataclasses.asdict(options)
    # It changes how files are cut, and nothing that is read from them.
    del asked["piece_bytes"]
    return fingerprint([*plan.files, *_companions(source)], asked)


def _companions(source: Path) -> list[Path]:
    """Files of tokenizer, processor, template and licence."""
    return sorted(
        path
        for path in source.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and not path.name.endswith((*_WEIGHTS, _INDEX))
        and path.name not in _OWN
    )


def _write_around(source: Path, folder: Path, options: Options) -> None:
    """Writes everything but the weights."""
    for path in _companions(source):
        shutil.copyfile(path, folder / path.name)
    if options.dtype is None:
        shutil.copyfile(source / CONFIG, folder / CONFIG)
    else:
        write_json(folder / CONFIG, _with_dtype(read_hf_json(source), options.dtype))
    if options.wording is not None:
        (folder / WORDING).write_bytes(wording_bytes(options.wording))


def _with_dtype(data: Any, dtype: str) -> Any:
    """The configuration with another dtype wherever it states one."""
    if not isinstance(data, dict):
        return data
    return {
        key: dtype if key in _DTYPE_FIELDS and value else _with_dtype(value, dtype)
        for key, value in data.items()
    }
