"""The ladder on an injected clock: thresholds, times, and what holds whatever presses."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ladder_settings import LADDER, ladder_of

from edge.ladder import Ladder
from edge.pressure import Pressure
from edge.profile import load_profile

HOT = Pressure(headroom_c=4.0)
COOL = Pressure(headroom_c=30.0, throttled=False, late_call_share=0.0, late_tick_share=0.0)
THROTTLED = Pressure(throttled=True, throttle_reason="gpu clock capped")
LATE = Pressure(late_call_share=0.9)
N_RUNGS = len(LADDER.rungs)


class Climber:
    """A ladder and the clock it looks at."""

    def __init__(self, **changes):
        self.now_s = 100.0
        self.profile = dataclasses.replace(LADDER, **changes)
        self.ladder = Ladder(self.profile, lambda: self.now_s)

    def look(self, pressure, after_s=1.0):
        self.now_s += after_s
        return self.ladder.observe(pressure)

    def for_s(self, pressure, seconds):
        """Look once a second; return the steps."""
        return [step for _ in range(round(seconds)) if (step := self.look(pressure))]

    def down_to(self, level, pressure=LATE):
        for _ in range(1000):
            if self.ladder.level == level:
                return self
            self.look(pressure)
        raise AssertionError(f"level {self.ladder.level} instead of {level}")


@pytest.mark.parametrize(
    ("pressure", "presses"),
    [
        (Pressure(), False),
        (Pressure(headroom_c=5.0), False),
        (Pressure(headroom_c=4.999), True),
        (Pressure(headroom_c=-3.0), True),
        (Pressure(throttled=False), False),
        (Pressure(throttled=True), True),
        (Pressure(late_call_share=0.5), False),
        (Pressure(late_call_share=0.501), True),
        (Pressure(late_tick_share=0.1), False),
        (Pressure(late_tick_share=0.101), True),
    ],
)
def test_each_threshold_presses_beyond_its_limit_and_not_at_it(pressure, presses):
    step = Climber().look(pressure)
    assert (step is not None) == presses
    if presses:
        assert (step.from_level, step.to_level, step.rung) == (0, 1, "draft_window 8")


@pytest.mark.parametrize(
    ("changes", "pressure"),
    [
        ({"trip_margin_c": None, "clear_margin_c": None}, Pressure(headroom_c=-20.0)),
        ({"throttled": False}, THROTTLED),
        ({"late_call_share": None}, LATE),
        ({"late_tick_share": None}, Pressure(late_tick_share=1.0)),
    ],
)
def test_threshold_that_is_null_is_not_looked_at(changes, pressure):
    assert Climber(**changes).for_s(pressure, 60.0) == []


def test_step_names_every_cause_with_value_and_limit():
    step = Climber().look(
        Pressure(3.25, True, "gpu clock capped", late_call_share=0.75, late_tick_share=0.2)
    )
    assert step.reason == (
        "the board throttles (gpu clock capped); 3.2 C to the trip point, limit 5.0 C; 75% of "
        "policy calls took longer than their chunk lasts, limit 50%; 20% of ticks late or missed, "
        "limit 10%"
    )
    assert step.text(8).startswith("ladder: down to draft_window 8 (level 1 of 8): the board thr")


def test_steps_down_are_one_rung_and_least_step_s_apart():
    climber = Climber()
    steps = climber.for_s(LATE, 60.0)
    assert [step.to_level for step in steps] == list(range(1, N_RUNGS + 1))
    gaps = [b.t_s - a.t_s for a, b in itertools.pairwise(steps)]
    assert min(gaps) == max(gaps) == climber.profile.least_step_s
    assert [step.rung for step in steps] == [rung.name for rung in LADDER.rungs]


@pytest.mark.parametrize(("quiet_s", "rises"), [(19.999, False), (20.0, True)])
def test_step_up_needs_the_whole_quiet_time(quiet_s, rises):
    climber = Climber().down_to(2)
    climber.look(COOL)
    climber.look(COOL, 10.0)
    step = climber.look(COOL, quiet_s - 10.0)
    assert (step is not None) == rises
    if rises:
        assert step.to_level == 1
        assert step.text(8) == (
            "ladder: up again, max_policy_hz 2 taken back (level 1 of 8): nothing pressed for 20 s"
        )


def test_quiet_time_begins_anew_after_pressure_after_a_step_and_after_a_gap_in_watching():
    climber = Climber().down_to(3)
    climber.for_s(COOL, 19)
    climber.now_s += 1.0
    assert climber.ladder.observe(LATE) is not None  # level 4
    assert climber.for_s(COOL, 20) == []
    assert climber.for_s(COOL, 1)[0].to_level == 3
    assert climber.for_s(COOL, 20) == []
    climber.look(COOL, 30.0)  # nobody looked for 30 s; the step is taken only 20 s later
    assert climber.ladder.level == 3
    assert climber.for_s(COOL, 20)[0].to_level == 2


def test_between_the_two_margins_nothing_changes():
    climber = Climber().down_to(2)
    assert climber.for_s(dataclasses.replace(COOL, headroom_c=8.9), 300) == []
    assert climber.for_s(dataclasses.replace(COOL, headroom_c=9.0), 21)[0].to_level == 1


@pytest.mark.parametrize("share", ["late_call_share", "late_tick_share"])
def test_nothing_is_taken_back_while_too_few_were_counted_of_what_is_looked_at(share):
    too_few = dataclasses.replace(COOL, **{share: None})
    climber = Climber().down_to(2)
    assert climber.for_s(too_few, 300) == []
    assert climber.for_s(COOL, 21)[0].to_level == 1
    assert Climber(**{share: None}).down_to(2, THROTTLED).for_s(too_few, 21)[0].to_level == 1


def test_step_up_that_does_not_last_doubles_the_quiet_time_up_to_its_limit():
    climber = Climber().down_to(1)
    waits = []
    for _ in range(6):
        began_s = climber.now_s
        while climber.ladder.level:
            climber.look(COOL)
        waits.append(climber.now_s - began_s)
        climber.down_to(1)
    assert waits == [21.0, 41.0, 81.0, 161.0, 161.0, 161.0]
    while climber.ladder.level:
        climber.look(COOL)
    climber.for_s(COOL, 170)  # it lasted: patience is over
    climber.down_to(1)
    assert climber.ladder.quiet_time_s() == 20.0


@pytest.mark.parametrize(
    ("pressure", "holds"),
    [
        (HOT, False),
        (Pressure(headroom_c=0.0), False),
        (Pressure(headroom_c=-0.1), True),
        (THROTTLED, True),
        (LATE, True),
        (Pressure(late_tick_share=0.5), True),
    ],
)
def test_nearness_to_the_trip_point_alone_never_holds_the_arm(pressure, holds):
    climber = Climber().down_to(N_RUNGS - 1)
    climber.for_s(pressure, 60.0)
    assert climber.ladder.holds == holds


@pytest.mark.parametrize("looks_at_flag", [True, False])
def test_hold_is_left_after_its_own_quiet_time_and_never_while_throttled(looks_at_flag):
    climber = Climber(throttled=looks_at_flag).down_to(N_RUNGS)
    assert climber.ladder.holds
    assert climber.for_s(THROTTLED, 300) == []
    (step,) = climber.for_s(COOL, 5)
    assert step.to_level == N_RUNGS - 1
    assert step.reason == "nothing that a hold mends pressed for 3 s"
    assert not climber.ladder.holds


def documented():
    """The ladder of docs/ladder.md, and how long the arm of its board may hold."""
    page = (Path(__file__).parents[1] / "docs" / "ladder.md").read_text("utf-8")
    board = page.partition("```yaml\n")[2].partition("```")[0]
    values = yaml.safe_load(board)
    ladder = ladder_of(yaml.safe_dump({"ladder": values["ladder"]}))
    return ladder, load_profile(values["based_on"]).arm.safety.max_hold_s


def test_hold_of_the_documented_ladder_is_left_long_before_the_arm_may_hold_no_longer():
    ladder, max_hold_s = documented()
    climber = Climber(**{f.name: getattr(ladder, f.name) for f in dataclasses.fields(ladder)})
    for _ in range(4):  # relapses do not make a hold longer
        climber.down_to(len(ladder.rungs), THROTTLED)
        held_since_s = climber.now_s
        climber.look(THROTTLED)
        (step,) = climber.for_s(dataclasses.replace(COOL, late_call_share=None), 5)
        assert step.from_level == len(ladder.rungs)
        assert step.t_s - held_since_s <= max_hold_s / 2
        relapse = climber.for_s(THROTTLED, ladder.least_step_s + 1)
        assert [again.t_s - step.t_s for again in relapse] == [ladder.least_step_s]


def test_hold_is_left_by_a_board_that_is_still_warm_and_not_entered_again():
    climber = Climber().down_to(N_RUNGS, THROTTLED)
    assert [step.to_level for step in climber.for_s(HOT, 120)] == [N_RUNGS - 1]


def test_ladder_without_rungs_that_can_be_used_does_nothing():
    ladder = Ladder(LADDER, lambda: 1.0, ())
    assert ladder.observe(LATE) is None
    assert not ladder.holds


def maybe(values):
    return st.one_of(st.none(), values)


pressures = st.builds(
    Pressure,
    headroom_c=maybe(st.floats(-20.0, 60.0)),
    throttled=maybe(st.booleans()),
    late_call_share=maybe(st.floats(0.0, 1.0)),
    late_tick_share=maybe(st.floats(0.0, 0.3)),
)
spells = st.lists(
    st.tuples(st.one_of(pressures, st.sampled_from([COOL, HOT, THROTTLED, LATE])),
              st.integers(1, 60), st.floats(0.2, 3.0)),
    min_size=1,
    max_size=12,
)  # fmt: skip
usable = st.lists(st.booleans(), min_size=N_RUNGS, max_size=N_RUNGS)


def presses(pressure):
    near = pressure.headroom_c is not None and pressure.headroom_c < 5.0
    return near or needs_hold(pressure)


def is_unknown(pressure):
    return None in (pressure.late_call_share, pressure.late_tick_share)


def needs_hold(pressure):
    return (
        bool(pressure.throttled)
        or (pressure.headroom_c is not None and pressure.headroom_c < 0.0)
        or (pressure.late_call_share is not None and pressure.late_call_share > 0.5)
        or (pressure.late_tick_share is not None and pressure.late_tick_share > 0.1)
    )


@settings(max_examples=300, deadline=None)
@given(spells, usable)
def test_whatever_presses_the_ladder_keeps_its_rules(spells, usable):
    now_s = [0.0]
    rungs = tuple(rung for rung, may in zip(LADDER.rungs, usable, strict=True) if may)
    ladder = Ladder(LADDER, lambda: now_s[0], rungs)
    last_step_s, quiet_since_s, n_steps = None, None, 0
    for pressure, looks, gap_s in spells:
        for _ in range(looks):
            now_s[0] += gap_s
            level, held = ladder.level, ladder.holds
            step = ladder.observe(pressure)
            if needs_hold(pressure) if held else presses(pressure) or is_unknown(pressure):
                quiet_since_s = None
            elif quiet_since_s is None:
                quiet_since_s = now_s[0]
            assert 0 <= ladder.level <= len(rungs)
            if step is None:
                assert ladder.level == level
                continue
            n_steps += 1
            assert (step.from_level, step.to_level) == (level, ladder.level)
            assert abs(step.to_level - step.from_level) == 1
            assert step.rung == rungs[max(step.from_level, step.to_level) - 1].name
            assert held or last_step_s is None or now_s[0] - last_step_s >= LADDER.least_step_s
            if step.is_down:
                assert needs_hold(pressure) if ladder.holds else presses(pressure)
            else:
                least_s = LADDER.hold_quiet_s if held else LADDER.quiet_s
                assert now_s[0] - quiet_since_s >= least_s
                assert not (held and pressure.throttled)
                assert last_step_s is None or now_s[0] - last_step_s >= least_s
            last_step_s, quiet_since_s = now_s[0], None
    for _ in range(len(rungs) * (round(LADDER.max_quiet_s) + 2)):
        now_s[0] += 1.0
        step = ladder.observe(COOL)
        assert step is None or not step.is_down
    assert ladder.level == 0
