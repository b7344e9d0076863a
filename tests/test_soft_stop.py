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
    torque_enables,
    writes,
)

from firmware_bridge import registers
from firmware_bridge.emulator.faults import Faults, ReplyFault, ServoFaults
from firmware_bridge.errors import NotArmed
from firmware_bridge.soft_stop import soft_stop


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
    assert transport.sent.count(bytes.fromhex("fffffe04032800d2")) == 3
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
