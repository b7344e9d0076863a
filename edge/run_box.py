"""The black box of one run: its memory and room on disk, what its card says, written at the end."""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from edge.black_box import BlackBox, BlackBoxError
from edge.box_file import BoxFile, BoxHandover, box_path
from edge.profile import Profile
from edge.profile_record import record_from_profile
from edge.report import RunCard

TASK_CHARACTERS = 2000


class RunBox:
    """A recorder with its file; the file exists only once there was torque."""

    def __init__(
        self, path: Path | None, profile: Profile, seconds: float, stack: ExitStack
    ) -> None:
        """Take memory and disk, into `path` or the profile's folder; BlackBoxError.

        `stack` gives both back.
        """
        seconds = min(profile.board.black_box.seconds, seconds)
        names = tuple(joint.name for joint in profile.arm.joints)
        capacity = math.ceil(seconds * profile.arm.control_hz) + 2
        self.recorder = BlackBox(capacity, names, len(profile.cameras))
        stack.callback(self.recorder.close)
        path = path or box_path(profile.board.black_box)
        self._file = BoxFile(path, self.recorder.layout.total_bytes)
        stack.callback(self._file.abandon)

    @property
    def path(self) -> Path | None:
        """Where the box lies, None when it is not written."""
        return self._file.path if self._file.path.exists() else None

    def seal(self, card: RunCard, manifest: Path, profile: Profile) -> BoxHandover | None:
        """Fill the card in; return what a watchdog needs, None where memory cannot be shared."""
        values = asdict(card)
        values["task"] = card.task[:TASK_CHARACTERS]
        self.recorder.seal_card(
            {
                **values,
                "manifest_sha256": _digest(manifest),
                "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
                "started_s": time.monotonic(),
                "cameras": [camera.name for camera in profile.cameras],
                "profile_values": record_from_profile(profile),
            }
        )
        return self._file.handover(self.recorder)

    def write(self) -> str:
        """Write the box and say where; a disk that fails is only said, the arm is soft already."""
        try:
            self._file.write(self.recorder)
        except BlackBoxError as error:
            return str(error)
        return f"black box written; look at it with 'molmoact-edge replay {self._file.path}'"


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
