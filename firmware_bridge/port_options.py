"""What the commands of `molmoact-arm` share: how to reach the bus, and words that are numbers."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from firmware_bridge.bus import DEFAULT_REPLY_TIMEOUT_S, Bus
from firmware_bridge.packets import MAX_SERVO_ID
from firmware_bridge.transport import DEFAULT_BAUD_RATE, SerialTransport

ARM_IDS = (1, 2, 3, 4, 5, 6)


class UserError(Exception):
    """Something the user can put right; printed as one line, exit 2."""


def add_port_options(
    parser: argparse.ArgumentParser,
    baud_rate: int | None = DEFAULT_BAUD_RATE,
    *,
    other_rates: bool = True,
) -> None:
    """Add the options that say how to speak to the servos, all but the port itself.

    `other_rates` False is for commands that only make sense at the arm's own rate.
    """
    if other_rates:
        parser.add_argument(
            "--baud-rate",
            type=int,
            default=baud_rate,
            metavar="BAUD",
            help=f"default {baud_rate or 'every rate servos know'}",
        )
    parser.add_argument(
        "--reply-timeout-ms",
        type=number_in(1.0, 1000.0, "ms"),
        default=DEFAULT_REPLY_TIMEOUT_S * 1000.0,
        metavar="MS",
        help="wait for a reply, 1..1000 (default %(default)g)",
    )
    parser.add_argument("--echo", action="store_true", help="the adapter returns every byte sent")


def add_ids_option(parser: argparse.ArgumentParser, default: Sequence[int]) -> None:
    """Add `--ids A-B`."""
    parser.add_argument(
        "--ids",
        type=_ids,
        default=tuple(default),
        metavar="A-B",
        help=f"servo ids to ask (default {default[0]}-{default[-1]})",
    )


def open_bus(port: str, arguments: argparse.Namespace, baud_rate: int | None = None) -> Bus:
    """Open `port` as the options say, or at another rate. Raises PortError."""
    transport = SerialTransport(port, baud_rate or arguments.baud_rate)
    return Bus(transport, reply_timeout_s=arguments.reply_timeout_ms / 1000.0, echo=arguments.echo)


def number_in(low: float, high: float, unit: str) -> Callable[[str], float]:
    """Return an argument type for numbers in `low`..`high`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: allowed is {low:g}..{high:g} {unit}")
        return value

    return number


def listed(servo_ids: Sequence[int]) -> str:
    """Return ids as text."""
    return " ".join(str(servo_id) for servo_id in servo_ids)


@contextmanager
def handling(numbers: Sequence[int], handler: Callable[..., None]) -> Iterator[None]:
    """Answer signals with `handler` for a while."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _ids(text: str) -> tuple[int, ...]:
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of servo ids such as 1-6")
    low, high = int(first), int(last or first)
    if not 0 <= low <= high <= MAX_SERVO_ID:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are ids 0-{MAX_SERVO_ID}, low first")
    return tuple(range(low, high + 1))
