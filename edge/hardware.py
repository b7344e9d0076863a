"""What is known of a board: every figure with where it comes from and how sure it is.

A board file states them under `hardware`, each as a mapping of its own:

    memory_gib: {value: 8, kind: published, source: part_table}

`source` is a name from the section's `sources`, which holds the text; `note` may be added. What
nobody knows is `value: null`. Mode ids, SM masks and trip points differ between releases and
flashes of one board, so nothing here is used in their place: they are read on the board.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from edge.config_section import Section

# How a figure came about: measured on this board by this project, read in a document about it,
# computed from others by the formula in its source, or not confirmed by anything that was read.
MEASURED, PUBLISHED, DERIVED, UNVERIFIED = "measured", "published", "derived", "unverified"
KINDS = (MEASURED, PUBLISHED, DERIVED, UNVERIFIED)
# Figures that are 0 on a board without a GPU; no other is.
OF_GPU = ("sm_count", "sms", "gpu_mhz", "int8_tops", "fp16_tflops", "fp32_gflops")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, with its unit in its name, and how far it can be trusted."""

    value: float | None  # None: not known
    kind: str  # one of KINDS
    source: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """One or several texts, and how far they can be trusted."""

    values: tuple[str, ...]  # empty: none, or not known
    kind: str
    source: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class PowerMode:
    """What a board may use in one of its power modes; caps, not what it draws or reaches."""

    name: str | None  # as `nvpmodel -q` prints it; None: not known, or nothing to choose
    needs_super: bool | None  # True, False: only a board flashed as Super, or not; None: either
    is_default: bool  # a board in that state starts in it
    watts: Figure  # the label's; a set of caps, not a budget
    cores: Figure  # processor cores online
    cpu_mhz: Figure
    sms: Figure  # streaming multiprocessors of the GPU that are not gated
    gpu_mhz: Figure
    emc_mhz: Figure  # memory controller
    bandwidth_gb_s: Figure  # of memory, both directions together
    int8_tops: Figure  # GPU, dense
    fp16_tflops: Figure  # GPU, dense
    fp32_gflops: Figure  # GPU, outside its tensor cores
    cpu_int8_gops: Figure  # all cores online
    cpu_fp32_gflops: Figure  # all cores online


@dataclass(frozen=True, slots=True)
class Hardware:
    """A module and, for a board file of one power mode, that mode.

    The module's other modes are board files of their own: `edge.board_profile.board_modes`.
    """

    module: str  # what a board is recognised as, "orin_nano_8gb"
    name: str
    part_numbers: Fact
    soc: Fact
    cpu: Fact
    compute_capability: Fact  # of CUDA; no values: no such GPU
    jetpacks: Fact
    limits: Fact  # what an owner must know before using it
    memory_gib: Figure
    bus_bits: Figure
    sm_count: Figure  # in the chip; a power mode may gate some
    usable_mib: Figure  # memory left for programs without a desktop
    throttle_c: Figure  # software throttling as the device tree has it; the board's own counts
    shutdown_c: Figure
    power_mode: PowerMode | None  # the one a profile is for; None: whichever the board is in
    refused: str | None  # why this board cannot be used


def hardware_from_section(section: Section) -> Hardware:
    """Read the `hardware` of a board file; ProfileError names file, key and what is allowed."""
    sources = _sources(section.child("sources"))
    mode = section.optional_child("power_mode")
    hardware = Hardware(
        module=section.text("module"),
        name=section.text("name"),
        **{name: _fact(section.child(name), sources) for name in _named(Hardware, "Fact")},
        **_figures(Hardware, section, sources),
        power_mode=None if mode is None else _power_mode(mode, sources),
        refused=section.optional_text("refused"),
    )
    section.finish()
    return hardware


def _sources(section: Section) -> dict[str, str]:
    return {name: section.text(name) for name in section.names()}


def _power_mode(section: Section, sources: dict[str, str]) -> PowerMode:
    mode = PowerMode(
        name=section.optional_text("name"),
        needs_super=section.optional_boolean("needs_super"),
        is_default=section.boolean("is_default"),
        **_figures(PowerMode, section, sources),
    )
    section.finish()
    return mode


def _figures(record: type, section: Section, sources: dict[str, str]) -> dict[str, Figure]:
    return {
        name: _figure(section.child(name), sources, 0.0 if name in OF_GPU else 0.001)
        for name in _named(record, "Figure")
    }


def _figure(section: Section, sources: dict[str, str], least: float) -> Figure:
    figure = Figure(section.optional_number("value", least, 1e9), **_origin(section, sources))
    if figure.value is None and figure.kind != UNVERIFIED:
        raise section.fail("kind", f"'{figure.kind}' without a value; allowed: {UNVERIFIED}")
    section.finish()
    return figure


def _fact(section: Section, sources: dict[str, str]) -> Fact:
    fact = Fact(section.optional_texts("values") or (), **_origin(section, sources))
    section.finish()
    return fact


def _origin(section: Section, sources: dict[str, str]) -> dict[str, str | None]:
    kind = section.text("kind", KINDS)
    source = section.text("source", tuple(sources))
    note = section.text("note") if "note" in section.names() else None
    return {"kind": kind, "source": sources[source], "note": note}


def _named(record: type, kind: str) -> list[str]:
    """Return the fields of a record whose type is called `kind`."""
    return [field.name for field in fields(record) if field.type == kind]
