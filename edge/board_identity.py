"""Which board this is, how it is flashed and in which power mode it runs.

Everything is read on the board and nothing is assumed: what cannot be read is None, and `sources`
says where each of the others was read. The order of the sources is that of NVIDIA's own detector
(NVIDIA/skills @7149a88, jetson-print-device-info): boot control, device tree, memory size.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, field

from edge.jetpack import RELEASE, jetpack_from_l4t, read_l4t
from edge.jtop_source import JtopSource
from edge.power_modes import (
    CONF,
    CurrentMode,
    PowerModes,
    Runner,
    read_current_mode,
    read_power_modes,
)
from edge.system_files import SystemFiles

# Part numbers as jetson_stats lists them (@f41d5ca, jtop/core/jetson_variables.py); T4000 from
# NVIDIA's flash configuration. p3701-0000 is the first AGX Orin devkit: 32 GB, the full GPU.
MODULE_BY_PART = {
    "p3767-0004": "orin_nano_4gb",
    "p3767-0003": "orin_nano_8gb",
    "p3767-0005": "orin_nano_8gb",
    "p3767-0001": "orin_nx_8gb",
    "p3767-0000": "orin_nx_16gb",
    "p3701-0004": "agx_orin_32gb",
    "p3701-0000": "agx_orin_64gb",
    "p3701-0005": "agx_orin_64gb",
    "p3834-0000": "thor_t4000",
    "p3834-0008": "thor_t5000",
    "p3668-0000": "xavier_nx_8gb",
    "p3668-0001": "xavier_nx_8gb",
    "p2888-0003": "agx_xavier_32gb",
    "p2888-0004": "agx_xavier_32gb",
}
# Family by words of the model, and modules by the least memory they show (NVIDIA's detector). AGX
# Orin is left out: 32 GB is the smaller module or the first devkit, with another GPU.
MODULE_BY_MEMORY_GIB = {
    "Orin Nano": ((7, "orin_nano_8gb"), (3, "orin_nano_4gb")),
    "Orin NX": ((14, "orin_nx_16gb"), (7, "orin_nx_8gb")),
    "Thor": ((96, "thor_t5000"), (32, "thor_t4000")),
}
PI_5, PI_5_MODULE, PI_5_LEAST_GIB = "raspberrypi,5-model-b", "raspberry_pi_5_8gb", 7
# TPCs of the whole chip; each has 2 SMs. Derived from NVIDIA's nvpmodel files and the SM counts of
# the modules: mask 240 leaves an Orin Nano its 8 SMs, mask 1 a Xavier NX its 6.
TPCS_BY_SOC = {"nvidia,tegra234": 8, "nvidia,tegra194": 4}
SMS_PER_TPC = 2
TPC_MASKS = ("sys/devices/platform/gpu.0/tpc_pg_mask", "sys/devices/gpu.0/tpc_pg_mask")

_MODEL, _COMPATIBLE = "proc/device-tree/model", "proc/device-tree/compatible"
_BOOT_CONTROL, _CPUS, _MEMORY = "etc/nv_boot_control.conf", "sys/devices/system/cpu", "proc/meminfo"
_SPEC = re.compile(r"^(TNSPEC|COMPATIBLE_SPEC)\s+(\d{4})-[^-\s]*-(\d{4})-(\S*)", re.MULTILINE)
_PART = re.compile(r"\bp\d{4}-\d{4}\b")


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


def read_identity(
    files: SystemFiles, run: Runner | None = None, jtop: JtopSource | None = None
) -> BoardIdentity:
    """Read who this board is; `run` may be asked for `nvpmodel -q`, `jtop` is preferred to it."""
    compatible = (files.text(_COMPATIBLE) or "").split("\0")
    model, model_source = _model(files)
    memory_mib, cores = _memory_total_mib(files), count_cores(files.text(f"{_CPUS}/online"))
    part, part_source = _part(files, compatible, jtop)
    module, module_source = _module(part, part_source, model, compatible, memory_mib)
    modes = read_power_modes(files)
    mode = (jtop.power_mode() if jtop else None) or read_current_mode(files, modes, run)
    is_super, super_source = _is_super(files, modes)
    mask, mask_source = _sm_mask(files, modes, mode)
    sms = _active_sms(mask, compatible)
    l4t = read_l4t(files)
    known = {
        "name": (model, model_source),
        "module": (module, module_source),
        "part_number": (part, part_source),
        "l4t": (l4t, f"/{RELEASE}"),
        "jetpack": (jetpack_from_l4t(l4t), "L4T release, map of jetson_stats"),
        "power_mode": (mode.name if mode else None, mode.source if mode else ""),
        "power_mode_id": (mode.id if mode else None, mode.source if mode else ""),
        "is_super": (is_super, super_source),
        "sm_mask": (mask, mask_source),
        "active_sms": (sms, f"{mask_source}: {SMS_PER_TPC} SMs a TPC (derived)"),
        "cores_online": (cores, f"/{_CPUS}/online"),
        "memory_total_mib": (memory_mib, f"/{_MEMORY}"),
        "python": (platform.python_version(), "this interpreter"),
    }
    sources = {name: source for name, (value, source) in known.items() if value is not None}
    return BoardIdentity(**{name: value for name, (value, _) in known.items()}, sources=sources)


def count_cores(ranges: str | None) -> int | None:
    """Count a list such as `0-3,6`; None for another text."""
    total = 0
    for part in (ranges or "").split(","):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            return None
        total += int(last or first) - int(first) + 1
    return total


def _model(files: SystemFiles) -> tuple[str, str]:
    model = files.text(_MODEL)
    if model:
        return model, f"/{_MODEL}"
    cpu = re.search(r"^model name\s*:\s*(.+)$", files.text("proc/cpuinfo") or "", re.MULTILINE)
    return (cpu[1], "/proc/cpuinfo") if cpu else (platform.machine(), "this interpreter")


def _part(
    files: SystemFiles, compatible: list[str], jtop: JtopSource | None
) -> tuple[str | None, str]:
    """Return the part number of the module and where it was read."""
    asked = jtop.part_number() if jtop else None
    if asked in MODULE_BY_PART:
        return asked, "jtop"
    specs = {spec[1]: f"p{spec[2]}-{spec[3]}" for spec in _specs(files)}
    if "TNSPEC" in specs:
        return specs["TNSPEC"], f"/{_BOOT_CONTROL}, TNSPEC"
    listed = _PART.findall(" ".join(compatible))
    for part in listed:
        if part in MODULE_BY_PART:
            return part, f"/{_COMPATIBLE}"
    if specs:
        return specs["COMPATIBLE_SPEC"], f"/{_BOOT_CONTROL}, COMPATIBLE_SPEC"
    return None, ""


def _specs(files: SystemFiles) -> list[re.Match[str]]:
    return list(_SPEC.finditer(files.text(_BOOT_CONTROL) or ""))


def _module(
    part: str | None,
    part_source: str,
    model: str,
    compatible: list[str],
    memory_mib: float | None,
) -> tuple[str | None, str]:
    if part is not None:
        return MODULE_BY_PART.get(part), part_source
    memory_gib = (memory_mib or 0.0) / 1024
    if PI_5 in compatible:
        is_8gb = memory_gib >= PI_5_LEAST_GIB
        return PI_5_MODULE if is_8gb else None, f"/{_COMPATIBLE} and memory"
    for words, modules in MODULE_BY_MEMORY_GIB.items():
        if words in model:
            fitting = (module for least_gib, module in modules if memory_gib >= least_gib)
            return next(fitting, None), f"/{_MODEL} and memory"
    return None, ""


def _is_super(files: SystemFiles, modes: PowerModes | None) -> tuple[bool | None, str]:
    """Tell whether the board is flashed with the Super modes, by TNSPEC or by its modes."""
    for spec in _specs(files):
        if spec[1] == "TNSPEC" and spec[4].rstrip("-").endswith("-super"):
            return True, f"/{_BOOT_CONTROL}, TNSPEC"
    return (None, "") if modes is None else (modes.is_super, f"/{CONF}")


def _sm_mask(
    files: SystemFiles, modes: PowerModes | None, mode: CurrentMode | None
) -> tuple[int | None, str]:
    """Return the mask of switched-off TPCs: as it is, else as the power mode asks for it."""
    for path in TPC_MASKS:
        number = files.number(path)
        if number is not None:
            return int(number), f"/{path}"
    limits = modes.by_id(mode.id) if modes and mode else None
    if limits is None or limits.tpc_mask is None:
        return None, ""
    return limits.tpc_mask, f"/{CONF}, mode {limits.name}"


def _active_sms(mask: int | None, compatible: list[str]) -> int | None:
    tpcs = next((TPCS_BY_SOC[name] for name in compatible if name in TPCS_BY_SOC), None)
    if mask is None or tpcs is None:
        return None
    return SMS_PER_TPC * (tpcs - (mask & (1 << tpcs) - 1).bit_count())


def _memory_total_mib(files: SystemFiles) -> float | None:
    total = re.search(r"^MemTotal:\s*(\d+)", files.text(_MEMORY) or "", re.MULTILINE)
    return round(int(total[1]) / 1024, 1) if total else None
