"""The emulator against the vendor's SDK, unchanged, and what our driver sends beside it."""

import random
import time

import pytest
from emulated_arm import IDS, emulator_process, memory_bus
from recording_port import recorded

from firmware_bridge import registers
from firmware_bridge.emulator.bus import EmulatedBus
from firmware_bridge.emulator.faults import Event, Faults, ReplyFault, ServoFaults
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

    deadline_s = time.monotonic() + MOVE_TIMEOUT_S
    while any(abs(value - goal) > 6 for value, goal in zip(positions(), goals, strict=True)):
        assert time.monotonic() < deadline_s, f"still at {positions()}"


@pytest.mark.parametrize("baud_rate", [500_000, 115_200, 128_000])
def test_sdk_at_a_wrong_rate_meets_silence(link, baud_rate):
    port, handler = scs.PortHandler(link), scs.PacketHandler(0)
    assert port.setBaudRate(baud_rate)
    assert handler.ping(port, 1)[1] == scs.COMM_RX_TIMEOUT
    assert port.setBaudRate(1_000_000)
    assert handler.ping(port, 1)[1] == scs.COMM_SUCCESS
    port.closePort()


def sdk_in_memory(faults):
    """Give the SDK's port and packet handler on an emulated bus with faults, without a wire."""
    port = scs.PortHandler("none")
    recorded(port, EmulatedBus(RotorPlant(6), faults=faults))
    return port, scs.PacketHandler(0)


def test_sdk_on_an_echoing_adapter_makes_the_mistakes_that_users_see():
    # It takes the instruction of its own frame for an error: every read has the bit of the angle
    # sensor, every write that of the voltage too.
    port, handler = sdk_in_memory(Faults(echo=True))
    assert handler.read2ByteTxRx(port, 1, 56) == (56 | 2 << 8, scs.COMM_SUCCESS, 2)
    port, handler = sdk_in_memory(Faults(echo=True))
    assert handler.write1ByteTxRx(port, 1, 41, 20) == (scs.COMM_SUCCESS, 3)
    with pytest.raises(IndexError):
        handler.ping(sdk_in_memory(Faults(echo=True))[0], 1)


def test_sdk_hears_nothing_after_a_write_at_response_level_0():
    port, handler = sdk_in_memory(Faults(servos={1: ServoFaults(response_status_level=0)}))
    assert handler.write1ByteTxRx(port, 1, 41, 20) == (scs.COMM_RX_TIMEOUT, 0)
    assert handler.read1ByteTxRx(port, 1, 41) == (20, scs.COMM_SUCCESS, 0)


def test_sdk_takes_a_late_reply_for_the_next_one():
    port, handler = sdk_in_memory(Faults())
    handler.write2ByteTxRx(port, 1, 48, 0x123)
    port.ser.bus.inject(ReplyFault("late", delay_ms=50, count=1))
    assert handler.read2ByteTxRx(port, 1, 48)[1] == scs.COMM_RX_TIMEOUT
    port.ser.wait(0.06)
    assert handler.read1ByteTxRx(port, 1, 62) == (0x23, scs.COMM_SUCCESS, 0)
    assert handler.read1ByteTxRx(port, 1, 63) == (120, scs.COMM_SUCCESS, 0)


def test_sdk_calls_a_damaged_reply_corrupt_and_an_error_bit_an_error():
    port, handler = sdk_in_memory(Faults(replies=(ReplyFault("corrupt", count=1),), seed=4))
    assert handler.read2ByteTxRx(port, 1, 56)[1] == scs.COMM_RX_CORRUPT
    port.ser.bus.inject(Event("status", value=0x2C))
    value, result, error = handler.read2ByteTxRx(port, 1, 56)
    assert (value, result, error) == (2048, scs.COMM_SUCCESS, 0x2C)
    assert "Overheat" in handler.getRxPacketError(error)


def test_our_driver_sends_what_the_sdk_sends():
    port, handler = scs.PortHandler("none"), scs.PacketHandler(0)
    theirs = recorded(port)
    bus, transport = memory_bus()
    draw = random.Random(7)
    writable = [entry for entry in CONTROL_TABLE if entry.access is Access.RAM]
    for _ in range(100):
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
        goals = {servo_id: draw.randrange(4096) for servo_id in draw.sample(IDS, 3)}
        bus.sync_write(registers.GOAL_POSITION, goals)
        writer = scs.GroupSyncWrite(port, handler, 42, 2)
        for goal_id, goal in goals.items():
            writer.addParam(goal_id, list(goal.to_bytes(2, "little")))
        writer.txPacket()
        bus.sync_read(56, 15, list(goals))
        reader = scs.GroupSyncRead(port, handler, 56, 15)
        for goal_id in goals:
            reader.addParam(goal_id)
        reader.txRxPacket()
    bus.ping(4)
    bus.read(4, registers.MODEL_NUMBER)
    handler.ping(port, 4)
    bus.broadcast_torque_off(repeats=1)
    handler.write1ByteTxRx(port, scs.BROADCAST_ID, 40, 0)
    assert transport.sent == theirs
