"""Which depth cells a call asks again, where the pace does not allow all that changed.

Without a limit: every cell whose picture changed since the last call. Asked at every n-th call
only, a cell is compared with the picture that its code is of. Where more cells changed than a call
may ask, they come in turn, row by row, and the others are owed: no cell is forgotten.
"""

from __future__ import annotations

import numpy as np

from edge.pace import Effort


class DepthRefresh:
    """What is owed to which cell; `choose` before a call's codes are predicted, `done` after."""

    def __init__(self, cells: int) -> None:
        self._cells = cells
        self.forget()

    def forget(self) -> None:
        """Begin with codes that are of the newest picture."""
        self._owed = self._owed_then = np.zeros(self._cells, bool)
        self._is_due = True
        self._calls_since = 0
        self._next = 0  # cell at which the turn begins

    def choose(self, changed: np.ndarray, effort: Effort) -> np.ndarray:
        """Return the cells to ask, (cells,) bool, of those that `changed` since the last codes."""
        self._is_due = self._calls_since + 1 >= effort.depth_every_calls
        if not self._is_due:
            return np.zeros(self._cells, bool)
        wanted = changed | self._owed
        asked = wanted
        most = effort.depth_max_cells
        if most is not None and np.count_nonzero(wanted) > most:
            turn = (np.flatnonzero(wanted) - self._next) % self._cells
            chosen = (np.sort(turn)[:most] + self._next) % self._cells
            asked = np.zeros(self._cells, bool)
            asked[chosen] = True
            self._next = int(chosen[-1] + 1) % self._cells
        self._owed_then = wanted & ~asked
        return asked

    def done(self) -> bool:
        """Note that the codes are there; say whether they now go with the newest picture."""
        self._calls_since = 0 if self._is_due else self._calls_since + 1
        if self._is_due:
            self._owed = self._owed_then
        return self._is_due
