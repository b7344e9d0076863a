"""Understand an instruction: which of the desk's tasks it asks for."""

from __future__ import annotations

from collections.abc import Iterable

from sim.tasks import HELD_OUT_PHRASINGS, KINDS, PHRASINGS, Task


def task_from_instruction(instruction: str, colours: Iterable[str]) -> Task | None:
    """Return the task that `instruction` asks for, with a cube of one of `colours`; None if none.

    Every phrasing of `sim.tasks` is understood, whatever its capitals, spaces and full stop.
    """
    words = _plain(instruction)
    for colour in colours:
        for kind in KINDS:
            for phrasing in (*PHRASINGS[kind], *HELD_OUT_PHRASINGS[kind]):
                if words == phrasing.format(colour=colour):
                    return Task(kind, colour)
    return None


def _plain(instruction: str) -> str:
    return " ".join(instruction.lower().split()).rstrip(" .!")
