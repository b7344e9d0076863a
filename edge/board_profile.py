"""A board: what engine, policy thread and control thread may use of a machine, and what it is.

A board file is one module in one power mode, `based_on` the module's file, and that on
`generic_cpu`; or any machine of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.config_section import ProfileError, Section
from edge.hardware import Hardware, PowerMode, hardware_from_section
from edge.ladder_profile import LadderProfile, read_ladder
from edge.profile_files import BOARD, read_file, shipped

MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class RealTimeProfile:
    """What the control thread asks of the operating system; refusals are reported, not fatal."""

    fifo_priority: int | None  # of SCHED_FIFO; None = ordinary scheduling
    cpus: tuple[int, ...] | None  # for the control thread alone; None = any
    lock_memory: bool  # keep what the process uses in memory


@dataclass(frozen=True, slots=True)
class BlackBoxProfile:
    """How much the recorder of ticks holds, and where its files lie."""

    seconds: float  # the newest ticks are kept, for so long
    keep: int  # files in the folder, this run's included
    folder: Path | None  # None = molmoact-edge under $XDG_STATE_HOME, or ~/.local/state


@dataclass(frozen=True, slots=True)
class BoardProfile:
    """What the engine, the policy thread and the control thread may use of the machine."""

    name: str
    threads: int | None  # engine threads; None = one per core
    spinning: bool  # engine threads wait for work awake: sooner there, but the core is taken
    draft_window: int | str | None  # unsettled tokens a pass, or MEASURED; None = the whole span
    max_policy_hz: float  # the policy thread starts no call sooner than this after the last
    max_chunk_age_s: float  # actions predicted from an observation older than this are dropped
    bundle_mib: int | None  # memory there is for a bundle; None = not known
    real_time: RealTimeProfile
    black_box: BlackBoxProfile
    hardware: Hardware | None  # None: nothing is known of the machine
    ladder: LadderProfile | None  # None: nothing is given up under pressure


def load_board(name_or_path: str | Path) -> BoardProfile:
    """Load a shipped board by name, or a file by its path; ProfileError, also for a refused one."""
    section, _ = read_file(str(name_or_path), BOARD, None)
    board = board_from_section(section)
    section.finish()
    return board


def shipped_boards() -> list[str]:
    """Return the names `load_board` knows without a path, those it refuses included."""
    return shipped(BOARD)


def board_modes(module: str) -> dict[str, PowerMode]:
    """Return the power modes of a module that board files are shipped for, by the file's name."""
    modes = {}
    for name in shipped_boards():
        if not name.startswith(module):
            continue
        hardware = load_board(name).hardware
        if hardware is not None and hardware.module == module and hardware.power_mode is not None:
            modes[name] = hardware.power_mode
    return modes


def board_from_section(section: Section) -> BoardProfile:
    """Read a board file's keys; ProfileError names file, key and what is allowed."""
    child = section.optional_child("hardware")
    hardware = None if child is None else hardware_from_section(child)
    if hardware is not None and hardware.refused is not None:
        raise ProfileError(f"{section.file}: {hardware.name} is refused: {hardware.refused}")
    return BoardProfile(
        name=section.text("name"),
        threads=section.optional_integer("threads", 1, 256),
        spinning=section.boolean("spinning"),
        draft_window=section.integer_or("draft_window", 1, 4096, MEASURED),
        max_policy_hz=section.number("max_policy_hz", 0.01, 200.0),
        max_chunk_age_s=section.number("max_chunk_age_s", 0.05, 120.0),
        bundle_mib=section.optional_integer("bundle_mib", 1, 1 << 20),
        real_time=_real_time(section.child("real_time")),
        black_box=_black_box(section.child("black_box")),
        hardware=hardware,
        ladder=read_ladder(section),
    )


def _real_time(section: Section) -> RealTimeProfile:
    settings = RealTimeProfile(
        fifo_priority=section.optional_integer("fifo_priority", 1, 98),
        cpus=section.optional_integers("cpus", 0, 1023),
        lock_memory=section.boolean("lock_memory"),
    )
    section.finish()
    return settings


def _black_box(section: Section) -> BlackBoxProfile:
    folder = section.optional_text("folder")
    settings = BlackBoxProfile(
        seconds=section.number("seconds", 10.0, 7200.0),
        keep=section.integer("keep", 1, 10_000),
        folder=None if folder is None else Path(folder).expanduser(),
    )
    if settings.folder is not None and not settings.folder.is_absolute():
        raise section.fail("folder", f"'{folder}'; allowed: an absolute path, or null")
    section.finish()
    return settings
