"""Find out whether pictures can be rendered off-screen here, and install what is missing.

    python -m sim.gl              exit 0 when they can, else 2 and the command that installs it
    python -m sim.gl --install    run that command when this user may

MuJoCo renders off-screen through EGL; on a machine without a GPU driver that is Mesa's software
renderer. A broken library can take the interpreter down, so the trial runs in its own process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

from firmware_bridge.command_line import CommandParser

PACKAGES = ("libegl1", "libgl1-mesa-dri")
INSTALL_COMMAND = f"apt-get install -y {' '.join(PACKAGES)}"
GL_BACKEND = "egl"
PROBE_TIMEOUT_S = 60.0
PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""


class GlError(Exception):
    """Off-screen rendering does not work on this machine."""


def gl_environment() -> dict[str, str]:
    """Return this process's environment with MuJoCo told to render through EGL."""
    return {**os.environ, "MUJOCO_GL": GL_BACKEND}


def ensure_gl(environment: Mapping[str, str] | None = None) -> None:
    """Raise GlError with the command that helps unless a picture can be rendered off-screen.

    Renders one in a process of its own; takes about a second.
    """
    try:
        trial = subprocess.run(
            [sys.executable, "-c", PROBE],
            env=gl_environment() if environment is None else dict(environment),
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GlError(f"rendering off-screen hung for {PROBE_TIMEOUT_S:.0f} s") from error
    if trial.returncode == 0:
        return
    lines = trial.stderr.strip().splitlines()
    if any("No module named 'mujoco'" in line for line in lines):
        raise GlError("the simulator needs mujoco; install it with 'pip install mujoco'")
    # Clean-up after the failure adds "Exception ignored" noise; the first raised error counts.
    reason = next((line for line in lines if _is_error_line(line)), f"exit {trial.returncode}")
    raise GlError(f"no off-screen OpenGL here ({reason[:80]}); run '{_install_line()}'")


def install() -> None:
    """Install the packages through apt-get as root or by sudo without a password.

    Raises GlError with the command when that is not possible or fails.
    """
    prefix = _root_prefix()
    if prefix is None or shutil.which("apt-get") is None:
        raise GlError(f"may not install packages here; run '{_install_line()}'")
    command = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", *INSTALL_COMMAND.split()]
    # A fresh container has no package lists, so a first failure is answered with an update.
    for attempt in (command, [*prefix, "apt-get", "update"], command):
        done = subprocess.run(attempt, stdout=subprocess.DEVNULL, check=False).returncode == 0
        if done and attempt is command:
            return
    raise GlError(f"apt-get could not install {' '.join(PACKAGES)}; run '{_install_line()}'")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = CommandParser(
        prog="python -m sim.gl",
        description="Check that pictures can be rendered off-screen.",
        epilog="example: python -m sim.gl --install",
    )
    parser.add_argument(
        "--install", action="store_true", help=f"when they cannot, run '{INSTALL_COMMAND}'"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Check, install if asked to, check again; 0 when pictures can be rendered, else 2."""
    args = build_parser().parse_args(argv)
    try:
        try:
            ensure_gl()
        except GlError:
            if not args.install:
                raise
            print(f"installing {' '.join(PACKAGES)} for off-screen rendering", flush=True)
            install()
            ensure_gl()
    except GlError as error:
        print(f"sim.gl: error: {error}", file=sys.stderr)
        return 2
    return 0


def _is_error_line(line: str) -> bool:
    return not line.startswith((" ", "Exception ignored", "Traceback")) and "Error" in line


def _install_line() -> str:
    return INSTALL_COMMAND if os.geteuid() == 0 else f"sudo {INSTALL_COMMAND}"


def _root_prefix() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") is None:
        return None
    may = subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0
    return sudo if may else None


if __name__ == "__main__":
    sys.exit(main())
