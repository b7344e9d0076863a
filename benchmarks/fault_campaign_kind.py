"""One row of the campaign: an arm driven for so many ticks while one kind of fault strikes it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from benchmarks.fault_campaign_book import Counts
from benchmarks.fault_campaign_faults import (
    CRASH_KINDS,
    EVERYTHING,
    FAULTS,
    GOALS,
    HUNG,
    KILLED,
    NO_FAULT,
    POLICY_FAILS,
    SETTING_KINDS,
    Strike,
)
from benchmarks.fault_campaign_judge import EXAMPLES
from benchmarks.fault_campaign_line import Crashed
from benchmarks.fault_campaign_rig import JudgedArm, MakeGate, Rig
from edge.joints import JointIoError
from edge.loop import END_STOP
from edge.profile import Profile
from firmware_bridge.bus import Bus
from firmware_bridge.hold import hold
from firmware_bridge.soft_stop import RAMP_S, soft_stop
from firmware_bridge.watchdog import CONFIRM_S, HOLD_EVERY_S, POLL_S, QUIET_S

SERVO_IDS = (1, 2, 3, 4, 5, 6)
# Between faults; more where nearly each of them ends a run, which then takes longer than the ticks.
MEAN_CALM_S, MEAN_CALM_BETWEEN_STOPS_S = 0.7, 2.5
STOPPING = ("silent", "unplug", "brown_out", POLICY_FAILS)
MOST_AT_ONCE = 3
# How often a policy asks for the impossible, in the row about that and in the others.
MAD_SHARE, MAD_SHARE_ELSEWHERE = 0.7, 0.15
MOST_BUGS = 3  # of a row: then there is no more to learn from it
# Between two tries to arm: what a user does, who first tries, then waits for a plug.
PATIENCE_S = (0.2, 1.0, 5.0, 15.0)


@dataclass(slots=True)
class KindResult:
    """One row; the three counts at the end, `lost` and `bugs` must be 0."""

    kind: str
    ticks: int = 0
    missed_ticks: int = 0
    stops: int = 0  # runs that ended before their time
    counts: Counts = field(default_factory=Counts)
    worst_tick_ms: float = 0.0
    worst_blind_ms: float = 0.0
    commands: int = 0
    readings: int = 0
    pushing_and_named: int = 0  # servos that could not be reached, and were named to the user
    fired: dict[str, int] = field(default_factory=dict)
    broken_limits: int = 0
    wrong_readings: int = 0
    torque_left_on: int = 0
    bugs: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def failures(self) -> int:
        """How much of what must not happen did."""
        must_be_0 = self.broken_limits + self.wrong_readings + self.torque_left_on
        return must_be_0 + self.bugs + self.counts.lost


def run_kind(kind: str, ticks: int, seed: int, profile: Profile, make_gate: MakeGate) -> KindResult:
    """Drive an emulated arm for `ticks` control ticks, again and again after every stop."""
    result = KindResult(kind)
    rig = Rig(profile, seed, make_gate, MAD_SHARE if kind == GOALS else MAD_SHARE_ELSEWHERE)
    conductor = _Conductor(kind, ticks, rig, result)
    while not (conductor.is_done or rig.book.counts.lost or result.bugs >= MOST_BUGS):
        try:
            conductor.one_run()
        except Exception as error:  # noqa: BLE001 - what it found is in the result, which fails
            result.bugs += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"bug: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            rig.judge.found.note(text)
            conductor.let_down(hung=False)
    rig.mend()
    found = rig.judge.found
    result.ticks, result.missed_ticks = rig.ticks, rig.missed_ticks
    result.counts, result.fired = rig.book.counts, rig.fired
    result.worst_tick_ms = rig.stalls.tick_s * 1e3
    result.worst_blind_ms = rig.stalls.blind_s * 1e3
    result.commands, result.readings = rig.judge.commands, rig.judge.readings
    result.broken_limits, result.wrong_readings = found.broken_limits, found.wrong_readings
    result.torque_left_on = found.torque_left_on
    result.pushing_and_named = rig.judge.pushing_and_named
    result.examples = found.examples[:EXAMPLES]
    return result


class _Conductor:
    """Says when what strikes, ends runs, arms again."""

    def __init__(self, kind: str, ticks: int, rig: Rig, result: KindResult) -> None:
        self._kind = kind
        self._n_ticks = ticks
        self._rig = rig
        self._result = result
        self._dice = rig.dice
        self._everything = kind == EVERYTHING
        self._next_s = 0.0
        rig.at_tick = self._at_tick

    @property
    def is_done(self) -> bool:
        """Whether there were enough ticks, and the arm has recovered from everything."""
        return self._rig.ticks >= self._n_ticks and not self._rig.book.n_open

    def one_run(self) -> None:
        """Arm, drive for a while, and see how it ends."""
        rig, dice = self._rig, self._dice
        crash = self._draw_crash()
        self._strike_settings()
        try:
            arm = self._arm(crash)
            if arm is None:
                return
            longest_s = 4.0 if self._kind in SETTING_KINDS else 20.0
            end = rig.drive(arm, dice.uniform(2.0, longest_s))
        except Crashed:
            rig.book.struck(rig.bus.now_s)
            rig.book.seen()
            rig.book.stopped()
            self._result.stops += 1
            self.let_down(hung=crash == HUNG)
            return
        if end.how == END_STOP:
            rig.book.stopped()
            self._result.stops += 1

    def let_down(self, hung: bool) -> None:
        """Do on the bus what the watchdog does when the program is gone, or silent."""
        rig = self._rig
        times = rig.profile.arm.watchdog
        noticed_s = times.hold_s + CONFIRM_S if hung else 0.0
        rig.wait(noticed_s + self._dice.uniform(0.0, POLL_S) + QUIET_S)
        bus = Bus(rig.line, clock=rig.line.clock)
        fence_s = rig.bus.now_s + times.soften_s - times.hold_s
        goals: dict[int, int] = {}
        while hung and rig.bus.now_s < fence_s:
            hold(bus, SERVO_IDS, goals)
            rig.wait(HOLD_EVERY_S)
        report = soft_stop(
            bus, SERVO_IDS, ramp_s=RAMP_S, port_wait_s=times.replug_s, sleep=rig.line.sleep
        )
        # With nothing else wrong, no servo may keep its torque, named or not.
        excused = () if self._kind in CRASH_KINDS else report.unconfirmed_ids
        rig.judge.arm_let_down(excused)

    def _arm(self, crash: str | None) -> JudgedArm | None:
        """Give torque, with the patience of a user; None when nothing helps."""
        rig = self._rig
        for wait_s in PATIENCE_S:
            rig.wait(wait_s)
            arm = self._try_to_arm(crash)
            if arm is not None:
                rig.book.armed(rig.bus.now_s, mended=False)
                return arm
        rig.mend()
        arm = self._try_to_arm(None)
        if arm is None:
            rig.book.struck(rig.bus.now_s)
            rig.book.gave_up()
            return None
        rig.book.armed(rig.bus.now_s, mended=True)
        return arm

    def _try_to_arm(self, crash: str | None) -> JudgedArm | None:
        rig = self._rig
        arm = rig.open_arm()
        if crash is not None:
            rig.line.crash_at_s = rig.bus.now_s + self._dice.uniform(0.0, 8.0)
        try:
            arm.give_torque()
        except JointIoError as refusal:
            rig.book.seen()
            rig.book.stopped()
            rig.judge.arm_refused(str(refusal))
            return None
        return arm

    def _at_tick(self) -> None:
        """Let the next fault strike when its time has come and the last one is settled."""
        rig = self._rig
        most = MOST_AT_ONCE if self._everything else 1
        if rig.ticks >= self._n_ticks:
            if not rig.book.n_open:
                rig.stop.set()
            return
        if rig.bus.now_s < self._next_s or rig.book.n_open >= most:
            return
        calm_s = MEAN_CALM_BETWEEN_STOPS_S if self._kind in STOPPING else MEAN_CALM_S
        self._next_s = rig.bus.now_s + self._dice.expovariate(1.0 / calm_s)
        strike = self._draw()
        if strike is not None:
            rig.strike(strike)

    def _draw(self) -> Strike | None:
        if self._everything:
            kinds = [kind for kind in FAULTS if kind not in SETTING_KINDS]
            return FAULTS[self._dice.choice(kinds)](self._dice)
        if self._kind in (NO_FAULT, GOALS, *CRASH_KINDS, *SETTING_KINDS):
            return None
        return FAULTS[self._kind](self._dice)

    def _strike_settings(self) -> None:
        """Change a setting while the arm is limp; it must not get torque then."""
        rig, kind = self._rig, self._kind
        if self._everything and self._dice.random() < 0.1:
            kind = self._dice.choice(SETTING_KINDS)
        if rig.ticks < self._n_ticks and kind in SETTING_KINDS and self._dice.random() < 0.7:
            rig.strike(FAULTS[kind](self._dice))

    def _draw_crash(self) -> str | None:
        if self._kind in CRASH_KINDS:
            return self._kind
        if self._everything and self._dice.random() < 0.2:
            return self._dice.choice((KILLED, HUNG))
        return None
