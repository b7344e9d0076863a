"""What belongs to this one robot and not to a release: its task, port and calibration.

No task, no motion: the service then waits, and says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json

from deploy.device.durable import write_whole
from deploy.device.errors import RefusedError
from deploy.device.layout import Layout

DEPTH_MODES = ("off", "full", "incremental")
ACCEPTABLE = ("failed", "unjudged")
ARM_LINK = "/dev/molmoact-arm"
_MOST_CALIBRATION_BYTES = 1 << 20


def store_settings(layout: Layout, request: dict) -> dict:
    """Check and store settings; what is not given stays. Returns all of them.

    What is accepted is so for the bundle of now: another one, brought later, is nobody's choice.
    """
    settings = read_settings(layout)
    for key, check in _CHECKS.items():
        if key in request:
            settings[key] = check(key, request[key])
    if "accept" in request:
        settings["accepted_bundle"] = _current_bundle(layout) if settings["accept"] else None
    calibrations = _texts("calibrations", request.get("calibrations", []))
    for number, text in enumerate(calibrations):
        if len(text) > _MOST_CALIBRATION_BYTES or not isinstance(_parsed(text), dict):
            raise RefusedError(f"calibration {number + 1} is not LeRobot's JSON")
    for number, text in enumerate(calibrations):
        write_whole(layout.root / f"calibration-{number}.json", text.encode("utf-8"))
        settings["calibrations"] = number + 1
    write_whole(layout.settings, json.dumps(settings, indent=1).encode("utf-8"))
    return settings


def read_settings(layout: Layout) -> dict:
    """Return the settings, with those never given."""
    nothing = {"tasks": [], "ports": [ARM_LINK], "calibrations": 0, "depth": None, "accept": []}
    with contextlib.suppress(OSError, ValueError):
        nothing.update(json.loads(layout.settings.read_text("utf-8")))
    return nothing


def _current_bundle(layout: Layout) -> str:
    """Return the digest of what the current release runs; RefusedError without one."""
    try:
        manifest = (layout.current / "bundle" / "manifest.json").read_bytes()
    except OSError:
        raise RefusedError("settings: no bundle is here to accept; flash one first") from None
    return hashlib.sha256(manifest).hexdigest()


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _texts(key: str, value: object) -> list:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise RefusedError(f"settings: {key} is not a list of texts")
    return value


def _depth(key: str, value: object) -> object:
    if value not in DEPTH_MODES:
        raise RefusedError("settings: {} is one of {}".format(key, ", ".join(DEPTH_MODES)))
    return value


def _accept(key: str, value: object) -> list:
    if any(word not in ACCEPTABLE for word in _texts(key, value)):
        raise RefusedError("settings: {} takes {}".format(key, ", ".join(ACCEPTABLE)))
    return value


_CHECKS = {"tasks": _texts, "ports": _texts, "depth": _depth, "accept": _accept}
