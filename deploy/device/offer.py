"""Whether this device takes a release: signed by a known key, not older, for this robot."""

from __future__ import annotations

from deploy.device.errors import RefusedError
from deploy.device.facts import check_clock, check_device, device_facts
from deploy.device.layout import Config, Layout
from deploy.device.objects import missing_objects
from deploy.device.release_manifest import ReleaseManifest
from deploy.device.signature import signer_of
from deploy.device.state import State, read_state


class Offer:
    """A release that this device wants."""

    def __init__(self, manifest: ReleaseManifest, signature: bytes, signer: str) -> None:
        """Take what was checked."""
        self.manifest = manifest
        self.signature = signature
        self.signer = signer


def consider(layout: Layout, config: Config, request: dict) -> Offer:
    """Check the manifest, signature and wishes of a request; RefusedError says why not.

    `older` and `change_profile` are the two things that must be asked for by name.
    """
    content = str(request.get("manifest", "")).encode("utf-8")
    signature = str(request.get("signature", "")).encode("utf-8")
    signer = signer_of(content, signature, layout.keys)  # before anything of it is believed
    manifest = ReleaseManifest(content)
    state = read_state(layout)
    _check_age(manifest, state, request.get("older"))
    _check_profile(manifest, state, request.get("change_profile"))
    facts = device_facts(layout, config)
    to_receive = sum(o["size"] - o["have"] for o in missing_objects(layout, manifest.objects()))
    check_device(manifest, facts, to_receive)
    if isinstance(request.get("clock_s"), (int, float)):
        check_clock(facts, float(request["clock_s"]))
    return Offer(manifest, signature, signer)


def _check_age(manifest: ReleaseManifest, state: State, older: object) -> None:
    if manifest.sequence == state.newest_sequence and manifest.sha256 != state.newest_manifest:
        raise RefusedError(
            f"another release with sequence {manifest.sequence} was taken before; build it again"
        )
    if manifest.sequence < state.newest_sequence and older != manifest.id:
        raise RefusedError(
            f"{manifest.id} is older than {state.newest_sequence}, the newest this device "
            f"has taken; to go back all the same name it: --older {manifest.id}"
        )


def _check_profile(manifest: ReleaseManifest, state: State, change_from: object) -> None:
    known = state.profile_name
    if known not in (None, manifest.profile_name) and change_from != known:
        raise RefusedError(
            f"the release is for profile {manifest.profile_name}, this device runs {known}; to "
            f"change it name the present one: --change-profile {known}"
        )
