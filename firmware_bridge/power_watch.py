"""Notices that a servo of an armed arm was without power for a moment.

Behind a brown-out a servo's RAM is back at its defaults: torque off, torque limit at its maximum,
acceleration unlimited. The next goal would switch full torque on. Torque_Enable and Acceleration
give it away, since arming leaves neither at its default; they are read whenever a servo could have
restarted unseen: it was silent, the port was lost, or nobody looked for as long as a start takes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from firmware_bridge import registers
from firmware_bridge.bus import Bus
from firmware_bridge.errors import PowerLost

# A servo is away for about 0.8 s when it starts again (Feetech manual, REBOOT).
UNSEEN_S = 0.4
TORQUE_ON = 1
_ADDRESS = registers.TORQUE_ENABLE.address
_BYTES = registers.ACCELERATION.address + registers.ACCELERATION.size - _ADDRESS


class PowerWatch:
    """Keeps the ids of servos that may have lost their power since they were armed, in `doubted`.

    `acceleration_units` is what arming wrote to the Acceleration register.
    """

    def __init__(self, bus: Bus, servo_ids: Sequence[int], acceleration_units: int) -> None:
        self.doubted: set[int] = set()
        self._bus = bus
        self._servo_ids = servo_ids
        self._acceleration_units = acceleration_units
        self._seen_s = 0.0
        self._reopened = 0

    def begin(self, now_s: float) -> None:
        """Start to watch servos that were just armed. Raises PowerLost."""
        self.doubted = set(self._servo_ids)
        self._seen_s = now_s
        self._reopened = self._bus.counters.reopened
        self._ask(self._servo_ids, now_s + self._bus.reply_timeout_s)

    def after_reading(
        self, answered: Collection[int], now_s: float, deadline_s: float | None
    ) -> None:
        """Note who answered a read, and ask those in doubt. Raises PowerLost."""
        self._look_back(now_s)
        self._seen_s = now_s
        self.doubted.update(servo_id for servo_id in self._servo_ids if servo_id not in answered)
        if self.doubted:
            self._ask([servo_id for servo_id in self.doubted if servo_id in answered], deadline_s)

    def before_writing(self, now_s: float) -> None:
        """Ask all servos when nobody has read them for long. Raises PowerLost."""
        if self._bus.port_lost:
            self.doubted.update(self._servo_ids)
        elif self._look_back(now_s):
            self._seen_s = now_s
            self._ask(self._servo_ids, now_s + self._bus.reply_timeout_s)

    def _look_back(self, now_s: float) -> bool:
        """Doubt every servo if it could have started again unseen; return whether it could."""
        reopened = self._bus.counters.reopened
        unseen = now_s - self._seen_s > UNSEEN_S or reopened != self._reopened
        if unseen:
            self.doubted.update(self._servo_ids)
            self._reopened = reopened
        return unseen

    def _ask(self, servo_ids: Sequence[int], deadline_s: float | None) -> None:
        if not servo_ids:
            return
        expected = bytes((TORQUE_ON, self._acceleration_units))
        replies = self._bus.sync_read(_ADDRESS, _BYTES, servo_ids, deadline_s=deadline_s)
        lost = {reply.servo_id: reply.data for reply in replies.values() if reply.data != expected}
        self.doubted -= replies.keys() - lost.keys()
        if lost:
            found = ", ".join(
                f"servo {servo_id} torque_enable {data[0]} and acceleration {data[1]}"
                for servo_id, data in sorted(lost.items())
            )
            raise PowerLost(
                f"power was lost for a moment: {found}, armed with {TORQUE_ON} and "
                f"{self._acceleration_units}; check supply and cables, then arm again"
            )
