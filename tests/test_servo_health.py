"""Fault bits, heat and the supply: what slows the arm, what holds it and what stops it."""

import numpy as np
import pytest
from gate_caller import ARM, MIDDLE, N_JOINTS, NAMES, PERIOD_S, gate, started_gate

from edge.safety import Outcome, Rule

HOT = ARM.derating.temperature
SUPPLY = ARM.derating.voltage
FAULT_S = ARM.safety.servo_fault_stop_s
STILL = {"arm": {"workspace": None}}
each_joint = pytest.mark.parametrize("joint", range(N_JOINTS), ids=NAMES)
FAR = MIDDLE + 40.0


def at(joint, value, otherwise):
    values = np.full(N_JOINTS, otherwise, dtype=np.float64)
    values[joint] = value
    return values


def status(joint, bits):
    return at(joint, bits, 0.0).astype(np.uint8)


@each_joint
@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0x20, "overload"),
        (0x08, "too much current"),
        (0x04, "too much heat"),
        (0x02, "a broken encoder"),
        (0x80, "status bits 0x80"),
        (0x24, "too much heat and overload"),
    ],
)
def test_fault_bit_holds_and_stops_the_arm_when_it_stays(joint, bits, text):
    caller = started_gate(**STILL)
    last_s = 0.0
    for tick in range(1, 60):
        now_s = tick * PERIOD_S
        verdict = caller.check(FAR, MIDDLE, now_s, status=status(joint, bits))
        if verdict.outcome is Outcome.STOP:
            break
        assert verdict.outcome is Outcome.HOLD
        assert verdict.reason == f"{NAMES[joint]}: servo reports {text}"
        np.testing.assert_allclose(verdict.goal, MIDDLE)
        last_s = now_s
    assert last_s - PERIOD_S <= FAULT_S + 1e-9 < last_s + PERIOD_S
    assert verdict.rule is Rule.SERVO_FAULT
    assert verdict.reason == f"{NAMES[joint]}: servo reports {text} for longer than {FAULT_S:g} s"


def test_fault_bit_that_comes_and_goes_never_stops():
    caller = started_gate(**STILL)
    for tick in range(1, 300):
        bits = 0x20 if tick % 3 else 0
        verdict = caller.check(MIDDLE, MIDDLE, tick * PERIOD_S, status=status(2, bits))
        assert verdict.outcome is (Outcome.HOLD if bits else Outcome.PASS)


def test_voltage_bit_alone_holds_and_leaves_the_stop_to_the_measured_supply():
    caller = started_gate(**STILL)
    for tick in range(1, 60):
        verdict = caller.check(MIDDLE, MIDDLE, tick * PERIOD_S, status=status(4, 0x01))
        assert verdict.outcome is Outcome.HOLD
    assert verdict.reason == f"{NAMES[4]}: servo reports a supply outside its limits"


def speed_reached(caller, n_ticks=40, **changes):
    """Chase a goal that stays out of reach; return the highest speed and the last verdict."""
    here, best, now_s = MIDDLE.copy(), np.zeros(N_JOINTS), 0.0
    for tick in range(1, n_ticks):
        now_s = tick * PERIOD_S
        verdict = caller.check(here + 50.0 * (-1) ** (tick // 10), here, now_s, **changes)
        best = np.maximum(best, np.abs(verdict.goal - here) / PERIOD_S)
        here = verdict.goal.copy()
    return best, verdict


@each_joint
@pytest.mark.parametrize(
    ("share_of_span", "left"), [(-0.01, 1.0), (0.0, 1.0), (0.5, 0.6), (1.0, 0.2)]
)
def test_hot_joint_slows_the_whole_arm_in_a_line(joint, share_of_span, left):
    temperature_c = HOT.derate_c + share_of_span * (HOT.stop_c - HOT.derate_c)
    temperatures = at(joint, temperature_c, 30.0)
    reached, verdict = speed_reached(started_gate(**STILL), temperatures_c=temperatures)
    allowed = np.array([j.max_velocity for j in ARM.joints]) * left
    np.testing.assert_array_less(reached, allowed + 1e-6)
    assert verdict.outcome is Outcome.CLAMP
    if left < 1.0:
        assert reached.max() == pytest.approx(allowed.max(), rel=0.05)


def test_what_slows_the_arm_is_named_where_the_joint_itself_is_within_its_limit():
    caller = started_gate(**STILL)
    temperatures = at(1, (HOT.derate_c + HOT.stop_c) / 2, 30.0)
    here = MIDDLE.copy()
    for tick in range(1, 20):
        goal = MIDDLE + 70.0 * tick * PERIOD_S
        verdict = caller.check(goal, here, tick * PERIOD_S, temperatures_c=temperatures)
        here = verdict.goal.copy()
    assert verdict.rule in (Rule.TEMPERATURE, Rule.VELOCITY)
    slow = caller.check(here + 60.0 * PERIOD_S, here, 20 * PERIOD_S, temperatures_c=temperatures)
    assert slow.rule is Rule.TEMPERATURE
    assert slow.reason == "shoulder_lift: servo at 56 C, limit 50 C; slowed down"


@each_joint
def test_hot_joint_leads_less(joint):
    temperatures = at(joint, HOT.stop_c, 30.0)
    caller = started_gate(**STILL)
    for tick in range(1, 60):
        verdict = caller.check(FAR, MIDDLE, tick * PERIOD_S, temperatures_c=temperatures)
    lead = verdict.goal - MIDDLE
    allowed = np.array([j.max_lead for j in ARM.joints])
    allowed[joint] *= ARM.derating.lead_share
    np.testing.assert_allclose(lead, allowed, atol=1e-6)


@each_joint
def test_joint_that_is_too_hot_holds_then_stops(joint):
    caller = started_gate(**STILL)
    temperatures = at(joint, HOT.stop_c + 1.0, 30.0)
    held_s = 0.0
    for tick in range(1, 120):
        verdict = caller.check(FAR, MIDDLE, tick * PERIOD_S, temperatures_c=temperatures)
        if verdict.outcome is Outcome.STOP:
            break
        assert verdict.reason == f"{NAMES[joint]}: servo at 63 C, limit 62 C"
        held_s = tick * PERIOD_S
    assert held_s == pytest.approx(HOT.stop_after_s, abs=2 * PERIOD_S)
    assert verdict.rule is Rule.TEMPERATURE
    assert verdict.reason == f"{NAMES[joint]}: servo at 63 C, limit 62 C for longer than 1 s"


def test_one_odd_temperature_does_not_stop():
    caller = started_gate(**STILL)
    for tick in range(1, 200):
        odd = at(2, 99.0 if tick % 5 == 0 else 30.0, 30.0)
        verdict = caller.check(MIDDLE, MIDDLE, tick * PERIOD_S, temperatures_c=odd)
        assert verdict.outcome is (Outcome.HOLD if tick % 5 == 0 else Outcome.PASS)


@pytest.mark.parametrize("nominal_v", SUPPLY.nominal_v)
@each_joint
def test_low_supply_stops_after_so_many_samples_in_a_row(joint, nominal_v):
    caller = gate(**STILL)
    steady = np.full(N_JOINTS, nominal_v)
    caller.check(MIDDLE, MIDDLE, 0.0, voltages_v=steady)
    stop_v = nominal_v * (1.0 - SUPPLY.stop_below_percent / 100.0)
    sagging = at(joint, stop_v - 0.05, nominal_v)
    for tick in range(1, 40):  # never for fewer
        low = tick % SUPPLY.stop_samples
        voltages = sagging if low else steady
        verdict = caller.check(MIDDLE, MIDDLE, tick * PERIOD_S, voltages_v=voltages)
        assert verdict.outcome is Outcome.PASS
    now_s = 40 * PERIOD_S
    caller.check(MIDDLE, MIDDLE, now_s, voltages_v=steady)
    for _ in range(SUPPLY.stop_samples):
        assert verdict.outcome is Outcome.PASS
        now_s += PERIOD_S
        verdict = caller.check(MIDDLE, MIDDLE, now_s, voltages_v=sagging)
    assert verdict.outcome is Outcome.STOP
    assert verdict.rule is Rule.VOLTAGE
    assert verdict.joint == NAMES[joint]
    assert verdict.reason.endswith(f" of nominally {nominal_v:g} V, 3 times in a row")


def test_repeated_old_measurement_counts_once():
    caller = gate(**STILL)
    caller.check(MIDDLE, MIDDLE, 0.0)
    for tick in range(1, 3):
        now_s = tick * PERIOD_S
        verdict = caller.check(
            MIDDLE, MIDDLE, now_s, measured_s=0.01, voltages_v=np.full(N_JOINTS, 5.0)
        )
    assert verdict.outcome is Outcome.PASS


@pytest.mark.parametrize(("missing_percent", "left"), [(9.9, 1.0), (15.0, 0.6), (20.0, 0.2)])
def test_sagging_supply_slows_the_arm_in_a_line(missing_percent, left):
    caller = started_gate(**STILL)
    sagging = np.full(N_JOINTS, 12.0 * (1.0 - missing_percent / 100.0))
    reached, _ = speed_reached(caller, voltages_v=sagging)
    allowed = np.array([j.max_velocity for j in ARM.joints]) * left
    np.testing.assert_array_less(reached, allowed + 1e-6)
    if left < 1.0:
        assert reached.max() == pytest.approx(allowed.max(), rel=0.05)


@pytest.mark.parametrize("field", ["velocities", "currents_ma", "voltages_v", "temperatures_c"])
@each_joint
def test_measurement_that_is_no_number_stops_and_is_named(field, joint):
    caller = started_gate(**STILL)
    values = at(joint, np.nan, 1.0)
    verdict = caller.check(MIDDLE, MIDDLE, PERIOD_S, **{field: values})
    assert verdict.outcome is Outcome.STOP
    assert verdict.reason == f"{NAMES[joint]}: measured {field.replace('_', ' ')} is nan"
