"""What a decoder pass costs by the number of its rows, measured on the machine it runs on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class PassCosts:
    """Measured passes: ascending row counts (at least two) and the seconds each took."""

    rows: tuple[int, ...]
    pass_s: tuple[float, ...]

    @property
    def prefill_row_s(self) -> float:
        """Seconds that one more row adds to a long pass."""
        rise_s = (self.pass_s[-1] - self.pass_s[-2]) / (self.rows[-1] - self.rows[-2])
        return max(rise_s, 0.0)

    def seconds(self, rows: np.ndarray) -> np.ndarray:
        """Expect the seconds of passes over `rows` rows; longer ones follow the last rise."""
        within = np.interp(rows, self.rows, self.pass_s)
        return within + self.prefill_row_s * np.maximum(rows - self.rows[-1], 0)
