"""The manifest of a release: the one text that is signed, and that says what everything else is.

Releases are ordered by `sequence`, the UTC second at which they were made, written as a number:
20261122093015. Two workstations need not agree about a counter for it, and nobody moves it back.
"""

from __future__ import annotations

import hashlib
import json
import re

from deploy.device.errors import RefusedError

SCHEMA = "molmoact-edge release 1"
MOST_MANIFEST_BYTES = 8 << 20
MOST_FILES = 20_000
MODES = (0o644, 0o755)
WHEELS, BUNDLE, PROFILE, SYSTEM = "wheels/", "bundle/", "profile/", "system/"
AGENT = "agent.pyz"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+!-]*(/[A-Za-z0-9_][A-Za-z0-9._+!-]*){0,5}\Z")
_LOWEST_SEQUENCE, _HIGHEST_SEQUENCE = 20200101000000, 99991231235959


class ReleaseFile:
    """One file of a release."""

    def __init__(self, path: str, sha256: str, size: int, mode: int) -> None:
        """Take the path inside the release, digest, bytes, and permission bits."""
        self.path = path
        self.sha256 = sha256
        self.size = size
        self.mode = mode


class Needs:
    """What a release asks of a device; None or empty where it asks nothing."""

    def __init__(self, stated: dict) -> None:
        """Take `needs` of a manifest."""
        self.unpacked_bytes: int = _whole(stated, "unpacked_bytes", 0, 1 << 44)
        self.memory_mib: int = _whole(stated, "memory_mib", 0, 1 << 24)
        self.provider: str | None = _text(stated, "provider", optional=True)
        self.part_numbers: list = _texts(stated, "part_numbers")


class ReleaseManifest:
    """A manifest that was read and holds together; its signature is another matter."""

    def __init__(self, content: bytes) -> None:
        """Read a manifest; RefusedError says what is wrong in it."""
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        stated = _parsed(content)
        if stated.get("schema") != SCHEMA:
            raise RefusedError(
                "release schema {!r}; this agent knows {!r}; update the older of the two".format(
                    stated.get("schema"), SCHEMA
                )
            )
        self.sequence: int = _whole(stated, "sequence", _LOWEST_SEQUENCE, _HIGHEST_SEQUENCE)
        self.name = _text(stated, "name")
        if not _NAME.match(self.name):
            raise RefusedError(f"release name {self.name!r}; lower case letters, digits, . _ -")
        target = stated.get("target")
        if not isinstance(target, dict):
            raise RefusedError("release manifest: target is missing")
        self.machine = _text(target, "machine")
        self.python = _text(target, "python")
        if not re.match(r"3\.[0-9]{1,2}\Z", self.python):
            raise RefusedError(f"release manifest: target python is {self.python!r}")
        self.profile = _text(stated, "profile")
        self.profile_name = _text(stated, "profile_name")
        self.bundle_sha256 = _text(stated, "bundle_sha256")
        self.created_utc = _text(stated, "created_utc")
        self.agent_version: int = _whole(stated, "agent_version", 1, 1 << 31)
        needs = stated.get("needs")
        if not isinstance(needs, dict):
            raise RefusedError("release manifest: needs is missing")
        self.needs = Needs(needs)
        self.files = _files(stated.get("files"))
        if BUNDLE + "manifest.json" not in [file.path for file in self.files]:
            raise RefusedError("release manifest: it lists no bundle")

    @property
    def id(self) -> str:
        """What people and folders call the release."""
        return f"{self.sequence}-{self.name}"

    def under(self, prefix: str) -> list:
        """Return the files below a folder of the release."""
        return [file for file in self.files if file.path.startswith(prefix)]

    def objects(self) -> dict:
        """Return the bytes of every different content by its digest."""
        return {file.sha256: file.size for file in self.files}


def is_release_path(path: str) -> bool:
    """Say whether a file of a release may be called so."""
    return _PATH.match(path) is not None


def _parsed(content: bytes) -> dict:
    if len(content) > MOST_MANIFEST_BYTES:
        raise RefusedError(f"release manifest: more than {MOST_MANIFEST_BYTES} bytes")
    try:
        stated = json.loads(content.decode("utf-8"))
    except ValueError as error:
        raise RefusedError(f"release manifest: not JSON ({error})") from None
    if not isinstance(stated, dict):
        raise RefusedError("release manifest: not an object")
    return stated


def _files(stated: object) -> list:
    if not isinstance(stated, list) or not 0 < len(stated) <= MOST_FILES:
        raise RefusedError(f"release manifest: files is not a list of 1 to {MOST_FILES}")
    files, sizes = {}, {}
    for entry in stated:
        if not isinstance(entry, dict):
            raise RefusedError("release manifest: a file is not an object")
        path, sha256 = _text(entry, "path"), _text(entry, "sha256")
        size, mode = _whole(entry, "size", 0, 1 << 44), _whole(entry, "mode", 0, 0o777)
        if not is_release_path(path) or path in files:
            raise RefusedError(f"release manifest: path {path!r} is doubled or leads elsewhere")
        if not _DIGEST.match(sha256) or sizes.setdefault(sha256, size) != size:
            raise RefusedError(f"release manifest: {path} has a wrong digest or size")
        if mode not in MODES:
            raise RefusedError(f"release manifest: {path} has mode {mode:o}")
        if path != AGENT and not path.startswith((WHEELS, BUNDLE, PROFILE, SYSTEM)):
            raise RefusedError(f"release manifest: {path} belongs to no part of a release")
        files[path] = ReleaseFile(path, sha256, size, mode)
    return list(files.values())


def _text(stated: dict, key: str, optional: bool = False) -> str:
    value = stated.get(key)
    if optional and value is None and key in stated:
        return None
    if not isinstance(value, str) or not value or len(value) > 300 or not value.isprintable():
        raise RefusedError(f"release manifest: {key} is {value!r:.60}, a text is needed")
    return value


def _texts(stated: dict, key: str) -> list:
    values = stated.get(key)
    if not isinstance(values, list):
        raise RefusedError(f"release manifest: {key} is not a list")
    return [_text({key: value}, key) for value in values]


def _whole(stated: dict, key: str, least: int, most: int) -> int:
    value = stated.get(key)
    if type(value) is not int or not least <= value <= most:
        raise RefusedError(
            f"release manifest: {key} is {value!r:.60}, a whole number from {least} to "
            f"{most} is needed"
        )
    return value
