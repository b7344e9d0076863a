"""Torque fades, then goes off last, whatever the servos answer."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_arm import (
    GOAL,
    IDS,
    TORQUE_ENABLE,
    TORQUE_LIMIT,
    memory_arm,
    memory_bus,
    requests,
    torque_enables,
    writes,
)

from firmware_bridge import registers
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault, ServoFaults
from firmware_bridge.errors import NotArmed
from firmware_bridge.soft_stop import CONFIRM_TURNS, soft_stop


def test_soft_stop_fades_then_ends_with_limit_goal_torque_in_that_order():
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    started_s = transport.clock()
    report = arm.soft_stop(ramp_s=1.0)
    assert report.limp_ids == IDS
    assert report.unconfirmed_ids == ()
    assert report.warnings == ()
    assert 1.0 <= transport.clock() - started_s < 1.2
    sent = writes(transport)
    assert [entry[:2] for entry in sent[-18:]] == [
        (address, servo_id) for address in (TORQUE_LIMIT, GOAL, TORQUE_ENABLE) for servo_id in IDS
    ]
    assert [entry[:2] for entry in sent[:6]] == [(GOAL, servo_id) for servo_id in IDS]
    fade = [value for address, servo_id, value in sent if (address, servo_id) == (48, 2)]
    assert fade == sorted(fade, reverse=True)
    assert fade[-1] == 0
    assert torque_enables(transport) == [0] * 6


def test_soft_stop_sends_these_frames_in_this_order():
    # Hold, lower the limit to 0, then limit 0, goal = present, torque off as the last write.
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    arm.soft_stop(ramp_s=1.0)
    expected = []
    for servo_id in IDS:
        expected += [("read", servo_id, 40), ("write", servo_id, 42)]
    expected += 24 * [("sync_write", 0xFE, 48)]
    expected += [("write", servo_id, 48) for servo_id in IDS]
    for servo_id in IDS:
        expected += [("read", servo_id, 56), ("write", servo_id, 42)]
    expected += [("write", servo_id, 40) for servo_id in IDS]
    expected += [("read", servo_id, 40) for servo_id in IDS]
    assert requests(transport) == expected


def test_goal_after_soft_stop_is_refused_and_a_stray_one_moves_nothing():
    arm, transport = memory_arm()
    arm.arm()
    arm.soft_stop(ramp_s=0.0)
    with pytest.raises(NotArmed):
        arm.write_goals(np.zeros(6))
    before = arm.read().positions
    arm.bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2500))
    transport.sleep(1.0)
    assert arm.read().positions == pytest.approx(before, abs=0.1)


def test_soft_stop_never_energises_a_limp_arm():
    bus, transport = memory_bus()
    soft_stop(bus, IDS, sleep=transport.sleep)
    limits_at_goal = []
    limit = dict.fromkeys(IDS, 1000)
    for address, servo_id, value in writes(transport):
        if address == TORQUE_LIMIT:
            limit[servo_id] = value
        if address == GOAL:
            limits_at_goal.append(limit[servo_id])
    assert limits_at_goal == [0] * 6


@pytest.mark.parametrize("bits", [0x20, 0x04, 0x29])
def test_soft_stop_visits_every_servo_past_a_fault(bits):
    faults = Faults(overload_clears_on="power_cycle", servos={2: ServoFaults(status_bits=bits)})
    bus, transport = memory_bus(faults)
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    report = soft_stop(bus, IDS, sleep=transport.sleep)
    assert torque_enables(transport) == [0] * 6
    assert report.limp_ids == IDS
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("servo 2: reports ")


def test_soft_stop_visits_every_servo_past_a_missing_one():
    bus, transport = memory_bus(Faults(missing=frozenset([1, 3])))
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    report = soft_stop(bus, IDS, sleep=transport.sleep)
    assert report.limp_ids == (2, 4, 5, 6)
    assert report.unconfirmed_ids == (1, 3)
    assert len(report.warnings) == 2
    broadcasts = transport.sent.count(bytes.fromhex("fffffe04032800d2"))
    assert broadcasts == 3 * CONFIRM_TURNS  # three each time it is asked
    assert [torque_enables(transport)[index] for index in (1, 3, 4, 5)] == [0] * 4


def test_soft_stop_reaches_servos_that_do_not_acknowledge():
    bus, transport = memory_bus(
        Faults(servos={servo_id: ServoFaults(response_status_level=0) for servo_id in IDS})
    )
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    report = soft_stop(bus, IDS, sleep=transport.sleep)
    assert report.limp_ids == IDS
    assert torque_enables(transport) == [0] * 6


def test_soft_stop_survives_a_noisy_bus():
    faults = Faults(
        seed=11,
        replies=(
            ReplyFault("drop", probability=0.1),
            ReplyFault("corrupt", probability=0.1),
            ReplyFault("late", probability=0.1, delay_ms=25),
        ),
    )
    bus, transport = memory_bus(faults)
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    soft_stop(bus, IDS, sleep=transport.sleep)
    assert torque_enables(transport) == [0] * 6


def test_interrupted_soft_stop_still_cuts_the_torque():
    bus, transport = memory_bus()
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))

    def interrupt(duration_s):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        soft_stop(bus, IDS, sleep=interrupt)
    assert torque_enables(transport) == [0] * 6


def test_port_that_comes_back_in_time_ends_in_a_soft_arm():
    # The servos have their own supply: they hold on while the plug is out.
    arm, transport = memory_arm()
    arm.arm()
    transport.bus.inject(Event("unplug", duration_s=2.0))
    transport.sleep(0.01)
    report = arm.soft_stop(ramp_s=1.0)
    assert report.limp_ids == IDS
    assert report.unconfirmed_ids == ()
    assert torque_enables(transport) == [0] * 6
    fade = [
        value for address, servo_id, value in writes(transport) if (address, servo_id) == (48, 2)
    ]
    assert fade[-1] == 0


def test_port_lost_in_the_middle_of_a_soft_stop_is_waited_for():
    arm, transport = memory_arm()
    arm.arm()
    transport.bus.inject(Event("unplug", at_s=0.5, duration_s=1.0))
    report = arm.soft_stop(ramp_s=1.0)
    assert report.limp_ids == IDS
    assert torque_enables(transport) == [0] * 6
    assert any("port lost" in warning for warning in report.warnings)


def test_port_that_does_not_come_back_is_given_up_in_time_and_every_servo_named():
    arm, transport = memory_arm()
    arm.arm()
    transport.bus.inject(Event("unplug", duration_s=60.0))
    started_s = transport.clock()
    report = arm.soft_stop(ramp_s=2.0, port_wait_s=3.0)
    assert 2.9 <= transport.clock() - started_s <= 3.2
    assert report.unconfirmed_ids == IDS
    assert report.limp_ids == ()
    assert any("port lost" in warning for warning in report.warnings)


def test_port_that_flaps_is_not_followed_for_ever():
    arm, transport = memory_arm()
    arm.arm()
    transport.bus.inject(Event("unplug", every_s=0.2, duration_s=0.1))
    started_s = transport.clock()
    arm.soft_stop(ramp_s=0.5, port_wait_s=1.0)
    assert transport.clock() - started_s < 60.0


def test_fault_bits_on_torque_off_are_warnings_and_the_last_write_reaches_everyone():
    faults = Faults(servos={servo_id: ServoFaults(status_bits=0x24) for servo_id in IDS})
    bus, transport = memory_bus(faults)
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    report = soft_stop(bus, IDS, sleep=transport.sleep)
    assert writes(transport)[-6:] == [(TORQUE_ENABLE, servo_id, 0) for servo_id in IDS]
    assert report.limp_ids == IDS
    assert len(report.warnings) == 6


@pytest.mark.parametrize("echoes", [True, False])
def test_adapter_that_is_not_as_announced_does_not_keep_the_arm_from_being_softened(echoes):
    bus, transport = memory_bus(Faults(echo=echoes), echo=not echoes)
    bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, 2048))
    report = soft_stop(bus, IDS, ramp_s=0.5, sleep=transport.sleep)
    assert report.limp_ids == IDS
    assert torque_enables(transport) == [0] * 6
    assert len(report.warnings) == 1
    assert "--echo" in report.warnings[0]
    fade = [
        value for address, servo_id, value in writes(transport) if (address, servo_id) == (48, 1)
    ]
    assert len(fade) == 25
