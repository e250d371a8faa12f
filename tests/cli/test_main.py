"""The command's front door."""

import subprocess
import sys

import pytest

from soler1_jax import cli
from soler1_jax.common.errors import UserError


def test_an_unknown_command_is_one_line_with_a_hint(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["rwl"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "'rl'" in message


def test_errors_with_newlines_stay_on_one_line(capsys, monkeypatch):
    def fail(_):
        raise UserError("rule;\n  what came;\n fix")

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(SystemExit):
        cli.main(["rl"])
    assert capsys.readouterr().err == "soler1: rule; what came; fix\n"


def test_help_lists_every_command(capsys):
    cli.main([])
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


def test_the_front_door_does_not_import_jax():
    code = "import sys, soler1_jax.cli as c; c.main([]); sys.exit('jax' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL
        ).returncode
        == 0
    )
