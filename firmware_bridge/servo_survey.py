"""Who is on the bus: servos found by id and baud rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from firmware_bridge.bus import Bus
from firmware_bridge.errors import PortError
from firmware_bridge.line_probe import ask_line, sign_of_life
from firmware_bridge.registers import BAUD_RATES

# Rates a servo may have been set to. Sources disagree about the slow ones: vendor headers have
# 76800, 57600 and 38400 where LeRobot has 57600, 38400 and 19200.
SEARCH_BAUD_RATES = (*BAUD_RATES, 76_800, 57_600, 38_400, 19_200)


def answering_ids(bus: Bus, servo_ids: Sequence[int]) -> list[int]:
    """Return the ids that give any sign of life. Raises PortError.

    A silent one costs the reply timeout.
    """
    return [servo_id for servo_id in servo_ids if not ask_line(bus, sign_of_life(servo_id)).silent]


def buses_at_other_rates(open_at: Callable[[int], Bus], tried: int) -> Iterator[Bus]:
    """Yield a bus at every rate but `tried` that servos know and the port can do.

    Each is closed when the next one is asked for.
    """
    for baud_rate in SEARCH_BAUD_RATES:
        if baud_rate == tried:
            continue
        try:
            bus = open_at(baud_rate)
        except PortError:
            continue
        try:
            yield bus
        finally:
            bus.close()
