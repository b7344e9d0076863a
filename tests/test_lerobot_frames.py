"""Frames of LeRobot's driver, wired to an emulated bus in memory, beside what they should be."""

import random

import pytest
from emulated_arm import IDS, memory_arm, memory_bus
from recording_port import lerobot_bus, recorded

from firmware_bridge import registers
from firmware_bridge.calibration import JOINTS
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.faults import Faults, ServoFaults
from firmware_bridge.emulator.plant import RotorPlant

pytest.importorskip("scservo_sdk")
pytest.importorskip("lerobot.motors.feetech")


def test_setup_of_a_motor_is_these_frames(monkeypatch):
    bus = lerobot_bus("none")
    sent = recorded(bus.port_handler, EmulatedBus(RotorPlant(1)))
    monkeypatch.setattr(bus, "set_baudrate", lambda rate: None)
    bus.setup_motor("gripper", initial_baudrate=1_000_000)
    assert [frame.hex() for frame in sent] == [
        "fffffe0201fe",
        "ffff0104020302f3",
        "ffff0104032800cf",
        "ffff0104033700c0",
        "ffff0104030506ec",
        "ffff0604030600ec",
    ]


def test_handshake_calibration_check_and_configuration_take_as_many_frames_as_known(monkeypatch):
    module = pytest.importorskip("lerobot.robots.so_follower.so_follower")
    config = pytest.importorskip("lerobot.robots.so_follower.config_so_follower")
    robot = module.SOFollower(config.SOFollowerRobotConfig(port="none"))
    sent = recorded(robot.bus.port_handler)
    robot.bus._handshake()
    assert len(sent) == 24
    sent.clear()
    assert not robot.bus.is_calibrated
    assert len(sent) == 18
    sent.clear()
    robot.configure()
    assert len(sent) == 75


@pytest.mark.parametrize(("phase", "left"), [(0x10, 0x00), (0xFF, 0xEF), (0x00, 0x00), (28, 12)])
def test_configuration_clears_the_multi_turn_bit_alone(phase, left):
    own = ServoFaults(registers={"phase": phase})
    emulated = EmulatedBus(RotorPlant(6), faults=Faults(servos=dict.fromkeys(IDS, own)))
    bus = lerobot_bus("none")
    recorded(bus.port_handler, emulated)
    bus.configure_motors()
    assert [servo.value(registers.PHASE) for servo in emulated.servos] == [left] * 6


def test_half_turn_homings_of_known_positions():
    positions = [1337, 42, 3672, 2048, 2047, 100]
    start_deg = [(ticks - 2048) * 360 / 4096 for ticks in positions]
    emulated = EmulatedBus(RotorPlant(6, start_deg=start_deg))
    bus = lerobot_bus("none")
    recorded(bus.port_handler, emulated)
    bus.disable_torque()
    homings = bus.set_half_turn_homings()
    assert list(homings.values()) == [-710, -2005, 1625, 1, 0, -1947]
    found = [servo.value(registers.HOMING_OFFSET) for servo in emulated.servos]
    assert found == list(homings.values())
    assert set(bus.sync_read("Present_Position", normalize=False).values()) == {2047}


def test_homing_of_the_last_tick_does_not_fit():
    emulated = EmulatedBus(RotorPlant(6, start_deg=[(4095 - 2048) * 360 / 4096] * 6))
    bus = lerobot_bus("none")
    recorded(bus.port_handler, emulated)
    with pytest.raises(ValueError, match="2048 exceeds 2047"):
        bus.set_half_turn_homings()


def test_our_frames_are_those_of_lerobot():
    theirs_bus = lerobot_bus("none")
    theirs = recorded(theirs_bus.port_handler)
    bus, transport = memory_bus()
    theirs_bus.calibration = theirs_bus.read_calibration()
    for motor in default_calibration().values():
        bus.read(motor.id, registers.MIN_POSITION_LIMIT)
        bus.read(motor.id, registers.MAX_POSITION_LIMIT)
        bus.read(motor.id, registers.HOMING_OFFSET)
    for entry, name in (
        (registers.PRESENT_POSITION, "Present_Position"),
        (registers.PRESENT_LOAD, "Present_Load"),
        (registers.PRESENT_TEMPERATURE, "Present_Temperature"),
    ):
        theirs_bus.sync_read(name, normalize=False)
        bus.sync_read(entry.address, entry.size, IDS)
    for value in (0, 1, 2048, 4095, -1, -2500, 32767):
        theirs_bus.sync_write("Goal_Position", dict.fromkeys(JOINTS, value), normalize=False)
        bus.sync_write(registers.GOAL_POSITION, dict.fromkeys(IDS, value))
        theirs_bus.write("Goal_Velocity", "gripper", value, normalize=False)
        bus.write(6, registers.GOAL_VELOCITY, value)
    theirs_bus.disable_torque()
    for servo_id in IDS:
        bus.write(servo_id, registers.TORQUE_ENABLE, 0)
        bus.write(servo_id, registers.LOCK, 0)
    theirs_bus.enable_torque("elbow_flex")
    bus.write(3, registers.TORQUE_ENABLE, 1)
    bus.write(3, registers.LOCK, 1)
    assert transport.sent == theirs


def test_goals_of_our_arm_are_the_frames_that_lerobot_sends_for_the_same_degrees():
    theirs_bus = lerobot_bus("none")
    theirs = recorded(theirs_bus.port_handler)
    theirs_bus.calibration = theirs_bus.read_calibration()
    theirs.clear()
    arm, transport = memory_arm()
    arm.arm()
    transport.sent.clear()
    draw = random.Random(3)
    for _ in range(100):
        goals = [draw.uniform(-90.0, 90.0) for _ in range(5)] + [draw.uniform(0.0, 100.0)]
        theirs_bus.sync_write("Goal_Position", dict(zip(JOINTS, goals, strict=True)))
        arm.write_goals(goals)
    assert transport.sent == theirs
