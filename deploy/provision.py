"""First contact with a device: install the agent and the keys it is to trust, with sudo there."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from deploy.agent_archive import agent_archive
from deploy.device.layout import DEFAULT_ROOT
from deploy.errors import FlashError
from deploy.signing import public_key

_UPLOAD = 'umask 077; d=$(mktemp -d) && cat > "$d/{name}" && echo "$d"'
_UPLOAD_MORE = "cat > {folder}/{name}"
_REMOTE_S = 120.0


def provision_host(
    ssh: list[str],
    keys: tuple[Path, ...],
    root: str = DEFAULT_ROOT,
    python: str | None = None,
    forget_state: bool = False,
) -> None:
    """Make the machine behind `ssh` a device, which says so itself; may ask for its password."""
    lines = [public_key(path) for path in keys]
    text = "".join(f"{key.kind} {key.key} {key.name}\n" for key in lines)
    folder = _remote([*ssh, _UPLOAD.format(name="agent.pyz")], agent_archive()).strip()
    quoted = shlex.quote(folder)
    _remote([*ssh, _UPLOAD_MORE.format(folder=quoted, name="keys")], text.encode())
    words = ["/usr/bin/python3", "-I", f"{folder}/agent.pyz", "provision", "--root", root]
    words += ["--keys", f"{folder}/keys"]
    words += ["--python", python] if python else []
    words += ["--forget-state"] if forget_state else []
    command = shlex.join(words)
    if root == DEFAULT_ROOT:
        command = (
            f'if [ "$(id -u)" = 0 ]; then {command}; '
            f'else sudo {command} --push-user "$(id -un)"; fi'
        )
    command = f"{command}; status=$?; rm -rf {quoted}; exit $status"
    exit_code = subprocess.run([*_at_terminal(ssh), command], check=False).returncode
    if exit_code:
        raise FlashError(f"provisioning failed with exit code {exit_code}; the lines above say why")


def _at_terminal(ssh: list[str]) -> list[str]:
    """A terminal lets sudo ask for a password; where nobody can be asked it fails by itself."""
    words = list(ssh)
    if words[0] != "ssh":
        return words
    if "BatchMode=yes" in words:
        place = words.index("BatchMode=yes")
        del words[place - 1 : place + 1]
    return [words[0], "-t", *words[1:]]


def _remote(command: list[str], content: bytes) -> str:
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, timeout=_REMOTE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FlashError(f"{command[0]}: {error}") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise FlashError(f"cannot reach the device: {said[-1]}")
    return done.stdout.decode()
