"""Signals that end a run: taken as an event, kept for later, or handled as before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

# SIGHUP too: the arm must not be left standing when the terminal or the SSH session goes away.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_on_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """Turn SIGNALS into an event; also give the list of those that came."""
    stop = threading.Event()
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        stop.set()

    with ExitStack() as stack:
        for number in SIGNALS:
            stack.enter_context(handling(number, note))
        yield stop, received


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Deliver SIGNALS that come inside only afterwards."""
    received: list[int] = []
    with ExitStack() as stack:
        for number in SIGNALS:
            stack.enter_context(handling(number, lambda number, _: received.append(number)))
        yield
    if received:
        signal.raise_signal(received[0])


@contextmanager
def handling(number: int, handler: Callable[[int, object], object]) -> Iterator[None]:
    """Handle one signal so inside, and as before afterwards."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
