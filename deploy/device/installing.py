"""Put a release together from the object store: complete under its name, or not there.

releases/20261122093015-kitchen/
    manifest.json  manifest.json.sig  installed.json
    bundle/  profile/  system/
    env/     a virtual environment without pip: bin/python, pyvenv.cfg, site-packages
    bin/     molmoact-edge  molmoact-arm  molmoact-edge-service
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from deploy.device.durable import remove_tree, sync_folder, write_whole
from deploy.device.errors import DeviceError, RefusedError
from deploy.device.interpreter import interpreter
from deploy.device.layout import Config, Layout
from deploy.device.objects import place_object
from deploy.device.release_manifest import BUNDLE, PROFILE, SYSTEM, WHEELS, ReleaseManifest
from deploy.device.signature import signer_of
from deploy.device.wheel_files import unpack_wheel

MANIFEST, SIGNATURE, INSTALLED = "manifest.json", "manifest.json.sig", "installed.json"
UNFINISHED = ".unfinished-"
_COMMANDS = {
    "molmoact-edge": "edge.cli",
    "molmoact-arm": "firmware_bridge.cli",
    "molmoact-edge-service": "edge.service",
}
# -I: nothing from a home folder, nor from the one it starts in, where the service may write. What
# JetPack installs for all users (TensorRT, jetson-stats) is seen, behind what the release brings.
_WRAPPER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/../env/bin/python" -I -B -m %s "$@"
"""
_PYVENV = "home = %s\ninclude-system-site-packages = true\nversion = %s\n"
_COMPILE_S = 900.0
_TESTS = r"/tests?/"  # half of numpy, and never imported


def install_release(
    layout: Layout, config: Config, manifest: ReleaseManifest, signature: bytes
) -> Path:
    """Install a release whose objects are all there; returns its folder, done before or now.

    One that is there and damaged is replaced, unless it runs.
    """
    target = layout.release(manifest.id)
    if target.exists():
        try:
            there = installed_manifest(layout, manifest.id)
        except DeviceError:
            if layout.current_id() == manifest.id:
                raise DeviceError(
                    f"{manifest.id} is damaged and runs; build the release again, then push that"
                ) from None
            remove_tree(target)
        else:
            if there.sha256 == manifest.sha256:
                return target
            raise RefusedError(f"another release is called {target} here; build with another name")
    python = interpreter(config, manifest.python)
    unfinished = layout.releases / (UNFINISHED + manifest.id)
    if unfinished.exists():
        remove_tree(unfinished)
    unfinished.mkdir(mode=0o755)
    try:
        _assemble(layout, manifest, unfinished, python)
        (unfinished / MANIFEST).write_bytes(manifest.content)
        (unfinished / SIGNATURE).write_bytes(signature)
        stated = {"manifest_sha256": manifest.sha256, "python": python, "utc": _utc()}
        write_whole(unfinished / INSTALLED, json.dumps(stated).encode("utf-8"))
        os.sync()  # thousands of small files; the rename must not come to disk before them
        os.rename(str(unfinished), str(target))
        sync_folder(layout.releases)
    except OSError as error:
        remove_tree(unfinished)
        raise DeviceError(
            f"cannot install {manifest.id}: {error.strerror or error}; "
            "'molmoact-flash prune' frees room"
        ) from None
    except DeviceError:
        remove_tree(unfinished)
        raise
    return target


def installed_manifest(layout: Layout, release_id: str) -> ReleaseManifest:
    """Read the manifest of an installed release; DeviceError when it is not a complete one."""
    folder = layout.release(release_id)
    try:
        stated = json.loads((folder / INSTALLED).read_text("utf-8"))
        manifest = ReleaseManifest((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise DeviceError(f"release {release_id} is not installed here") from None
    if (
        not isinstance(stated, dict)
        or stated.get("manifest_sha256") != manifest.sha256
        or manifest.id != release_id
    ):
        raise DeviceError(f"release {release_id} is damaged; push it again")
    return manifest


def installed_releases(layout: Layout) -> list:
    """Return the manifests of all complete releases, the oldest first."""
    found = []
    for entry in layout.releases.iterdir():
        if entry.name.startswith("."):
            continue
        try:
            found.append(installed_manifest(layout, entry.name))
        except DeviceError:
            continue
    return sorted(found, key=lambda manifest: (manifest.sequence, manifest.name))


def check_still_trusted(layout: Layout, release_id: str) -> str:
    """Return who signed an installed release; RefusedError when its key was taken away."""
    folder = layout.release(release_id)
    manifest = installed_manifest(layout, release_id)
    return signer_of(manifest.content, (folder / SIGNATURE).read_bytes(), layout.keys)


def profile_argument(layout: Layout, manifest: ReleaseManifest) -> str:
    """Return the profile as the runtime's commands take it: a shipped name, or a file."""
    if manifest.profile.startswith(PROFILE):
        return str(layout.release(manifest.id) / manifest.profile)
    return manifest.profile


def _assemble(layout: Layout, manifest: ReleaseManifest, folder: Path, python: str) -> None:
    for prefix in (BUNDLE, PROFILE, SYSTEM):
        for file in manifest.under(prefix):
            place_object(layout, file.sha256, file.size, folder / file.path, file.mode)
    site_packages = folder / "env" / "lib" / ("python" + manifest.python) / "site-packages"
    site_packages.mkdir(parents=True)
    for file in manifest.under(WHEELS):
        wheel = folder / "wheel"
        place_object(layout, file.sha256, file.size, wheel, file.mode)
        unpack_wheel(wheel, file.path, site_packages)
        wheel.unlink()
    binaries = folder / "env" / "bin"
    binaries.mkdir()
    (binaries / "python").symlink_to(python)
    home = os.path.dirname(os.path.realpath(python))
    (folder / "env" / "pyvenv.cfg").write_text(_PYVENV % (home, manifest.python))
    (folder / "bin").mkdir()
    for name, module in _COMMANDS.items():
        wrapper = folder / "bin" / name
        wrapper.write_text(_WRAPPER % module)
        wrapper.chmod(0o755)
    _compile(binaries / "python", site_packages)


def _compile(python: Path, site_packages: Path) -> None:
    """Compile to byte code now: the service cannot write there.

    Without `site` (-S), which would run the .pth files of the wheels, as root.
    """
    command = [str(python), "-I", "-S", "-m", "compileall", "-q", "-j", "1", "-x", _TESTS]
    try:
        subprocess.run(
            [*command, str(site_packages)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_COMPILE_S,
            check=False,  # a wheel may hold files for other Pythons; those are never imported
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"compiling took more than {_COMPILE_S:g} s") from None


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
