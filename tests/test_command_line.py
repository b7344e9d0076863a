"""Every command answers a wrong word with one line and shows an example in its help."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from firmware_bridge.command_line import quiet_when_unread

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "molmoact-arm": "firmware_bridge.cli",
    "molmoact-edge": "edge.cli",
    "molmoact-train": "training.cli",
    "molmoact-quantize": "quantization.cli",
    "molmoact-bench": "benchmarks.cli",
    "molmoact-flash": "deploy.cli",
}


def run(command, arguments):
    module = pytest.importorskip(COMMANDS[command])
    with pytest.raises(SystemExit) as end:
        module.main(arguments)
    return end.value.code


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("arguments", [[], ["fly"], ["--no-such-option"]])
def test_bad_usage_is_one_line_and_exit_2(command, arguments, capsys):
    assert run(command, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{command}: error: ")
    assert error.endswith("--help'\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_exits_0(command, capsys):
    assert run(command, ["--help"]) == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert command in text.split("example", 1)[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_console_script_is_declared(command):
    scripts = importlib.import_module("importlib.metadata").entry_points(group="console_scripts")
    assert next(s.value for s in scripts if s.name == command) == f"{COMMANDS[command]}:main"


@pytest.mark.parametrize("option", ["--seconds", "--seed"])
def test_what_is_no_number_is_refused_in_words_not_in_names_of_the_code(option, capsys):
    arguments = ["run", "bundle", "--profile", "sim", "--task", "lift", option, "soon"]
    assert run("molmoact-edge", arguments) == 2
    error = capsys.readouterr().err
    assert f"argument {option}: soon: a " in error
    assert "invalid" not in error


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_hands_a_task_over_as_it_was_typed(tmp_path):
    command = tmp_path / "bin" / "molmoact-edge"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    task = 'say "hi"; it\'s `up`'
    variables = [f"RUNTIME={tmp_path}", f"TASK={task}", "CALIBRATION=arm.json"]
    result = subprocess.run(
        ["make", "--old-file=setup-runtime", "run", *variables],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    arguments = result.stdout.splitlines()
    assert arguments[arguments.index("--task") + 1] == task
    assert arguments[-2:] == ["--calibration", "arm.json"]


NAMES = {
    "HOST": "user@jetson",
    "BUNDLE": "my bundle",
    "PROFILE": "my robots/arm.yaml",
    "SIGN": "my keys/release key",
    "KEY": "my keys/release key.pub",
    "WHEEL": "my wheels/w.whl",
    "CALIBRATION": "my arm.json",
    "OUT": "my figures",
    "EPISODES": "my data",
}


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("flash", ("HOST", "BUNDLE", "PROFILE", "SIGN", "WHEEL")),
        ("provision", ("HOST", "KEY")),
        ("run", ("HOST", "CALIBRATION")),
        ("gate", ("BUNDLE", "EPISODES")),
        ("bench", ("BUNDLE", "PROFILE")),
        ("profile", ("BUNDLE", "PROFILE", "OUT", "CALIBRATION")),
    ],
)
def test_make_hands_names_with_spaces_over_whole(target, named):
    variables = [f"{name}={value}" for name, value in NAMES.items()]
    result = subprocess.run(
        ["make", "--dry-run", target, *variables],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = shlex.split(result.stdout.splitlines()[-1])
    for name in named:
        assert NAMES[name] in words


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("episodes", "environment"), [("sim", ".venv-runtime"), ("data/mine", ".venv")]
)
def test_make_gate_takes_the_environment_that_can_read_the_episodes(episodes, environment):
    result = subprocess.run(
        ["make", "--dry-run", "gate", f"EPISODES={episodes}", "BUNDLE=small", "TRIALS=9"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    command = shlex.split(result.stdout.splitlines()[-1])
    assert command[:3] == [f"{environment}/bin/molmoact-quantize", "gate", "small"]
    assert command[command.index("--episodes") + 1] == episodes
    assert command[command.index("--trials") + 1] == "9"


UNREAD = """
import sys
from firmware_bridge.command_line import quiet_when_unread

@quiet_when_unread
def main():
    print("a table" * lines)
    return 0

sys.exit(main())
"""


@pytest.mark.parametrize("lines", [1, 100_000])  # less and more than a buffer
def test_output_that_nobody_reads_ends_a_command_without_a_traceback(lines):
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", f"lines = {lines}{UNREAD}"],
            stdout=write,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_other_broken_pipes_are_not_taken_for_unread_output(monkeypatch):
    @quiet_when_unread
    def main():
        raise BrokenPipeError("the servo port")

    read, write = os.pipe()
    with open(write, "w") as output, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        with pytest.raises(BrokenPipeError, match="the servo port"):
            main()
    os.close(read)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_may_go_unread(command):
    assert hasattr(importlib.import_module(COMMANDS[command]).main, "__wrapped__")
