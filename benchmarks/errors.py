"""What the benchmarks raise."""

from __future__ import annotations

from edge.errors import EdgeError


class PeerError(EdgeError):
    """A comparison cannot be made, or one side of it did not do the work that was asked."""


class BusBenchError(EdgeError):
    """A measurement on emulated servos cannot be made."""


class FidelityBenchError(EdgeError):
    """A bundle's fidelity cannot be measured as asked, or its report not be written."""


class ProfileBenchError(EdgeError):
    """A profile cannot be measured, written, read or compared as asked."""


class ProfileInterruptedError(ProfileBenchError):
    """A signal ended the loop of a profile."""

    def __init__(self, signal_number: int, ticks: int) -> None:
        super().__init__(
            f"signal {signal_number} ended the loop after {ticks} ticks; nothing was written"
        )
        self.signal_number = signal_number


class PredictionError(EdgeError):
    """Nothing can be predicted for a board, or a model cannot run there."""
