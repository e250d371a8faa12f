"""List the tasks: name, split, family and sentence.

No training record shows an unseen combination of verb and noun.
"""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """What `soler1 tasks` lists."""

    split: Literal["all", "train", "unseen"] = "all"
    """Which tasks."""
    family: str | None = None
    """Only this family, such as push or drawer."""
    json: bool = False
    """Print a JSON list of {name, sentence, split, family, phrasings}."""


def run(args: Args) -> None:
    """Prints the list.

    Raises:
      UserError: there is no such family.
    """
    import json

    from soler1_jax.common.errors import UserError, nearest_hint
    from soler1_jax.envs import tasks

    if args.family is not None and args.family not in tasks.FAMILIES:
        raise UserError(
            f"a family is one of those of the tasks; got {args.family!r}"
            f"{nearest_hint(args.family, tasks.FAMILIES)}"
        )
    chosen = [
        task
        for task in tasks.TASKS
        if args.split in ("all", task.split) and args.family in (None, task.family)
    ]
    if args.json:
        fields = ("name", "sentence", "split", "family", "phrasings")
        rows = [{name: getattr(task, name) for name in fields} for task in chosen]
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for column in ("name", "split", "family", "sentence"):
        table.add_column(column, no_wrap=True)
    for task in chosen:
        table.add_row(task.name, task.split, task.family, task.sentence)
    Console().print(table)
