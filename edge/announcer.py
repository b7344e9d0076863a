"""Say lines from a thread that must not wait: a terminal that stands still holds up nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

END_TIMEOUT_S = 1.0


class Announcer:
    """Hands lines to `say` in a thread of its own."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Start the thread, which does not keep the program alive."""
        self._say = say
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    def tell(self, line: str) -> None:
        """Have a line said; never blocks."""
        self._lines.put(line)

    def close(self) -> None:
        """Wait until every line is said, END_TIMEOUT_S at most."""
        self._lines.put(None)
        self._thread.join(END_TIMEOUT_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._say(line)
