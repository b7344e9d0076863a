"""When timed events come: at a time, or again and again at random."""

from __future__ import annotations

import heapq
import random

from firmware_bridge.emulator.faults import Event


class Timeline:
    """Events in the order in which they come due; the same seed gives the same times."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, Event]] = []
        self._added = 0

    def add(self, event: Event, now_s: float) -> None:
        """Enter an event that was thrown at `now_s`."""
        due_s = now_s + event.at_s
        if event.every_s is not None:
            due_s += self._random.expovariate(1.0 / event.every_s)
        self._enter(event, due_s)

    def due(self, now_s: float) -> list[Event]:
        """Take out the events that have come due by now."""
        events = []
        while self._heap and self._heap[0][0] <= now_s:
            due_s, _, event = heapq.heappop(self._heap)
            events.append(event)
            if event.every_s is not None:
                self._enter(event, due_s + self._random.expovariate(1.0 / event.every_s))
        return events

    def _enter(self, event: Event, due_s: float) -> None:
        self._added += 1
        heapq.heappush(self._heap, (due_s, self._added, event))
