"""Every command answers a wrong word with one line and shows an example in its help."""

from __future__ import annotations

import importlib

import pytest

COMMANDS = {
    "molmoact-arm": "firmware_bridge.cli",
    "molmoact-edge": "edge.cli",
    "molmoact-train": "training.cli",
    "molmoact-quantize": "quantization.cli",
    "molmoact-bench": "benchmarks.cli",
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
