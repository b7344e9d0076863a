"""What a release must find on a device, read there before anything is sent."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from pathlib import Path

from deploy.device.errors import RefusedError
from deploy.device.health import memory_available_mib, memory_total_mib
from deploy.device.interpreter import interpreters
from deploy.device.layout import Config, Layout
from deploy.device.release_manifest import ReleaseManifest

DISK_RESERVE_BYTES = 200 << 20
# What the rest of the system keeps for itself: a headless Orin Nano uses 0.54 GiB at idle.
SYSTEM_MIB = 600
MOST_CLOCK_ERROR_S = 3600.0


def device_facts(layout: Layout, config: Config, root: Path = Path("/")) -> dict:
    """Describe the device; null where it does not say."""
    return {
        "machine": platform.machine(),
        "pythons": interpreters(config),
        "free_bytes": shutil.disk_usage(str(layout.root)).free,
        "memory_total_mib": memory_total_mib(),
        "memory_available_mib": memory_available_mib(),
        "clock_s": time.time(),
        "l4t": _l4t(root),
        "part_number": _part_number(root),
        "model": _device_tree(root, "model"),
        "cuda": _has_cuda(root),
        "kernel": platform.release(),
    }


def check_device(manifest: ReleaseManifest, facts: dict, to_receive_bytes: int) -> None:
    """Raise RefusedError with the first reason why a release does not belong on this device."""
    needs = manifest.needs
    if manifest.machine != facts["machine"]:
        raise RefusedError(
            "the release is for {}, this device is {}".format(manifest.machine, facts["machine"])
        )
    if manifest.python not in facts["pythons"]:
        raise RefusedError(
            "the release is for Python {}; this device has {}; on JetPack 5 (Python 3.8) install a "
            "newer one and provision with --python PATH".format(
                manifest.python, ", ".join(facts["pythons"]) or "none from 3.10 to 3.13"
            )
        )
    part = facts["part_number"]
    if needs.part_numbers and part is not None and part not in needs.part_numbers:
        raise RefusedError(
            "profile {} is for {}, this module is {}; choose this board's profile".format(
                manifest.profile_name, ", ".join(needs.part_numbers), part
            )
        )
    if needs.part_numbers and part is None:
        raise RefusedError(
            "profile {} is for {}, this machine does not say that it is one".format(
                manifest.profile_name, ", ".join(needs.part_numbers)
            )
        )
    _check_room(manifest, facts, to_receive_bytes)
    if needs.provider == "CUDAExecutionProvider" and not facts["cuda"]:
        raise RefusedError(
            "the release computes with CUDA and this device has no CUDA driver library; install "
            "JetPack's runtime (sudo apt install nvidia-jetpack), or build without --wheel"
        )


def check_clock(facts: dict, host_s: float) -> None:
    """Raise RefusedError when the device's clock is far from the host's; boards may have none."""
    off_s = facts["clock_s"] - host_s
    if abs(off_s) > MOST_CLOCK_ERROR_S:
        raise RefusedError(
            "the device's clock is {:.1f} hours {}; set it (sudo timedatectl set-ntp true), or its "
            "logs and black boxes carry wrong dates".format(
                abs(off_s) / 3600, "ahead" if off_s > 0 else "behind"
            )
        )


def _check_room(manifest: ReleaseManifest, facts: dict, to_receive_bytes: int) -> None:
    wanted = to_receive_bytes + manifest.needs.unpacked_bytes + DISK_RESERVE_BYTES
    if facts["free_bytes"] < wanted:
        raise RefusedError(
            f"{facts['free_bytes'] >> 20} MiB of disk are free, {(wanted >> 20) + 1} are "
            "needed; free some with 'molmoact-flash prune'"
        )
    total = facts["memory_total_mib"]
    if total is not None and manifest.needs.memory_mib > total - SYSTEM_MIB:
        raise RefusedError(
            f"the bundle's weights alone take {manifest.needs.memory_mib} MiB of memory, "
            f"this device has {total} less {SYSTEM_MIB} for the system; build the bundle "
            "with fewer bits"
        )


def _l4t(root: Path) -> str | None:
    """Return "36.4.3" from `# R36 (release), REVISION: 4.3, ...`."""
    found = re.match(
        r"# R(\d+) \(release\), REVISION: ([0-9.]+)", _read(root, "etc/nv_tegra_release")
    )
    return "{}.{}".format(*found.groups()) if found else None


def _part_number(root: Path) -> str | None:
    """Return "p3767-0005" from `TNSPEC 3767-300-0005-...`, else from the device tree's names."""
    spec = re.search(
        r"^\s*(?:TNSPEC|COMPATIBLE_SPEC)\s+(\d{4})-[^-\s]*-(\d{4})",
        _read(root, "etc/nv_boot_control.conf"),
        re.MULTILINE,
    )
    if spec:
        return "p{}-{}".format(*spec.groups())
    named = re.search(
        r"\bp(3767|3701|3834|3668|2888)-(\d{4})", _device_tree(root, "compatible") or ""
    )
    return "p{}-{}".format(*named.groups()) if named else None


def _device_tree(root: Path, name: str) -> str | None:
    text = _read(root, "proc/device-tree/" + name)
    return " ".join(text.replace("\0", " ").split()) or None


def _has_cuda(root: Path) -> bool:
    names = ("usr/lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu/nvidia")
    names += ("usr/lib/aarch64-linux-gnu/tegra", "usr/lib/x86_64-linux-gnu")
    return any(os.path.exists(str(root / name / "libcuda.so.1")) for name in names)


def _read(root: Path, name: str) -> str:
    try:
        return (root / name).read_text("utf-8", "replace")
    except OSError:
        return ""
