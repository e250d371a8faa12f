"""Hugging Face folders to converted ones and back, a piece of a tensor at a time.

Everything that can be told without reading all numbers is checked before anything is
written. Tensors keep their bits and dtypes, files around the weights are copied. Memory
holds a few pieces (`orbax_arrays.PIECE_BYTES`), whatever the size of the model.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from soler1_jax.checkpoints.companions import (
    companions,
    stored_wording,
    write_companions,
)
from soler1_jax.checkpoints.conversion import Options, Plan
from soler1_jax.checkpoints.converted import (
    ABOUT,
    fingerprint,
    is_converted,
    read_about,
    write_about,
)
from soler1_jax.checkpoints.new_folder import new_folder
from soler1_jax.checkpoints.to_hf import plan_hf
from soler1_jax.checkpoints.to_orbax import plan_orbax
from soler1_jax.common.errors import UserError, disk_errors, require_space


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
    """Converts a Qwen3-VL or PaliGemma 2 checkpoint.

    Args:
      source: folder of a Hugging Face checkpoint in safetensors files, or a converted one
        if `options.to` is "hf".
      target: folder to be made. One that holds this very conversion is left alone.
      options: how.
      report: called with the bytes of weights written so far, and in all.

    Raises:
      UserError: the source is incomplete, damaged or of no family we know; a number does
        not fit the dtype; the target holds something else; the disk is full.
    """
    source, target = Path(source), Path(target).absolute()
    options = options or Options()
    _check_places(source, target, options)
    options = dataclasses.replace(
        options, wording=stored_wording(source, options.wording)
    )
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
        write_companions(source, folder, options.dtype, options.wording)
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


def _digest(source: Path, plan: Plan, options: Options) -> str:
    asked = dataclasses.asdict(options)
    # It changes how files are cut, and nothing that is read from them.
    del asked["piece_bytes"]
    return fingerprint([*plan.files, *companions(source)], asked)
