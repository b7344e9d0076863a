"""Depth tokens by draft and verify: exactly the reference's codes in as few passes as possible.

The reference writes the depth span left to right: a cell whose picture changed gets the code the
model prefers there, a cell that did not change keeps its code. Here the codes of the last call
are a draft of the whole span. One pass over start + draft + end tells what the model prefers at
every cell given the draft before it; all cells up to the first disagreement are settled, the new
code goes in there, and the pass is repeated from that cell on. Passes: one, plus one for each cell
whose code really moved. The first pass rides on the prefill and reads no weight twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edge.draft_window import Place, Source, Trust, Window
from edge.engines import Decoder

# A code is nearly as good as the best when its logit is this close, in standard deviations of the
# row's logits. With random weights 9 of 10 codes said clearer than that were right, else 4 of 10.
_CLOSE = 0.1


@dataclass(frozen=True, slots=True)
class SpanTokens:
    """Token ids of the depth span: <depth_start>, code 0 (the others follow), <depth_end>."""

    start: int
    first_code: int
    end: int
    codes: int  # how many there are; columns of the logits that count


class DepthSpan:
    """One call's depth span while it is being settled.

    Positions count span tokens: 0 is the start token, 1 + cell a code, the last one the end token;
    the row at position p predicts cell p. `fed` positions are in the decoder's cache.
    """

    def __init__(
        self,
        draft: np.ndarray | None,
        changed: np.ndarray,
        tokens: SpanTokens,
        window: Window,
        trust: Trust | None = None,
        *,
        pairs: bool = False,
        goes_on: bool = False,
    ) -> None:
        """Start from `draft` (cells,) codes and `changed` (cells,) bool, which cells may move.

        Without a draft every cell must be changed, and is guessed from what is known by then. With
        `trust`, which is told of every draft that was checked, drafts are mended on the way by what
        the model says behind a wrong one; without, there are never more passes than one and the
        cells that moved. With `pairs` every pass after the first has an even number of rows, as
        `Decoder.row_pairs` asks for. When the text `goes_on`, `logits_behind` is what the model
        says after the end token.
        """
        self._cells = len(changed)
        self._draft = draft
        self.codes = np.zeros(self._cells, np.int64) if draft is None else np.array(draft, np.int64)
        self.changed = changed
        self.changed_count = int(np.count_nonzero(changed))
        self.length = self._cells + 2
        self.passes = 0
        self.fed = 0
        self._tokens = tokens
        self._window = window
        self._trust = trust
        self._pairs, self._goes_on = pairs, goes_on
        self.logits_behind: np.ndarray | None = None
        self._sources = np.full(self._cells, Source.BEFORE)
        self._candidates = np.full((len(Source), self._cells), -1)  # codes by their source
        self._candidates[Source.BEFORE] = -1 if draft is None else self.codes
        self._settled = 0  # cells before this one have their final code
        self._stop_position = 0
        self._rows = np.zeros(0, np.int64)

    @property
    def moved_count(self) -> int:
        """Cells whose code is not that of the draft; all when there was none."""
        if self._draft is None:
            return self._cells
        return int(np.count_nonzero(self.codes != self._draft))

    @property
    def done(self) -> bool:
        """True when every span token is settled and in the cache."""
        return self.fed == self.length

    def first_pass(self, *, prompt_decides: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens that ride on the pass over the prompt, and the rows to be predicted.

        Without `prompt_decides` its predictions do not count: only what is settled before the first
        changed cell rides, and may be nothing.
        """
        stop = int(np.argmax(self.changed)) if self.changed_count else self.length
        if prompt_decides:
            stop = self._window.stop(self._place(in_prefill=True))
        return self._pass(stop)

    def next_pass(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens to feed next and the rows among them whose prediction is wanted."""
        stop = self._window.stop(self._place(in_prefill=False))
        if self._pairs and (stop - self.fed) % 2:
            if stop < self.length:
                stop += 1
            elif self.fed:
                self.fed -= 1  # a row that comes out as it was
            else:
                stop -= 1
        return self._pass(stop)

    def _place(self, *, in_prefill: bool) -> Place:
        unsettled = np.flatnonzero(self.changed[self._settled :]) + self._settled
        return Place(self.fed, self.length, unsettled, self._sources[unsettled], in_prefill)

    def _pass(self, stop: int) -> tuple[np.ndarray, np.ndarray]:
        if self._draft is None:
            self._guess()
        span = np.empty(self.length, np.int64)
        span[0], span[-1] = self._tokens.start, self._tokens.end
        span[1:-1] = self.codes + self._tokens.first_code
        rows = np.arange(max(self.fed, self._settled), min(stop, self._cells))
        rows = rows[self.changed[rows]]
        self._stop_position, self._rows = stop, rows
        self.passes += int(stop > self.fed)
        if self._goes_on and stop == self.length:
            rows = np.append(rows, self.length - 1)
        return span[self.fed : stop], rows - self.fed

    def accept(self, logits: np.ndarray) -> None:
        """Settle what the pass just run decides; `logits` is (wanted rows, codes or more).

        Afterwards `fed` says how many span tokens the cache may keep.
        """
        if len(logits) > len(self._rows):
            self.logits_behind = logits[-1]  # of the last pass in the end, which settles everything
        logits = logits[: len(self._rows), : self._tokens.codes]
        wanted = logits.argmax(axis=-1)
        fed = self.codes.copy()
        for index, (cell, preferred) in enumerate(zip(self._rows, wanted, strict=True)):
            self._settled = int(cell) + 1
            self.codes[cell] = preferred
            if self._trust is not None:
                self._trust.observe(self._candidates[:, cell], int(preferred))
            if cell + 1 == self._stop_position:  # the last row: its draft was not fed
                break
            if preferred != fed[cell]:
                if self._trust is not None:
                    self._mend(self._rows[index + 1 :], logits[index + 1 :], fed)
                self.fed = int(cell) + 1  # the cache holds a wrong code from here on
                return
        self.fed = self._stop_position

    def _mend(self, cells: np.ndarray, logits: np.ndarray, fed: np.ndarray) -> None:
        """Draft `cells` anew, each by its most trusted source, now that the model said more.

        What it said is worth less where it was in doubt, or where the code right before, which was
        `fed` to that row, does not stand any more.
        """
        shares, said = self._trust.shares, logits.argmax(axis=-1)
        best = logits.max(axis=-1)
        doubt = best - _CLOSE * logits.std(axis=-1)
        in_doubt = np.count_nonzero(logits > doubt[:, None], axis=-1) > 1
        for row, cell in enumerate(cells):
            code, source = said[row], Source.CLOSE if in_doubt[row] else Source.CLEAR
            if self.codes[cell - 1] != fed[cell - 1]:
                source = Source.ASTRAY
            if code == fed[cell]:
                source = Source.AGREED
            elif source is not Source.ASTRAY:
                self._candidates[Source.AGREED, cell] = -1
                if logits[row, fed[cell]] > doubt[row]:  # the draft is as good as what it said
                    code = fed[cell]
            self._candidates[source, cell] = code
            known = self._candidates[:, cell] >= 0
            choice = np.where(known, shares, -1.0).argmax()
            self._sources[cell], self.codes[cell] = choice, self._candidates[choice, cell]

    def _guess(self) -> None:
        """Draft cells nothing is known of: depth is smooth, so like the cell above, or before."""
        side = math.isqrt(self._cells)
        for cell in range(max(self._settled, 1), self._cells):
            if self._sources[cell] == Source.BEFORE:
                guess = self.codes[cell - (side if cell >= side else 1)]
                self._candidates[Source.BEFORE, cell] = self.codes[cell] = guess


def settle(decoder: Decoder, span: DepthSpan, prompt_length: int) -> None:
    """Run passes until the span is settled; the first one rode on the prefill."""
    while not span.done:
        tokens, rows = span.next_pass()
        decoder.truncate(prompt_length + span.fed)
        span.accept(decoder.extend(tokens, rows))
