"""The range of a joint from a sweep by hand, wherever on the encoder's scale it lies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.calibration import DEGREES_PER_TICK
from firmware_bridge.joint_sweep import (
    CENTRED_NOTE,
    MIDDLE_TICK,
    TRAP_NOTE,
    JointSweep,
    folded_problem,
    place_full_turn,
    place_sweep,
    sweep_problems,
)

TURN = 4096


def swept(low, high, start=None, step=100):
    """Move a joint from `start` to `low` to `high`, which may lie beyond the encoder's scale."""
    start = low if start is None else start
    way = [*range(start, low, -step), *range(low, high, step), high]
    sweep = JointSweep(way[0] % TURN, 0.0)
    for index, ticks in enumerate(way):
        sweep.add(ticks % TURN, 0.02 * index)
    return sweep


def shown(raw, placement):
    """Return what the servo reports: Present = (raw - offset) mod 4096."""
    return (raw - placement.homing_offset) % TURN


@given(
    low=st.integers(-TURN, TURN),
    span=st.integers(100, 4094),
    middle=st.floats(0.0, 1.0),
    start=st.floats(0.0, 1.0),
)
def test_every_position_of_the_range_is_shown_in_order_within_the_scale(low, span, middle, start):
    sweep = swept(low, low + span, low + round(span * start))
    assert sweep.span_ticks == span
    middle_raw = (low + round(span * middle)) % TURN
    placement = place_sweep(sweep, middle_raw)
    assert abs(placement.homing_offset) <= 2047
    assert 0 <= placement.range_min < placement.range_max <= 4095
    assert shown(low, placement) == placement.range_min
    assert shown(low + span, placement) == placement.range_max
    readings = [shown(raw, placement) for raw in range(low, low + span + 1)]
    assert readings == sorted(readings)


@given(
    low=st.integers(0, TURN - 1),
    down=st.integers(300, 2047),
    up=st.integers(300, 2048),
)
def test_where_the_range_fits_it_is_what_lerobot_would_choose(low, down, up):
    middle = low + down
    placement = place_sweep(swept(low, middle + up, middle), middle % TURN)
    lerobots_offset = middle % TURN - 2047
    if lerobots_offset <= 2047:
        assert placement.note is None
        assert placement.homing_offset == lerobots_offset
        assert (placement.range_min, placement.range_max) == (2047 - down, 2047 + up)


def test_a_range_that_does_not_fit_around_the_middle_pose_is_centred():
    sweep = swept(1000, 4000)
    placement = place_sweep(sweep, 1100)
    assert placement.note == CENTRED_NOTE
    assert placement.homing_offset == 2500 - MIDDLE_TICK
    assert (placement.range_min, placement.range_max) == (547, 3547)


def test_a_middle_pose_outside_the_sweep_does_not_count():
    placement = place_sweep(swept(1000, 2000), 2500)
    assert placement.note == CENTRED_NOTE
    assert placement.range_min < MIDDLE_TICK < placement.range_max


@pytest.mark.parametrize("low", [3000, 4095 - 1000, 4095])
def test_the_offset_the_servo_cannot_hold_is_mended_and_explained(low):
    sweep = swept(low, low + 2 * (4095 - low) or 4095 + 100)
    placement = place_sweep(sweep, 4095)
    assert placement.homing_offset == 2047
    assert placement.note == TRAP_NOTE
    assert shown(4095, placement) == 2048
    assert "Magnitude 2048 exceeds 2047" in TRAP_NOTE


@pytest.mark.parametrize("middle_raw", [0, 1, 2046, 2047, 2048, 4094, 4095])
def test_a_free_joint_keeps_its_whole_turn_around_the_middle_pose(middle_raw):
    placement = place_full_turn(middle_raw)
    assert (placement.range_min, placement.range_max) == (0, 4095)
    assert abs(placement.homing_offset) <= 2047
    assert shown(middle_raw, placement) == (2048 if middle_raw == 4095 else 2047)


def test_a_joint_that_turned_all_the_way_round_has_no_range():
    with pytest.raises(ValueError, match="turned 360 deg, a range holds less than a full turn"):
        place_sweep(swept(0, 4095), 2047)


@pytest.mark.parametrize(
    ("span_deg", "problem"),
    [
        (0.0, "it was not moved; is it the joint with this id?"),
        (100.0, "moved 100 deg, it can do about 194; move it to both its ends"),
        (135.4, "move it to both its ends"),
        (136.5, None),
        (193.6, None),
        (241.0, None),
        (243.0, "is its horn loose?"),
    ],
)
def test_ranges_are_judged_by_what_the_joint_can_do(span_deg, problem):
    problems = sweep_problems("elbow_flex", swept(500, 500 + round(span_deg / DEGREES_PER_TICK)))
    assert len(problems) == (problem is not None)
    if problem:
        assert problem in problems[0]


def test_a_jump_between_readings_makes_the_sweep_unsure():
    sweep = JointSweep(100, 0.0)
    sweep.add(100 + 1025, 0.02)
    assert sweep_problems("gripper", sweep) == ["it went 90 deg between two readings; move slowly"]


def test_a_silence_makes_the_sweep_unsure():
    sweep = JointSweep(100, 0.0)
    sweep.add(200, 0.29)
    assert sweep.unsure is None
    sweep.add(300, 0.70)
    assert sweep_problems("gripper", sweep) == ["no reading for 0.4 s; check its plug"]


@pytest.mark.parametrize(
    ("joint", "raw", "wrong"),
    [
        ("gripper", 3010, False),
        ("gripper", 2990, False),
        ("elbow_flex", 4096 + 20, False),
        ("gripper", 4090, True),
        ("shoulder_lift", 3300, False),
        ("shoulder_lift", 3500, True),
        ("elbow_flex", 4090, False),
        ("elbow_flex", 3010, True),
        ("wrist_flex", 3010, False),
    ],
)
def test_a_folded_arm_shows_joints_that_are_mounted_the_other_way_round(joint, raw, wrong):
    sweep = swept(3000, 4096 + 5)
    problem = folded_problem(joint, sweep, raw % TURN)
    assert (problem is not None) == wrong
    if wrong:
        assert "mounted the other way round" in problem
