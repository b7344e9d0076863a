"""What the device remembers: which release was found good, which is on trial, the newest taken."""

from __future__ import annotations

import json
import time

from deploy.device.durable import write_whole
from deploy.device.errors import DeviceError
from deploy.device.layout import Layout

SCHEMA = 1
LONGEST_HISTORY = 50


class State:
    """state.json. `trial` stands from before a switch until the new release has proved itself."""

    def __init__(self, stated: dict) -> None:
        """Take the content of state.json."""
        self.newest_sequence: int = stated.get("newest_sequence", 0)
        self.newest_manifest: str = stated.get("newest_manifest", "")
        self.confirmed: str | None = stated.get("confirmed")
        self.previous: str | None = stated.get("previous")
        self.profile_name: str | None = stated.get("profile_name")
        self.trial: dict | None = stated.get("trial")
        self.history: list = stated.get("history", [])

    def note(self, what: str, release_id: str | None) -> None:
        """Add a line to the history, the newest last."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.history.append({"utc": now, "what": what, "release": release_id})
        del self.history[:-LONGEST_HISTORY]

    def as_json(self) -> dict:
        """Return what `read_state` reads."""
        return {
            "schema": SCHEMA,
            "newest_sequence": self.newest_sequence,
            "newest_manifest": self.newest_manifest,
            "confirmed": self.confirmed,
            "previous": self.previous,
            "profile_name": self.profile_name,
            "trial": self.trial,
            "history": self.history,
        }


def read_state(layout: Layout) -> State:
    """Read state.json; an absent one is that of a device that never had a release."""
    try:
        stated = json.loads(layout.state.read_text("utf-8"))
    except FileNotFoundError:
        return State({})
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"{layout.state}: unreadable ({error}); the newest sequence number is lost with it, so "
            "nothing is taken; 'molmoact-flash provision --forget-state' begins anew"
        ) from None
    if not isinstance(stated, dict) or stated.get("schema") != SCHEMA:
        raise DeviceError(f"{layout.state}: of another agent; provision again")
    return State(stated)


def write_state(layout: Layout, state: State) -> None:
    """Put state.json on disk."""
    text = json.dumps(state.as_json(), indent=1, sort_keys=True) + "\n"
    write_whole(layout.state, text.encode("utf-8"))
