"""Switch to an installed release, see it run, and go back by itself when it does not."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import Callable

from deploy.device.durable import sha256_of, write_whole
from deploy.device.errors import DeviceError, RefusedError, os_error_text
from deploy.device.health import check_health, memory_available_mib
from deploy.device.installing import check_still_trusted, installed_manifest
from deploy.device.layout import Config, Layout
from deploy.device.release_manifest import AGENT, ReleaseManifest
from deploy.device.service import RUNNING, Service, watch
from deploy.device.state import read_state, write_state
from deploy.device.tidying import point_current, start_or_stop
from deploy.device.version import AGENT_VERSION

START_S = 300.0  # opening gigabytes from a memory card for the first time
SETTLE_S = 10.0
_AGENT_S = 60.0
Say = Callable[[str], None]


def check_installed(
    layout: Layout, config: Config, manifest: ReleaseManifest, service: Service, say: Say
) -> dict:
    """Run the health check; where memory is short the running service makes room meanwhile.

    That is part of the trial already, so that the service comes back whatever ends this process.
    """
    available = memory_available_mib()
    running = service.status()["state"] == RUNNING
    if not running or available is None or available >= manifest.needs.memory_mib:
        return check_health(layout, config, manifest)
    say(f"{available} MiB are free: the running release is stopped while the new one is tried")
    before, state = layout.current_id(), read_state(layout)
    state.trial = _trial(before, manifest)
    write_state(layout, state)
    try:
        service.stop()
        return check_health(layout, config, manifest)
    except BaseException:
        _go_back(layout, before, service)
        raise


def activate(
    layout: Layout,
    manifest: ReleaseManifest,
    service: Service,
    say: Say,
    settle_s: float = SETTLE_S,
    start_s: float = START_S,
) -> None:
    """Make a complete release the current one; DeviceError when the old one had to come back."""
    before = layout.current_id()
    try:
        state = read_state(layout)
        state.trial = _trial(before, manifest)
        if manifest.sequence > state.newest_sequence:
            state.newest_sequence, state.newest_manifest = manifest.sequence, manifest.sha256
        state.note("trying", manifest.id)
        write_state(layout, state)
        point_current(layout, manifest.id)
        service.adopt(layout.release(manifest.id))
        service.restart()
        say(f"switched to {manifest.id}; watching it for {settle_s:g} s")
        watch(service, manifest.id, start_s, settle_s)
        if before != manifest.id:
            state.previous = before
        state.confirmed, state.trial = manifest.id, None
        state.profile_name = manifest.profile_name
        state.note("confirmed", manifest.id)
        write_state(layout, state)
    except BaseException as error:
        _go_back(layout, before, service)
        if not isinstance(error, (DeviceError, OSError)):
            raise
        reason = os_error_text(error) if isinstance(error, OSError) else error
        raise DeviceError(f"{reason}; back to {before or 'no release'}") from None
    if manifest.sequence < state.newest_sequence:
        return  # gone back on purpose: an older release brings no older agent
    try:
        _take_agent(layout, manifest)
    except (DeviceError, OSError, subprocess.SubprocessError) as error:
        say(f"the agent stays as it is: {error}")


def rollback_target(layout: Layout, asked: str | None) -> ReleaseManifest:
    """Return the release to go back to: the one asked for, else the one before."""
    state = read_state(layout)
    target = asked or state.previous
    if target is None:
        raise RefusedError("there is no release before this one; name one: rollback HOST --to ID")
    if target == layout.current_id():
        raise RefusedError(f"{target} runs already")
    check_still_trusted(layout, target)
    return installed_manifest(layout, target)


def _trial(before: str | None, manifest: ReleaseManifest) -> dict:
    return {"from": before, "to": manifest.id, "since_s": int(time.time())}


def _go_back(layout: Layout, before: str | None, service: Service) -> None:
    point_current(layout, before)
    try:
        if before is not None:
            service.adopt(layout.release(before))
    finally:
        start_or_stop(service, before)
    state = read_state(layout)
    state.confirmed, state.trial = before, None
    state.note("went back", before)
    with contextlib.suppress(OSError):  # a trial that stands is ended by the next session
        write_state(layout, state)


def _take_agent(layout: Layout, manifest: ReleaseManifest) -> None:
    """Replace the agent by that of the release, if it works; sessions from now on run it."""
    for file in manifest.files:
        path = layout.objects / file.sha256
        if file.path != AGENT or manifest.agent_version < AGENT_VERSION or not path.exists():
            continue
        if sha256_of(path) == file.sha256 and sha256_of(layout.agent) != file.sha256:
            command = [sys.executable, "-I", str(path), "status", "--root", str(layout.root)]
            done = subprocess.run(command, capture_output=True, timeout=_AGENT_S, check=False)
            if done.returncode:
                raise DeviceError("that of the release does not work here")
            write_whole(layout.agent, path.read_bytes(), 0o755)
