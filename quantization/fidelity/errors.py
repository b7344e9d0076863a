"""What measuring a bundle's fidelity raises."""

from __future__ import annotations

from edge.errors import EdgeError


class FidelityError(EdgeError):
    """Bundles cannot be compared, or episodes, trials or a journal cannot be used."""
