"""A session: what a host may ask of the device, one request after the other."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Callable

from deploy.device.activation import (
    SETTLE_S,
    START_S,
    activate,
    check_installed,
    rollback_target,
)
from deploy.device.durable import sync_folder
from deploy.device.errors import BusyError, DeviceError, RefusedError, os_error_text
from deploy.device.facts import device_facts
from deploy.device.guard import locked
from deploy.device.installing import (
    check_still_trusted,
    install_release,
    installed_manifest,
    installed_releases,
)
from deploy.device.layout import Config, Layout, read_config
from deploy.device.objects import missing_objects, receive_object
from deploy.device.offer import Offer, consider
from deploy.device.service import service_of, watch
from deploy.device.settings import read_settings, store_settings
from deploy.device.signature import read_allowed_keys
from deploy.device.state import read_state
from deploy.device.tidying import drop_release, prune, recover
from deploy.device.version import AGENT_VERSION
from deploy.device.wire import PROTOCOL, Wire

LOOKING = ("facts", "status", "keys")
SETTINGS_SETTLE_S = 2.0


class Session:
    """Answers requests; the first that changes the device takes its lock, and keeps it."""

    def __init__(self, layout: Layout, wire: Wire) -> None:
        """Take the device and the conversation."""
        self._layout = layout
        self._wire = wire
        self._config: Config = read_config(layout)
        self._service = service_of(layout, self._config)
        self._offer: Offer | None = None
        self._stack = ExitStack()
        self._holds = False

    def serve(self) -> None:
        """Answer until the host is gone or sends what cannot be understood."""
        self._wire.done(agent=AGENT_VERSION, protocol=PROTOCOL)
        with self._stack:
            while True:
                try:
                    request = self._wire.request()
                    if request is None:
                        return
                    self._answer(request)
                except DeviceError as error:
                    self._wire.failed(error)
                    if not isinstance(error, RefusedError):
                        return  # unread bytes of a content may follow
                except OSError as error:
                    self._wire.failed(DeviceError(os_error_text(error)))
                    return

    def _answer(self, request: dict) -> None:
        verb = request.get("verb")
        verbs: dict[str, Callable[[dict], dict]] = {
            "facts": self._facts,
            "status": self._status,
            "keys": self._keys,
            "offer": self._take_offer,
            "receive": self._receive,
            "install": self._install,
            "activate": self._activate,
            "rollback": self._rollback,
            "settings": self._settings,
            "prune": self._prune,
        }
        if verb not in verbs:
            raise DeviceError(f"verb {verb!r:.40} is not known to this agent; update it")
        if verb not in LOOKING:
            self._hold(verb)
        self._wire.done(**verbs[verb](request))

    def _hold(self, verb: str) -> None:
        if self._holds:
            return
        self._stack.enter_context(locked(self._layout, verb))
        self._holds = True
        undone = recover(self._layout, self._service, restart=True)
        if undone is not None:
            self._wire.say(undone)

    def _facts(self, request: dict) -> dict:
        return device_facts(self._layout, self._config)

    def _status(self, request: dict) -> dict:
        """Say what runs; a trial that nobody watches any more is ended first."""
        busy = None
        if not self._holds and read_state(self._layout).trial is not None:
            try:
                self._hold("status")
            except BusyError as error:
                busy = str(error)
        state = read_state(self._layout)
        return {
            "current": self._layout.current_id(),
            "confirmed": state.confirmed,
            "previous": state.previous,
            "trial": state.trial,
            "newest_sequence": state.newest_sequence,
            "profile": state.profile_name,
            "releases": [manifest.id for manifest in installed_releases(self._layout)],
            "service": self._service.status(),
            "settings": read_settings(self._layout),
            "history": state.history[-10:],
            "busy": busy,
        }

    def _keys(self, request: dict) -> dict:
        keys = read_allowed_keys(self._layout.keys)
        return {"keys": [{"name": k.name, "kind": k.kind, "key": k.key} for k in keys]}

    def _take_offer(self, request: dict) -> dict:
        self._offer = consider(self._layout, self._config, request)
        manifest = self._offer.manifest
        return {
            "release": manifest.id,
            "signer": self._offer.signer,
            "current": self._layout.current_id(),
            "missing": missing_objects(self._layout, manifest.objects()),
        }

    def _receive(self, request: dict) -> dict:
        wanted = self._offered().manifest.objects()
        sha256, offset = request.get("sha256"), request.get("offset")
        if sha256 not in wanted or type(offset) is not int or offset < 0:
            raise DeviceError(f"object {sha256!r:.20} is not part of the release on offer")
        receive_object(self._layout, sha256, wanted[sha256], offset, self._wire)
        return {"sha256": sha256}

    def _install(self, request: dict) -> dict:
        offer = self._offered()
        missing = missing_objects(self._layout, offer.manifest.objects())
        if missing:
            raise RefusedError(f"{len(missing)} objects of the release have not arrived")
        install_release(self._layout, self._config, offer.manifest, offer.signature)
        sync_folder(self._layout.releases)
        return {"release": offer.manifest.id}

    def _activate(self, request: dict) -> dict:
        """Check the health again in one go: nobody can activate what was not found healthy."""
        manifest = installed_manifest(self._layout, self._offered().manifest.id)
        check_still_trusted(self._layout, manifest.id)
        say = self._wire.say
        try:
            health = check_installed(self._layout, self._config, manifest, self._service, say)
        except DeviceError:
            drop_release(self._layout, manifest.id)
            raise
        say(f"healthy: {_in_words(health)}")
        activate(self._layout, manifest, self._service, say, *_times(request))
        return {"release": manifest.id, "health": health}

    def _rollback(self, request: dict) -> dict:
        manifest = rollback_target(self._layout, request.get("to"))
        activate(self._layout, manifest, self._service, self._wire.say, *_times(request))
        return {"release": manifest.id}

    def _settings(self, request: dict) -> dict:
        settings = store_settings(self._layout, request.get("settings") or {})
        current = self._layout.current_id()
        if current is not None:
            self._service.restart()
            _, start_s = _times(request)
            watch(self._service, current, start_s, SETTINGS_SETTLE_S)
        return {"settings": settings, "service": self._service.status()}

    def _prune(self, request: dict) -> dict:
        keep = request.get("keep")
        if type(keep) is not int or keep < 1:
            raise RefusedError(f"prune keeps at least 1 release, not {keep!r:.20}")
        freed = prune(self._layout, read_state(self._layout), keep, self._wire.say)
        return {"freed_bytes": freed}

    def _offered(self) -> Offer:
        if self._offer is None:
            raise RefusedError("no release was offered in this session")
        return self._offer


def _times(request: dict) -> tuple:
    """Return how long a release must stay up, and how long it may take to be ready, in s."""
    times = []
    for key, usual in (("settle_s", SETTLE_S), ("start_s", START_S)):
        asked = request.get(key, usual)
        sane = isinstance(asked, (int, float)) and 0.1 <= asked <= 3600
        times.append(float(asked) if sane else usual)
    return tuple(times)


def _in_words(health: dict) -> str:
    took = health.get("act_s")
    return f"one inference in {took:.2f} s" if isinstance(took, (int, float)) else "it answered"
