"""Keep the service running where there is no systemd: containers, and tests on loopback.

The same rules as in the unit: started again after a crash, not after exit code 2 (somebody must
look), at most START_BURST times within START_INTERVAL_S; a service that said it would be alive and
falls silent is ended. One process, one supervisor per device.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TextIO

from deploy.device.durable import write_whole
from deploy.device.errors import DeviceError
from deploy.device.guard import guard, open_lock
from deploy.device.health import service_environment
from deploy.device.interpreter import become, user_ids
from deploy.device.layout import Config, Layout
from deploy.device.service import (
    FAILED,
    RUNNING,
    STARTING,
    STOPPED,
    SUPERVISOR_SAYS,
    service_of,
)

START_BURST, START_INTERVAL_S = 3, 1200.0  # as the unit
RESTART_S = 1.0
WATCHDOG_S = 15.0
STOP_S = 20.0
NOT_RESTARTED = (0, 2)  # over, and refused or stopped for safety
_MOST_LOG_BYTES = 1 << 20


class Supervisor:
    """One child, what it says of itself, and the signals that ask for a new start or an end."""

    def __init__(self, layout: Layout, config: Config) -> None:
        """Take the device; `run` does the work."""
        self._layout = layout
        self._config = config
        self._child: subprocess.Popen | None = None
        self._starts_s: list = []
        self._restart_at_s: float | None = None
        self._heard_s = 0.0
        self._status = {"state": STOPPED, "pid": None, "restarts": 0, "says": "", "request": ""}
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # Abstract: no file to own, and no limit of 108 characters on where the root lies.
        self._address = f"\0molmoact-edge-{os.getpid()}"
        self._notices.bind(self._address)
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._ended = False

    def run(self) -> int:
        """Supervise until SIGTERM; 2 when another supervisor is there."""
        lock = open_lock(self._layout.run / "supervisor.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 2
        signal.set_wakeup_fd(self._wake_writer)
        for number in (signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        write_whole(self._layout.run / "supervisor.pid", b"%d" % os.getpid())
        self._obey_request()
        while not self._ended:
            self._wait()
            self._hear()
            self._obey_request()
            self._look_after_child()
        self._stop_child()
        self._tell(state=STOPPED, pid=None)
        return 0

    def _end(self, *_: object) -> None:
        self._ended = True

    def _wait(self) -> None:
        timeout_s = 1.0 if self._restart_at_s is None else 0.1
        readable, _, _ = select.select([self._notices, self._wake_reader], [], [], timeout_s)
        if self._wake_reader in readable:
            os.read(self._wake_reader, 512)

    def _hear(self) -> None:
        while True:
            try:
                message = self._notices.recv(4096, socket.MSG_DONTWAIT).decode("utf-8", "replace")
            except BlockingIOError:
                return
            said = dict(line.split("=", 1) for line in message.splitlines() if "=" in line)
            if "WATCHDOG" in said or "READY" in said:
                self._heard_s = time.monotonic()
            if "READY" in said and self._child is not None:
                self._tell(state=RUNNING)
            if "STATUS" in said:
                self._tell(says=said["STATUS"][:200])

    def _obey_request(self) -> None:
        try:
            stated = json.loads((self._layout.run / "request.json").read_text("utf-8"))
        except (OSError, ValueError):
            return
        if stated.get("request") == self._status["request"]:
            return
        self._stop_child()
        self._starts_s, self._restart_at_s = [], None
        self._tell(state=STOPPED, pid=None, restarts=0)
        if stated.get("wanted") == "run":
            self._start_child()
        self._tell(request=stated.get("request"))

    def _look_after_child(self) -> None:
        now_s = time.monotonic()
        if self._restart_at_s is not None and now_s >= self._restart_at_s:
            self._restart_at_s = None
            self._start_child()
        if self._child is None:
            return
        exit_code = self._child.poll()
        if exit_code is None:
            if self._status["state"] == RUNNING and now_s - self._heard_s > WATCHDOG_S:
                self._log(f"silent for {WATCHDOG_S:g} s; ending it")
                self._child.kill()
            return
        self._child = None
        if exit_code in NOT_RESTARTED:
            self._tell(state=FAILED if exit_code else STOPPED, pid=None)
        elif len([s for s in self._starts_s if now_s - s < START_INTERVAL_S]) >= START_BURST:
            self._log(f"ended with {exit_code}; too many starts, giving up")
            self._tell(state=FAILED, pid=None)
        else:
            self._restart_at_s = now_s + RESTART_S
            self._tell(state=STARTING, pid=None, restarts=self._status["restarts"] + 1)

    def _start_child(self) -> None:
        self._hear()  # what the one before said does not count for this one
        try:
            guard(self._layout, service_of(self._layout, self._config))
        except (DeviceError, OSError) as error:
            self._log(str(error))  # and what is current starts all the same
        program = self._layout.current / "bin" / "molmoact-edge-service"
        environment = service_environment(self._layout)
        environment["NOTIFY_SOCKET"] = "@" + self._address[1:]
        environment["WATCHDOG_USEC"] = str(int(WATCHDOG_S * 1e6))
        now_s = time.monotonic()
        self._starts_s.append(now_s)
        try:
            with self._open_log() as log:
                self._child = subprocess.Popen(
                    [str(program)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=str(self._layout.home),
                    env=environment,
                    preexec_fn=become(user_ids(self._config.user)),
                )
        except (OSError, DeviceError) as error:
            self._log(f"cannot start: {error}")
            self._tell(state=FAILED, pid=None)
            return
        self._heard_s = now_s
        self._tell(state=STARTING, pid=self._child.pid, says="")

    def _stop_child(self) -> None:
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None

    def _tell(self, **news: object) -> None:
        self._status.update(news)
        text = json.dumps(self._status).encode("utf-8")
        with contextlib.suppress(OSError):  # a full disk is no reason to stop the robot
            write_whole(self._layout.run / "service.json", text)

    def _log(self, line: str) -> None:
        with contextlib.suppress(OSError), self._open_log() as log:
            log.write(f"{SUPERVISOR_SAYS}{line}\n")

    def _open_log(self) -> TextIO:
        path: Path = self._layout.run / "service.log"
        if path.exists() and path.stat().st_size > _MOST_LOG_BYTES:
            os.replace(str(path), str(path.with_name("service.log.1")))
        return path.open("a")
