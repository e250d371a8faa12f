"""The `soler1` command: one module a subcommand, imported only when it is called.

A subcommand's module holds a frozen dataclass `Args`, whose docstrings become the
help text, and `run(args)`. Mistakes of the user end in one line and exit status 2.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from soler1_jax.common.errors import (
    Terminated,
    UserError,
    disk_errors,
    nearest_hint,
)

# Subcommand -> (module, what it does). Two words select a second level.
COMMANDS: dict[str, tuple[str, str]] = {
    "tasks": ("tasks", "list the tasks, their sentences, families and splits"),
    "synth": ("synth", "make training or evaluation episodes with thoughts"),
    "sft": ("sft", "teach a model to see, compare and state progress"),
    "rlvr": ("rlvr", "improve a model with verifiable rewards (GRPO)"),
    "sft-vlm": ("sft_vlm", "fine-tune a released Qwen3-VL on packed rows"),
    "rlvr-vlm": ("rlvr_vlm", "improve a released Qwen3-VL with verifiable rewards"),
    "rl": ("rl", "train a policy from pixels on a rewarder's progress"),
    "convert": ("convert", "turn a Hugging Face checkpoint into ours, or back"),
    "reward": ("reward", "score the progress shown in a video file"),
    "eval": ("eval", "measure a rewarder against the truth"),
    "report": ("report", "make an HTML page of a run"),
    "bench": ("bench", "measure speeds on this machine"),
    "plan": ("plan", "compile a step for a TPU pod without one: memory, links, time"),
}


def usage() -> str:
    """Returns the text of `soler1 --help`."""
    lines = ["usage: soler1 COMMAND [OPTIONS]", "", "commands:"]
    lines += [f"  {name:<8} {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join([*lines, "", "soler1 COMMAND --help lists a command's options."])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line; exits 0, 2 on a mistake, 130 on Ctrl-C, 143 on SIGTERM."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    try:
        with disk_errors("the output"):
            _dispatch(argv)
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"soler1: {message}", file=sys.stderr)
        sys.exit(2)
    except Terminated as error:
        print(
            f"soler1: told to end; {error}; the same command continues", file=sys.stderr
        )
        sys.exit(143)
    except KeyboardInterrupt:
        print("soler1: stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe (`| head`) left: not an error, but flushing would be.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> None:
    name = argv[0]
    if name not in COMMANDS:
        raise UserError(
            f"a command is needed; got {name!r}{nearest_hint(name, COMMANDS)}"
        )
    import tyro

    module = importlib.import_module(f"soler1_jax.cli.{COMMANDS[name][0]}")
    args = tyro.cli(
        module.Args,
        prog=f"soler1 {name}",
        description=module.__doc__,
        args=argv[1:],
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    module.run(args)
