"""What a device's service runs: the current release's bundle on this robot's task, or waiting.

The task, the ports and the calibrations belong to the robot and not to the release, so they lie in
`settings.json` beside it, put there by `molmoact-flash run`. Without a task nothing moves: the
service waits, and its status says so. New settings come with a new start.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from edge import cli
from edge.errors import EdgeError
from edge.profile import SOURCE_V4L2, load_profile
from edge.service_notify import NotifyingArm, ServiceNotifier

WAITING = "waiting for a task: molmoact-flash run HOST --task WORDS"
DEVICES_S, POLL_S = 30.0, 0.2  # after boot USB devices may come later than the service
EXIT_OK, EXIT_ERROR = 0, 2


class ServiceError(EdgeError):
    """Settings or a release that the service cannot make sense of."""


def main() -> int:
    """Run the service until it is told to end; exit codes as `molmoact-edge run`."""
    notifier = ServiceNotifier(os.environ)
    try:
        words = service_arguments(os.environ)
    except EdgeError as error:
        print(f"molmoact-edge: error: {error}", file=sys.stderr)
        return EXIT_ERROR
    if words is None:
        _wait(notifier)
        return EXIT_OK
    _wait_for_devices(words, notifier)
    return cli.main(words, wrap_arm=lambda arm: NotifyingArm(arm, notifier))


def service_arguments(environment: Mapping[str, str]) -> list[str] | None:
    """Return the command line of `molmoact-edge run`; None without a task."""
    root = Path(environment.get("MOLMOACT_ROOT", "/opt/molmoact-edge"))
    release = (root / "current").resolve()
    settings = _read(root / "settings.json", {})
    manifest = _read(release / "manifest.json", None)
    try:
        tasks, ports = settings.get("tasks", []), settings.get("ports", ["/dev/molmoact-arm"])
        profile = manifest["profile"]
        if not tasks:
            return None
        words = ["run", str(release / "bundle"), "--profile"]
        words.append(str(release / profile) if profile.startswith("profile/") else profile)
        for name, values in (("--task", tasks), ("--port", ports)):
            words += [word for value in values for word in (name, value)]
        for number in range(settings.get("calibrations", 0)):
            words += ["--calibration", str(root / f"calibration-{number}.json")]
        if settings.get("depth") is not None:
            words += ["--depth", settings["depth"]]
        return words + _accepted(settings, release)
    except (AttributeError, KeyError, TypeError) as error:
        raise ServiceError(f"{root}: settings.json or the release is damaged ({error})") from error


def _accepted(settings: Mapping, release: Path) -> list[str]:
    """Return the options that accept a bundle, when it is the one that somebody accepted."""
    accepted = settings.get("accept", [])
    if accepted and settings.get("accepted_bundle") != _digest(release / "bundle"):
        print(
            "molmoact-edge: what was accepted was another bundle; 'molmoact-flash run --accept'"
            " accepts this one",
            file=sys.stderr,
        )
        return []
    return [f"--accept-{what}" for what in accepted]


def _digest(bundle: Path) -> str | None:
    try:
        return hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return None  # `run` says what is wrong with it


def _read(path: Path, absent: dict | None) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if absent is not None:
            return absent
        raise ServiceError(f"{path}: no release is installed here") from error
    except (OSError, ValueError) as error:
        raise ServiceError(f"{path}: cannot be read ({error})") from error


def _wait_for_devices(words: Sequence[str], notifier: ServiceNotifier) -> None:
    """Wait until every port and camera is there; `run` says what is missing when it never comes."""
    devices = [word for before, word in pairwise(words) if before == "--port"]
    try:
        cameras = load_profile(words[words.index("--profile") + 1]).cameras
    except EdgeError:
        return  # `run` says what is wrong with the profile
    devices += [camera.path for camera in cameras if camera.source == SOURCE_V4L2]
    deadline_s = time.monotonic() + DEVICES_S
    while missing := [device for device in devices if not os.path.exists(device)]:
        if time.monotonic() > deadline_s:
            return
        notifier.status(f"waiting for {missing[0]}")
        time.sleep(POLL_S)


def _wait(notifier: ServiceNotifier) -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    notifier.ready(WAITING)
    while not ended.wait(notifier.period_s):
        notifier.alive()


if __name__ == "__main__":
    sys.exit(main())
