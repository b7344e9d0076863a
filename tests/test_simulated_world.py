import os
import signal
import sys
import time

import pytest

from edge.profile import load_profile
from edge.simulated_world import SimulatedWorld, SimulatorError
from edge.task_turns import DONE, JUDGED, SPOILED, Ruling

# Stand-ins for `python -m sim.world`, to see what becomes of a simulator that misbehaves.
FAILS = "import sys; print('first line', file=sys.stderr); sys.exit('no off-screen GL here')"
NEEDS_MODULE = "import a_module_that_is_not_there"
SILENT = "import time; time.sleep(600)"
READY = (
    "import json, signal, time, threading\n"
    "stop = threading.Event()\n"
    "signal.signal(signal.SIGTERM, lambda *_: stop.set())\n"
    "print('ready port', flush=True)\n"
    "stop.wait(600)\n"
    "print(json.dumps({'cubes_in_bin': ['red']}))\n"
)
REFEREE = (
    "import json, sys, time\n"
    "print('ready port', flush=True)\n"
    "asked = json.loads(sys.stdin.readline())\n"
    "print(json.dumps({'event': 'judged', 'task': asked['task'], 't_s': 1.0}), flush=True)\n"
    "print(json.dumps({'event': 'spoiled', 'task': 7, 't_s': 2.0, 'why': asked['instruction']}))\n"
    "print('{\"event\": \"do', end='', flush=True)\n"
    "sys.stdin.readline()\n"
    'print(\'ne", "task": 7, "t_s": 3.0}\')\n'
    "print(json.dumps({'cubes_in_bin': []}), flush=True)\n"
)
STUBBORN_FAMILY = (
    "import os, signal, time\n"
    "child = os.fork()\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN if not child else signal.SIG_DFL)\n"
    "print('ready port', flush=True) if child else None\n"
    "time.sleep(600)\n"
)


def start(tmp_path, monkeypatch, program):
    script = tmp_path / "stand-in.sh"
    (tmp_path / "program.py").write_text(program)
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path}/program.py"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    (tmp_path / "world").mkdir()
    return SimulatedWorld(tmp_path / "world", 0, load_profile("sim").cameras[0])


def group_is_gone(pid):
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (FAILS, "ended with exit code 1: no off-screen GL here$"),
        (NEEDS_MODULE, r"No module named 'a_module_that_is_not_there'; .*molmoact-edge\[demo\]"),
    ],
)
def test_simulator_that_fails_says_its_last_line(tmp_path, monkeypatch, program, message):
    world = start(tmp_path, monkeypatch, program)
    with pytest.raises(SimulatorError, match=message):
        world.wait_ready()
    assert world.stop() is None


def test_silent_simulator_is_given_up_and_ended(tmp_path, monkeypatch):
    world = start(tmp_path, monkeypatch, SILENT)
    with pytest.raises(SimulatorError, match="not ready after 0 s"):
        world.wait_ready(timeout_s=0.3)
    world.stop()
    assert group_is_gone(world.pid)


def test_summary_comes_back_when_the_simulator_is_ended(tmp_path, monkeypatch):
    world = start(tmp_path, monkeypatch, READY)
    world.wait_ready()
    assert world.ended() is None
    assert world.stop() == {"cubes_in_bin": ["red"]}
    assert world.stop() is None
    assert group_is_gone(world.pid)


def rulings_of(world, count):
    found, give_up_s = [], time.monotonic() + 20.0
    while len(found) < count and time.monotonic() < give_up_s:
        found += world.rulings()
        time.sleep(0.01)
    return found


def test_referee_is_asked_and_each_of_its_rulings_heard_once(tmp_path, monkeypatch):
    world = start(tmp_path, monkeypatch, REFEREE)
    world.wait_ready()
    assert world.rulings() == []
    world.judge(7, "touch the red cube")
    assert rulings_of(world, 2) == [
        Ruling(7, JUDGED, 1.0),
        Ruling(7, SPOILED, 2.0, "touch the red cube"),
    ]
    world.judge(8, "touch the blue cube")
    assert rulings_of(world, 1) == [Ruling(7, DONE, 3.0)]
    world._process.wait()
    world.judge(9, "nobody hears this")
    assert world.stop() == {"cubes_in_bin": []}
    world.judge(10, "nor this")


def test_children_that_ignore_the_signal_are_ended_too(tmp_path, monkeypatch):
    world = start(tmp_path, monkeypatch, STUBBORN_FAMILY)
    world.wait_ready()
    world.stop()
    assert group_is_gone(world.pid)


def test_simulator_that_dies_while_running_is_noticed(tmp_path, monkeypatch):
    world = start(tmp_path, monkeypatch, READY)
    world.wait_ready()
    os.kill(world.pid, signal.SIGKILL)
    world._process.wait()
    assert world.ended().startswith("the simulator ended with exit code -9")
    world.stop()
