"""Torque comes on without motion, in a fixed order, and only on an arm that is in order."""

from __future__ import annotations

import numpy as np
import pytest
from emulated_arm import (
    GOAL,
    IDS,
    LIMITS,
    START_DEG,
    TORQUE_ENABLE,
    TORQUE_LIMIT,
    memory_arm,
    memory_bus,
    requests,
    torque_enables,
    writes,
)

from firmware_bridge import registers
from firmware_bridge.arm import Arm
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Faults, ReplyFault, ServoFaults
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.errors import ArmMoved, BusTimeout, ServoFault
from firmware_bridge.packets import FrameParser, Instruction


def test_arming_lowers_torque_then_sets_goals_then_switches_on_then_raises_torque():
    arm, transport = memory_arm()
    arm.arm()
    phases = [
        (address, servo_id)
        for address, servo_id, _ in writes(transport)
        if address in (TORQUE_LIMIT, GOAL, TORQUE_ENABLE)
    ]
    assert phases[:18] == [
        (address, servo_id) for address in (TORQUE_LIMIT, GOAL, TORQUE_ENABLE) for servo_id in IDS
    ]
    assert {address for address, _ in phases[18:]} == {TORQUE_LIMIT}
    first_limits = [value for address, _, value in writes(transport) if address == TORQUE_LIMIT][:6]
    assert max(first_limits) <= 100
    stored = [servo.value(registers.TORQUE_LIMIT) for servo in transport.bus.servos]
    assert tuple(stored) == LIMITS.torque_limits_per_mille


def test_arming_sends_these_frames_in_this_order():
    # Low torque limit, no stale motion profile, goal = present read back, torque on, still?, ramp.
    arm, transport = memory_arm()
    arm.check()
    transport.sent.clear()
    arm.arm()
    expected = []
    for servo_id in IDS:
        expected += [("write", servo_id, 48), ("read", servo_id, 48)]
    for servo_id in IDS:
        expected += [("write", servo_id, address) for address in (41, 44, 46)]
    for servo_id in IDS:
        expected += [("read", servo_id, 56), ("write", servo_id, 42), ("read", servo_id, 42)]
    for servo_id in IDS:
        expected += [("write", servo_id, 40), ("read", servo_id, 40)]
    still = [("read", servo_id, 56) for servo_id in IDS]
    expected += still
    expected += 20 * [("sync_write", 0xFE, 48), *still]
    expected += [("read", servo_id, 48) for servo_id in IDS]
    expected += [("sync_read", 0xFE, 40)]
    sent = requests(transport)
    checks = len(sent) - len(expected)
    assert sent[checks:] == expected
    assert {kind for kind, _, _ in sent[:checks]} == {"ping", "read"}


def test_arming_reads_back_every_goal_before_torque_on():
    arm, transport = memory_arm()
    arm.arm()
    frames = FrameParser().feed(b"".join(transport.sent))
    for servo_id in IDS:
        codes = [(frame.code, *frame.params[:1]) for frame in frames if frame.servo_id == servo_id]
        goal = codes.index((Instruction.WRITE, GOAL))
        read_back = codes.index((Instruction.READ, GOAL), goal)
        assert goal < read_back < codes.index((Instruction.WRITE, TORQUE_ENABLE))


def test_arming_never_raises_torque_faster_than_the_ramp():
    arm, transport = memory_arm()
    arm.arm()
    ramp = [
        value for address, servo_id, value in writes(transport) if (address, servo_id) == (48, 2)
    ]
    assert ramp == sorted(ramp)
    assert max(np.diff(ramp)) <= (650 - 100) / 20 + 1
    assert transport.clock() >= LIMITS.ramp_s


def test_arming_clears_a_stale_goal_without_moving():
    bus, transport = memory_bus(Faults(servos={1: ServoFaults(torque_on_runs_to_stale_goal=True)}))
    bus.write(1, registers.GOAL_POSITION, 3000)
    transport.sleep(1.0)
    bus.write(1, registers.TORQUE_ENABLE, 0)
    arm = Arm(bus, default_calibration(), LIMITS, clock=transport.clock, sleep=transport.sleep)
    before = arm.read().positions
    arm.arm()
    assert arm.read().positions == pytest.approx(before, abs=0.3)


def test_arm_that_sinks_when_armed_is_made_limp():
    plant = RotorPlant(6, start_deg=START_DEG)
    arm, transport = memory_arm(plant=plant)
    plant.load_nm[1] = 0.9
    with pytest.raises(ArmMoved, match=r"servo 2 \(shoulder_lift\): moved \d+\.\d deg .* allowed"):
        arm.arm()
    assert not arm.armed
    assert torque_enables(transport) == [0] * 6


def change_eeprom(transport, servo_id, register, value):
    transport.bus.servos[servo_id - 1].restore_eeprom({register: value})


@pytest.mark.parametrize(
    ("register", "value", "message"),
    [
        (registers.MODEL_NUMBER, 1284, "model_number is 1284, must be 777"),
        (registers.FIRMWARE_MINOR_VERSION, 9, r"different firmware .*elbow_flex 3\.9"),
        (registers.HOMING_OFFSET, 40, "homing_offset is 40, must be 0; use this arm's calibration"),
        (registers.MAX_POSITION_LIMIT, 4095, "max_position_limit is 4095, must be 3150"),
        (registers.OPERATING_MODE, 1, "operating_mode is 1, must be 0"),
        (registers.PHASE, 28, "phase is 28, single-turn feedback"),
        (registers.PHASE, 4, "phase is 4, single-turn feedback"),
        (registers.MAX_VOLTAGE_LIMIT, 80, r"reports voltage|supply 12\.0 V, this servo needs 4\.5"),
    ],
)
def test_servo_that_is_not_what_the_calibration_says_is_not_armed(register, value, message):
    arm, transport = memory_arm()
    change_eeprom(transport, 3, register, value)
    with pytest.raises(ServoFault, match=message):
        arm.arm()
    assert writes(transport) == []


def test_servo_with_a_fault_is_not_armed():
    arm, transport = memory_arm(Faults(servos={6: ServoFaults(status_bits=0x20)}))
    with pytest.raises(ServoFault, match=r"servo 6 \(gripper\): reports overload; take its load"):
        arm.arm()
    assert writes(transport) == []


@pytest.mark.parametrize(("start_deg", "outside"), [(120, "9.9"), (-115, "4.9")])
def test_joint_outside_its_range_is_not_armed(start_deg, outside):
    plant = RotorPlant(6, start_deg=(start_deg, *START_DEG[1:]))
    arm, transport = memory_arm(plant=plant)
    with pytest.raises(
        ServoFault,
        match=rf"servo 1 \(shoulder_pan\): is {outside} deg outside its calibrated range, allowed "
        "are 2 deg; move it back by hand",
    ):
        arm.arm()
    assert writes(transport) == []


def test_hot_servo_is_not_armed():
    arm, transport = memory_arm()
    transport.bus.servos[2].drive.temperature_c = 57.0
    with pytest.raises(ServoFault, match="temperature 57 C, arming allows up to 50 C; let the arm"):
        arm.arm()


def test_low_supply_is_not_armed():
    arm, transport = memory_arm()
    transport.bus.supply_v = 9.0
    transport.sleep(0.01)
    with pytest.raises(ServoFault, match=r"supply 9\.0 V, this servo needs 10\.0\.\.13\.5 V"):
        arm.arm()


def test_missing_servo_stops_arming():
    arm, transport = memory_arm(Faults(missing=frozenset([4])))
    with pytest.raises(BusTimeout, match="servo 4: no reply"):
        arm.arm()
    assert writes(transport) == []


def test_servo_lost_half_way_leaves_the_others_limp():
    # The last servo goes silent when torque is already on.
    arm, transport = memory_arm(Faults(replies=(ReplyFault("drop", frozenset([6]), after=30),)))
    with pytest.raises(BusTimeout):
        arm.arm()
    assert torque_enables(transport)[:5] == [0] * 5
    assert bytes.fromhex("fffffe04032800d2") in transport.sent


def test_arming_an_armed_arm_leaves_its_torque_alone():
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    arm.arm()
    assert transport.sent == []


def test_a_stiff_servo_is_refused():
    arm, transport = memory_arm()
    transport.bus.servos[2].restore_eeprom({registers.P_COEFFICIENT: 17})
    with pytest.raises(
        ServoFault, match=r"servo 3 \(elbow_flex\): p_coefficient is 17, at most 16"
    ):
        arm.arm()
    transport.bus.servos[2].restore_eeprom({registers.P_COEFFICIENT: 16})
    arm.arm()
