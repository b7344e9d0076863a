"""The faults of the campaign: what is done to a device while a release is pushed to it.

Each is a function of the rig and of when it strikes, in seconds after the phase began; it returns
how the push ended, and which of the two releases may run afterwards is the judge's to know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from deploy.campaign_rig import WATCH, CampaignRig
from deploy.errors import ConnectionLostError, FlashError
from deploy.practice_release import CRASHING, SICK, SILENT
from deploy.push import ACTIVATE, INSTALL, OFFER, PHASES, RECEIVE
from deploy.release import Release

ALL_PHASES = (*PHASES, WATCH)
REACHED = "reached its end"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way of going wrong. `strike(rig, delay_s)` returns (the release pushed, how it ended)."""

    name: str
    phase: str
    strike: Callable[[CampaignRig, float], tuple[Release, str]]
    may_take: bool  # the new release may run afterwards


def faults(has_disk: bool) -> Iterator[Fault]:
    """Return every fault that can be tried here."""
    for phase in ALL_PHASES:
        yield Fault("connection cut", phase, partial(_disturb, phase, "cut"), True)
    for phase in ALL_PHASES:
        yield Fault("kill -9 the host's process", phase, partial(_kill_host, phase), True)
    for phase in ALL_PHASES:
        yield Fault("kill -9 the agent", phase, partial(_disturb, phase, "kill_agent"), True)
    for phase in ALL_PHASES:
        yield Fault("all killed at once, boot", phase, partial(_reset, phase), True)
    yield Fault("kill -9 the supervisor", WATCH, partial(_disturb, WATCH, "kill_supervisor"), False)
    if has_disk:
        for phase in (RECEIVE, INSTALL, ACTIVATE, WATCH):
            yield Fault("disk full", phase, partial(_disturb, phase, "fill_disk"), True)
    yield Fault("manifest altered", OFFER, _altered_manifest, False)
    yield Fault("signature missing", OFFER, _unsigned, False)
    yield Fault("key unknown", OFFER, _foreign_key, False)
    yield Fault("older release replayed", OFFER, _replayed, True)
    yield Fault("another architecture", OFFER, partial(_other, machine="riscv64"), False)
    yield Fault("another Python", OFFER, partial(_other, python="3.77"), False)
    yield Fault("another robot's profile", OFFER, partial(_other, profile="elsewhere"), False)
    yield Fault("content altered on the way", RECEIVE, _altered_content, False)
    yield Fault("content altered on the device", INSTALL, _altered_object, False)
    yield Fault("half a content altered", RECEIVE, _altered_part, True)
    yield Fault("health check fails", ACTIVATE, partial(_behaving, SICK), False)
    yield Fault("new service crashes", WATCH, partial(_behaving, CRASHING), False)
    yield Fault("new service is never ready", WATCH, partial(_behaving, SILENT), False)
    yield Fault("two flashes at once", RECEIVE, _two_at_once, True)


def _disturb(phase: str, what: str, rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    release = rig.release()
    return release, _pushed(rig, release, {phase: _after(delay_s, getattr(rig, what))})


def _reset(phase: str, rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    release = rig.release()
    ended = _pushed(rig, release, {phase: _after(delay_s, rig.kill_all)})
    rig.device.boot()
    return release, ended


def _kill_host(phase: str, rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    release = rig.release()
    process = rig.push_in_a_process(release)
    for line in process.stdout:
        if line.strip() == phase or (phase == WATCH and "switched to" in line):
            _after(delay_s, process.kill)()
    process.wait()
    process.stdout.close()
    return release, "killed" if process.returncode else REACHED


def _altered_manifest(rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    release = rig.release()
    content = release.manifest.content.replace(b'"memory_mib": 1', b'"memory_mib": 2')
    manifest = type(release.manifest)(content)
    return release, _pushed(rig, replace(release, manifest=manifest))


def _unsigned(rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    release = rig.release()
    return release, _pushed(rig, replace(release, signature=b""))


def _foreign_key(rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    release = rig.release(key=rig.foreign_key)
    return release, _pushed(rig, release)


def _replayed(rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    old, new = rig.release(), rig.release()
    rig.push(new)
    return new, _pushed(rig, old)


def _other(rig: CampaignRig, delay_s: float, **target: str) -> tuple[Release, str]:
    release = rig.release(**target)
    return release, _pushed(rig, release)


def _altered_content(rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    release = rig.release()
    _flip(release.object_path(_own_content(release)))
    return release, _pushed(rig, release)


def _altered_object(rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    release = rig.release()
    path = rig.layout.objects / _own_content(release)
    return release, _pushed(rig, release, {INSTALL: lambda: _flip(path)})


def _altered_part(rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    """The rest of a content comes after a part that is not its own; refused, then sent anew."""
    release = rig.release()
    part = rig.layout.incoming / f"{_own_content(release)}.part"
    part.write_bytes(b"not what was sent")
    rig.give_to_device(part)
    first = _pushed(rig, release)
    return release, f"{first}; again: {_pushed(rig, release)}"


def _behaving(behaviour: str, rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    release = rig.release(behaviour)
    return release, _pushed(rig, release)


def _two_at_once(rig: CampaignRig, delay_s: float) -> tuple[Release, str]:
    """Another push begins while the first one sends; it is turned away and disturbs nothing."""
    release, second = rig.release(), rig.release()
    answers: list[str] = []
    ended = _pushed(rig, release, {RECEIVE: lambda: answers.append(_pushed(rig, second))})
    return release, f"second: {''.join(answers)}; first {ended}"


def _pushed(
    rig: CampaignRig, release: Release, at: dict[str, Callable[[], None]] | None = None
) -> str:
    try:
        rig.push(release, at)
    except ConnectionLostError:
        return "connection lost"
    except FlashError as error:
        return f"refused: {error}"
    return REACHED


def _after(delay_s: float, act: Callable[[], None]) -> Callable[[], None]:
    if not delay_s:
        return act
    return lambda: threading.Timer(delay_s, act).start()


def _own_content(release: Release) -> str:
    """The part of the bundle that no other release has."""
    return next(f.sha256 for f in release.manifest.files if f.path == "bundle/expert.bin")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
