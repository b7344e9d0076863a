"""Samples a board's state in a thread while something else is measured.

One reading a second takes about a millisecond on a Jetson with sensors on its I2C bus, and nothing
in the thread that is measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from benchmarks.process_memory import Pages, read_pages
from edge.board_state import BoardState

SAMPLE_S = 1.0


class StateSource(Protocol):
    """What is sampled; `edge.board_state.BoardReader` is one."""

    def state(self) -> BoardState:
        """Read everything that changes."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading, of the board and of this process."""

    phase: str
    state: BoardState
    pages: Pages
    cpu_percent: float | None  # of all cores since the sample before; None without psutil


@dataclass(frozen=True, slots=True)
class Phase:
    """What was measured from when to when, on time.monotonic."""

    name: str
    began_s: float
    ended_s: float


@dataclass(slots=True)
class BoardSampler:
    """Collects samples between `start` and `close`, each with the phase that it fell into."""

    source: StateSource
    period_s: float = SAMPLE_S
    clock: Callable[[], float] = time.monotonic
    samples: list[Sample] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    _phase: str = "start"
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _psutil: Any = None

    def start(self) -> None:
        """Take the first sample and start the thread."""
        self._psutil = optional_psutil()
        if self._psutil is not None:
            self._psutil.cpu_percent(interval=None)  # the first answer is over no time
        self.take()
        self._thread = threading.Thread(target=self._run, name="board sampler", daemon=True)
        self._thread.start()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name what is measured; a sample is taken at its beginning and at its end."""
        began_s = self.clock()
        self._phase = name
        self.take()
        try:
            yield
        finally:
            self.take()
            self.phases.append(Phase(name, began_s, self.clock()))
            self._phase = "between"

    def of_phase(self, name: str) -> list[Sample]:
        """Return the samples of one phase."""
        return [sample for sample in self.samples if sample.phase == name]

    def take(self) -> None:
        """Take one sample."""
        with self._lock:
            state = self.source.state()
            percent = None
            if self._psutil is not None:
                percent = self._psutil.cpu_percent(interval=None) if self.samples else None
                state = _filled(state, self._psutil)
            self.samples.append(Sample(self._phase, state, read_pages(), percent))

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.period_s):
            self.take()


def optional_psutil() -> Any:
    """Return psutil where it is installed; it knows what /sys of some computers does not say."""
    try:
        import psutil
    except ImportError:
        return None
    return psutil


def _filled(state: BoardState, psutil: Any) -> BoardState:
    """Fill in clock and temperatures where the files of the system have none."""
    if not state.clocks_mhz:
        clock = psutil.cpu_freq()
        if clock is not None and clock.current:
            state = replace(state, clocks_mhz={"cpu": float(clock.current)})
    if not state.temperatures_c and hasattr(psutil, "sensors_temperatures"):
        found = psutil.sensors_temperatures()
        temperatures_c = {
            f"{chip} {sensor.label}".strip(): float(sensor.current)
            for chip, sensors in found.items()
            for sensor in sensors
        }
        state = replace(state, temperatures_c=temperatures_c)
    return state
