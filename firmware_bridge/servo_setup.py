"""Gives a servo that is alone on the bus its id and 1 Mbit/s, and proves that it took them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.errors import BusError, PortError
from firmware_bridge.line_probe import broadcast_ping, count_replies, echoes
from firmware_bridge.port_options import UserError
from firmware_bridge.registers import BAUD_RATES, STS3215_MODEL_NUMBER, Register
from firmware_bridge.servo_state import ServoState, read_state
from firmware_bridge.servo_survey import SEARCH_BAUD_RATES
from firmware_bridge.transport import DEFAULT_BAUD_RATE

PROBES = 8
# Storing a byte takes a servo a few milliseconds, in which it does not listen.
STORE_S = 0.05


@dataclass(frozen=True, slots=True)
class LoneServo:
    """The only servo that answers, and the rate it answers at."""

    baud_rate: int
    state: ServoState


class ServoSetup:
    """Finds and sets one servo at a time on the port that `open_at` opens at a baud rate."""

    def __init__(
        self,
        open_at: Callable[[int], Bus],
        *,
        echo: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._open_at = open_at
        self._echo = echo
        self._sleep = sleep

    def find(self) -> LoneServo:
        """Return the only servo on the bus, whatever its id and rate; blocks for up to 8 s.

        Raises UserError when none or more than one answers, or the adapter echoes.
        """
        for baud_rate in SEARCH_BAUD_RATES:
            try:
                bus = self._open_at(baud_rate)
            except PortError:
                if baud_rate == DEFAULT_BAUD_RATE:
                    raise
                continue
            try:
                servo_id = self._lone_id(bus)
                if servo_id is not None:
                    return LoneServo(baud_rate, read_state(bus, servo_id))
            finally:
                bus.close()
        raise UserError("no servo answers at any baud rate; check its plug and the power")

    def assign(self, found: LoneServo, servo_id: int) -> bool:
        """Give the servo its id and rate, locked; return whether anything had to be written.

        Raises UserError for another model than the arm's, and BusError when it does not read back.
        """
        model = found.state[registers.MODEL_NUMBER]
        if model != STS3215_MODEL_NUMBER:
            raise UserError(
                f"this servo is an {found.state.model_name} (model {model}), the arm needs an "
                f"sts3215 ({STS3215_MODEL_NUMBER}); plug in another"
            )
        old_id = found.state.servo_id
        changed = (found.baud_rate, old_id) != (DEFAULT_BAUD_RATE, servo_id)
        try:
            if changed:
                self._write(found, servo_id)
            self._lock_and_verify(servo_id)
        except BaseException:
            self._relock(found, servo_id)
            raise
        return changed

    def _lone_id(self, bus: Bus) -> int | None:
        if not self._echo and echoes(bus):
            raise UserError("the adapter returns every byte sent; set its jumper to USB, or --echo")
        answer = broadcast_ping(bus)
        ids = sorted({frame.servo_id for frame in answer.frames})
        if answer.silent:
            return None
        if len(ids) == 1 and not answer.stray_bytes and len(answer.frames) == 1:
            if not count_replies(bus, ids[0], PROBES).bad:
                return ids[0]
            who = f"two or more with id {ids[0]}, or a loose plug"
        else:
            who = f"ids {', '.join(map(str, ids))}" if len(ids) > 1 else "replies run together"
        raise UserError(f"more than one servo answers ({who}); plug in only one")

    def _write(self, found: LoneServo, servo_id: int) -> None:
        old_id = found.state.servo_id
        bus = self._open_at(found.baud_rate)
        try:
            bus.write(old_id, registers.TORQUE_ENABLE, 0)
            bus.write(old_id, registers.LOCK, 0)
            self._store(bus, old_id, registers.ID, servo_id)
            self._store(bus, servo_id, registers.BAUD_RATE, BAUD_RATES.index(DEFAULT_BAUD_RATE))
        finally:
            bus.close()

    def _store(self, bus: Bus, servo_id: int, register: Register, value: int) -> None:
        """Write what changes how the servo answers; whether as before or after is not settled."""
        with contextlib.suppress(BusError):
            bus.write_bytes(servo_id, register.address, register.encode(value), tries=1)
        self._sleep(STORE_S)

    def _lock_and_verify(self, servo_id: int) -> None:
        bus = self._open_at(DEFAULT_BAUD_RATE)
        try:
            bus.write(servo_id, registers.LOCK, 1)
            for register, wanted in (
                (registers.ID, servo_id),
                (registers.BAUD_RATE, BAUD_RATES.index(DEFAULT_BAUD_RATE)),
                (registers.LOCK, 1),
            ):
                stored = bus.read(servo_id, register)
                if stored != wanted:
                    raise UserError(
                        f"servo {servo_id}: {register.name} reads {stored} after writing {wanted}; "
                        "switch its power off and on and try again"
                    )
        finally:
            bus.close()

    def _relock(self, found: LoneServo, servo_id: int) -> None:
        """Lock the servo again wherever it is now; power off and on would do the same."""
        for baud_rate in {found.baud_rate, DEFAULT_BAUD_RATE}:
            with contextlib.suppress(BusError):
                bus = self._open_at(baud_rate)
                try:
                    for one_id in {found.state.servo_id, servo_id}:
                        with contextlib.suppress(BusError):
                            bus.write(one_id, registers.LOCK, 1, tries=1)
                finally:
                    bus.close()
