"""The watchdog of a program that drives an arm: a process of its own, started before torque.

    python -m firmware_bridge.watchdog     never by hand: its settings come through its input

It inherits the serial port and a page of memory (`life_sign.py`). While the program shows life
there, the watchdog only listens at the stop socket. When the program is silent or gone, it takes
the arm over, for good: it marks that in the page, which the program looks at before every byte it
sends; holds the arm; ends the program with SIGKILL unless that woke up and yielded; and lets the
arm down. Ctrl-C, SIGTERM and a lost terminal do not reach it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence

from firmware_bridge.bus import Bus
from firmware_bridge.hold import hold
from firmware_bridge.inherited_port import InheritedPort
from firmware_bridge.last_words import LastWords
from firmware_bridge.life_sign import (
    LifeSign,
    Phase,
    StopKind,
    TakenOver,
    outcome_word,
    unconfirmed_servos,
)
from firmware_bridge.soft_stop import soft_stop
from firmware_bridge.stop_server import StopServer
from firmware_bridge.stop_socket import StopSocketError, listen
from firmware_bridge.transport import WATCHDOG_NAME
from firmware_bridge.watchdog_settings import (
    PORT_LOST,
    PORT_OPENED,
    READY,
    WatchdogSettings,
    takeover_text,
)

POLL_S = 0.02
# A servo that was sent half a frame takes what follows for the rest of it until the line has been
# quiet; for how long is not documented. The longest frame takes 2.6 ms at 1 Mbit/s.
QUIET_S = 0.06
HOLD_EVERY_S = 0.05
# Silence counts when it lasts this long after it was noticed: both processes may have stood still
# together, with the whole machine.
CONFIRM_S = 0.05
# After SIGKILL a process may still sit in a call of the kernel, where it touches nothing.
KILL_WAIT_S = 2.0
MESSAGE_BYTES = 16384
PR_SET_NAME, MCL_CURRENT, MCL_FUTURE = 15, 1, 2  # Linux sys/prctl.h, sys/mman.h
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)


class Watchdog:
    """Watches one program and one arm; `run` returns when neither needs it any more."""

    def __init__(self, settings: WatchdogSettings, page: LifeSign, server: StopServer) -> None:
        self._settings = settings
        self._page = page
        self._server = server
        self._control: socket.socket | None = socket.socket(fileno=settings.control_descriptor)
        self._port = InheritedPort(settings.port_descriptor, settings.port, settings.baud_rate)
        self._record: tuple[LastWords, int] | None = None
        self._told_lost = False
        self._silent_since_ns: int | None = None
        self._asked_since_ns: int | None = None

    def run(self) -> None:
        """Watch until the program is done with the arm, gone before torque, or taken over."""
        self._page.watchdog_seen_ns = time.monotonic_ns()  # before anybody looks for it
        self._control.send(READY)
        try:
            why = TakenOver.NO
            while why is TakenOver.NO and self._page.phase != Phase.DONE:
                self._serve(POLL_S)
                why = self._trouble()
            if self._page.outcome:  # also of a program that was soft and done between two looks
                self._answer(self._page.outcome)
            if why is not TakenOver.NO:
                self._take_over(why)
        finally:
            self._server.close()

    def _trouble(self) -> TakenOver:
        now_ns = time.monotonic_ns()  # before the page is read: what it says is newer than this
        gone = self._is_gone()
        phase = self._page.phase
        if phase == Phase.DONE:
            return TakenOver.NO
        if gone:
            return TakenOver.GONE
        if phase in (Phase.TORQUE, Phase.SOFTENING) and self._is_silent(now_ns):
            return TakenOver.SILENT
        if self._page.stop_asked[0] is StopKind.NOBODY:
            return TakenOver.NO
        self._asked_since_ns = self._asked_since_ns or now_ns
        if phase == Phase.SOFT:
            self._answer(self._page.outcome)
        if phase == Phase.IDLE:
            return TakenOver.STOP_BEFORE_TORQUE
        ignored_s = (now_ns - self._asked_since_ns) / 1e9
        if phase == Phase.TORQUE and ignored_s > self._settings.slow_s:
            return TakenOver.STOP_IGNORED
        return TakenOver.NO

    def _is_silent(self, now_ns: int) -> bool:
        if now_ns <= self._page.alive_until_ns:
            self._silent_since_ns = None
            return False
        self._silent_since_ns = self._silent_since_ns or now_ns
        return now_ns - self._silent_since_ns > CONFIRM_S * 1e9

    def _is_gone(self) -> bool:
        return os.getppid() != self._settings.process

    def _take_over(self, why: TakenOver) -> None:
        had_torque = self._page.phase in (Phase.TORQUE, Phase.SOFTENING)
        self._page.taken_over = why
        outcome = 0
        if had_torque or why is TakenOver.STOP_BEFORE_TORQUE:
            self._pause(QUIET_S)  # an access in progress ends, half a frame is given up
            if had_torque:
                self._hold_and_fence()
            outcome = self._let_down()
            self._page.watchdog_outcome = outcome
            self._answer(outcome)
        if self._is_gone():
            self._report(why, outcome, had_torque)

    def _hold_and_fence(self) -> None:
        """Hold until the program has yielded or is gone; end it when it does neither in time."""
        bus, goals = self._bus(), {}
        fence_s = time.monotonic() + self._settings.soften_s - self._settings.hold_s
        give_up_s = fence_s + KILL_WAIT_S
        while not self._is_gone() and self._page.phase not in (Phase.YIELDED, Phase.DONE):
            hold(bus, self._settings.servo_ids, goals)
            self._pause(HOLD_EVERY_S)
            if time.monotonic() > give_up_s:
                return
            if time.monotonic() > fence_s and not self._is_gone():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._settings.process, signal.SIGKILL)

    def _let_down(self) -> int:
        settings = self._settings
        bus = self._bus()

        def pause(seconds: float) -> None:
            if bus.port_lost:
                self._tell_lost()
            self._pause(seconds)

        report = soft_stop(
            bus,
            settings.servo_ids,
            ramp_s=settings.ramp_s,
            port_wait_s=settings.replug_s,
            sleep=pause,
        )
        return outcome_word(settings.servo_ids, report.unconfirmed_ids)

    def _tell_lost(self) -> None:
        """Say once that the plug is wanted back; what is plugged in there may be another arm."""
        if not self._told_lost:
            self._told_lost = True
            self._server.hide()
            self._say(
                f"{self._settings.port}: port lost with torque on; plug it in again within "
                f"{self._settings.replug_s:g} s, or switch the arm's power off"
            )

    def _bus(self) -> Bus:
        settings = self._settings
        return Bus(self._port, reply_timeout_s=settings.reply_timeout_s, echo=settings.echo)

    def _pause(self, seconds: float) -> None:
        """Sleep, but go on showing life and hearing clients."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0.0:
            self._serve(min(left_s, POLL_S))

    def _serve(self, wait_s: float) -> None:
        page, server = self._page, self._server
        page.watchdog_seen_ns = time.monotonic_ns()
        wake = [self._control] if self._control is not None else []
        for _ in server.serve(wait_s, wake):
            self._hear_program()
        page.held = int(server.holders > 0)
        if server.asked_by is not None:
            page.ask_stop(StopKind.COMMAND, server.asked_by)
        if server.let_go_by is not None:
            if page.phase in (Phase.TORQUE, Phase.SOFTENING):
                page.ask_stop(StopKind.DEAD_MAN, server.let_go_by)
            server.let_go_by = None

    def _hear_program(self) -> None:
        """Take what the program hands over: see the messages in `watchdog_settings.py`."""
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
        except OSError:
            message, descriptors = b"", []
        if not message:
            self._control.close()
            self._control = None
        elif message == PORT_LOST:
            self._port.close()
        elif message == PORT_OPENED:
            self._port.replace(descriptors[0])
        else:
            self._record = (LastWords.from_json(message), descriptors[0])

    def _answer(self, outcome: int) -> None:
        ids = self._settings.servo_ids
        unconfirmed = unconfirmed_servos(ids, outcome)
        limp = [servo for servo in ids if servo not in unconfirmed]
        self._server.answer(f"limp {_listed(limp)} unconfirmed {_listed(unconfirmed)}")

    def _report(self, why: TakenOver, outcome: int, had_torque: bool) -> None:
        """Say on the screen and in the record what the program cannot say any more."""
        settings = self._settings
        reason = takeover_text(
            why,
            settings.program,
            settings.process,
            self._page.allowed_ns / 1e9,
            self._page.stop_asked,
        )
        if had_torque:
            unconfirmed = unconfirmed_servos(settings.servo_ids, outcome)
            reason += (
                f"; servos {_listed(unconfirmed)} did not confirm torque off: switch the arm's "
                "power off"
                if unconfirmed
                else f"; the watchdog let the arm down, limp: servos {_listed(settings.servo_ids)}"
            )
        else:
            reason = f"{settings.program} (process {settings.process}) ended without a word"
        if self._record is not None:
            words, descriptor = self._record
            reason += words.write_if_missing(descriptor, reason)
        if had_torque:
            self._say(reason)

    def _say(self, line: str) -> None:
        """Print to the program's terminal, but never wait for it."""
        with contextlib.suppress(OSError):
            _, writable, _ = select.select([], [sys.stderr], [], 0.0)
            if writable:
                text = f"{self._settings.program}: watchdog: {line}\n"
                os.write(sys.stderr.fileno(), text.encode())


def main() -> int:
    """Watch as the settings on standard input say; return 1 when there is no stop socket."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    settings = WatchdogSettings.from_json(sys.stdin.read())
    _be_prompt()
    try:
        server, path = listen(settings.port)
    except StopSocketError as error:
        with socket.socket(fileno=settings.control_descriptor) as control:
            control.send(f"no stop socket: {error}".encode())
        return 1
    who = f"{settings.process} {settings.program}"
    stop_server = StopServer(server, path, who, dead_man=settings.dead_man)
    Watchdog(settings, LifeSign(settings.page_descriptor), stop_server).run()
    return 0


def _be_prompt() -> None:
    """Run before every ordinary program and stay in memory, as far as the system allows it."""
    try:
        highest = os.sched_get_priority_max(os.SCHED_FIFO)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(highest))
    except OSError:
        with contextlib.suppress(OSError):
            os.nice(-20)
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_NAME, WATCHDOG_NAME.encode(), 0, 0, 0)
        libc.mlockall(MCL_CURRENT | MCL_FUTURE)


def _listed(servo_ids: Sequence[int]) -> str:
    return " ".join(str(servo_id) for servo_id in servo_ids)


if __name__ == "__main__":
    sys.exit(main())
