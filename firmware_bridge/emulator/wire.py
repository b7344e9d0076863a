"""The line from the servos to the host: when a reply arrives there, and in what state."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Sequence

from firmware_bridge.emulator.faults import Faults, ReplyFault

BITS_PER_BYTE = 10
MAX_NOISE_BYTES = 8
IDLE_LINE = 0xFF


class _Rule:
    """A fault and how many replies, or requests, it has been asked about."""

    def __init__(self, fault: ReplyFault) -> None:
        self.fault = fault
        self._asked = 0

    @property
    def used_up(self) -> bool:
        count = self.fault.count
        return count is not None and self._asked >= self.fault.after + count

    def counts_in(self) -> bool:
        """Count one and say whether it is among those that the fault may befall."""
        if self.used_up:
            return False
        self._asked += 1
        return self._asked > self.fault.after


class Wire:
    """Carries replies, with rules for what goes wrong, counted in `fired` by kind.

    With `byte_timing` every byte takes its ten bits at `baud_rate`, without it none. Neither a
    servo nor an adapter lets a later reply of a servo overtake an earlier one.
    """

    def __init__(
        self, faults: Faults, fired: Counter[str], *, byte_timing: bool, baud_rate: int
    ) -> None:
        self.byte_timing = byte_timing
        self.baud_rate = baud_rate
        self._fired = fired
        self._free_s = 0.0
        self._last_due_s: dict[int, float] = {}
        self._outbox: list[tuple[float, int, bytes]] = []
        self._sent = 0
        self.set_faults(faults)

    def set_faults(self, faults: Faults) -> None:
        """Replace the rules and the random numbers behind them; counts start anew."""
        self._rules = [_Rule(fault) for fault in faults.replies]
        self._random = random.Random(faults.seed)
        self._adapter_s = faults.adapter_ms / 1000.0

    def add_rule(self, fault: ReplyFault) -> None:
        """Put a rule behind the others; those that are used up are forgotten."""
        self._rules = [rule for rule in self._rules if not rule.used_up]
        self._rules.append(_Rule(fault))

    def take_request(self, data: bytes, now_s: float, *, echo: bool) -> None:
        """Note that the host sends `data`, for which it needs the line."""
        if echo:
            self._post(data, now_s)
        self._free_s = max(self._free_s, now_s) + self._duration_s(len(data))

    def is_deaf(self, servo_id: int) -> bool:
        """Say whether this request goes past the servo."""
        return self._fault_for(servo_id, request=True) is not None

    def reply(
        self, servo_id: int, data: bytes, now_s: float, *, delay_s: float = 0.0, slot_s: float = 0.0
    ) -> None:
        """Send a reply `delay_s` after the line is free, or in a slot of its own after it."""
        due_s = now_s
        if self.byte_timing:
            due_s = self._free_s + delay_s + slot_s + self._duration_s(len(data))
            if not slot_s:
                self._free_s = due_s
        fault = self._fault_for(servo_id, request=False)
        if fault is not None:
            if fault.kind == "drop":
                return
            data = self._damaged(data, fault.kind)
            due_s += fault.delay_ms / 1000.0
        due_s = max(due_s, self._last_due_s.get(servo_id, 0.0))
        self._last_due_s[servo_id] = due_s
        self._post(data, due_s)

    def collided(self, replies: Sequence[bytes]) -> bytes:
        """Return what is on the line when servos speak at once: a 0 of any of them wins.

        They are a byte apart at most, as two servos that heard the same request are.
        """
        line = bytearray()
        for number, data in enumerate(replies):
            start = self._random.randrange(2) if number else 0
            line.extend([IDLE_LINE] * (start + len(data) - len(line)))
            for position, byte in enumerate(data, start=start):
                line[position] &= byte
        return bytes(line)

    def collect(self, now_s: float) -> bytes:
        """Return the bytes that have arrived by now."""
        due = []
        while self._outbox and self._outbox[0][0] <= now_s + 1e-9:
            due.append(heapq.heappop(self._outbox)[2])
        return b"".join(due)

    def next_due_s(self) -> float | None:
        """Return when the next bytes arrive; None when nothing is on its way."""
        return self._outbox[0][0] if self._outbox else None

    def drop_everything(self) -> None:
        """Lose what is on its way."""
        self._outbox.clear()
        self._last_due_s.clear()

    def _fault_for(self, servo_id: int, *, request: bool) -> ReplyFault | None:
        """Return the fault of the first rule that fires, of those about requests or replies."""
        for rule in self._rules:
            fault = rule.fault
            concerned = fault.ids is None or servo_id in fault.ids
            if (fault.kind == "deaf") != request or not concerned:
                continue
            if rule.counts_in() and self._random.random() < fault.probability:
                self._fired[fault.kind] += 1
                return fault
        return None

    def _damaged(self, data: bytes, kind: str) -> bytes:
        if kind == "truncate":
            return data[: self._random.randrange(1, len(data))]
        if kind == "noise":
            return self._random.randbytes(self._random.randint(1, MAX_NOISE_BYTES)) + data
        damaged = bytearray(data)
        if kind == "corrupt":
            position = self._random.randrange(2, len(data))
            damaged[position] ^= 1 << self._random.randrange(8)
        return bytes(damaged)

    def _post(self, data: bytes, due_s: float) -> None:
        if self._adapter_s > 0.0:
            due_s = math.ceil(due_s / self._adapter_s - 1e-9) * self._adapter_s
        self._sent += 1
        heapq.heappush(self._outbox, (due_s, self._sent, data))

    def _duration_s(self, count: int) -> float:
        return count * BITS_PER_BYTE / self.baud_rate if self.byte_timing else 0.0
