"""Which board this is, how it is flashed and in which power mode it runs.

Everything is read on the board and nothing is assumed: what cannot be read is None, and `sources`
says where each of the others was read.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BoardIdentity:
    """What a board says of itself; `sources` has a text for each field that is known."""

    name: str  # as the device tree or the processor has it
    module: str | None  # key of the hardware records, "orin_nano_8gb"; None: none of them
    part_number: str | None  # "p3767-0005"
    l4t: str | None  # "36.4.3"
    jetpack: str | None  # "6.2"
    power_mode: str | None  # "25W"
    power_mode_id: int | None  # differs by board and release: for `nvpmodel -m` on this board alone
    is_super: bool | None  # flashed with the Super modes
    sm_mask: int | None  # tpc_pg_mask as read; a bit set is a TPC switched off
    active_sms: int | None
    cores_online: int | None
    memory_total_mib: float | None
    python: str
    sources: dict[str, str] = field(default_factory=dict)
