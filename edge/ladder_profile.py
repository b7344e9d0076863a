"""What a board file says under `ladder`: what may be given up under pressure, and when.

    ladder:
      trip_margin_c: 5.0         # nearer than this to the board's own trip point: pressure
      clear_margin_c: 9.0        # farther than this: quiet; between the two nothing changes
      throttled: true            # the board's own word that it runs slower
      late_call_share: 0.5       # of policy calls, those that took longer than their chunk lasts
      late_tick_share: 0.1       # of control ticks, those later than late_tick_s, or missed
      late_tick_s: 0.02
      window_s: 10.0             # the shares are of so long, and never of the time before a step
      min_count: 4               # ticks; a share of fewer says nothing, nor does one of 3 calls
      least_step_s: 5.0          # between two steps, in either direction; not out of a hold
      quiet_s: 20.0              # without pressure before a step up
      max_quiet_s: 160.0         # quiet_s doubles up to this when a step up does not last
      hold_quiet_s: 3.0          # without pressure before a hold is left
      rungs:
        - draft_window: 8        # unsettled depth tokens a pass
        - max_policy_hz: 2.0     # the policy is called no more often
        - depth_every_calls: 4   # depth codes are refreshed at every 4th call
        - depth_max_cells: 25    # and so many cells of them at most, in turn
        - flow_steps: 5          # of the flow expert
        - camera_hz: 5.0         # pictures a second
        - speed_share: 0.5       # of the speed limits of the arm
        - hold: true             # the arm holds, and no call is made

Rungs come in this order, each on top of those before; any may be left out, and each but `hold` may
come again with less. A threshold that is null is not looked at. Nothing has a default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.config_section import ProfileError, Section

if TYPE_CHECKING:
    from edge.profile import Profile

DRAFT_WINDOW = "draft_window"
MAX_POLICY_HZ = "max_policy_hz"
DEPTH_EVERY_CALLS = "depth_every_calls"
DEPTH_MAX_CELLS = "depth_max_cells"
FLOW_STEPS = "flow_steps"
CAMERA_HZ = "camera_hz"
SPEED_SHARE = "speed_share"
HOLD = "hold"
# In the order in which they may stand in a file, and how each is read.
_READERS: dict[str, Callable[[Section], float | bool]] = {
    DRAFT_WINDOW: lambda rung: rung.integer(DRAFT_WINDOW, 1, 4096),
    MAX_POLICY_HZ: lambda rung: rung.number(MAX_POLICY_HZ, 0.01, 200.0),
    DEPTH_EVERY_CALLS: lambda rung: rung.integer(DEPTH_EVERY_CALLS, 2, 1000),
    DEPTH_MAX_CELLS: lambda rung: rung.integer(DEPTH_MAX_CELLS, 1, 1 << 14),
    FLOW_STEPS: lambda rung: rung.integer(FLOW_STEPS, 1, 1000),
    CAMERA_HZ: lambda rung: rung.number(CAMERA_HZ, 0.1, 240.0),
    SPEED_SHARE: lambda rung: rung.number(SPEED_SHARE, 0.05, 0.95),
    HOLD: lambda rung: rung.boolean(HOLD),
}
CHANGES = tuple(_READERS)
MOST_RUNGS = 32


@dataclass(frozen=True, slots=True)
class Rung:
    """One thing that is given up."""

    change: str  # of CHANGES
    value: float  # what it is changed to; 1 of a hold

    @property
    def name(self) -> str:
        """What it is called on the screen and in reports."""
        return HOLD if self.change == HOLD else f"{self.change} {self.value:g}"


@dataclass(frozen=True, slots=True)
class LadderProfile:
    """Thresholds, times and rungs, the first to go first; see the head of this file."""

    trip_margin_c: float | None
    clear_margin_c: float | None
    throttled: bool
    late_call_share: float | None
    late_tick_share: float | None
    late_tick_s: float
    window_s: float
    min_count: int
    least_step_s: float
    quiet_s: float
    max_quiet_s: float
    hold_quiet_s: float
    rungs: tuple[Rung, ...]


def read_ladder(board: Section) -> LadderProfile | None:
    """Take the key `ladder` of a board file, null for none; ProfileError."""
    section = board.optional_child("ladder")
    if section is None:
        return None
    trip_c = section.optional_number("trip_margin_c", 0.0, 60.0)
    clear_c = section.optional_number("clear_margin_c", 0.0, 60.0)
    if (trip_c is None) != (clear_c is None) or (trip_c is not None and clear_c < trip_c):
        problem = f"{clear_c}; allowed: trip_margin_c ({trip_c}) or more, null exactly with it"
        raise section.fail("clear_margin_c", problem)
    quiet_s = section.number("quiet_s", 1.0, 3600.0)
    ladder = LadderProfile(
        trip_margin_c=trip_c,
        clear_margin_c=clear_c,
        throttled=section.boolean("throttled"),
        late_call_share=section.optional_number("late_call_share", 0.0, 0.99),
        late_tick_share=section.optional_number("late_tick_share", 0.0, 0.99),
        late_tick_s=section.number("late_tick_s", 0.001, 10.0),
        window_s=section.number("window_s", 2.0, 600.0),
        min_count=section.integer("min_count", 1, 1000),
        least_step_s=section.number("least_step_s", 1.0, 3600.0),
        quiet_s=quiet_s,
        max_quiet_s=section.number("max_quiet_s", quiet_s, 86_400.0),
        hold_quiet_s=section.number("hold_quiet_s", 1.0, 3600.0),
        rungs=_rungs(section),
    )
    section.finish()
    return ladder


def check_ladder(profile: Profile) -> None:
    """Raise ProfileError for what does not go with the rest of the profile.

    That is a rung that gives up nothing of what the board does, a hold that the arm's safety gate
    would end before the ladder leaves it, and a share of more ticks than there are.
    """
    ladder = profile.board.ladder
    if ladder is None:
        return
    problems = [_rung_problem(profile, rung) for rung in ladder.rungs]
    problems += [_hold_problem(profile, ladder), _count_problem(profile, ladder)]
    for problem in filter(None, problems):
        raise ProfileError(f"profile {profile.name}: board {profile.board.name}: {problem}")


def _hold_problem(profile: Profile, ladder: LadderProfile) -> str | None:
    """Keep half of the time that the arm may hold for what presses then, and the next call.

    Quiet is counted from the first look in the hold, a second after it began.
    """
    limit_s = profile.arm.safety.max_hold_s
    most_s = limit_s / 2.0 - 1.0
    if ladder.hold_quiet_s <= most_s or all(rung.change != HOLD for rung in ladder.rungs):
        return None
    found = f"ladder hold_quiet_s {ladder.hold_quiet_s:g} before a hold is left"
    return f"{found}; allowed: {most_s:g} at most, for the arm's max_hold_s, {limit_s:g}"


def _count_problem(profile: Profile, ladder: LadderProfile) -> str | None:
    most = int(ladder.window_s * profile.arm.control_hz)
    if ladder.min_count <= most:
        return None
    return f"ladder min_count {ladder.min_count}; allowed: {most} at most, the ticks of window_s"


def _rung_problem(profile: Profile, rung: Rung) -> str | None:
    board = profile.board
    least, most = 0.0, float("inf")
    where = ""
    if rung.change == DRAFT_WINDOW and isinstance(board.draft_window, int):
        most, where = board.draft_window, ", the board's draft_window"
    elif rung.change == MAX_POLICY_HZ:
        least, most = 1.0 / board.max_chunk_age_s, board.max_policy_hz
        where = ", for the board's max_chunk_age_s and max_policy_hz"
    if least < rung.value < most:
        return None
    return f"ladder rung {rung.name}; allowed: above {least:.4g}, below {most:.4g}{where}"


def _rungs(section: Section) -> tuple[Rung, ...]:
    rungs: list[Rung] = []
    for entry in section.children("rungs"):
        names = entry.names()
        if len(names) != 1 or names[0] not in CHANGES:
            found = ", ".join(names) or "nothing"
            raise section.fail("rungs", f"{found}; allowed: one of {', '.join(CHANGES)} a rung")
        rung = Rung(names[0], float(_READERS[names[0]](entry)))
        if rung == Rung(HOLD, 0.0):
            raise entry.fail(HOLD, "false; allowed: true, or leave the rung out")
        if rungs:
            _check_order(section, rungs, rung)
        rungs.append(rung)
    if len(rungs) > MOST_RUNGS:
        raise section.fail("rungs", f"{len(rungs)} of them; allowed: {MOST_RUNGS} at most")
    return tuple(rungs)


def _check_order(section: Section, before: list[Rung], rung: Rung) -> None:
    last = before[-1]
    if CHANGES.index(rung.change) < CHANGES.index(last.change):
        order = ", ".join(CHANGES)
        raise section.fail("rungs", f"{rung.name} after {last.name}; allowed order: {order}")
    if rung.change != last.change:
        return
    gives_up_more = rung.value < last.value
    if rung.change == DEPTH_EVERY_CALLS:
        gives_up_more = rung.value > last.value
    if not gives_up_more:
        raise section.fail("rungs", f"{rung.name} after {last.name} gives nothing up; remove it")
