"""How warm, how fast and how loaded a board is right now, cheap enough to ask every second.

What cannot be read is None or absent; nothing here raises or needs root.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BoardState:
    """One reading."""

    t_s: float  # time.monotonic() of the reading
    temperatures_c: dict[str, float] = field(default_factory=dict)  # by thermal zone
    throttle_c: float | None = None  # lowest trip point at which a zone slows the board down
    shutdown_c: float | None = None  # lowest at which one switches it off
    headroom_c: float | None = None  # least that any zone is below its own throttle trip
    clocks_mhz: dict[str, float] = field(default_factory=dict)  # "cpu" (fastest core), "gpu", "emc"
    caps_mhz: dict[str, float] = field(default_factory=dict)  # the most each of them may have now
    power_mw: dict[str, float] = field(default_factory=dict)  # by rail
    total_mw: float | None = None  # of the board
    power_note: str = ""  # what `total_mw` is, or why there is none
    throttled: bool | None = None  # None: nothing here tells
    throttle_reason: str = ""  # what says so; empty when not throttled
    memory_available_mib: float | None = None

    @property
    def hottest_c(self) -> float | None:
        """The warmest zone."""
        return max(self.temperatures_c.values(), default=None)
