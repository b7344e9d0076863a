"""Ways to read all servos and write all goals once: ours, LeRobot's, and the bare bytes.

A way is opened on one or more ports and gives a function that does one cycle. LeRobot is imported
only when it is asked for.
"""

from __future__ import annotations

import importlib.util
import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from benchmarks.errors import BusBenchError
from firmware_bridge import packets, registers
from firmware_bridge.arm import Arm
from firmware_bridge.arm_pair import ArmPair
from firmware_bridge.arming import ArmLimits
from firmware_bridge.bus import Bus
from firmware_bridge.calibration import JOINTS, Calibration, ticks_from_position
from firmware_bridge.emulator.defaults import default_calibration
from firmware_bridge.errors import BusError
from firmware_bridge.feedback import FeedbackDecoder
from firmware_bridge.registers import FEEDBACK_ADDRESS, FEEDBACK_BYTES
from firmware_bridge.transport import SerialTransport

ARM_SERVOS = len(JOINTS)
# Limits without which an arm cannot be opened; none of them acts here.
_LIMITS = ArmLimits(
    torque_limits_per_mille=(500,) * ARM_SERVOS,
    acceleration_deg_s2=440.0,
    arming_max_temperature_c=60.0,
    arming_max_motion_deg=5.0,
    max_position_gain=16,
    ramp_s=0.2,
)
# What the block of 15 bytes holds, by LeRobot's names; `Status` and `Present_Current` too.
LEROBOT_BLOCK = (
    "Present_Position",
    "Present_Velocity",
    "Present_Load",
    "Present_Voltage",
    "Present_Temperature",
    "Status",
    "Present_Current",
)
REPLY_TIMEOUT_S = 0.05

Cycle = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Way:
    """A name, the registers read in one cycle as (address, bytes), and how to open it."""

    name: str
    reads: tuple[tuple[int, int], ...]
    open: Callable[[Sequence[str], int], AbstractContextManager[Cycle]]
    failures: tuple[type[Exception], ...] = (BusError,)


def wire_bytes(way: Way, servos: int) -> int:
    """Return how many bytes one cycle puts on one bus: requests, replies, and the goals."""
    ids = range(1, servos + 1)
    count = len(packets.sync_write(registers.GOAL_POSITION.address, dict.fromkeys(ids, b"\0\0")))
    for address, length in way.reads:
        count += len(packets.sync_read(address, length, ids))
        count += servos * (packets.EMPTY_STATUS_BYTES + length)
    return count


def our_ways(servos: int, buses: int) -> list[Way]:
    """Return the bare bytes and this project's driver, for `servos` on each of `buses` ports."""
    block = ((FEEDBACK_ADDRESS, FEEDBACK_BYTES),)
    ways = [Way("bytes alone", block, _bare, (OSError, TimeoutError))] if buses == 1 else []
    if servos == ARM_SERVOS:
        name = "Arm: block" if buses == 1 else "ArmPair: block"
        return [*ways, Way(name, block, _arms)]
    return [*ways, Way("Bus: block", block, _bus)]


def lerobot_ways() -> list[Way]:
    """Return LeRobot's bus, three ways; none when LeRobot or the vendor's SDK is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("lerobot", "scservo_sdk")):
        return []
    block = ((FEEDBACK_ADDRESS, FEEDBACK_BYTES),)
    position = ((registers.PRESENT_POSITION.address, registers.PRESENT_POSITION.size),)
    singles = {register.name: register for register in registers.CONTROL_TABLE}
    seven = tuple(
        (singles[name.lower()].address, singles[name.lower()].size) for name in LEROBOT_BLOCK
    )
    failures = (ConnectionError, RuntimeError, IndexError)
    return [
        Way("LeRobot: position", position, _lerobot_position, failures),
        Way("LeRobot: block", block, _lerobot_block, failures),
        Way("LeRobot: 7 reads", seven, _lerobot_seven, failures),
    ]


def calibration_from(first_id: int) -> Calibration:
    """Return the emulated arm's calibration for servos from `first_id` on."""
    return {
        joint: replace(motor, id=motor.id + first_id - 1)
        for joint, motor in default_calibration().items()
    }


@contextmanager
def _bare(ports: Sequence[str], servos: int) -> Iterator[Cycle]:
    """The same bytes, written and counted, with nothing made of them."""
    ids = range(1, servos + 1)
    request = packets.sync_read(FEEDBACK_ADDRESS, FEEDBACK_BYTES, ids)
    goals = packets.sync_write(
        registers.GOAL_POSITION.address, dict.fromkeys(ids, (2048).to_bytes(2, "little"))
    )
    expected = servos * (packets.EMPTY_STATUS_BYTES + FEEDBACK_BYTES)
    transport = SerialTransport(ports[0])
    port = transport.fileno()

    def cycle() -> None:
        os.write(port, request)
        left = expected
        while left:
            if not select.select([port], [], [], REPLY_TIMEOUT_S)[0]:
                raise TimeoutError
            left -= len(os.read(port, left))
        os.write(port, goals)

    try:
        yield cycle
    finally:
        transport.close()


@contextmanager
def _arms(ports: Sequence[str], _: int) -> Iterator[Cycle]:
    """`Arm`, or `ArmPair` on two ports, armed, in degrees and percent."""
    calibration = calibration_from(1)
    arm = (
        Arm.open(ports[0], calibration, _LIMITS)
        if len(ports) == 1
        else ArmPair.open(ports, [calibration] * 2, _LIMITS)
    )
    try:
        arm.arm()
        goals = arm.read().positions

        def cycle() -> None:
            arm.read()
            arm.write_goals(goals)

        yield cycle
        arm.soft_stop(ramp_s=0.0)
    finally:
        arm.close()


@contextmanager
def _bus(ports: Sequence[str], servos: int) -> Iterator[Cycle]:
    """`Bus` with the arm's own conversions, for more servos than an arm has."""
    calibrations = [calibration_from(first) for first in range(1, servos + 1, ARM_SERVOS)]
    decoders = [FeedbackDecoder(calibration) for calibration in calibrations]
    motors = [(joint, motor) for one in calibrations for joint, motor in one.items()]
    ids = tuple(motor.id for _, motor in motors)
    bus = Bus(SerialTransport(ports[0]))

    def cycle() -> None:
        replies = bus.sync_read(FEEDBACK_ADDRESS, FEEDBACK_BYTES, ids, tries=2)
        if len(replies) < len(ids):
            raise BusError("servos were silent")
        for decoder in decoders:
            decoder.decode(replies, 0.0)
        goals = {motor.id: ticks_from_position(joint, motor, 0.0) for joint, motor in motors}
        bus.sync_write(registers.GOAL_POSITION, goals)

    try:
        yield cycle
    finally:
        bus.close()


@contextmanager
def _lerobot_position(ports: Sequence[str], servos: int) -> Iterator[Cycle]:
    """What its robots do in every cycle."""
    with _lerobot_bus(ports[0], servos) as bus:
        goals = bus.sync_read("Present_Position")

        def cycle() -> None:
            bus.sync_read("Present_Position")
            bus.sync_write("Goal_Position", goals)

        yield cycle


@contextmanager
def _lerobot_block(ports: Sequence[str], servos: int) -> Iterator[Cycle]:
    """The nearest to one block read: an inner method of its, and its own readers and signs."""
    with _lerobot_bus(ports[0], servos) as bus:
        goals = bus.sync_read("Present_Position")
        ids = list(range(1, servos + 1))
        table = bus.model_ctrl_table["sts3215"]

        def cycle() -> None:
            bus._sync_read(FEEDBACK_ADDRESS, FEEDBACK_BYTES, ids)
            for name in LEROBOT_BLOCK:
                address, length = table[name]
                values = {id_: bus.sync_reader.getData(id_, address, length) for id_ in ids}
                values = bus._decode_sign(name, values)
                if name in bus.normalized_data:
                    bus._normalize(values)
            bus.sync_write("Goal_Position", goals)

        yield cycle


@contextmanager
def _lerobot_seven(ports: Sequence[str], servos: int) -> Iterator[Cycle]:
    """The same values by its public methods: a transaction for each."""
    with _lerobot_bus(ports[0], servos) as bus:
        goals = bus.sync_read("Present_Position")

        def cycle() -> None:
            for name in LEROBOT_BLOCK:
                bus.sync_read(name)
            bus.sync_write("Goal_Position", goals)

        yield cycle


@contextmanager
def _lerobot_bus(port: str, servos: int) -> Iterator:
    from lerobot.motors import Motor, MotorCalibration, MotorNormMode
    from lerobot.motors.feetech import FeetechMotorsBus

    motors, calibrations = {}, {}
    for first in range(1, servos + 1, ARM_SERVOS):
        for joint, motor in calibration_from(first).items():
            is_gripper = joint == JOINTS[-1]
            mode = MotorNormMode.RANGE_0_100 if is_gripper else MotorNormMode.DEGREES
            name = f"{joint}_{motor.id}"
            motors[name] = Motor(motor.id, "sts3215", mode)
            calibrations[name] = MotorCalibration(
                motor.id, motor.drive_mode, motor.homing_offset, motor.range_min, motor.range_max
            )
    bus = FeetechMotorsBus(port, motors, calibrations)
    try:
        bus.connect()
    except (ConnectionError, RuntimeError) as error:
        raise BusBenchError(f"LeRobot did not connect to the emulated servos: {error}") from error
    try:
        yield bus
    finally:
        bus.disconnect(disable_torque=True)
