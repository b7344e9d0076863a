"""Has an arm stay where it is, on a bus in whatever state it was left."""

from __future__ import annotations

from collections.abc import Sequence

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.errors import BusError

# Torque_Enable (40) to Present_Position (56, 57) in one read.
_ADDRESS = registers.TORQUE_ENABLE.address
_LENGTH = registers.PRESENT_POSITION.address + registers.PRESENT_POSITION.size - _ADDRESS


def hold(bus: Bus, servo_ids: Sequence[int], goals: dict[int, int]) -> None:
    """Have every servo that has torque stay where it was when this was first called for it.

    `goals` remembers the positions between calls: one that followed the measurement would let the
    arm creep down. A servo without torque gets no goal, which would switch it on. A silent servo
    or a lost port is left for the next call.
    """
    missing = [servo_id for servo_id in servo_ids if servo_id not in goals]
    try:
        replies = bus.sync_read(_ADDRESS, _LENGTH, missing) if missing else {}
        for servo_id, reply in replies.items():
            if reply.data[0]:
                goals[servo_id] = registers.PRESENT_POSITION.decode(reply.data[-2:])
        if goals:
            bus.sync_write(registers.GOAL_POSITION, goals)
    except BusError:
        return
