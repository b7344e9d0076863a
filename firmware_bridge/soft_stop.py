"""Takes the force out of an arm without dropping it, whatever state its servos are in.

Hold where it is, lower the torque limits to nothing, then per servo: torque limit 0, goal = present
position, torque off. Torque off comes last because on the STS3215 a goal write switches torque on.
Every servo is visited; fault bits and silent servos become warnings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.errors import BusError, BusTimeout, EchoError
from firmware_bridge.packets import StatusBit

RAMP_S = 2.0
RAMP_STEPS = 24
# How long to wait for a lost port: a plug that was touched is back within a second or two.
PORT_WAIT_S = 3.0
PORT_POLL_S = 0.05
# A busy host misses replies in bursts; a servo is given up only after it was asked so often.
CONFIRM_TURNS = 5
CONFIRM_PAUSE_S = 0.1
# Torque_Enable (40) to Present_Position (56, 57) in one read.
_STATE_ADDRESS = registers.TORQUE_ENABLE.address
_STATE_BYTES = registers.PRESENT_POSITION.address + 2 - _STATE_ADDRESS


@dataclass(frozen=True, slots=True)
class SoftStopReport:
    """Which servos read back torque off, which did not, and what went wrong on the way."""

    limp_ids: tuple[int, ...]
    unconfirmed_ids: tuple[int, ...]
    warnings: tuple[str, ...]


def soft_stop(
    bus: Bus,
    servo_ids: Sequence[int],
    *,
    ramp_s: float = RAMP_S,
    port_wait_s: float = PORT_WAIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> SoftStopReport:
    """Make every servo limp and say which confirmed it; never raises for a servo or the port.

    Blocks for `ramp_s` when torque was on, and up to `port_wait_s` more while the port is lost: the
    servos behind it hold their last goal, so it starts again when the port is back. While a servo
    does not confirm, torque off is broadcast and it is asked again, a few times. Torque limits stay
    0, so that a stray goal moves nothing, until the next arming.
    """
    warnings: dict[str, str] = {}
    while True:
        port_wait_s = _wait_for_port(bus, port_wait_s, sleep)
        limp = _soften(bus, servo_ids, ramp_s, sleep, warnings)
        if not bus.port_lost or port_wait_s <= 0.0:
            break
    unconfirmed = tuple(servo_id for servo_id in servo_ids if servo_id not in limp)
    for turn in range(CONFIRM_TURNS):
        if not unconfirmed or (turn and bus.port_lost):
            break
        if turn:
            sleep(CONFIRM_PAUSE_S)
        _try(warnings, bus.broadcast_torque_off)
        unconfirmed = tuple(
            servo_id for servo_id in unconfirmed if not _is_limp(bus, servo_id, warnings)
        )
    for servo_id in servo_ids:
        bits = bus.status_bits.get(servo_id, 0)
        _note_status(servo_id, bits, warnings)
    limp_ids = tuple(servo_id for servo_id in servo_ids if servo_id not in unconfirmed)
    return SoftStopReport(limp_ids, unconfirmed, tuple(warnings.values()))


def status_text(bits: int) -> str:
    """Return the names of the fault bits of a status byte."""
    names = [bit.name.lower() for bit in StatusBit if bits & bit]
    unknown = bits & ~sum(StatusBit)
    return " and ".join(names + ([f"unknown bits {unknown:#04x}"] if unknown else []))


def _wait_for_port(bus: Bus, wait_s: float, sleep: Callable[[float], None]) -> float:
    """Wait until the port is open, `wait_s` at most; return what is left of them, always less."""
    while not bus.reopen() and wait_s > 0.0:
        sleep(PORT_POLL_S)
        wait_s -= PORT_POLL_S
    return wait_s - PORT_POLL_S


def _soften(
    bus: Bus,
    servo_ids: Sequence[int],
    ramp_s: float,
    sleep: Callable[[float], None],
    warnings: dict[str, str],
) -> set[int]:
    """Hold, lower, cut; return the servos that are limp."""
    answering: set[int] = set()
    try:
        limits = _hold(bus, servo_ids, answering, warnings)
        if not answering:
            _try(warnings, bus.broadcast_torque_off)
        _lower(bus, limits, ramp_s, sleep, warnings)
    finally:
        limp = _cut(bus, servo_ids, answering, warnings)
    return limp


def _hold(
    bus: Bus, servo_ids: Sequence[int], answering: set[int], warnings: dict[str, str]
) -> dict[int, int]:
    """Set goal = present where torque is on; return the torque limits of those servos.

    A servo without torque is left alone: a goal would switch it on. Notes who is `answering`.
    """
    limits = {}
    for servo_id in servo_ids:
        reply = _try(warnings, bus.read_bytes, servo_id, _STATE_ADDRESS, _STATE_BYTES)
        if reply is not None:
            answering.add(servo_id)
            _note_status(servo_id, reply.error, warnings)
        if reply is None or reply.data[0] == 0:
            continue
        present = registers.PRESENT_POSITION.decode(reply.data[-2:])
        start = registers.TORQUE_LIMIT.address - _STATE_ADDRESS
        limits[servo_id] = registers.TORQUE_LIMIT.decode(reply.data[start : start + 2])
        _try(warnings, bus.write, servo_id, registers.GOAL_POSITION, present)
    return limits


def _lower(
    bus: Bus,
    limits: dict[int, int],
    ramp_s: float,
    sleep: Callable[[float], None],
    warnings: dict[str, str],
) -> None:
    if not any(limits.values()) or ramp_s <= 0.0:
        return
    for step in range(RAMP_STEPS - 1, -1, -1):
        if bus.port_lost:
            return
        values = {servo_id: limit * step // RAMP_STEPS for servo_id, limit in limits.items()}
        _try(warnings, bus.sync_write, registers.TORQUE_LIMIT, values)
        sleep(ramp_s / RAMP_STEPS)


def _cut(
    bus: Bus, servo_ids: Sequence[int], answering: set[int], warnings: dict[str, str]
) -> set[int]:
    """Torque limit 0, goal = present, torque off, in this order; return the limp servos.

    A servo that has been silent gets only what needs no answer, and the torque off.
    """
    for servo_id in servo_ids:
        if servo_id in answering:
            _try(warnings, bus.write, servo_id, registers.TORQUE_LIMIT, 0)
        else:
            _try(warnings, bus.sync_write, registers.TORQUE_LIMIT, {servo_id: 0})
    for servo_id in servo_ids:
        present = None
        if servo_id in answering:
            present = _try(warnings, bus.read, servo_id, registers.PRESENT_POSITION)
        if present is not None:
            _try(warnings, bus.write, servo_id, registers.GOAL_POSITION, present)
    for servo_id in servo_ids:
        _try(warnings, bus.write, servo_id, registers.TORQUE_ENABLE, 0)
    return {servo_id for servo_id in servo_ids if _is_limp(bus, servo_id, warnings)}


def _is_limp(bus: Bus, servo_id: int, warnings: dict[str, str]) -> bool:
    return _try(warnings, bus.read, servo_id, registers.TORQUE_ENABLE) == 0


def _note_status(servo_id: int, bits: int, warnings: dict[str, str]) -> None:
    if bits:
        text = f"servo {servo_id}: reports {status_text(bits)}"
        warnings.setdefault(text, text)


def _try(warnings: dict[str, str], call: Callable[..., Any], *arguments: object) -> Any | None:
    """Return what the call gives, or None and a warning; the next servo must still be reached.

    A servo's silence is noted once, though it may cost every one of its steps.
    """
    for _ in range(2):
        try:
            return call(*arguments)
        except EchoError as error:
            # The request may have been carried out; the bus knows the adapter from now on.
            warnings.setdefault(str(error), str(error))
        except BusTimeout as error:
            warnings.setdefault(f"silent {error.servo_ids}", str(error))
            return None
        except BusError as error:
            warnings.setdefault(str(error), str(error))
            return None
    return None
