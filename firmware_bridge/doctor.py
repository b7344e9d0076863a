"""The check-up of an arm from the port to the last register, and the mending of what can be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from firmware_bridge.bus import Bus
from firmware_bridge.calibration import JOINTS, Calibration
from firmware_bridge.errors import BusError, PortError
from firmware_bridge.findings import Finding, Level, fail, merged
from firmware_bridge.line_checkup import check_echo, check_ids, check_replies
from firmware_bridge.line_probe import count_replies
from firmware_bridge.port_checkup import check_latency, check_port
from firmware_bridge.readiness_checkup import check_memory, check_ranges
from firmware_bridge.servo_checkup import check_feelings, check_identity
from firmware_bridge.servo_state import ServoState, read_state
from firmware_bridge.settings_checkup import check_settings
from firmware_bridge.transport import DEFAULT_BAUD_RATE


class Doctor:
    """Examines the arm on the port that `open_at` opens at a baud rate; writes only to mend.

    `echo` is what the user says of the adapter, `reads` how often every servo is read to find bad
    cables. The servos' ids are those of `calibration`, 1..6 without one.
    """

    def __init__(
        self,
        open_at: Callable[[int], Bus],
        *,
        calibration: Calibration | None = None,
        echo: bool = False,
        reads: int = 100,
    ) -> None:
        self._open_at = open_at
        self._calibration = calibration
        self._echo = echo
        self._reads = reads
        self._names = (
            dict(enumerate(JOINTS, start=1))
            if calibration is None
            else {calibration[joint].id: joint for joint in JOINTS}
        )

    def examine(self, port: str) -> Iterator[Finding]:
        """Yield findings as they are made; ends early where nothing more can be found out."""
        found = check_port(port)
        yield found
        if found.level is Level.FAIL:
            return
        try:
            with contextlib.closing(self._open_at(DEFAULT_BAUD_RATE)) as bus:
                findings = [check_latency(port), check_echo(bus, self._echo)]
            findings = [finding for finding in findings if finding is not None]
            yield from findings
            if any(finding.level is Level.FAIL for finding in findings):
                return
            present, findings = check_ids(self._open_at, self._names)
            yield from findings
            if present:
                with contextlib.closing(self._open_at(DEFAULT_BAUD_RATE)) as bus:
                    yield from self._examine_servos(bus, present)
        except PortError as error:
            yield fail(f"port {port}", str(error).removeprefix(f"{port}: "), "mend this first")

    def mend(
        self,
        findings: Iterable[Finding],
        agreed: Callable[[str], bool],
        say: Callable[[str], None],
    ) -> int:
        """Put right what can be and is agreed to; return how many mends were made.

        `agreed` is asked with a line for each finding; what a servo refuses is said. Raises
        PortError.
        """
        made = 0
        with contextlib.closing(self._open_at(DEFAULT_BAUD_RATE)) as bus:
            for finding in findings:
                if not finding.mends or not agreed(finding.mending):
                    continue
                for mend in finding.mends:
                    who = f"servo {mend.servo_id} ({self._names[mend.servo_id]})"
                    try:
                        if mend.needs_limp and read_state(bus, mend.servo_id).torque_on:
                            say(f"left as it is: {who}: torque is on; 'molmoact-arm stop' first")
                            continue
                        mend.apply(bus)
                        made += 1
                    except PortError:
                        raise
                    except BusError as error:
                        say(f"not mended: {who}: {error}")
        return made

    def _examine_servos(self, bus: Bus, present: list[int]) -> Iterator[Finding]:
        counts = {servo_id: count_replies(bus, servo_id, self._reads) for servo_id in present}
        yield from check_replies(counts, self._names)
        states: list[ServoState] = []
        for servo_id in present:
            try:
                states.append(read_state(bus, servo_id))
            except PortError:
                raise
            except BusError as error:
                yield fail(f"servo {servo_id} ({self._names[servo_id]})", str(error), "try again")
        if not states:
            return
        yield from merged(check_identity(states, self._names))
        yield from merged(check_feelings(states, self._names))
        yield from merged(check_settings(states, self._names))
        yield from merged(check_ranges(states, self._names, self._calibration))
        yield from merged(check_memory(states, self._names))
