"""LeRobot's own driver and follower, unchanged, against the emulated arm, and our frames beside."""

import builtins
import os
import time

import pytest
from emulated_arm import IDS, emulator_process
from recording_port import lerobot_bus

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import (
    JOINTS,
    calibration_text,
    load_calibration,
    save_calibration,
)
from firmware_bridge.emulator.defaults import POSITION_LIMITS_TICKS, default_calibration
from firmware_bridge.transport import SerialTransport

pytest.importorskip("scservo_sdk")
pytest.importorskip("lerobot.motors.feetech")
motors_bus = pytest.importorskip("lerobot.motors.motors_bus")
MOVE_TIMEOUT_S = 10.0
CONNECT_TRIES = 3


class EmulatedArm:
    """An emulated arm in a process of its own, whose faults may be changed while it runs."""

    def __init__(self, folder):
        self.port = str(folder / "arm")
        self._file = folder / "faults.yaml"
        self.faults("{}")

    def faults(self, text):
        part = self._file.with_suffix(".part")
        part.write_text(text)
        os.replace(part, self._file)

    def run(self):
        return emulator_process(self.port, "--faults", str(self._file))

    def value(self, servo_id, register):
        return self.values(register)[servo_id - 1]

    def values(self, register):
        bus = Bus(SerialTransport(self.port))
        try:
            return [bus.read(servo_id, register) for servo_id in IDS]
        finally:
            bus.close()


@pytest.fixture
def arm(tmp_path):
    arm = EmulatedArm(tmp_path)
    with arm.run():
        yield arm


@pytest.fixture
def lerobot(arm):
    """LeRobot's bus with the emulated arm's motors, not yet connected."""
    bus = lerobot_bus(arm.port)
    yield bus
    if bus.is_connected:
        bus.disconnect()


def so_follower(arm, tmp_path):
    """LeRobot's follower robot without cameras, with its calibration folder in `tmp_path`."""
    module = pytest.importorskip("lerobot.robots.so_follower.so_follower")
    config = pytest.importorskip("lerobot.robots.so_follower.config_so_follower")
    return module.SOFollower(
        config.SOFollowerRobotConfig(port=arm.port, id="emulated", calibration_dir=tmp_path)
    )


def connected(arm, tmp_path):
    """Connect the follower. It writes each register once; on a busy machine an answer is late."""
    for _ in range(CONNECT_TRIES - 1):
        robot = so_follower(arm, tmp_path)
        try:
            robot.connect(calibrate=False)
        except ConnectionError as error:
            if "There is no status packet" not in str(error):
                raise
            robot.bus.disconnect(disable_torque=False)
        else:
            return robot
    robot = so_follower(arm, tmp_path)
    robot.connect(calibrate=False)
    return robot


def wait_for(read, expected, tolerance):
    deadline_s = time.monotonic() + MOVE_TIMEOUT_S
    while any(abs(value - goal) > tolerance for value, goal in zip(read(), expected, strict=True)):
        assert time.monotonic() < deadline_s, f"still at {read()}"
        time.sleep(0.02)


def test_bus_connects_with_its_handshake(lerobot):
    lerobot.connect(handshake=True)
    assert lerobot.is_connected
    assert lerobot.broadcast_ping() == dict.fromkeys(IDS, 777)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("servos: {3: {registers: {firmware_minor_version: 9}}}", "different firmware versions"),
        ("servos: {3: {registers: {model_number: 1284}}}", "incorrect model numbers"),
        ("missing: [3]", "Missing motor IDs"),
        # A servo with a fault bit counts as missing, because its ping comes with an error.
        ("servos: {3: {status_bits: 32}}", "Missing motor IDs"),
    ],
)
def test_handshake_refuses_an_arm_that_is_not_in_order(tmp_path, fault, message):
    arm = EmulatedArm(tmp_path)
    arm.faults(fault)
    with arm.run():
        bus = lerobot_bus(arm.port)
        with pytest.raises(RuntimeError, match=f"(?is){message}"):
            bus.connect(handshake=True)
        bus.disconnect(disable_torque=False)


def test_bus_reads_the_calibration_that_our_file_holds(lerobot):
    lerobot.connect()
    theirs = lerobot.read_calibration()
    for joint, motor in default_calibration().items():
        found = theirs[joint]
        assert (found.id, found.homing_offset) == (motor.id, motor.homing_offset)
        assert (found.range_min, found.range_max) == (motor.range_min, motor.range_max)
    lerobot.calibration = theirs
    assert lerobot.is_calibrated


def test_disconnect_stops_at_a_servo_with_a_fault_and_leaves_those_behind_it_on(lerobot, arm):
    # Seen on LeRobot 0.6.2 as well; our own soft stop visits every servo.
    lerobot.connect()
    lerobot.enable_torque()
    arm.faults("events: [{kind: overload, ids: [2]}]")
    time.sleep(0.2)
    with pytest.raises(RuntimeError, match="Overload"):
        lerobot.disconnect()
    lerobot.disconnect(disable_torque=False)
    assert arm.values(registers.TORQUE_ENABLE) == [0, 0, 1, 1, 1, 1]


def test_one_lost_reply_is_retried_by_the_follower(arm, tmp_path):
    robot = so_follower(arm, tmp_path)
    save_calibration(default_calibration(), tmp_path / "emulated.json")
    robot = connected(arm, tmp_path)
    arm.faults("replies: [{kind: drop, ids: [3], count: 1}]")
    time.sleep(0.1)
    assert robot.get_observation()["elbow_flex.pos"] == pytest.approx(0.0, abs=0.5)
    robot.disconnect()


def test_follower_leaves_the_registers_as_it_configures_them_and_moves(arm, tmp_path):
    save_calibration(default_calibration(), tmp_path / "emulated.json")
    robot = connected(arm, tmp_path)
    assert robot.is_calibrated
    goals = dict(zip(JOINTS, [10.0, -15.0, 20.0, -5.0, 30.0, 25.0], strict=True))
    robot.send_action({f"{joint}.pos": goal for joint, goal in goals.items()})

    def positions():
        return [robot.get_observation()[f"{joint}.pos"] for joint in JOINTS]

    wait_for(positions, list(goals.values()), 0.8)
    robot.bus.disconnect(disable_torque=False)
    for register, expected in (
        (registers.TORQUE_ENABLE, [1] * 6),
        (registers.LOCK, [1] * 6),
        (registers.RETURN_DELAY_TIME, [0] * 6),
        (registers.MAXIMUM_ACCELERATION, [254] * 6),
        (registers.ACCELERATION, [254] * 6),
        (registers.PHASE, [12] * 6),
        (registers.OPERATING_MODE, [0] * 6),
        (registers.P_COEFFICIENT, [16] * 6),
        (registers.I_COEFFICIENT, [0] * 6),
        (registers.D_COEFFICIENT, [32] * 6),
        (registers.MAX_TORQUE_LIMIT, [1000] * 5 + [500]),
        (registers.PROTECTION_CURRENT, [310] * 5 + [250]),
        (registers.OVERLOAD_TORQUE, [80] * 5 + [25]),
        # What LeRobot never sets.
        (registers.GOAL_VELOCITY, [0] * 6),
        (registers.GOAL_TIME, [0] * 6),
        (registers.TORQUE_LIMIT, [1000] * 5 + [500]),
    ):
        assert arm.values(register) == expected, register.name
    robot = connected(arm, tmp_path)
    robot.disconnect()
    assert arm.values(registers.TORQUE_ENABLE) == [0] * 6
    assert arm.values(registers.LOCK) == [0] * 6


def test_follower_calibrates_an_arm_that_is_moved_by_hand(arm, tmp_path, monkeypatch):
    """The whole procedure: half-turn homings, ranges of motion, file; then all of it again."""
    robot = so_follower(arm, tmp_path)
    robot.bus.connect()
    sweep_ends_s = []

    def press_enter(prompt=""):
        if "middle of its range" in prompt:
            arm.faults(
                "events:\n"
                "  - {kind: push, value: 1.6, duration_s: 1.1}\n"
                "  - {kind: push, value: -1.6, at_s: 1.2, duration_s: 2.0}\n"
            )
            sweep_ends_s.append(time.monotonic() + 3.4)
        return ""

    monkeypatch.setattr(builtins, "input", press_enter)
    monkeypatch.setattr(motors_bus, "enter_pressed", lambda: time.monotonic() > sweep_ends_s[0])
    monkeypatch.setattr(motors_bus, "move_cursor_up", lambda lines: None)
    robot.calibrate()
    robot.bus.disconnect()

    ours = load_calibration(tmp_path / "emulated.json")
    assert calibration_text(ours) == (tmp_path / "emulated.json").read_text()
    for joint, motor in ours.items():
        assert motor.homing_offset == 1, joint
        low, high = POSITION_LIMITS_TICKS[motor.id]
        if joint == "wrist_roll":
            low, high = 1, 4096
        # Play in the gears keeps the output up to half a degree from where they stop.
        assert motor.range_min == pytest.approx(low - 1, abs=6), joint
        assert motor.range_max == pytest.approx(high - 1, abs=6), joint
        assert arm.value(motor.id, registers.HOMING_OFFSET) == motor.homing_offset
        assert arm.value(motor.id, registers.MIN_POSITION_LIMIT) == motor.range_min
        assert arm.value(motor.id, registers.MAX_POSITION_LIMIT) == motor.range_max
    again = so_follower(arm, tmp_path)
    again.connect()
    assert again.is_calibrated
    again.disconnect()


def test_calibration_file_of_ours_is_the_one_lerobot_would_write(arm, tmp_path):
    save_calibration(default_calibration(), tmp_path / "emulated.json")
    robot = so_follower(arm, tmp_path)
    assert {joint: vars(motor) for joint, motor in robot.calibration.items()} == {
        joint: {name: getattr(motor, name) for name in motor.__dataclass_fields__}
        for joint, motor in default_calibration().items()
    }
    robot._save_calibration(tmp_path / "theirs.json")
    assert (tmp_path / "theirs.json").read_bytes() == (tmp_path / "emulated.json").read_bytes()


def test_motors_of_a_new_arm_get_their_ids_one_after_the_other(tmp_path, monkeypatch):
    """lerobot-setup-motors: six servos of id 1, of which one is plugged in at a time.

    A broadcast ping takes it 0.8 s, so it is done for the first three, from the gripper down.
    """
    arm = EmulatedArm(tmp_path)
    arm.faults(
        "missing: [1, 2, 3, 4, 5, 6]\n"
        "servos:\n" + "".join(f"  {place}: {{registers: {{id: 1}}}}\n" for place in IDS)
    )

    def plug_in(prompt):
        joint = next(joint for joint in JOINTS if f"'{joint}'" in prompt)
        others = [place for place in IDS if place != JOINTS.index(joint) + 1]
        arm.faults(f"missing: {others}")
        time.sleep(0.1)
        return ""

    monkeypatch.setattr(builtins, "input", plug_in)
    with arm.run():
        robot = so_follower(arm, tmp_path)
        for joint in JOINTS[:3]:
            del robot.bus.motors[joint]
        robot.setup_motors()
        robot.bus.disconnect(disable_torque=False)
        arm.faults("{}")
        time.sleep(0.1)
        bus = Bus(SerialTransport(arm.port))
        for servo_id in (4, 5, 6):
            assert bus.read(servo_id, registers.ID) == servo_id
            assert bus.read(servo_id, registers.LOCK) == 0
        bus.close()


def test_motor_at_another_rate_is_found_and_set_right(tmp_path):
    arm = EmulatedArm(tmp_path)
    arm.faults("missing: [2, 3, 4, 5, 6]\nservos: {1: {registers: {baud_rate: 1}}}\n")
    with arm.run():
        bus = lerobot_bus(arm.port)
        bus.setup_motor("gripper")
        assert bus.ping("gripper") == 777
        bus.disconnect(disable_torque=False)
