"""The processes that simulate: each records one episode at a time, results come in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

from training.demonstrations.worker import NeverSucceeded, Recorded, Settings, serve
from training.errors import TrainingError

# Finished episodes that wait for an earlier one, for each process: they lie on the disk.
AHEAD = 2
END_TIMEOUT_S = 5.0


class Crew:
    """Recording processes; a context manager, at whose end none of them is left."""

    def __init__(self, workers: int, settings: Settings, staging: Path) -> None:
        """Start `workers` processes; each needs a second and about 300 MB."""
        # Spawned: a forked process would share OpenGL, and torch's threads, with this one.
        context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, multiprocessing.process.BaseProcess] = {}
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, settings, staging), daemon=True)
            process.start()
            there.close()
            self._processes[here] = process

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.kill()
            process.join(END_TIMEOUT_S)

    def record(self, episodes: int) -> Iterator[Recorded]:
        """Yield episodes 0..`episodes`-1 by number, whichever is done first.

        Raises TrainingError when the expert cannot do one of them, or when a process ends.
        """
        done: dict[int, Recorded] = {}
        idle, busy = list(self._processes), []
        asked = given = 0
        while given < episodes:
            while idle and asked < min(episodes, given + AHEAD * len(self._processes)):
                connection = idle.pop()
                self._ask(connection, asked)
                busy.append(connection)
                asked += 1
            if given in done:
                yield done.pop(given)
                given += 1
                continue
            for connection in wait(busy):
                episode = self._received(connection)
                done[episode.number] = episode
                busy.remove(connection)
                idle.append(connection)

    def _ask(self, connection: Connection, number: int) -> None:
        try:
            connection.send(number)
        except OSError:
            raise self._ended(connection) from None

    def _received(self, connection: Connection) -> Recorded:
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            raise self._ended(connection) from None
        if isinstance(answer, NeverSucceeded):
            raise TrainingError(f"{answer}; try another --seed")
        return answer

    def _ended(self, connection: Connection) -> TrainingError:
        process = self._processes[connection]
        process.join(END_TIMEOUT_S)
        return TrainingError(
            f"a recording process ended with {process.exitcode}; is there memory for every worker? "
            "Try fewer --workers"
        )
