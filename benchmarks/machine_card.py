"""The card of a profile: which machine, which software, which bundle, and what the figures are.

A profile may describe another board than the one it is measured on. Then every output says so: no
figure of this machine stands under that board's name.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import onnxruntime

from edge.board_identity import BoardIdentity
from edge.board_state import BoardState
from edge.manifest import Manifest
from edge.profile import Profile

MEASURED = "measured"
_PROJECT = Path(__file__).resolve().parent.parent
_PACKAGE = "molmoact-edge"


@dataclass(frozen=True, slots=True)
class MachineCard:
    """The machine as read from it; None where it does not say."""

    name: str
    module: str | None
    part_number: str | None
    cpu: str
    architecture: str
    cores: int
    memory_mib: float | None
    system: str
    kernel: str
    l4t: str | None
    jetpack: str | None
    power_mode: str | None
    power_mode_id: int | None
    active_sms: int | None
    clocks_mhz: dict[str, float]
    caps_mhz: dict[str, float]
    python: str
    onnxruntime: str
    providers: tuple[str, ...]
    commit: str
    read_from: dict[str, str]


@dataclass(frozen=True, slots=True)
class BundleCard:
    """The bundle."""

    path: str
    files_sha256: str  # over name and digest of every file, in name order; a verdict changes none
    source_sha256: str
    recipe: str
    mib: float


@dataclass(frozen=True, slots=True)
class ProfileCard:
    """The profile, and the board it describes."""

    name: str
    board: str
    module: str | None
    describes: str | None  # name of the module and its power mode
    arm: str
    control_hz: float
    threads: int | None


@dataclass(frozen=True, slots=True)
class Labels:
    """What kind of figures a report holds."""

    times: str  # always MEASURED: on `machine`
    servos: str  # emulated, real, or no
    machine: str
    foreign: str | None  # that the profile describes another board or mode; None: it does not


def read_machine(identity: BoardIdentity, state: BoardState) -> MachineCard:
    """Describe the machine that this program runs on."""
    return MachineCard(
        name=identity.name,
        module=identity.module,
        part_number=identity.part_number,
        cpu=_cpu_model() or identity.name,
        architecture=platform.machine(),
        cores=identity.cores_online or os.cpu_count() or 1,
        memory_mib=identity.memory_total_mib,
        system=_system(),
        kernel=platform.release(),
        l4t=identity.l4t,
        jetpack=identity.jetpack,
        power_mode=identity.power_mode,
        power_mode_id=identity.power_mode_id,
        active_sms=identity.active_sms,
        clocks_mhz=state.clocks_mhz,
        caps_mhz=state.caps_mhz,
        python=identity.python,
        onnxruntime=onnxruntime.__version__,
        providers=tuple(onnxruntime.get_available_providers()),
        commit=read_commit(),
        read_from=identity.sources,
    )


def read_bundle(path: Path, manifest: Manifest) -> BundleCard:
    """Describe a bundle that was opened."""
    lines = (f"{name} {entry.sha256}\n" for name, entry in sorted(manifest.files.items()))
    total_bytes = sum(entry.size_bytes for entry in manifest.files.values())
    return BundleCard(
        path=str(path),
        files_sha256=hashlib.sha256("".join(lines).encode()).hexdigest(),
        source_sha256=manifest.source.sha256,
        recipe=manifest.recipe.name,
        mib=round(total_bytes / (1 << 20), 1),
    )


def read_profile(profile: Profile) -> ProfileCard:
    """Describe a profile."""
    hardware = profile.board.hardware
    mode = hardware.power_mode if hardware else None
    return ProfileCard(
        name=profile.name,
        board=profile.board.name,
        module=hardware.module if hardware else None,
        describes=None if hardware is None else _with_mode(hardware.name, mode and mode.name),
        arm=profile.arm.name,
        control_hz=profile.arm.control_hz,
        threads=profile.board.threads,
    )


def label(profile: Profile, machine: MachineCard, servos: str) -> Labels:
    """Say what the figures are, and whether the profile describes something else."""
    cores = f"{machine.cores} core{'s' * (machine.cores > 1)}"
    name = f"{_with_mode(machine.name, machine.power_mode)}, {cores}, {machine.architecture}"
    return Labels(MEASURED, servos, name, _foreign(profile, machine, name))


def read_commit() -> str:
    """Return the commit of a checkout, with a + for changes, or the version that is installed."""
    try:
        done = subprocess.run(
            ("git", "-C", str(_PROJECT), "describe", "--always", "--abbrev=12", "--dirty=+"),
            capture_output=True,
            text=True,
            timeout=10.0,
        )
    except (OSError, subprocess.SubprocessError):
        return _version()
    return done.stdout.strip() if done.returncode == 0 else _version()


def _foreign(profile: Profile, machine: MachineCard, name: str) -> str | None:
    hardware = profile.board.hardware
    if hardware is None:
        return None
    mode = hardware.power_mode
    told = f"every figure here but the predicted ones is of {name}"
    if hardware.module != machine.module:
        whole = _with_mode(hardware.name, mode and mode.name)
        return f"profile {profile.name} describes {whole}; {told}"
    if mode is not None and mode.name != machine.power_mode:
        now = f"the board is in {machine.power_mode or 'an unknown one'}"
        return f"profile {profile.name} describes power mode {mode.name}, {now}; {told}"
    return None


def _with_mode(name: str, mode: str | None) -> str:
    return f"{name} in {mode}" if mode else name


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line for line in lines if line.startswith("model name"))
    return next(found, "").partition(":")[2].strip()


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _version() -> str:
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        return "unknown"
