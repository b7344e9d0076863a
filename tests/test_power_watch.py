"""A servo that was without power gets no goal: one would switch its full torque on."""

import numpy as np
import pytest
from emulated_arm import GOAL, IDS, LIMITS, memory_arm, torque_enables, writes

from firmware_bridge import registers
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault
from firmware_bridge.errors import BusTimeout, NotArmed, PortError, PowerLost

TICK_S = 0.02
FULL_TORQUE = 1000


def armed_arm(faults=None):
    arm, transport = memory_arm(faults)
    arm.arm()
    return arm, transport


def tick(arm, transport, goals):
    """Read and write as a loop does, and return the errors."""
    errors = []
    for call in (arm.read, lambda: arm.write_goals(goals)):
        try:
            call()
        except (BusTimeout, NotArmed, PortError) as error:
            errors.append(error)
    transport.sleep(TICK_S)
    return errors


def run(arm, transport, seconds):
    goals = arm.read().positions
    errors = []
    for _ in range(round(seconds / TICK_S)):
        errors += tick(arm, transport, goals)
    return errors


@pytest.mark.parametrize("ids", [None, {3}, {1, 2}])
@pytest.mark.parametrize("away_s", [0.1, 0.8])
def test_brown_out_ends_the_arming_before_any_goal(ids, away_s):
    arm, transport = armed_arm()
    picked = frozenset(ids) if ids else None
    transport.bus.inject(Event("brown_out", at_s=0.2, duration_s=away_s, ids=picked))
    errors = run(arm, transport, 1.5)
    lost = [error for error in errors if isinstance(error, PowerLost)]
    assert str(lost[0]).startswith("power was lost for a moment: servo ")
    assert "torque_enable 0 and acceleration 0, armed with 1 and 50" in str(lost[0])
    assert str(lost[0]).endswith("check supply and cables, then arm again")
    assert not arm.armed
    for servo in transport.bus.servos:
        if ids is None or servo.servo_id in ids:
            assert servo.value(registers.TORQUE_ENABLE) == 0
    # From then on every goal is refused, and says why.
    with pytest.raises(PowerLost, match="power was lost for a moment"):
        arm.write_goals(np.zeros(6))


def test_arm_that_lost_power_can_be_softened_and_armed_again():
    arm, transport = armed_arm()
    transport.bus.inject(Event("brown_out", at_s=0.1, ids=frozenset([2])))
    run(arm, transport, 1.5)
    assert arm.torque_may_be_on
    assert arm.soft_stop(ramp_s=0.0).limp_ids == IDS
    assert torque_enables(transport) == [0] * 6
    arm.arm()
    arm.write_goals(arm.read().positions)
    assert arm.read_torque_limits().tolist() == list(LIMITS.torque_limits_per_mille)


def test_closing_an_arm_that_lost_power_softens_what_still_holds():
    arm, transport = armed_arm()
    transport.bus.inject(Event("brown_out", at_s=0.1, ids=frozenset([2])))
    run(arm, transport, 1.5)
    arm.close()
    assert torque_enables(transport) == [0] * 6


def test_one_lost_reply_does_not_end_the_arming():
    arm, transport = armed_arm()
    transport.bus.inject(ReplyFault("drop", frozenset([4]), after=10, count=20))
    errors = run(arm, transport, 2.0)
    assert errors
    assert all(isinstance(error, BusTimeout) for error in errors)
    assert arm.armed
    assert tick(arm, transport, np.zeros(6)) == []


def test_silent_servo_gets_no_goal_until_it_has_shown_that_it_kept_its_power():
    arm, transport = armed_arm()
    goals = arm.read().positions
    transport.bus.inject(Event("silent", duration_s=0.1, ids=frozenset([5])))
    transport.sent.clear()
    tick(arm, transport, goals)
    assert [servo_id for address, servo_id, _ in writes(transport) if address == GOAL] == [
        servo_id for servo_id in IDS if servo_id != 5
    ]
    transport.sleep(0.2)
    transport.sent.clear()
    assert tick(arm, transport, goals) == []
    assert [servo_id for address, servo_id, _ in writes(transport) if address == GOAL] == list(IDS)


def test_servos_that_are_all_silent_get_no_goals():
    arm, transport = armed_arm()
    goals = arm.read().positions
    transport.bus.inject(Event("silent", duration_s=0.1))
    with pytest.raises(BusTimeout):
        arm.read()
    transport.sent.clear()
    with pytest.raises(BusTimeout, match="no goal_position was sent: every servo was silent"):
        arm.write_goals(goals)
    assert transport.sent == []


def test_pulled_plug_alone_does_not_end_the_arming():
    arm, transport = armed_arm()
    transport.bus.inject(Event("unplug", at_s=0.1, duration_s=0.3))
    errors = run(arm, transport, 1.0)
    assert {type(error) for error in errors} == {PortError, BusTimeout}
    assert arm.armed
    assert arm.bus.counters.reopened == 1
    assert tick(arm, transport, arm.read().positions) == []


def test_power_lost_while_the_plug_was_out_is_found_before_any_goal():
    arm, transport = armed_arm()
    transport.bus.inject(Event("unplug", at_s=0.1, duration_s=0.3))
    transport.bus.inject(Event("brown_out", at_s=0.15, duration_s=0.05))
    errors = run(arm, transport, 1.0)
    assert any(isinstance(error, PowerLost) for error in errors)
    assert torque_enables(transport) == [0] * 6


def test_first_goal_after_a_pulled_plug_waits_for_a_reading():
    arm, transport = armed_arm()
    goals = arm.read().positions
    transport.bus.inject(Event("unplug", duration_s=0.1))
    transport.bus.inject(Event("brown_out", duration_s=0.05))
    transport.sleep(0.05)
    with pytest.raises(PortError):
        arm.read()
    transport.sleep(0.2)
    transport.sent.clear()
    with pytest.raises(BusTimeout, match="no goal_position was sent"):
        arm.write_goals(goals)
    assert transport.sent == []
    with pytest.raises(PowerLost):
        arm.read()


def test_power_lost_while_nobody_read_is_found_by_the_next_goal():
    arm, transport = armed_arm()
    goals = arm.read().positions
    transport.bus.inject(Event("brown_out", duration_s=0.8))
    transport.sleep(1.0)
    with pytest.raises(PowerLost):
        arm.write_goals(goals)
    assert torque_enables(transport) == [0] * 6


def test_goals_without_readings_are_sent_when_power_was_kept():
    arm, transport = armed_arm()
    goals = arm.read().positions
    transport.sleep(2.0)
    transport.sent.clear()
    arm.write_goals(goals)
    assert [servo_id for address, servo_id, _ in writes(transport) if address == GOAL] == list(IDS)


def test_check_of_the_power_does_not_hold_a_tick_beyond_its_deadline():
    arm, transport = armed_arm(Faults())
    transport.bus.inject(ReplyFault("drop", probability=0.4))
    for _ in range(100):
        started_s = transport.clock()
        try:
            arm.read(started_s + 0.010)
        except BusTimeout:
            assert transport.clock() <= started_s + 0.010 + 1e-6
        transport.sleep(TICK_S)
    assert arm.armed


def test_port_lost_while_torque_came_on_ends_in_a_soft_arm():
    arm, transport = memory_arm()
    transport.bus.inject(Event("unplug", at_s=0.4, duration_s=0.3))
    with pytest.raises((PortError, PowerLost)):
        arm.arm()
    assert not arm.armed
    assert torque_enables(transport) == [0] * 6
