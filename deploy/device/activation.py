"""Switch to an installed release, see it run, and go back by itself when it does not."""

from __future__ import annotations

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
from deploy.device.tidying import point_current
from deploy.device.version import AGENT_VERSION

START_S = 300.0  # opening gigabytes from a memory card for the first time
SETTLE_S = 10.0
Say = Callable[[str], None]


def check_installed(
    layout: Layout, config: Config, manifest: ReleaseManifest, service: Service, say: Say
) -> dict:
    """Run the health check; where memory is short the running service makes room meanwhile."""
    available = memory_available_mib()
    running = service.status()["state"] == RUNNING
    short = running and available is not None and available < manifest.needs.memory_mib
    if short:
        say(f"{available} MiB are free: the running release is stopped while the new one is tried")
        service.stop()
    try:
        return check_health(layout, config, manifest)
    except DeviceError:
        if short:
            service.restart()
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
    state = read_state(layout)
    before = layout.current_id()
    state.trial = {"from": before, "to": manifest.id, "since_s": int(time.time())}
    if manifest.sequence > state.newest_sequence:
        state.newest_sequence, state.newest_manifest = manifest.sequence, manifest.sha256
    state.note("trying", manifest.id)
    write_state(layout, state)
    try:
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
    except (DeviceError, OSError) as error:
        _go_back(layout, before, service)
        reason = os_error_text(error) if isinstance(error, OSError) else error
        raise DeviceError(f"{reason}; back to {before or 'no release'}") from None
    try:
        _take_agent(layout, manifest)
    except OSError as error:
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


def _go_back(layout: Layout, before: str | None, service: Service) -> None:
    point_current(layout, before)
    if before is None:
        service.stop()
    else:
        service.adopt(layout.release(before))
        service.restart()
    state = read_state(layout)
    state.confirmed, state.trial = before, None
    state.note("went back", before)
    write_state(layout, state)


def _take_agent(layout: Layout, manifest: ReleaseManifest) -> None:
    """Replace the agent by that of the release; sessions from now on run it."""
    for file in manifest.files:
        path = layout.objects / file.sha256
        if file.path != AGENT or manifest.agent_version < AGENT_VERSION or not path.exists():
            continue
        if sha256_of(path) == file.sha256 and sha256_of(layout.agent) != file.sha256:
            write_whole(layout.agent, path.read_bytes(), 0o755)
