"""The black box on disk: where it lies, its space taken before torque, written out at the end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BoxHandover:
    """How a process that outlives this one writes the box out, knowing nothing of its layout.

    It puts the reason, UTF-8 and padded with zeros, into `reason_bytes` at `reason_offset` of
    `descriptor`, copies the `n_bytes` of `descriptor` over `allocated`, syncs, links that to
    `path` (which fails where a file exists: nothing is overwritten) and removes `allocated`.
    """

    descriptor: int  # memory without a name, to be inherited
    n_bytes: int
    reason_offset: int
    reason_bytes: int
    allocated: str  # absolute; a file of n_bytes whose space is taken already
    path: str  # absolute
