"""Put a release together for one kind of device: wheels, bundle, profile, service, agent."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from deploy.agent_archive import agent_archive
from deploy.device.layout import SERVICE
from deploy.device.release_manifest import AGENT, BUNDLE, SCHEMA, SYSTEM, WHEELS
from deploy.device.service import UDEV_RULES
from deploy.device.version import AGENT_VERSION
from deploy.errors import FlashError
from deploy.profile_files import profile_files
from deploy.release import Release, write_release
from deploy.robot_wheel import robot_wheel
from deploy.wheels import fits, robot_wheels
from edge.bundle import EMBEDDINGS
from edge.manifest import MANIFEST_NAME, read_manifest
from edge.profile import PORT_SIMULATED, Profile
from edge.rung_verdicts import LADDER_NAME

CUDA = "CUDAExecutionProvider"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ReleaseOptions:
    """What goes into a release, and for what."""

    bundle: Path
    profile: str
    machine: str
    python: str
    key: Path
    name: str | None = None  # None: the profile's
    wheels: tuple[Path, ...] = ()  # instead of those from the package index


def build_release(options: ReleaseOptions, folder: Path, say: Callable[[str], None]) -> Release:
    """Write a release into `folder`, which must not exist; FlashError names what does not fit."""
    bundle = _bundle_parts(options.bundle)
    argument, profile_parts, profile = profile_files(options.profile)
    if profile.port == PORT_SIMULATED:
        raise FlashError(
            f"profile {profile.name} simulates its arm, and releases carry no simulator; choose "
            "the profile of a real arm (so101)"
        )
    say(f"collecting wheels for {options.machine}, Python {options.python}")
    wheels = robot_wheels(options.machine, options.python, options.wheels)
    for wheel in wheels:
        if not fits(wheel, options.machine, options.python):
            raise FlashError(
                f"{wheel.name} is not for {options.machine} with Python {options.python}"
            )
    own_name, own_wheel = robot_wheel()
    parts: dict[str, bytes | Path] = {WHEELS + own_name: own_wheel}
    parts |= {WHEELS + wheel.name: wheel for wheel in wheels}
    parts |= bundle | profile_parts | system_parts()
    unpacked_bytes = sum(unpacked_size(wheel) for wheel in [own_wheel, *wheels])
    needs = {
        "unpacked_bytes": unpacked_bytes,
        "memory_mib": _weights_mib(bundle),
        "provider": CUDA if any(_is_gpu_engine(wheel) for wheel in wheels) else None,
        "part_numbers": _part_numbers(profile),
    }
    digest = hashlib.sha256((options.bundle / MANIFEST_NAME).read_bytes()).hexdigest()
    target = {"machine": options.machine, "python": options.python}
    name = options.name or re.sub(r"[^a-z0-9._-]", "-", profile.name.lower())[:48]
    stated = stated_release(name, target, argument, profile.name, digest, needs)
    return write_release(folder, stated, parts, options.key)


def stated_release(
    name: str,
    target: dict[str, str],
    profile: str,
    profile_name: str,
    bundle_sha256: str,
    needs: dict[str, Any],
    sequence: int | None = None,
) -> dict[str, Any]:
    """Return a manifest but for its files; the sequence is the UTC second where none is given."""
    now = datetime.now(timezone.utc)
    return {
        "schema": SCHEMA,
        "sequence": sequence or int(now.strftime("%Y%m%d%H%M%S")),
        "name": name,
        "created_utc": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "target": target,
        "profile": profile,
        "profile_name": profile_name,
        "bundle_sha256": bundle_sha256,
        "agent_version": AGENT_VERSION,
        "needs": needs,
    }


def system_parts() -> dict[str, bytes | Path]:
    """Return what every release brings besides: unit, udev rule, agent."""
    folder = resources.files("deploy").joinpath("system")
    parts: dict[str, bytes | Path] = {
        SYSTEM + name: folder.joinpath(name).read_bytes() for name in (SERVICE, UDEV_RULES)
    }
    return parts | {AGENT: agent_archive()}


def unpacked_size(wheel: Path | bytes) -> int:
    """Return the bytes that a wheel's files take; FlashError when it is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(wheel) if isinstance(wheel, bytes) else wheel) as archive:
            return sum(member.file_size for member in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise FlashError(f"{wheel}: a damaged wheel ({error})") from error


def _bundle_parts(bundle: Path) -> dict[str, bytes | Path]:
    """The manifest, what it lists, and verdicts on rungs; nothing that happens to lie beside."""
    names = [MANIFEST_NAME, *read_manifest(bundle).files]
    names += [LADDER_NAME] if (bundle / LADDER_NAME).is_file() else []
    missing = [name for name in names if not (bundle / name).is_file()]
    if missing:
        raise FlashError(f"{bundle}: {missing[0]} is missing; build the bundle again")
    return {BUNDLE + name: bundle / name for name in names}


def _weights_mib(bundle: dict[str, bytes | Path]) -> int:
    """What opening a bundle must read: all but the embedding table, of which only rows are."""
    files = [path for name, path in bundle.items() if name != BUNDLE + EMBEDDINGS]
    return sum(path.stat().st_size for path in files) // _MIB


def _part_numbers(profile: Profile) -> list[str]:
    """The NVIDIA modules a profile is for; other boards do not say what they are."""
    hardware = profile.board.hardware
    values = () if hardware is None else hardware.part_numbers.values
    return [part for part in values if re.fullmatch(r"p\d{4}-\d{4}", part)]


def _is_gpu_engine(wheel: Path) -> bool:
    return wheel.name.lower().startswith("onnxruntime_gpu-")
