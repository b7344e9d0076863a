"""How warm, how fast and how loaded a board is right now, cheap enough to ask every second.

    reader = BoardReader()
    reader.identity().module    # "orin_nano_8gb", or None
    reader.state().headroom_c   # degrees until the first zone throttles, or None

jetson-stats is preferred where its service answers; everything else comes from /sys and /proc, by
files that are opened once. What cannot be read is None or absent; nothing here raises or needs
root.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge.board_identity import BoardIdentity, read_identity
from edge.clocks import find_clocks, read_clocks_mhz
from edge.jtop_source import SOCKET, JtopSource, open_jtop
from edge.power_modes import ModeLimits, Runner, read_current_mode, read_power_modes
from edge.power_rails import find_rails, read_power_mw
from edge.system_files import MEMORY, SystemFiles, memory_available_mib
from edge.thermal_zones import find_zones
from edge.throttling import ThrottleWatch

_COMMAND_S = 4.0


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
    over_current_events: dict[str, int] = field(default_factory=dict)  # since the last reading
    memory_available_mib: float | None = None

    @property
    def hottest_c(self) -> float | None:
        """The warmest zone."""
        return max(self.temperatures_c.values(), default=None)


class BoardReader:
    """Reads one board; not for several threads at once."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        run: Runner | None = None,
        jtop: JtopSource | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the board whose /sys, /proc and /etc lie under `root`.

        `run` runs a command and returns what it printed; commands and jetson-stats are those of
        this machine, so that for another root only what is given here is asked.
        """
        self._files = SystemFiles(root)
        is_here = root == Path("/")
        self._run = run_command if run is None and is_here else run
        if jtop is None and is_here and self._files.exists(SOCKET):
            jtop = open_jtop()
        self._jtop = jtop
        self._clock = clock
        self._zones = find_zones(self._files)
        self._rails = find_rails(self._files)
        self._clocks = find_clocks(self._files)
        self._modes = read_power_modes(self._files)
        self._mode_id: int | None = None
        self._memory = self._files.kept(MEMORY)
        self._throttling = ThrottleWatch(self._files, self._clocks, self._run)
        self.identity()

    def identity(self) -> BoardIdentity:
        """Return who the board is and which power mode is on; may start `nvpmodel -q`."""
        identity = read_identity(self._files, self._run, self._living_jtop())
        self._mode_id = identity.power_mode_id
        return identity

    def mode_limits(self) -> ModeLimits | None:
        """Return what the power mode that is on allows; None on boards without such modes."""
        if self._modes is None:
            return None
        jtop = self._living_jtop()
        mode = jtop.power_mode() if jtop else read_current_mode(self._files, self._modes, None)
        return self._modes.by_id(mode.id if mode else self._mode_id)

    def state(self) -> BoardState:
        """Read everything that changes."""
        jtop = self._living_jtop()
        t_s = self._clock()
        read = {zone.name: zone.read_c() for zone in self._zones}
        temperatures_c = {name: value for name, value in read.items() if value is not None}
        clocks_mhz, caps_mhz = read_clocks_mhz(self._clocks)
        power_mw, total_mw, power_note = read_power_mw(self._rails)
        if jtop is not None:
            temperatures_c |= jtop.temperatures_c()
            clocks_mhz, caps_mhz = (
                ours | theirs
                for ours, theirs in zip((clocks_mhz, caps_mhz), jtop.clocks_mhz(), strict=True)
            )
            rails_mw, jtop_total_mw, jtop_note = jtop.power_mw()
            if jtop_total_mw is not None:
                power_mw, total_mw, power_note = rails_mw, jtop_total_mw, jtop_note
        throttled, reason, events = self._throttling.read(self.mode_limits())
        return BoardState(
            t_s=t_s,
            temperatures_c=temperatures_c,
            throttle_c=min((z.throttle_c for z in self._zones if z.throttle_c), default=None),
            shutdown_c=min((z.shutdown_c for z in self._zones if z.shutdown_c), default=None),
            headroom_c=self._headroom_c(temperatures_c),
            clocks_mhz=clocks_mhz,
            caps_mhz=caps_mhz,
            power_mw=power_mw,
            total_mw=total_mw,
            power_note=power_note,
            throttled=throttled,
            throttle_reason=reason,
            over_current_events=events,
            memory_available_mib=memory_available_mib(self._memory.text()),
        )

    def __enter__(self) -> BoardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every file; reading opens them again."""
        for zone in self._zones:
            zone.temperature.close()
        for rail in self._rails:
            rail.close()
        for clock in self._clocks:
            clock.close()
        self._throttling.close()
        self._memory.close()
        if self._jtop is not None:
            self._jtop.close()

    def _headroom_c(self, temperatures_c: dict[str, float]) -> float | None:
        return min(
            (
                zone.throttle_c - temperatures_c[zone.name]
                for zone in self._zones
                if zone.throttle_c is not None and zone.name in temperatures_c
            ),
            default=None,
        )

    def _living_jtop(self) -> JtopSource | None:
        """Return jetson-stats while its service answers; once it does not, never again."""
        if self._jtop is not None and not self._jtop.answers():
            self._jtop = None
        return self._jtop


def run_command(words: tuple[str, ...]) -> str | None:
    """Run a command of this machine; what it printed, or None where it is absent or fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_COMMAND_S)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
