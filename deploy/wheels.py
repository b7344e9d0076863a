"""Get the wheels a device needs, for its processor and its Python, onto the workstation."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.errors import FlashError
from edge.errors import one_line

# All that `edge` and `firmware_bridge` import; what these declare beyond each other is used for
# development or downloads (onnxruntime: sympy; tokenizers: huggingface-hub), never by the robot.
ROBOT_PACKAGES = (
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "pyserial",
    "pyyaml",
    "tokenizers",
)
# glibc that a device has at least: 2.35 on JetPack 6 (Ubuntu 22.04), 2.39 on 7, 2.31 on 5.
_GLIBC_MINORS = (31, 28, 27, 24, 17)
_MACHINES = ("aarch64", "x86_64")
# numpy there is 1.26, which wheels built against numpy 1 load: NVIDIA's for JetPack 6.
_CONSTRAINTS = {"3.10": "runtime-py310.txt", "3.11": "runtime-py310.txt"}
_NEWEST_CONSTRAINTS = "runtime-py312.txt"
_DOWNLOAD_S = 1800.0
_FOLDER = Path(__file__).parent.parent / "constraints"


def robot_wheels(machine: str, python: str, given: tuple[Path, ...] = ()) -> list[Path]:
    """Return the wheels of the robot runtime; downloads what is not in the cache yet.

    A wheel file that is `given` takes the place of the package of its name; NVIDIA's
    onnxruntime_gpu that of onnxruntime.
    """
    if machine not in _MACHINES:
        raise FlashError(f"no wheels are made for {machine}; known: {', '.join(_MACHINES)}")
    replaced = {_package(path): path for path in given}
    names = [name for name in ROBOT_PACKAGES if name not in replaced]
    if any(name.startswith("onnxruntime-") for name in replaced):
        names.remove("onnxruntime")
    pins = [_pins(python)[name] for name in names]
    if not pins:
        return sorted(given, key=lambda path: path.name)
    folder = _cache() / _key(machine, python, pins)
    if not folder.is_dir():
        _download(folder, machine, python, pins)
    return sorted([*folder.glob("*.whl"), *given], key=lambda path: path.name)


def fits(path: Path, machine: str, python: str) -> bool:
    """Say whether a wheel's file name is for this processor and Python (PEP 425)."""
    *_, python_tag, abi_tag, platform_tag = path.name.removesuffix(".whl").split("-")
    here = "cp" + python.replace(".", "")
    right_python = any(
        tag in (here, "py3")
        or (abi_tag == "abi3" and tag.startswith("cp3") and int(tag[3:]) <= int(here[3:]))
        for tag in python_tag.split(".")
    )
    return right_python and any(
        tag == "any" or tag.endswith(f"_{machine}") for tag in platform_tag.split(".")
    )


def _package(path: Path) -> str:
    if not path.is_file() or path.suffix != ".whl" or path.name.count("-") < 4:
        raise FlashError(f"{path}: no wheel file; --wheel takes NAME-VERSION-TAGS.whl")
    return re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower()


def _pins(python: str) -> dict[str, str]:
    path = _FOLDER / _CONSTRAINTS.get(python, _NEWEST_CONSTRAINTS)
    try:
        lines = path.read_text("utf-8").split()
    except OSError as error:
        raise FlashError(
            f"{path}: {error.strerror}; releases are built in a checkout of the project"
        ) from error
    pins = {line.split("==")[0]: line for line in lines if "==" in line}
    missing = [name for name in ROBOT_PACKAGES if name not in pins]
    if missing:
        raise FlashError(f"{path}: no version for {', '.join(missing)}")
    return pins


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "molmoact-edge" / "wheels"


def _key(machine: str, python: str, pins: list[str]) -> str:
    digest = hashlib.sha256("\n".join(pins).encode()).hexdigest()[:12]
    return f"{machine}-py{python}-{digest}"


def _download(folder: Path, machine: str, python: str, pins: list[str]) -> None:
    """Fill `folder`, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC_MINORS]
    platforms.append(f"--platform=manylinux2014_{machine}")
    abi = "cp" + python.replace(".", "")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--implementation=cp", *platforms]
    command += [f"--python-version={python}", f"--abi={abi}", "--abi=abi3", "--abi=none"]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as name:
        try:
            done = subprocess.run(
                [*command, f"--dest={name}", *pins],
                capture_output=True,
                text=True,
                timeout=_DOWNLOAD_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FlashError(f"the wheels did not come within {_DOWNLOAD_S:g} s") from error
        if done.returncode:
            raise FlashError(
                f"cannot get the wheels for {machine}, Python {python}: "
                f"{one_line(RuntimeError(done.stderr.strip() or 'pip says nothing'))}"
            )
        wheels = Path(name) / "wheels"
        wheels.mkdir()
        for path in Path(name).glob("*.whl"):
            path.rename(wheels / path.name)
        wheels.rename(folder)
