"""Where everything lies in a black box: one flat range of bytes, the same in memory and on disk.

    header   one page: sizes, counters over the whole run, and why it ended
    card     JSON: machine, bundle, task, names, and the profile in full
    counts   verdicts of the whole run by outcome, rule and joint
    events   the newest texts: holds, stops, bus errors
    rows     the newest ticks, each with its number and a CRC-32

Rows and events are rings: item k lies at k modulo their number. Whoever copies the range, at
whatever moment, has a box that can be read; at most the row being written then is lost.
"""

from __future__ import annotations

import mmap
import zlib
from dataclasses import dataclass

import numpy as np

MAGIC = b"MMAEDBOX"
VERSION = 2
PAGE_BYTES = 4096
CARD_BYTES = 128 * 1024
N_EVENTS = 512
TEXT_BYTES = 512
LINE_END = " | "  # between the lines of a text of the header
POLICY_STAGES = ("preprocess", "vision", "prefill", "depth", "expert")

HEADER = np.dtype(
    {
        "names": [
            *("magic", "version", "n_joints", "n_cameras", "n_outcomes", "n_rules", "row_bytes"),
            *("capacity", "total_bytes", "card_bytes", "card_crc32", "sizes_crc32"),
            *("n_ticks", "missed_ticks", "read_errors", "write_errors", "n_events"),
            *("how", "reason", "soft_stop_error", "outside_reason", "real_time"),
        ],
        "formats": [
            *("S8", "<u4", "<u4", "<u4", "<u4", "<u4", "<u4"),
            *("<u8", "<u8", "<u4", "<u4", "<u4"),
            *("<u8", "<u8", "<u8", "<u8", "<u8"),
            *("S16", f"S{TEXT_BYTES}", f"S{TEXT_BYTES}", f"S{TEXT_BYTES}", f"S{2 * TEXT_BYTES}"),
        ],
        "offsets": [
            *(0, 8, 12, 16, 20, 24, 28),
            *(32, 40, 64, 68, 72),
            *(128, 136, 144, 152, 160),
            *(512, 1024, 1536, 2048, 2560),
        ],
        "itemsize": PAGE_BYTES,
    }
)
SIZES_BYTES = 48  # of the header: from the magic to total_bytes, under sizes_crc32
OUTSIDE_REASON_OFFSET = HEADER.fields["outside_reason"][1]
EVENT = np.dtype([("number", "<u8"), ("tick", "<u8"), ("t_s", "<f8"), ("text", "S232")])


def row_dtype(n_joints: int, n_cameras: int) -> np.dtype:
    """Return one tick as it is stored; times on time.monotonic, nan where there was nothing."""
    joints, cameras = (n_joints,), (n_cameras,)
    return np.dtype(
        [
            ("number", "<u8"),  # of the tick among those run, from 1: 0 is an empty row
            ("slot", "<u8"),  # which tick of the schedule, from 0: missed ones have no row
            ("t_s", "<f8"),
            ("late_s", "<f8"),  # after the deadline of the first tick not run yet
            ("checked_s", "<f8"),  # the read is over, the gate is asked
            ("decided_s", "<f8"),
            ("written_s", "<f8"),
            ("measured_s", "<f8"),
            ("chunk_age_s", "<f8"),
            ("camera_ages_s", "<f8", cameras),
            ("policy_s", "<f8"),  # of the newest finished call, and its stages
            ("policy_stages_s", "<f8", (len(POLICY_STAGES),)),
            ("value", "<f8"),
            ("limit", "<f8"),
            ("speed_share", "<f8"),  # that the ladder leaves
            ("asked", "<f8", joints),
            ("written", "<f8", joints),
            ("present", "<f8", joints),
            ("velocity", "<f8", joints),
            ("load", "<f8", joints),
            ("current_ma", "<f8", joints),
            ("voltage_v", "<f8", joints),
            ("temperature_c", "<f8", joints),
            ("status", "u1", joints),
            ("chunk", "<i4"),
            ("policy_call", "<i4"),
            ("bus_errors", "<u4"),  # so far
            ("outcome", "i1"),  # -1: the gate was not asked
            ("rule", "i1"),
            ("joint", "i1"),
            ("level", "i1"),  # of the ladder: rungs in effect
            ("has_goal", "?"),
            ("read_failed", "?"),
            ("write_failed", "?"),
            ("crc32", "<u4"),  # of everything before it
        ]  # packed: NumPy does not copy the gaps of an aligned row, and the CRC would cover them
    )


@dataclass(frozen=True, slots=True)
class BoxLayout:
    """Sizes and offsets of a box."""

    n_joints: int
    n_cameras: int
    n_outcomes: int
    n_rules: int
    capacity: int  # ticks

    @property
    def row(self) -> np.dtype:
        """One tick."""
        return row_dtype(self.n_joints, self.n_cameras)

    @property
    def counts_shape(self) -> tuple[int, int, int]:
        """Outcomes, rules, joints; the first joint is "no joint"."""
        return self.n_outcomes, self.n_rules, self.n_joints + 1

    @property
    def counts_offset(self) -> int:
        """Where the counts begin."""
        return PAGE_BYTES + CARD_BYTES

    @property
    def events_offset(self) -> int:
        """Where the events begin."""
        return self.counts_offset + _whole_pages(8 * int(np.prod(self.counts_shape)))

    @property
    def rows_offset(self) -> int:
        """Where the rows begin."""
        return self.events_offset + _whole_pages(N_EVENTS * EVENT.itemsize)

    @property
    def total_bytes(self) -> int:
        """Length of the whole box."""
        return self.rows_offset + _whole_pages(self.capacity * self.row.itemsize)


class BoxView:
    """The parts of a box as arrays over its bytes; what is read back is the same in both places."""

    def __init__(self, buffer: mmap.mmap | bytes, layout: BoxLayout) -> None:
        self.layout = layout
        self.header = np.frombuffer(buffer, HEADER, 1)
        self.card_area = np.frombuffer(buffer, np.uint8, CARD_BYTES, PAGE_BYTES)
        n_counts = int(np.prod(layout.counts_shape))
        counts = np.frombuffer(buffer, "<i8", n_counts, layout.counts_offset)
        self.counts = counts.reshape(layout.counts_shape)
        self.event_ring = np.frombuffer(buffer, EVENT, N_EVENTS, layout.events_offset)
        self.ring = np.frombuffer(buffer, layout.row, layout.capacity, layout.rows_offset)

    @property
    def n_ticks(self) -> int:
        """Ticks run, also those that are no longer in the ring."""
        return int(self.header["n_ticks"][0])

    @property
    def missed_ticks(self) -> int:
        """Ticks of the schedule that were skipped."""
        return int(self.header["missed_ticks"][0])

    @property
    def read_errors(self) -> int:
        """Ticks whose bus read failed."""
        return int(self.header["read_errors"][0])

    @property
    def write_errors(self) -> int:
        """Ticks whose bus write failed."""
        return int(self.header["write_errors"][0])

    @property
    def outcome_counts(self) -> np.ndarray:
        """Verdicts of the whole run by outcome."""
        return self.counts.sum(axis=(1, 2))

    def text(self, field: str) -> str:
        """Return a text of the header, "" when it was not set."""
        return bytes(self.header[field][0]).decode("utf-8", "replace")

    def rows(self) -> np.ndarray:
        """Return the recorded ticks, oldest first, as a copy."""
        n_ticks = self.n_ticks
        kept = min(n_ticks, self.layout.capacity)
        rows = self.ring[np.arange(n_ticks - kept, n_ticks) % self.layout.capacity]
        if n_ticks >= self.layout.capacity and not row_is_whole(rows[:1]):
            return rows[1:]  # it was being overwritten when the box was copied
        return rows

    def columns(self) -> dict[str, np.ndarray]:
        """Return the recorded ticks by column, oldest first, with the seconds of each stage."""
        rows = self.rows()
        columns = {name: rows[name] for name in rows.dtype.names if name not in ("number", "crc32")}
        columns["read_s"] = rows["checked_s"] - rows["t_s"]
        columns["decide_s"] = rows["decided_s"] - rows["checked_s"]
        columns["write_s"] = rows["written_s"] - rows["decided_s"]
        columns["tick_s"] = rows["written_s"] - rows["t_s"]
        return columns

    def events(self) -> list[tuple[int, float, str]]:
        """Return (tick, time, text) of the newest events, oldest first."""
        n_events = int(self.header["n_events"][0])
        kept = min(n_events, N_EVENTS)
        ring = self.event_ring[np.arange(n_events - kept, n_events) % N_EVENTS]
        return [
            (int(event["tick"]), float(event["t_s"]), event["text"].decode("utf-8", "replace"))
            for event in ring
            if event["number"]
        ]


def row_is_whole(row: np.ndarray) -> bool:
    """Say whether one row, (1,) of `row_dtype`, is as it was written."""
    body = row.view(np.uint8)[: row.dtype.fields["crc32"][1]]
    return zlib.crc32(body) == int(row["crc32"][0])


def text_bytes(text: str, most: int) -> bytes:
    """Encode a text in at most `most` bytes, on one line, without half a character at the end."""
    return " ".join(text.split()).encode()[:most].decode("utf-8", "ignore").encode()


def _whole_pages(n_bytes: int) -> int:
    return -(-n_bytes // PAGE_BYTES) * PAGE_BYTES
