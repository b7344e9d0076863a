"""Whether a manifest was signed by a key that this device knows: OpenSSH's own check.

`ssh-keygen -Y verify` (OpenSSH 8.0 and newer, so also that of JetPack 5) reads the signature and
the file of allowed keys, in the format that ssh-keygen(1) calls ALLOWED SIGNERS:

    NAME namespaces="molmoact-edge-release" ssh-ed25519 AAAA...
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from deploy.device.errors import DeviceError, RefusedError

NAMESPACE = "molmoact-edge-release"
KEY_TYPES = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com")
MOST_SIGNATURE_BYTES = 16 << 10
_VERIFY_S = 20.0
_ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/local/bin", "LC_ALL": "C"}


class AllowedKey:
    """A key whose releases a device takes."""

    def __init__(self, name: str, kind: str, key: str) -> None:
        """Take the key's name, OpenSSH's word for its kind, and its base64 text."""
        self.name = name
        self.kind = kind
        self.key = key

    @property
    def line(self) -> str:
        """The key as the file of allowed keys has it."""
        return f'{self.name} namespaces="{NAMESPACE}" {self.kind} {self.key}'


def key_from_public(line: str, name: str | None = None) -> AllowedKey:
    """Read an OpenSSH public key (`KEY.pub`); it is called `name`, or by its own comment."""
    words = line.split()
    if len(words) < 2 or words[0] not in KEY_TYPES:
        raise RefusedError(
            f"{line!r:.30} is not a public Ed25519 key; make one: ssh-keygen -t ed25519 -f FILE"
        )
    said = name or (words[2] if len(words) > 2 else "key")
    called = "".join(c if c.isalnum() or c in "._@-" else "-" for c in said)[:60]
    return AllowedKey(called, words[0], words[1])


def read_allowed_keys(path: Path) -> list:
    """Return the keys of a file of allowed keys; lines of any other form are refused."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DeviceError(f"{path}: cannot read the allowed keys ({error})") from None
    keys = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        if len(words) != 4 or words[1] != f'namespaces="{NAMESPACE}"' or words[2] not in KEY_TYPES:
            raise DeviceError(f"{path}: line {number} is no key of this project")
        keys.append(AllowedKey(words[0], words[2], words[3]))
    return keys


def signer_of(content: bytes, signature: bytes, keys: Path) -> str:
    """Return the name of the allowed key that signed `content`; RefusedError when none did."""
    allowed = read_allowed_keys(keys)
    if not allowed:
        raise RefusedError("this device knows no key; add one with 'molmoact-flash provision'")
    if not signature.strip():
        raise RefusedError("the release is not signed")
    if len(signature) > MOST_SIGNATURE_BYTES:
        raise RefusedError(f"the signature has {len(signature)} bytes; that is none")
    descriptor, name = tempfile.mkstemp(prefix="molmoact-signature-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(signature)
        for key in dict.fromkeys(key.name for key in allowed):
            if _verifies(content, name, keys, key):
                return key
    finally:
        os.unlink(name)
    known = ", ".join(key.name for key in allowed)
    raise RefusedError(
        f"the release was altered, or signed by a key that this device does not know; "
        f"known: {known}; 'molmoact-flash provision' adds keys"
    )


def _verifies(content: bytes, signature: str, keys: Path, name: str) -> bool:
    command = ["ssh-keygen", "-Y", "verify", "-f", str(keys), "-I", name]
    try:
        done = subprocess.run(
            [*command, "-n", NAMESPACE, "-s", signature],
            input=content,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            timeout=_VERIFY_S,
            check=False,
        )
    except FileNotFoundError:
        raise DeviceError("ssh-keygen is missing on the device; install openssh-client") from None
    except subprocess.TimeoutExpired:
        raise DeviceError(f"ssh-keygen did not answer within {_VERIFY_S:g} s") from None
    return done.returncode == 0
