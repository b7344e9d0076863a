"""Bring a release to one device: send what is missing, install, try, switch, watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.device.wire import IDLE_S
from deploy.errors import ConnectionLostError, DeviceBusyError, FlashError
from deploy.link import AgentLink
from deploy.release import Release

Connect = Callable[[], AgentLink]
Say = Callable[[str], None]
Seen = Callable[[str], None]
CONNECTION_TRIES = 4
RETRY_S = 3.0
# How long a lost connection is tried again: the device may not know of it yet, and lets a silent
# session go after IDLE_S.
RECONNECT_S = IDLE_S + 60.0

# Phases of a push, in order; `on_phase` is told when one begins, RECEIVE with every content.
OFFER, RECEIVE, INSTALL, ACTIVATE = "offer", "receive", "install", "activate"
PHASES = (OFFER, RECEIVE, INSTALL, ACTIVATE)


@dataclass(frozen=True, slots=True)
class PushWishes:
    """What must be asked for by name, and how long the new release is watched."""

    older: str | None = None
    change_profile: str | None = None
    settle_s: float | None = None
    start_s: float | None = None

    def times(self) -> dict[str, float]:
        """Return those times that were given, as the device is asked."""
        given = {"settle_s": self.settle_s, "start_s": self.start_s}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class PushResult:
    """What came of a push."""

    release: str
    before: str | None
    signer: str
    sent_bytes: int
    total_bytes: int
    seconds: float
    health: dict[str, Any]


def push_release(
    connect: Connect,
    release: Release,
    wishes: PushWishes,
    say: Say,
    on_phase: Seen = lambda phase: None,
    sleep: Callable[[float], None] = time.sleep,
    tries: int = CONNECTION_TRIES,
    clock: Callable[[], float] = time.monotonic,
) -> PushResult:
    """Push; a lost connection is taken up again, and sends nothing twice.

    Raises DeviceRefusedError when the device said no (it then runs what it ran before), and
    ConnectionLostError when it could not be reached again.
    """
    started_s = until_s = clock()
    sent_bytes = losses = 0
    told = ""
    while True:
        link = None
        try:
            with connect() as link:
                offer, health = _converse(link, release, wishes, say, on_phase)
                return PushResult(
                    release=release.manifest.id,
                    before=offer["current"],
                    signer=offer["signer"],
                    sent_bytes=sent_bytes + link.sent_bytes,
                    total_bytes=release.total_bytes,
                    seconds=clock() - started_s,
                    health=health,
                )
        except (ConnectionLostError, DeviceBusyError) as error:
            if link is not None and isinstance(error, ConnectionLostError):
                losses, until_s = losses + 1, clock() + RECONNECT_S
                sent_bytes += link.sent_bytes
            if losses in (0, tries) or clock() >= until_s:
                raise
            if str(error) != told:
                told = str(error)
                say(f"{told}; connecting again ({losses} of {tries - 1})")
            sleep(RETRY_S)


def _converse(
    link: AgentLink, release: Release, wishes: PushWishes, say: Say, on_phase: Seen
) -> tuple[dict[str, Any], dict[str, Any]]:
    on_phase(OFFER)
    offer = link.ask(
        "offer",
        manifest=release.manifest.content.decode(),
        signature=release.signature.decode(),
        older=wishes.older,
        change_profile=wishes.change_profile,
        clock_s=time.time(),
    )
    missing = offer["missing"]
    to_send = sum(entry["size"] - entry["have"] for entry in missing)
    say(
        f"{release.manifest.id}, signed by {offer['signer']}: {len(missing)} of "
        f"{len(release.manifest.objects())} contents to send, {mib(to_send)} of "
        f"{mib(release.total_bytes)}"
    )
    for entry in missing:
        on_phase(RECEIVE)
        path = release.object_path(entry["sha256"])
        try:
            source = path.open("rb")
        except OSError as error:
            raise FlashError(f"{path}: {error.strerror}; build the release again") from error
        with source:
            link.send_object(entry["sha256"], entry["have"], source)
    say("installing")
    on_phase(INSTALL)
    link.ask("install")
    say("trying one inference there, then switching")
    on_phase(ACTIVATE)
    activated = link.ask("activate", **wishes.times())
    return offer, activated["health"]


def mib(n_bytes: int) -> str:
    """Return bytes for people."""
    return f"{n_bytes / (1 << 20):.1f} MiB"
