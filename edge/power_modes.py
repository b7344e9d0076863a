"""The power modes of a Jetson: what each allows, and which one is on.

Read from /etc/nvpmodel.conf, whose own header describes the format, and from the file in which
nvpmodel keeps its choice. Ids differ by module, by Super state and by release, so none is known
here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from edge.system_files import SystemFiles

CONF = "etc/nvpmodel.conf"
STATUS = "var/lib/nvpmodel/status"
QUERY = ("nvpmodel", "-q")

Runner = Callable[[tuple[str, ...]], str | None]

# At the beginning of a line: what follows a # is a comment.
_MODEL = re.compile(r"^[ \t]*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", re.MULTILINE)
_DEFAULT = re.compile(r"^[ \t]*<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>", re.MULTILINE)
_STATUS_ID = re.compile(r"pmode:(\d+)")
_ANSWER = re.compile(r"NV Power Mode:\s*(\S+)\s*(?:\n\s*(\d+))?")
_SUPER_NAME = "MAXN_SUPER"


@dataclass(frozen=True, slots=True)
class ModeLimits:
    """What one mode allows; None where the file sets no limit (-1) or says nothing."""

    id: int
    name: str
    cores_online: int | None
    cpu_mhz: float | None
    gpu_mhz: float | None
    emc_mhz: float | None
    tpc_mask: int | None  # a bit set is a TPC switched off
    fbp_mask: int | None


@dataclass(frozen=True, slots=True)
class PowerModes:
    """The modes of a board as its file has them."""

    modes: tuple[ModeLimits, ...]
    default_id: int | None
    is_super: bool  # the Super modes: by the file's name or a MAXN_SUPER mode in it

    def by_id(self, mode_id: int | None) -> ModeLimits | None:
        """Return a mode, or None."""
        return next((mode for mode in self.modes if mode.id == mode_id), None)

    def by_name(self, name: str | None) -> ModeLimits | None:
        """Return a mode, or None."""
        return next((mode for mode in self.modes if mode.name == name), None)


@dataclass(frozen=True, slots=True)
class CurrentMode:
    """The mode that is on, and where that was read."""

    id: int | None
    name: str | None
    source: str


def read_power_modes(files: SystemFiles) -> PowerModes | None:
    """Parse /etc/nvpmodel.conf; None where there is none or it has no mode."""
    text = files.text(CONF)
    if text is None:
        return None
    default = _DEFAULT.search(text)
    heads = list(_MODEL.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    modes = tuple(
        _mode(int(head[1]), head[2], text[head.end() : end])
        for head, end in zip(heads, ends, strict=True)
    )
    if not modes:
        return None
    return PowerModes(
        modes=modes,
        default_id=int(default[1]) if default else None,
        is_super="_super" in (files.link_target(CONF) or "")
        or any(mode.name == _SUPER_NAME for mode in modes),
    )


def read_current_mode(
    files: SystemFiles, modes: PowerModes | None, run: Runner | None
) -> CurrentMode | None:
    """Return the mode that is on: as nvpmodel keeps it, else as `nvpmodel -q` answers.

    `run` runs a command and returns what it printed, or None; without it nothing is started.
    """
    kept = _STATUS_ID.search(files.text(STATUS) or "")
    if kept:
        mode = modes.by_id(int(kept[1])) if modes else None
        return CurrentMode(int(kept[1]), mode.name if mode else None, f"/{STATUS}")
    answer = _ANSWER.search((run(QUERY) if run else None) or "")
    if answer is None:
        return None
    mode = modes.by_name(answer[1]) if modes else None
    mode_id = int(answer[2]) if answer[2] else mode.id if mode else None
    return CurrentMode(mode_id, answer[1], " ".join(QUERY))


def _mode(mode_id: int, name: str, body: str) -> ModeLimits:
    settings = [words for line in body.splitlines() if len(words := line.split()) == 3]
    values = {(section, key): value for section, key, value in settings}
    cores = [value for (section, _), value in values.items() if section == "CPU_ONLINE"]
    cpu_mhz = [
        _scaled(value, 1e3)
        for (section, key), value in values.items()
        if section.startswith("CPU_") and key == "MAX_FREQ"
    ]
    return ModeLimits(
        id=mode_id,
        name=name,
        cores_online=cores.count("1") if cores else None,
        cpu_mhz=None if None in cpu_mhz else max(cpu_mhz, default=None),
        gpu_mhz=_scaled(values.get(("GPU", "MAX_FREQ")), 1e6),
        emc_mhz=_scaled(values.get(("EMC", "MAX_FREQ")), 1e6),
        tpc_mask=_whole(values.get(("TPC_POWER_GATING", "TPC_PG_MASK"))),
        fbp_mask=_whole(values.get(("FBP_POWER_GATING", "FBP_PG_MASK"))),
    )


def _scaled(value: str | None, per_mhz: float) -> float | None:
    number = _whole(value)
    return None if number is None or number <= 0 else number / per_mhz


def _whole(value: str | None) -> int | None:
    try:
        return None if value is None else int(value, 0)
    except ValueError:
        return None
