"""Sign releases with an Ed25519 key, through OpenSSH: the key may live in an agent or a token."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from deploy.device.errors import DeviceError
from deploy.device.signature import NAMESPACE, AllowedKey, key_from_public
from deploy.errors import FlashError

_SIGN_S = 120.0  # somebody may have to touch a token or type a passphrase


def sign(content: bytes, key: Path) -> bytes:
    """Return the signature of `content`; `key` is a private key, or KEY.pub of one in an agent."""
    if not key.is_file():
        raise FlashError(f"{key}: no such key; make one: ssh-keygen -t ed25519 -f {key}")
    with tempfile.TemporaryDirectory(prefix="molmoact-sign-") as folder:
        text = Path(folder) / "manifest"
        text.write_bytes(content)
        command = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE, str(text)]
        try:
            done = subprocess.run(command, stderr=subprocess.PIPE, timeout=_SIGN_S, check=False)
        except FileNotFoundError as error:
            raise FlashError("ssh-keygen is missing; install openssh-client") from error
        except subprocess.TimeoutExpired as error:
            raise FlashError(f"{key}: not signed within {_SIGN_S:g} s") from error
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason"]
            raise FlashError(f"{key}: cannot sign: {lines[-1]}")
        return text.with_suffix(".sig").read_bytes()


def public_key(path: Path) -> AllowedKey:
    """Read a public key; FlashError when it is another kind of key, or a private one."""
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise FlashError(f"{path}: cannot read the public key ({error})") from error
    if "PRIVATE KEY" in text:
        raise FlashError(f"{path} is a private key; give {path}.pub")
    try:
        return key_from_public(text)
    except DeviceError as error:
        raise FlashError(f"{path}: {error}") from error


def default_key() -> Path:
    """Return where the key for releases is looked for: ~/.config/molmoact-edge/release_key."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "molmoact-edge" / "release_key"
