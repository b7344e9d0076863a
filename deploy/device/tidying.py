"""Clear away what a cut left, go back from a release that never proved itself, and prune."""

from __future__ import annotations

import os
from typing import Callable

from deploy.device.durable import point_link, remove_tree, sync_folder
from deploy.device.errors import DeviceError
from deploy.device.installing import UNFINISHED, installed_releases
from deploy.device.layout import Layout
from deploy.device.service import Service
from deploy.device.state import State, read_state, write_state


def recover(layout: Layout, service: Service, restart: bool) -> str | None:
    """Bring the device back to one complete release; returns what was undone. Needs the lock.

    A trial without a living session is a session that died in the middle: the release before it
    comes back with its unit, whatever the new one was doing, and is started where `restart` is set.
    """
    state = read_state(layout)
    for entry in list(layout.releases.iterdir()):
        if entry.name.startswith((UNFINISHED, ".gone-")):
            remove_tree(entry)
    if state.trial is None:
        return None
    before, tried = state.trial["from"], state.trial["to"]
    point_current(layout, before)
    if before is not None:
        service.adopt(layout.release(before))
    if restart:
        start_or_stop(service, before)
    state.note("recovered", before)
    state.confirmed, state.trial = before, None
    write_state(layout, state)
    return f"{tried} had not proved itself; back to {before or 'nothing'}"


def point_current(layout: Layout, release_id: str | None) -> None:
    """Make `current` name an installed release, or nothing."""
    if release_id is not None:
        if not layout.release(release_id).is_dir():
            raise DeviceError(f"release {release_id} is not installed here")
        if layout.current_id() != release_id:
            point_link(layout.current, "releases/" + release_id)
    elif os.path.lexists(str(layout.current)):
        layout.current.unlink()
        sync_folder(layout.root)


def start_or_stop(service: Service, release_id: str | None) -> None:
    """Start the release that is current anew; without one nothing runs."""
    if release_id is None:
        service.stop()
    else:
        service.restart()


def drop_release(layout: Layout, release_id: str) -> None:
    """Remove a release that turned out bad, unless it is one that runs or ran.

    Its contents stay; those that are damaged are found out when it is installed again.
    """
    state = read_state(layout)
    if release_id not in (layout.current_id(), state.confirmed, state.previous):
        remove_tree(layout.release(release_id))


def prune(layout: Layout, state: State, keep: int, say: Callable[[str], None]) -> int:
    """Remove all releases but the newest `keep`, the current and the one before; returns bytes.

    Contents that no release left needs go too, with what was half received.
    """
    guarded = {layout.current_id(), state.confirmed, state.previous}
    releases = installed_releases(layout)
    newest = {manifest.id for manifest in releases[-keep:]}
    freed = 0
    for manifest in releases:
        if manifest.id not in guarded | newest:
            say(f"removing {manifest.id}")
            remove_tree(layout.release(manifest.id))
            freed += manifest.needs.unpacked_bytes
    kept = {m.id for m in installed_releases(layout)}
    for entry in list(layout.releases.iterdir()):
        if entry.name not in kept | guarded:  # what runs stays, be its record unreadable
            say(f"removing {entry.name}, which is not complete")
            remove_tree(entry)
    return freed + _drop_objects(layout)


def objects_in_use(layout: Layout) -> set:
    """Return the digests that installed releases need, wheels included: updates reuse them."""
    return {sha256 for manifest in installed_releases(layout) for sha256 in manifest.objects()}


def _drop_objects(layout: Layout) -> int:
    wanted, freed = objects_in_use(layout), 0
    for folder in (layout.objects, layout.incoming):
        for path in list(folder.iterdir()):
            if path.name not in wanted:
                freed += path.stat().st_size
                path.unlink()
        sync_folder(folder)
    return freed
