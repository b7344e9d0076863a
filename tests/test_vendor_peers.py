"""The emulator against the drivers people use, unchanged, and our frames against theirs."""

import random
import time

import pytest
from emulated_arm import IDS, emulator_process, memory_arm, memory_bus

from firmware_bridge import registers
from firmware_bridge.calibration import JOINTS
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.emulator.plant import RotorPlant
from firmware_bridge.registers import CONTROL_TABLE, Access

scs = pytest.importorskip("scservo_sdk")
MOVE_TIMEOUT_S = 10.0


@pytest.fixture
def link(tmp_path):
    path = tmp_path / "arm"
    with emulator_process(path):
        yield str(path)


@pytest.fixture
def sdk(link):
    """The vendor SDK's port and packet handler on the emulated arm."""
    port, handler = scs.PortHandler(link), scs.PacketHandler(0)
    assert port.openPort()
    yield port, handler
    port.closePort()


@pytest.fixture
def lerobot(link):
    """LeRobot's bus with the emulated arm's motors, not yet connected."""
    bus = lerobot_bus(link)
    yield bus
    if bus.is_connected:
        bus.disconnect()


def lerobot_bus(port):
    feetech = pytest.importorskip("lerobot.motors.feetech")
    lerobot_motors = pytest.importorskip("lerobot.motors")
    modes = lerobot_motors.MotorNormMode
    motors = {
        joint: lerobot_motors.Motor(
            servo_id, "sts3215", modes.RANGE_0_100 if joint == "gripper" else modes.DEGREES
        )
        for servo_id, joint in enumerate(JOINTS, start=1)
    }
    return feetech.FeetechMotorsBus(port, motors)


def wait_for(read, expected, tolerance):
    deadline_s = time.monotonic() + MOVE_TIMEOUT_S
    while any(abs(value - goal) > tolerance for value, goal in zip(read(), expected, strict=True)):
        assert time.monotonic() < deadline_s, f"still at {read()}"
        time.sleep(0.02)


def test_sdk_pings_every_servo(sdk):
    port, handler = sdk
    for servo_id in IDS:
        assert handler.ping(port, servo_id) == (777, scs.COMM_SUCCESS, 0)


def test_sdk_times_out_on_an_absent_servo(sdk):
    port, handler = sdk
    assert handler.ping(port, 9)[1] == scs.COMM_RX_TIMEOUT
    assert handler.ping(port, 1)[1] == scs.COMM_SUCCESS


def test_sdk_reads_what_it_wrote(sdk):
    port, handler = sdk
    assert handler.write1ByteTxRx(port, 2, 41, 20) == (scs.COMM_SUCCESS, 0)
    assert handler.write2ByteTxRx(port, 2, 48, 700) == (scs.COMM_SUCCESS, 0)
    assert handler.read1ByteTxRx(port, 2, 41) == (20, scs.COMM_SUCCESS, 0)
    assert handler.read2ByteTxRx(port, 2, 48) == (700, scs.COMM_SUCCESS, 0)
    assert handler.read4ByteTxRx(port, 2, 46)[0] >> 16 == 700


def test_sdk_reg_write_waits_for_action(sdk):
    port, handler = sdk
    assert handler.regWriteTxRx(port, 1, 48, 2, [0x2C, 0x01]) == (scs.COMM_SUCCESS, 0)
    assert handler.read2ByteTxRx(port, 1, 48)[0] == 1000
    handler.action(port, scs.BROADCAST_ID)
    assert handler.read2ByteTxRx(port, 1, 48)[0] == 300


def test_sdk_sync_write_and_sync_read_move_the_arm(sdk):
    port, handler = sdk
    writer = scs.GroupSyncWrite(port, handler, 42, 2)
    goals = [2048 + 20 * servo_id for servo_id in IDS]
    for servo_id, goal in zip(IDS, goals, strict=True):
        assert writer.addParam(servo_id, [goal & 0xFF, goal >> 8])
    assert writer.txPacket() == scs.COMM_SUCCESS
    reader = scs.GroupSyncRead(port, handler, 56, 2)
    for servo_id in IDS:
        assert reader.addParam(servo_id)

    def positions():
        assert reader.txRxPacket() == scs.COMM_SUCCESS
        return [reader.getData(servo_id, 56, 2) for servo_id in IDS]

    wait_for(positions, goals, 4)


@pytest.mark.parametrize("baud_rate", [500_000, 115_200, 128_000])
def test_sdk_at_a_wrong_rate_meets_silence(link, baud_rate):
    port, handler = scs.PortHandler(link), scs.PacketHandler(0)
    assert port.setBaudRate(baud_rate)
    assert handler.ping(port, 1)[1] == scs.COMM_RX_TIMEOUT
    assert port.setBaudRate(1_000_000)
    assert handler.ping(port, 1)[1] == scs.COMM_SUCCESS
    port.closePort()


def test_lerobot_connects_with_its_handshake(lerobot):
    lerobot.connect(handshake=True)
    assert lerobot.is_connected
    assert lerobot.broadcast_ping() == dict.fromkeys(IDS, 777)


def test_lerobot_reads_the_calibration_that_our_file_holds(lerobot):
    lerobot.connect()
    theirs = lerobot.read_calibration()
    for joint, motor in default_calibration().items():
        found = theirs[joint]
        assert (found.id, found.homing_offset) == (motor.id, motor.homing_offset)
        assert (found.range_min, found.range_max) == (motor.range_min, motor.range_max)
    lerobot.calibration = theirs
    assert lerobot.is_calibrated


def test_lerobot_configures_and_moves_the_arm_in_degrees(lerobot):
    lerobot.connect()
    lerobot.calibration = lerobot.read_calibration()
    lerobot.disable_torque()
    lerobot.configure_motors()
    for joint in JOINTS:
        lerobot.write("Operating_Mode", joint, 0)
        lerobot.write("P_Coefficient", joint, 16)
        lerobot.write("I_Coefficient", joint, 0)
        lerobot.write("D_Coefficient", joint, 32)
    lerobot.enable_torque()
    assert lerobot.read("Maximum_Acceleration", "gripper") == 254
    goals = dict(zip(JOINTS, [10.0, -15.0, 20.0, -5.0, 30.0, 25.0], strict=True))
    lerobot.sync_write("Goal_Position", goals)

    def positions():
        return list(lerobot.sync_read("Present_Position").values())

    wait_for(positions, list(goals.values()), 0.6)


def test_lerobot_calibrates_a_motor_from_scratch(lerobot):
    lerobot.connect()
    lerobot.disable_torque()
    lerobot.reset_calibration()
    homings = lerobot.set_half_turn_homings()
    assert homings["elbow_flex"] == 1
    assert set(lerobot.sync_read("Present_Position", normalize=False).values()) == {2047}
    lerobot.write_calibration(
        {
            joint: type(motor)(motor.id, 0, homings[joint], 1000, 3000)
            for joint, motor in lerobot.read_calibration().items()
        }
    )
    assert lerobot.is_calibrated


def test_lerobot_finds_a_motor_and_gives_it_an_id(tmp_path):
    path = tmp_path / "arm"
    faults = tmp_path / "faults.yaml"
    faults.write_text("missing: [2, 3, 4, 5, 6]")
    with emulator_process(path, "--faults", str(faults)):
        bus = lerobot_bus(str(path))
        bus.motors["gripper"].id = 9
        bus.setup_motor("gripper", initial_baudrate=1_000_000, initial_id=1)
        assert bus.ping("gripper") == 777
        bus.disconnect(disable_torque=False)


class RecordingPort:
    """What pyserial is to the drivers, wired straight to an emulated bus."""

    def __init__(self):
        self.sent = []
        self.is_open = True
        self._bus = EmulatedBus(RotorPlant(6, start_deg=[5, -20, 30, 0, 10, 40]))
        self._received = b""

    def write(self, data):
        self.sent.append(bytes(data))
        self._received += self._bus.handle(bytes(data), 1_000_000)
        return len(data)

    def read(self, length):
        data, self._received = self._received[:length], self._received[length:]
        return data

    def flush(self):
        pass

    def reset_input_buffer(self):
        self._received = b""


def recorded(port_handler):
    port_handler.ser = RecordingPort()
    port_handler.is_open = True
    port_handler.tx_time_per_byte = 0.01
    return port_handler.ser.sent


def test_our_frames_are_those_of_the_sdk():
    port, handler = scs.PortHandler("none"), scs.PacketHandler(0)
    theirs = recorded(port)
    bus, transport = memory_bus()
    draw = random.Random(7)
    writable = [entry for entry in CONTROL_TABLE if entry.access is Access.RAM]
    for _ in range(200):
        servo_id, entry = draw.choice(IDS), draw.choice(CONTROL_TABLE)
        bus.read(servo_id, entry)
        (handler.read1ByteTxRx if entry.size == 1 else handler.read2ByteTxRx)(
            port, servo_id, entry.address
        )
        entry = draw.choice(writable)
        value = draw.randrange(1 << 8 * entry.size if entry.sign_bit is None else 1 << 15)
        bus.write(servo_id, entry, value)
        (handler.write1ByteTxRx if entry.size == 1 else handler.write2ByteTxRx)(
            port, servo_id, entry.address, value
        )
        bus.reg_write(servo_id, registers.TORQUE_LIMIT, value & 0x3FF)
        handler.regWriteTxRx(port, servo_id, 48, 2, list((value & 0x3FF).to_bytes(2, "little")))
        bus.action()
        handler.action(port, scs.BROADCAST_ID)
        ids = draw.sample(IDS, draw.randint(1, 6))
        values = {servo_id: draw.randrange(4096) for servo_id in ids}
        bus.sync_write(registers.GOAL_POSITION, values)
        writer = scs.GroupSyncWrite(port, handler, 42, 2)
        for servo_id, goal in values.items():
            writer.addParam(servo_id, list(goal.to_bytes(2, "little")))
        writer.txPacket()
        bus.sync_read(56, 15, ids)
        reader = scs.GroupSyncRead(port, handler, 56, 15)
        for servo_id in ids:
            reader.addParam(servo_id)
        reader.txRxPacket()
    bus.ping(4)
    bus.read(4, registers.MODEL_NUMBER)
    handler.ping(port, 4)
    bus.broadcast_torque_off(repeats=1)
    handler.write1ByteTxRx(port, scs.BROADCAST_ID, 40, 0)
    assert transport.sent == theirs


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
