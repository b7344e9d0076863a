"""First contact: make a machine a device that takes releases signed by the keys given now.

Runs as root for a robot (service under systemd, user of its own), or as anybody with a root folder
that is theirs. Doing it again changes keys, agent and configuration and keeps every release.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Callable

from deploy.device.durable import write_whole
from deploy.device.errors import DeviceError
from deploy.device.interpreter import interpreters
from deploy.device.layout import DEFAULT_ROOT, SUPERVISOR, SYSTEMD, Config, Layout, read_config
from deploy.device.signature import AllowedKey, key_from_public, read_allowed_keys

SERVICE_USER = "molmoact"
# serial port; cameras and GPU; power rails; jetson-stats
_GROUPS = ("dialout", "video", "render", "i2c", "jtop")
_SUDOERS = Path("/etc/sudoers.d/molmoact-edge")


def provision(
    layout: Layout,
    keys: list,
    archive: Path,
    push_user: str | None,
    service_user: str | None,
    python: str | None,
    forget_state: bool,
    say: Callable[[str], None],
) -> None:
    """Make the folders, the service's user, the right to push, keys and agent; DeviceError."""
    if shutil.which("ssh-keygen") is None:
        raise DeviceError("ssh-keygen is missing; install openssh-client")
    as_robot = os.geteuid() == 0 and str(layout.root) == DEFAULT_ROOT
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.root.chmod(0o755)
    for folder in layout.folders:
        folder.mkdir(exist_ok=True)
    user = service_user or (SERVICE_USER if as_robot else None)
    if user is not None:
        _make_user(layout, user)
    if python is None and layout.config.exists():
        python = read_config(layout).python
    config = Config(_service_kind(as_robot), user, python)
    if python and python not in interpreters(config).values():
        raise DeviceError(f"{python} is no Python from 3.10 to 3.13")
    write_whole(layout.config, json.dumps(config.as_json()).encode("utf-8"))
    _write_keys(layout, keys)
    if layout.agent.resolve() != archive.resolve():
        write_whole(layout.agent, archive.read_bytes(), 0o755)
    if forget_state and layout.state.exists():
        os.replace(str(layout.state), str(layout.state.with_name("state.json.forgotten")))
    if as_robot and push_user and push_user != "root":
        _allow_push(layout, push_user)
    names = ", ".join(key.name for key in read_allowed_keys(layout.keys))
    say(f"{layout.root} takes releases signed by {names}")
    found = interpreters(config)
    say(
        "service: {}, as {}; Python: {}".format(config.service, user or "this user", _listed(found))
    )


def allowed_keys(lines: list) -> list:
    """Read public keys, one a line, each called by its comment."""
    keys = [key_from_public(line) for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise DeviceError("no public key was given; make one: ssh-keygen -t ed25519 -f FILE")
    return keys


def _service_kind(as_robot: bool) -> str:
    return SYSTEMD if as_robot and os.path.isdir("/run/systemd/system") else SUPERVISOR


def _write_keys(layout: Layout, keys: list) -> None:
    by_key: dict[str, AllowedKey] = {key.key: key for key in keys}
    text = "".join(key.line + "\n" for key in by_key.values())
    write_whole(layout.keys, text.encode("utf-8"))


def _make_user(layout: Layout, user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        home = ["--home-dir", str(layout.home), "--no-create-home", "--shell", "/usr/sbin/nologin"]
        _run(["useradd", "--system", "--user-group", *home, user])
    for group in _GROUPS:
        if _has_group(group):
            _run(["usermod", "--append", "--groups", group, user])
    entry = pwd.getpwnam(user)
    os.chown(str(layout.home), entry.pw_uid, entry.pw_gid)


def _has_group(name: str) -> bool:
    with open("/etc/group") as file:
        return any(line.split(":")[0] == name for line in file)


def _allow_push(layout: Layout, user: str) -> None:
    """Let `user` start the agent as root, and nothing else; what it installs must be signed."""
    command = f"/usr/bin/python3 -I {layout.agent} session"
    text = f"{user} ALL=(root) NOPASSWD: {command}\n"
    write_whole(_SUDOERS, text.encode("utf-8"), 0o440)
    try:
        _run(["visudo", "-cf", str(_SUDOERS)])
    except DeviceError:
        _SUDOERS.unlink()
        raise


def _run(command: list) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip().splitlines() or [""]
        raise DeviceError("{}: {}".format(" ".join(command), said[-1]))


def _listed(found: dict) -> str:
    return ", ".join(found) or "none from 3.10 to 3.13 yet"
