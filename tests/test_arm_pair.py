"""Two arms moved as one: read together, torque both or neither, soft both always."""

import os
import pty
import tty

import numpy as np
import pytest
from emulated_arm import IDS, LIMITS, TORQUE_ENABLE, memory_arm, torque_enables, writes

from firmware_bridge.arm_pair import PAIR_JOINTS, ArmPair
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault, ServoFaults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.errors import (
    ArmMoved,
    BusTimeout,
    GoalError,
    NotArmed,
    PortError,
    PowerLost,
    ServoFault,
)

LEFT_DEG = (5, -20, 30, 0, 10, 40)
RIGHT_DEG = (-8, 15, -12, 33, -4, 20)


def memory_pair(left_faults=None, right_faults=None):
    left, left_transport = memory_arm(left_faults, plant=RotorPlant(6, start_deg=LEFT_DEG))
    right, right_transport = memory_arm(right_faults, plant=RotorPlant(6, start_deg=RIGHT_DEG))
    return ArmPair(left, right), left_transport, right_transport


def test_reading_has_the_left_arm_first():
    pair, _, _ = memory_pair(None, Faults(servos={6: ServoFaults(status_bits=4)}))
    reading = pair.read()
    assert PAIR_JOINTS[0] == "left_shoulder_pan"
    assert PAIR_JOINTS[-1] == "right_gripper"
    assert reading.positions[:5] == pytest.approx(LEFT_DEG[:5], abs=0.1)
    assert reading.positions[6:11] == pytest.approx(RIGHT_DEG[:5], abs=0.1)
    assert reading.status.tolist() == [0] * 11 + [4]
    for name in ("velocities", "loads", "currents_ma", "voltages_v", "temperatures_c"):
        assert getattr(reading, name).shape == (12,)


def test_both_requests_are_on_the_wire_before_either_reply_is_waited_for():
    pair, left, right = memory_pair()
    order = []

    def note(side, transport):
        write, read = transport.write, transport.read

        def noting_write(data):
            order.append(f"{side} asked")
            write(data)

        def noting_read(max_bytes, timeout_s):
            order.append(f"{side} waited for")
            return read(max_bytes, timeout_s)

        transport.write, transport.read = noting_write, noting_read

    note("left", left)
    note("right", right)
    pair.read()
    assert order == ["left asked", "right asked", "left waited for", "right waited for"]


def test_silent_servo_of_one_arm_does_not_cost_what_the_other_said():
    pair, _, _ = memory_pair(None, Faults(missing=frozenset([2])))
    with pytest.raises(BusTimeout, match=r"^right arm: servo 2: no reply") as caught:
        pair.read()
    assert caught.value.servo_ids == (2,)
    silent = np.flatnonzero(np.isnan(caught.value.partial.positions))
    assert [PAIR_JOINTS[index] for index in silent] == ["right_shoulder_lift"]


def test_silence_of_both_arms_is_one_error():
    everyone = Faults(missing=frozenset(IDS))
    pair, _, _ = memory_pair(Faults(missing=frozenset([6])), everyone)
    with pytest.raises(
        BusTimeout, match=r"left arm: servo 6: .*; right arm: servos 1, 2"
    ) as caught:
        pair.read()
    assert np.isnan(caught.value.partial.positions).tolist() == [False] * 5 + [True] * 7
    pair, _, _ = memory_pair(everyone, everyone)
    with pytest.raises(BusTimeout) as caught:
        pair.read()
    assert caught.value.partial is None


def test_lost_port_of_one_arm_is_named():
    pair, left, _ = memory_pair()
    left.bus.inject(Event("unplug"))
    left.sleep(0.01)
    with pytest.raises(PortError, match=r"^left arm: memory: port lost"):
        pair.read()
    left.sleep(2.0)
    assert np.isfinite(pair.read().positions).all()


def test_goals_reach_both_arms():
    pair, left, right = memory_pair()
    pair.arm()
    assert pair.armed
    goals = np.array([20, -30, 15, -10, 0, 60, -20, 10, -5, 20, 5, 30], dtype=float)
    pair.write_goals(goals)
    for transport in (left, right):
        transport.sleep(2.0)
    assert pair.read().positions == pytest.approx(goals, abs=0.5)


@pytest.mark.parametrize("bad", [np.zeros(6), np.full(12, np.nan), [0] * 11 + [np.inf], None])
def test_goals_that_are_not_twelve_numbers_move_neither_arm(bad):
    pair, left, right = memory_pair()
    pair.arm()
    left.sent.clear()
    right.sent.clear()
    with pytest.raises(GoalError):
        pair.write_goals(bad)
    assert left.sent == right.sent == []


def test_neither_arm_moves_unless_both_are_armed():
    pair, left, right = memory_pair()
    pair.left.arm()
    left.sent.clear()
    with pytest.raises(NotArmed, match=r"^right arm: a goal was sent to an arm without torque"):
        pair.write_goals(np.zeros(12))
    assert left.sent == right.sent == []


def test_pair_whose_one_arm_lost_power_takes_no_goals():
    pair, left, right = memory_pair()
    pair.arm()
    right.bus.inject(Event("brown_out"))
    right.sleep(1.0)
    with pytest.raises(PowerLost, match=r"^right arm: power was lost for a moment"):
        pair.read()
    assert not pair.armed
    left.sent.clear()
    for _ in range(2):
        with pytest.raises(PowerLost, match=r"^right arm: power was lost for a moment"):
            pair.write_goals(np.zeros(12))
    assert left.sent == []


def test_arm_that_is_not_in_order_keeps_the_other_from_getting_torque():
    pair, left, right = memory_pair(None, Faults(servos={3: ServoFaults(status_bits=0x20)}))
    with pytest.raises(ServoFault, match=r"^right arm: servo 3 \(elbow_flex\): reports overload"):
        pair.arm()
    assert writes(left) == writes(right) == []


def test_first_arm_is_softened_when_the_second_refuses():
    pair, left, right = memory_pair()
    right.bus.inject(Event("push", value=0.9, ids=frozenset([2])))
    with pytest.raises(ArmMoved, match=r"^right arm: servo 2"):
        pair.arm()
    assert torque_enables(left) == torque_enables(right) == [0] * 6
    assert not pair.armed
    assert (TORQUE_ENABLE, 1, 1) in writes(left)


def test_soft_stop_reaches_both_arms():
    pair, left, right = memory_pair()
    pair.arm()
    report = pair.soft_stop(ramp_s=0.5)
    assert torque_enables(left) == torque_enables(right) == [0] * 6
    assert report.unconfirmed_ids == ()
    assert report.limp_ids[0] == "left 1"
    assert report.limp_ids[-1] == "right 6"


def test_arm_that_fails_does_not_keep_the_other_from_being_softened():
    for side in (0, 1):
        pair, *transports = memory_pair()
        pair.arm()
        transports[side].bus.inject(Event("unplug", duration_s=1000.0))
        transports[side].sleep(0.01)
        report = pair.soft_stop(ramp_s=0.2, port_wait_s=0.5)
        name = ("left", "right")[side]
        assert report.unconfirmed_ids == tuple(f"{name} {servo_id}" for servo_id in IDS)
        assert any(warning.startswith(f"{name} arm: ") for warning in report.warnings)
        assert torque_enables(transports[1 - side]) == [0] * 6


def test_interrupt_in_one_soft_stop_leaves_both_arms_soft():
    pair, left, right = memory_pair()
    pair.arm()

    def interrupt(duration_s):
        raise KeyboardInterrupt

    pair.left._sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        pair.soft_stop()
    assert torque_enables(left) == torque_enables(right) == [0] * 6


def test_close_softens_and_gives_both_ports_back():
    pair, left, right = memory_pair()
    pair.arm()
    pair.close()
    assert torque_enables(left) == torque_enables(right) == [0] * 6
    assert left.closed
    assert right.closed


def test_torque_limits_of_both_arms_are_read_and_written():
    pair, _, _ = memory_pair()
    pair.arm()
    limits = np.array([*LIMITS.torque_limits_per_mille, *([200] * 6)])
    pair.write_torque_limits(limits)
    assert pair.read_torque_limits().tolist() == limits.tolist()


def test_lost_replies_of_both_arms_are_asked_for_again_within_one_deadline():
    drop = Faults(replies=(ReplyFault("drop", frozenset([6]), count=1),))
    pair, left, right = memory_pair(drop, drop)
    assert np.isfinite(pair.read(0.012).positions).all()
    assert left.clock() <= 0.012
    assert right.clock() <= 0.012


def test_second_port_that_cannot_be_opened_gives_the_first_one_back():
    master, slave = pty.openpty()
    tty.setraw(slave)
    path = os.ttyname(slave)
    calibrations = (default_calibration(), default_calibration())
    with pytest.raises(PortError, match="/dev/ttyNONE7: no such port"):
        ArmPair.open((path, "/dev/ttyNONE7"), calibrations, LIMITS)
    with pytest.raises(PortError, match="are one port; give each arm its own"):
        ArmPair.open((path, path), calibrations, LIMITS)
    os.close(master)
    os.close(slave)
