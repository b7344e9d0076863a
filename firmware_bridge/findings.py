"""What a check-up says: one finding a line, with what to do about it, and sometimes a mend."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from firmware_bridge.bus import Bus


class Level(enum.Enum):
    """How bad a finding is: only FAIL keeps an arm from being driven."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Mend:
    """Something a check-up can put right itself; `apply` raises BusError when it cannot.

    `needs_limp` is for what is only safe while the servo has no torque.
    """

    servo_id: int
    what: str
    apply: Callable[[Bus], None]
    needs_limp: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: where, what was found, and what to do."""

    level: Level
    where: str
    text: str
    remedy: str = ""
    mends: tuple[Mend, ...] = ()

    @property
    def mending(self) -> str:
        """What mending it would do, in one line; empty when nothing can be done."""
        what = ", ".join(dict.fromkeys(mend.what for mend in self.mends))
        return f"{self.where}: {what}" if what else ""

    @property
    def line(self) -> str:
        """The finding in one line."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.level.value:<5} {self.where}: {self.text}{remedy}"


def ok(where: str, text: str) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(Level.OK, where, text)


def warn(where: str, text: str, remedy: str, mend: Mend | None = None) -> Finding:
    """Return a finding that does not keep the arm from being driven."""
    return Finding(Level.WARN, where, text, remedy, (mend,) if mend else ())


def fail(where: str, text: str, remedy: str, mend: Mend | None = None) -> Finding:
    """Return a finding that does."""
    return Finding(Level.FAIL, where, text, remedy, (mend,) if mend else ())


def or_ok(findings: Iterable[Finding], where: str, text: str) -> list[Finding]:
    """Return the findings, or one that says that all is well."""
    return list(findings) or [ok(where, text)]


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Say once what was found at several servos in the same words."""
    groups: dict[tuple[Level, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.level, finding.text, finding.remedy), []).append(finding)
    return [_together(group) for group in groups.values()]


def worst(findings: Iterable[Finding]) -> Level:
    """Return the level of the worst finding."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)


def _together(group: list[Finding]) -> Finding:
    first = group[0]
    if len(group) == 1:
        return first
    places = ", ".join(finding.where.removeprefix("servo ") for finding in group)
    mends = tuple(mend for finding in group for mend in finding.mends)
    return Finding(first.level, f"servos {places}", first.text, first.remedy, mends)
