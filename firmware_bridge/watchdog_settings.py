"""What a program tells the watchdog it starts, and how both word why an arm was stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from firmware_bridge.life_sign import StopKind, TakenOver

# What goes over the socket between the two. From the watchdog: READY, or why it is not; from the
# program: PORT_LOST, PORT_OPENED with the new descriptor, or a `LastWords` with its descriptor.
READY = b"ready"
PORT_LOST = b"port lost"
PORT_OPENED = b"port opened"


@dataclass(frozen=True, slots=True)
class WatchdogTimes:
    """When the watchdog acts; stated by whoever opens the arm, none has a default.

    After `hold_s` of silence on the bus it takes the arm over and holds it; at `soften_s` it ends
    the program if that still hangs, and lets the arm down. `slow_s` of silence are allowed instead
    while torque comes and goes and before the first tick. For `replug_s` it waits for a port that
    was unplugged.
    """

    hold_s: float
    soften_s: float
    slow_s: float
    replug_s: float


@dataclass(frozen=True, slots=True)
class WatchdogSettings:
    """What a watchdog is started with; descriptors are inherited."""

    program: str  # its name, for messages
    process: int
    port: str  # absolute, to open it again
    baud_rate: int
    reply_timeout_s: float
    echo: bool
    servo_ids: tuple[int, ...]
    hold_s: float
    soften_s: float
    slow_s: float
    replug_s: float
    ramp_s: float  # of the soft stop
    dead_man: bool
    port_descriptor: int
    page_descriptor: int
    control_descriptor: int

    def to_json(self) -> str:
        """Return what the watchdog reads from its input."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WatchdogSettings:
        """Read what `to_json` made."""
        values = json.loads(text)
        return cls(**{**values, "servo_ids": tuple(values["servo_ids"])})


def stop_text(kind: StopKind, process: int) -> str:
    """Say who asked for the stop."""
    if kind is StopKind.DEAD_MAN:
        return f"the dead man's switch was let go (process {process})"
    return f"stopped by 'molmoact-arm stop' (process {process})"


def takeover_text(
    why: TakenOver, program: str, process: int, allowed_s: float, stop: tuple[StopKind, int]
) -> str:
    """Say why the watchdog took the arm over, in words that fit the screen and the black box."""
    who = f"{program} (process {process})"
    if why is TakenOver.GONE:
        return f"{who} was killed or crashed while the arm had torque"
    if why is TakenOver.SILENT:
        return f"{who} hung: no sign of life on the bus for more than {allowed_s:.2f} s"
    asked = stop_text(*stop)
    return f"{asked}; {who} did not react" if why is TakenOver.STOP_IGNORED else asked
