"""The watchdog as the program that it watches sees it: start it, mind it, let it go."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from firmware_bridge.errors import BusError
from firmware_bridge.last_words import LastWords
from firmware_bridge.life_sign import (
    LifeSign,
    Phase,
    StopKind,
    TakenOver,
    outcome_word,
    unconfirmed_servos,
)
from firmware_bridge.stop_socket import remove_left_over
from firmware_bridge.transport import SerialTransport
from firmware_bridge.usb_ports import by_id_path
from firmware_bridge.watchdog_settings import (
    READY,
    WatchdogSettings,
    WatchdogTimes,
    stop_text,
    takeover_text,
)
from firmware_bridge.watched_port import WatchedPort

START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 2.0
# A soft stop over a bus on which nothing answers takes about this long beyond its ramp.
SOFT_STOP_TIMEOUT_S = 20.0
POLL_S = 0.02
MESSAGE_BYTES = 4096
NS_PER_S = 1_000_000_000


class StopAsked(BusError):  # noqa: N818 - nothing went wrong on the bus
    """Somebody, or the watchdog, wants the arm let down; call `soft_stop`, which never refuses."""


class WatchdogError(BusError):
    """The watchdog does not start, and without it there is no torque."""


class WatchdogHandle:
    """A running watchdog. `port` is the serial port as the program may use it from now on."""

    def __init__(
        self,
        port: SerialTransport,
        servo_ids: Sequence[int],
        times: WatchdogTimes,
        *,
        program: str,
        dead_man: bool,
        reply_timeout_s: float,
        echo: bool,
        ramp_s: float,
    ) -> None:
        """Start it and wait until it is ready; WatchdogError when it is not."""
        self.times = times
        self._ids = tuple(servo_ids)
        self._program = program
        self._dead_man = dead_man
        self._process: subprocess.Popen | None = None
        self._page = LifeSign.create()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.port = WatchedPort(port, self._page, self._control)
        settings = WatchdogSettings(
            program=program,
            process=os.getpid(),
            port=by_id_path(port.name) or os.path.abspath(port.name),
            baud_rate=port.baud_rate,
            reply_timeout_s=reply_timeout_s,
            echo=echo,
            servo_ids=self._ids,
            hold_s=times.hold_s,
            soften_s=times.soften_s,
            slow_s=times.slow_s,
            replug_s=times.replug_s,
            ramp_s=ramp_s,
            dead_man=dead_man,
            port_descriptor=port.fileno(),
            page_descriptor=self._page.descriptor,
            control_descriptor=theirs.fileno(),
        )
        try:
            with theirs:
                self._process = _start(settings)
            self._wait_ready()
        except BaseException:
            self.end()
            raise

    @property
    def process(self) -> int:
        """The number of the watchdog's process."""
        return self._process.pid

    @property
    def has_arm(self) -> bool:
        """Whether the watchdog has taken the arm over."""
        return bool(self._page.taken_over)

    @property
    def is_held(self) -> bool:
        """Whether somebody holds the dead man's switch."""
        return bool(self._page.held)

    def check(self) -> None:
        """Raise StopAsked when the arm is to be let down, or nobody watches any more."""
        page = self._page
        if page.taken_over:
            raise StopAsked(self._takeover_text())
        kind, process = page.stop_asked
        if kind is not StopKind.NOBODY:
            raise StopAsked(stop_text(kind, process))
        exit_code = self._process.poll()
        if exit_code is not None:
            how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
            raise StopAsked(f"the watchdog process is gone ({how}); without it nothing is driven")
        silent_s = (time.monotonic_ns() - page.watchdog_seen_ns) / NS_PER_S
        if silent_s > self.times.soften_s:
            raise StopAsked(
                f"the watchdog process {self._process.pid} hangs: silent for {silent_s:.1f} s, "
                f"allowed are {self.times.soften_s:g} s"
            )

    def torque_begins(self) -> None:
        """Announce arming. WatchdogError when a dead man's switch is wanted and nobody holds it."""
        if self._dead_man and not self.is_held:
            name = self.port.name
            raise WatchdogError(
                f"{name}: nobody holds the dead man's switch; run 'molmoact-arm hold-to-run "
                f"--port {name}' in another terminal first"
            )
        self._page.outcome = 0
        self._allow(self.times.slow_s)
        self._page.show_life(self.port.allowed_ns)
        self._page.phase = Phase.TORQUE

    def torque_is_on(self) -> None:
        """From its next request on the program may only be silent for short."""
        self._allow(self.times.hold_s)

    def softening_begins(self) -> None:
        """Announce the program's own soft stop, if there was torque."""
        if self._page.phase == Phase.TORQUE:
            self._allow(self.times.slow_s)
            self._page.show_life(self.port.allowed_ns)
            self._page.phase = Phase.SOFTENING

    def softened(self, unconfirmed_ids: Sequence[int]) -> None:
        """Say what the program's own soft stop reached."""
        if self._page.phase == Phase.SOFTENING:
            self._page.outcome = outcome_word(self._ids, unconfirmed_ids)
            self._page.phase = Phase.SOFT

    def leave_arm(self) -> tuple[tuple[int, ...], str]:
        """Leave an arm that was taken over to the watchdog, and wait until it has let it down.

        Returns the servos that did not confirm, and why it was taken over.
        """
        if self._page.phase != Phase.IDLE:
            self._page.phase = Phase.YIELDED
        deadline_s = time.monotonic() + SOFT_STOP_TIMEOUT_S + self.times.replug_s
        while not self._page.watchdog_outcome and self._process.poll() is None:
            if time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)
        return unconfirmed_servos(self._ids, self._page.watchdog_outcome), self._takeover_text()

    def hand_record(self, words: LastWords, descriptor: int) -> None:
        """Have the watchdog write a record out if this process cannot; see `LastWords`."""
        try:
            socket.send_fds(self._control, [words.to_json()], [descriptor])
        except OSError as error:
            raise WatchdogError(f"the watchdog does not take the black box: {error}") from error

    def end(self) -> None:
        """Let the watchdog go and wait until it is gone; the port is then nobody else's."""
        self._page.phase = Phase.DONE
        self._control.close()  # wakes it
        if self._process is None:
            return
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode != 0:
            remove_left_over(self.port.name)

    def _allow(self, seconds: float) -> None:
        self.port.allowed_ns = int(seconds * NS_PER_S)

    def _takeover_text(self) -> str:
        page = self._page
        return takeover_text(
            TakenOver(page.taken_over),
            self._program,
            os.getpid(),
            page.allowed_ns / NS_PER_S,
            page.stop_asked,
        )

    def _wait_ready(self) -> None:
        self._control.settimeout(START_TIMEOUT_S)
        try:
            message = self._control.recv(MESSAGE_BYTES)
        except TimeoutError:
            raise WatchdogError(
                f"the watchdog was not ready after {START_TIMEOUT_S:g} s; the machine is too busy "
                "to drive an arm"
            ) from None
        self._control.settimeout(None)
        if message != READY:
            reason = message.decode() or "it ended at once"
            raise WatchdogError(f"the watchdog did not start: {reason}")


def _start(settings: WatchdogSettings) -> subprocess.Popen:
    """Start the watchdog from this very code, in a session of its own.

    What it must know goes through its input: its command line says nothing of the program, so that
    whoever ends all processes of that name (`pkill -9 -f`) does not end the watchdog with it.
    """
    descriptors = (
        settings.port_descriptor,
        settings.page_descriptor,
        settings.control_descriptor,
    )
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "firmware_bridge.watchdog"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
            cwd=Path(__file__).parents[1],
        )
        with process.stdin as settings_input:
            settings_input.write(settings.to_json().encode())
        return process
    except OSError as error:
        raise WatchdogError(f"the watchdog did not start: {error}") from error
