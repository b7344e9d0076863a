"""Record every control tick into memory that outlives this process.

The memory is taken before the loop starts (a memfd where the system has it), so that a tick
neither allocates nor waits for a disk, and another process that holds the descriptor can write
the box out when this one is gone. When the ring is full the oldest ticks are overwritten; the
counters go on.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge.box_layout import (
    CARD_BYTES,
    EVENT,
    HEADER,
    MAGIC,
    N_EVENTS,
    POLICY_STAGES,
    SIZES_BYTES,
    VERSION,
    BoxLayout,
    BoxView,
    text_bytes,
)
from edge.errors import EdgeError, one_line
from edge.joints import JointReading
from edge.policy_thread import PolicyCall
from edge.safety import Outcome, Rule, TickAges, Verdict

NOT_ASKED = -1


class BlackBoxError(EdgeError):
    """A black box that cannot be made, written, or read; the text is one line for a user."""


@dataclass(slots=True)
class Tick:
    """What the loop knows of one tick; one record is filled again and again. Times in seconds."""

    slot: int = 0
    started_s: float = math.nan
    late_s: float = math.nan
    checked_s: float = math.nan
    decided_s: float = math.nan
    written_s: float = math.nan
    reading: JointReading | None = None  # the last good one
    ages: TickAges | None = None
    asked: np.ndarray | None = None
    verdict: Verdict | None = None  # None: the gate was not asked
    chunk: int = -1
    call: PolicyCall | None = None  # the newest that ended
    read_failed: bool = False
    write_failed: bool = False
    level: int = 0  # of the ladder
    speed_share: float = 1.0  # that it leaves


class BlackBox(BoxView):
    """The recorder. One thread adds ticks; `columns` and the counts may be read when it is done."""

    def __init__(self, capacity: int, joint_names: Sequence[str], n_cameras: int) -> None:
        """Take the memory for `capacity` ticks; BlackBoxError when there is none."""
        layout = BoxLayout(len(joint_names), n_cameras, len(Outcome), len(Rule), capacity)
        self.descriptor, self._memory = _memory(layout.total_bytes)
        super().__init__(self._memory, layout)
        self.joint_names = tuple(joint_names)
        self._joint_index = {name: index for index, name in enumerate(joint_names)}
        self._row = np.zeros(1, layout.row)
        self._fields = {name: _field(self._row, name) for name in layout.row.names}
        self._body = memoryview(self._row.view(np.uint8))[: layout.row.fields["crc32"][1]]
        self._call: PolicyCall | None = None
        self._noted: tuple[int, int, str] | None = None
        self.ring["number"] = 0  # every page is touched now, not in a tick
        self._put_sizes()

    def seal_card(self, card: dict[str, Any]) -> None:
        """Put in what is run, on what, with which limits; BlackBoxError when it is too long."""
        names = {
            "joints": self.joint_names,
            "outcomes": [outcome.name.lower() for outcome in Outcome],
            "rules": [rule.name.lower() for rule in Rule],
        }
        data = json.dumps({**card, **names}).encode()
        if len(data) > CARD_BYTES:
            raise BlackBoxError(
                f"the black box's card is {len(data)} bytes, limit {CARD_BYTES}; shorten the task"
            )
        self.card_area[: len(data)] = np.frombuffer(data, np.uint8)
        self.header["card_bytes"] = len(data)
        self.header["card_crc32"] = zlib.crc32(data)

    def add(self, tick: Tick) -> None:
        """Write one row."""
        number = self.n_ticks + 1
        fields = self._fields
        fields["number"][0] = number
        fields["slot"][0] = tick.slot
        fields["t_s"][0] = tick.started_s
        fields["late_s"][0] = tick.late_s
        fields["checked_s"][0] = tick.checked_s
        fields["decided_s"][0] = tick.decided_s
        fields["written_s"][0] = tick.written_s
        fields["chunk"][0] = tick.chunk
        fields["read_failed"][0] = tick.read_failed
        fields["write_failed"][0] = tick.write_failed
        fields["level"][0] = tick.level
        fields["speed_share"][0] = tick.speed_share
        self._put_ages(tick.ages)
        self._put_call(tick.call)
        self._put_reading(tick.reading)
        self._put_verdict(tick)
        self._count_errors(tick)
        fields["crc32"][0] = zlib.crc32(self._body)
        self.ring[(number - 1) % self.layout.capacity] = self._row[0]
        self.header["n_ticks"][0] = number

    def count_missed(self, n_ticks: int) -> None:
        """Count ticks that were skipped."""
        self.header["missed_ticks"][0] += n_ticks

    def note(self, t_s: float, text: str) -> None:
        """Add a text to the events; at most 232 bytes of it are kept."""
        number = int(self.header["n_events"][0]) + 1
        place = self.event_ring[(number - 1) % N_EVENTS]
        place["number"] = 0  # no event while it is written
        place["tick"] = self.n_ticks + 1  # the one being run
        place["t_s"] = t_s
        place["text"] = text_bytes(text, EVENT["text"].itemsize)
        place["number"] = number
        self.header["n_events"][0] = number

    def set_text(self, field: str, text: str) -> None:
        """Fill one of the header's texts: how, reason, soft_stop_error, real_time."""
        self.header[field] = text_bytes(text, HEADER[field].itemsize)

    def close(self) -> None:
        """Give the descriptor back; the arrays stay readable until nobody holds them."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def whole(self) -> memoryview:
        """Return all bytes of the box, to be written to a file."""
        return memoryview(self._memory)

    def _put_sizes(self) -> None:
        header, layout = self.header, self.layout
        header["magic"], header["version"] = MAGIC, VERSION
        header["n_joints"], header["n_cameras"] = layout.n_joints, layout.n_cameras
        header["n_outcomes"], header["n_rules"] = layout.n_outcomes, layout.n_rules
        header["row_bytes"], header["capacity"] = layout.row.itemsize, layout.capacity
        header["total_bytes"] = layout.total_bytes
        header["sizes_crc32"] = zlib.crc32(header.view(np.uint8)[:SIZES_BYTES])

    def _put_ages(self, ages: TickAges | None) -> None:
        fields = self._fields
        if ages is None:
            fields["chunk_age_s"][0] = math.nan
            fields["camera_ages_s"].fill(math.nan)
            return
        fields["chunk_age_s"][0] = ages.chunk_s
        for index, age_s in enumerate(ages.cameras_s):
            fields["camera_ages_s"][index] = age_s

    def _put_call(self, call: PolicyCall | None) -> None:
        if call is self._call and call is not None:
            return
        self._call = call
        fields = self._fields
        fields["policy_call"][0] = -1 if call is None else call.number
        fields["policy_s"][0] = math.nan if call is None else call.ended_s - call.started_s
        for index, stage in enumerate(POLICY_STAGES):
            fields["policy_stages_s"][index] = (
                math.nan if call is None else call.stages_s.get(stage, math.nan)
            )

    def _put_reading(self, reading: JointReading | None) -> None:
        fields = self._fields
        if reading is None:
            fields["measured_s"][0] = math.nan
            for name in _READING_FIELDS:
                fields[name].fill(math.nan)
            fields["status"].fill(0)
            return
        fields["measured_s"][0] = reading.t_s
        for name, attribute in _READING_FIELDS.items():
            np.copyto(fields[name], getattr(reading, attribute))
        np.copyto(fields["status"], reading.status)

    def _put_verdict(self, tick: Tick) -> None:
        fields, verdict = self._fields, tick.verdict
        fields["has_goal"][0] = tick.asked is not None
        _put_or_nan(fields["asked"], tick.asked)
        _put_or_nan(fields["written"], None if verdict is None else verdict.goal)
        if verdict is None:
            fields["outcome"][0] = fields["rule"][0] = fields["joint"][0] = NOT_ASKED
            fields["value"][0] = fields["limit"][0] = math.nan
            return
        joint = self._joint_index.get(verdict.joint, -1)
        fields["outcome"][0] = verdict.outcome
        fields["rule"][0] = verdict.rule
        fields["joint"][0] = joint
        fields["value"][0] = verdict.value
        fields["limit"][0] = verdict.limit
        self.counts[verdict.outcome, verdict.rule, joint + 1] += 1
        if verdict.outcome < Outcome.HOLD:
            self._noted = None
        elif self._noted != (kind := (verdict.outcome, verdict.rule, verdict.joint)):
            self._noted = kind
            self.note(tick.decided_s, f"{verdict.outcome.name.lower()}: {verdict.reason}")

    def _count_errors(self, tick: Tick) -> None:
        header = self.header
        header["read_errors"][0] += tick.read_failed
        header["write_errors"][0] += tick.write_failed
        self._fields["bus_errors"][0] = header["read_errors"][0] + header["write_errors"][0]


_READING_FIELDS = {
    "present": "positions",
    "velocity": "velocities",
    "load": "loads",
    "current_ma": "currents_ma",
    "voltage_v": "voltages_v",
    "temperature_c": "temperatures_c",
}


def _field(row: np.ndarray, name: str) -> np.ndarray:
    """Return a view of one field of (1,) rows: (1,) for a single value, else the field's shape."""
    values = row[name]
    return values if values.ndim == 1 else values[0]


def _put_or_nan(place: np.ndarray, values: np.ndarray | None) -> None:
    if values is None:
        place.fill(math.nan)
    else:
        np.copyto(place, values)


def _memory(n_bytes: int) -> tuple[int, mmap.mmap]:
    """Return (descriptor, or -1 when the memory has none, the memory)."""
    try:
        if not hasattr(os, "memfd_create"):
            return -1, mmap.mmap(-1, n_bytes)
        descriptor = os.memfd_create("molmoact-black-box")
        try:
            os.ftruncate(descriptor, n_bytes)
            return descriptor, mmap.mmap(descriptor, n_bytes)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise BlackBoxError(
            f"no memory for the black box ({n_bytes / 2**20:.0f} MiB: {one_line(error)}); lower "
            "black_box.seconds in the board profile"
        ) from error
