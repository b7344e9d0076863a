"""Judge one instruction after the other in a world that somebody else drives.

Instructions come as JSON lines on a stream, {"task": 0, "instruction": "touch the red cube"}; what
the referee finds is said in JSON lines too: that a task is judged from now on, that it is done or
spoiled, or why it cannot be judged. Times are on time.monotonic.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from typing import Any

import numpy as np

from sim.instructions import task_from_instruction
from sim.layout import CUBE_NAMES, sample_mark
from sim.model import World
from sim.tasks import PUSH_TO_MARK, Referee
from sim.variation import PLAIN_COLOURS

# As often as the offline world looks, so that a touch is as long in both.
LOOK_INTERVAL_S = 1.0 / 30.0
JUDGED, NOT_JUDGED, DONE, SPOILED = "judged", "not judged", "done", "spoiled"
READ_BYTES = 65536
UNKNOWN = "no task of this desk; sim/tasks.py has the words for those"


class JudgedTasks:
    """The referee of a world, and the mark that is on the desk while a push is judged."""

    def __init__(self, world: World, seed: int, say: Callable[[str], None]) -> None:
        """Judge in the plain `world` laid out from `seed`; `say` takes lines of JSON."""
        self.mark_m: np.ndarray | None = None  # (2,)
        self._world = world
        self._seed = seed
        self._say = say
        self._number = -1
        self._referee: Referee | None = None
        self._spoiled = False
        self._next_s = -np.inf

    def begin(self, number: int, instruction: str, now_s: float) -> None:
        """Judge this instruction from now on, and no other any more."""
        self._number, self._referee, self._spoiled, self.mark_m = number, None, False, None
        task = task_from_instruction(instruction, PLAIN_COLOURS)
        if task is None:
            self._tell(NOT_JUDGED, now_s, why=UNKNOWN)
            return
        cube = PLAIN_COLOURS.index(task.colour)
        if task.kind == PUSH_TO_MARK:
            cubes_m = self._world.truth().cubes_m
            spots_m = np.array([cubes_m[name][:2] for name in CUBE_NAMES])
            self.mark_m = sample_mark(self._seed, spots_m, cube)
            if self.mark_m is None:
                why = f"no free way to push the {task.colour} cube; choose another --seed"
                self._tell(NOT_JUDGED, now_s, why=why)
                return
        mark_m = np.full(2, np.nan) if self.mark_m is None else self.mark_m
        self._referee = Referee(self._world, task, CUBE_NAMES[cube], mark_m)
        self._tell(JUDGED, now_s, kind=task.kind, colour=task.colour)

    def look(self, now_s: float) -> None:
        """Say what has become of the task; looks every LOOK_INTERVAL_S at most."""
        referee = self._referee
        if referee is None or now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_INTERVAL_S
        if referee.look():
            self._tell(DONE, now_s)
            self._referee = None
        elif referee.disturbed and not self._spoiled:
            self._spoiled = True
            self._tell(SPOILED, now_s, why="another cube was moved")

    def _tell(self, event: str, now_s: float, **more: str) -> None:
        self._say(json.dumps({"event": event, "task": self._number, "t_s": now_s, **more}))


class InstructionStream:
    """Instructions from a descriptor that others write to, read without waiting."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = b""
        self._is_open = True

    def newest(self) -> tuple[int, str] | None:
        """Return the number and words of the newest instruction since the last call, if any."""
        newest = None
        while self._is_open and select.select([self._descriptor], [], [], 0.0)[0]:
            data = os.read(self._descriptor, READ_BYTES)
            self._is_open = bool(data)
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                newest = _parsed(line) or newest
        return newest


def _parsed(line: bytes) -> tuple[int, str] | None:
    try:
        record: Any = json.loads(line)
        return int(record["task"]), str(record["instruction"])
    except (ValueError, TypeError, KeyError):
        return None
