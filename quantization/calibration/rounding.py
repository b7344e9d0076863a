"""Choose codes by what their errors do together, given the inputs that were recorded.

The nearest code of every weight gives the smallest error of the product only if inputs are
independent. They are not: the error of one weight can be taken back by the next one whose input
moves with it. First all columns are rounded one by one, the largest inputs first, each error spread
over the columns that are left (GPTQ, arXiv 2210.17323); then every column is rounded once more
given all others (coordinate descent, as QuantEase, arXiv 2309.01885), twice. On held-out rows both
together gave a smaller error than either, at nearly every matrix.
"""

from __future__ import annotations

import numpy as np

from quantization.formats import Blocks

_DAMPING = 0.01  # of the mean square, added to every input's, as GPTQ does
_SWEEPS = 2
_AT_ONCE = 64  # columns whose errors are spread within before they are spread over all


class RecordedMoments:
    """Mean products of a matrix's inputs; see `quantization.formats.RecordedInputs`."""

    def __init__(self, moments: np.ndarray, inputs: int) -> None:
        """Take (windows, span, span) of `quantization.calibration.input_statistics`."""
        power = np.diagonal(moments, axis1=1, axis2=2).reshape(-1)[:inputs].astype(np.float64)
        mean = float(power.mean())
        unit = mean if mean > 0 else 1.0
        self.power = (power / unit).astype(np.float32) if mean > 0 else np.ones(inputs, np.float32)
        span = moments.shape[1]
        self._windows = [
            _Window(slice(first, min(first + span, inputs)), part / unit)
            for first, part in zip(range(0, inputs, span), moments, strict=True)
        ]

    def codes(self, blocks: Blocks) -> np.ndarray:
        """Choose codes for all columns; an output keeps the nearest ones where they are better."""
        whole = blocks.source.shape
        columns = [
            np.broadcast_to(x, whole).reshape(whole[0], -1)
            for x in (blocks.source, blocks.codes, blocks.scale, blocks.low, blocks.high)
        ]
        chosen = columns[1].copy()
        for window in self._windows:
            chosen[:, window.place] = window.codes(*(x[:, window.place] for x in columns))
        return chosen.reshape(whole)

    def squared_error(self, difference: np.ndarray) -> float:
        """Sum the expected squares of the product with (outputs, inputs)."""
        return float(sum(np.sum(w.squares(difference[:, w.place])) for w in self._windows))


class _Window:
    """Inputs whose products with each other are known."""

    def __init__(self, place: slice, moments: np.ndarray) -> None:
        self.place = place
        count = place.stop - place.start
        self._moments = moments[:count, :count].astype(np.float32)
        power = np.diagonal(self._moments)
        self._order = np.argsort(-power, kind="stable")
        whole = self._moments[np.ix_(self._order, self._order)].astype(np.float64)
        whole += _DAMPING * power.mean(dtype=np.float64) * np.eye(count)
        self._damped = whole.astype(np.float32)
        self._spread = None
        if power.any():
            self._spread = np.linalg.cholesky(np.linalg.inv(whole)).T.astype(np.float32)

    def squares(self, difference: np.ndarray) -> np.ndarray:
        """Return the expected square of each output's product, (outputs,)."""
        return np.einsum("oi,oi->o", difference @ self._moments, difference, dtype=np.float64)

    def codes(
        self,
        source: np.ndarray,
        nearest: np.ndarray,
        scale: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> np.ndarray:
        """Choose codes (outputs, columns) for `source` of the same shape."""
        if self._spread is None:  # nothing ever came in here
            return nearest
        given = [np.ascontiguousarray(x[:, self._order]) for x in (source, scale, low, high)]
        chosen = self._spread_errors(*given)
        for _ in range(_SWEEPS):
            self._settle(chosen, *given)
        found = np.empty_like(chosen)
        found[:, self._order] = chosen
        better = self.squares(found * scale - source) < self.squares(nearest * scale - source)
        return np.where(better[:, None], found, nearest)

    def _spread_errors(
        self, source: np.ndarray, scale: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> np.ndarray:
        """Round column after column; what a rounding errs, later columns are moved to make up."""
        left, codes = source.copy(), np.empty_like(source)
        errors = np.zeros_like(source)
        for first, stop in _runs(source.shape[1]):
            for column in range(first, stop):
                wanted = left[:, column]
                code = np.rint(wanted / scale[:, column])
                code = np.clip(code, low[:, column], high[:, column])
                error = (wanted - code * scale[:, column]) / self._spread[column, column]
                spread = self._spread[column, column + 1 : stop]
                left[:, column + 1 : stop] -= error[:, None] * spread
                codes[:, column], errors[:, column] = code, error
            left[:, stop:] -= errors[:, first:stop] @ self._spread[first:stop, stop:]
        return codes

    def _settle(
        self,
        codes: np.ndarray,
        source: np.ndarray,
        scale: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> None:
        """Move each column, in place, to the best code there is while all others stay."""
        slope = (source - codes * scale) @ self._damped
        for first, stop in _runs(source.shape[1]):
            before = codes[:, first:stop].copy()
            for column in range(first, stop):
                step = self._damped[column, column] * scale[:, column]
                code = np.rint(codes[:, column] + slope[:, column] / step)
                code = np.clip(code, low[:, column], high[:, column])
                moved = (code - codes[:, column]) * scale[:, column]
                slope[:, first:stop] -= moved[:, None] * self._damped[column, first:stop]
                codes[:, column] = code
            moved = (codes[:, first:stop] - before) * scale[:, first:stop]
            for rest in (slice(0, first), slice(stop, None)):
                slope[:, rest] -= moved @ self._damped[first:stop, rest]


def _runs(columns: int) -> list[tuple[int, int]]:
    return [(first, min(first + _AT_ONCE, columns)) for first in range(0, columns, _AT_ONCE)]
