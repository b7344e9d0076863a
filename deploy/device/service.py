"""The robot's service: under systemd, or under our own supervisor where there is none."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Union

from deploy.device.durable import write_whole
from deploy.device.errors import DeviceError
from deploy.device.layout import SERVICE, SYSTEMD, Config, Layout

RUNNING, STARTING, FAILED, STOPPED = "running", "starting", "failed", "stopped"
UDEV_RULES = "60-molmoact-arm.rules"
_SYSTEM_FOLDERS = {SERVICE: Path("/etc/systemd/system"), UDEV_RULES: Path("/etc/udev/rules.d")}
_UDEV = "/run/udev/control"  # not there in a container, though udevadm may be
_PROGRAM = "molmoact-edge-service"  # as the journal calls it
SUPERVISOR_SAYS = "supervisor: "
_COMMAND_S = 60.0
_SUPERVISOR_START_S = 60.0  # of an emulated processor, too
_FROM_SYSTEMD = {
    "active": RUNNING,
    "activating": STARTING,
    "reloading": STARTING,
    "failed": FAILED,
    "inactive": STOPPED,
    "deactivating": STOPPED,
}


def service_of(layout: Layout, config: Config) -> Service:
    """Return the service as this device was provisioned for it."""
    return SystemdService() if config.service == SYSTEMD else SupervisedService(layout)


def release_of_process(pid: int | None) -> str | None:
    """Return the release that a service's process was started from."""
    if not pid:
        return None
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    started = b" ".join(words[:3]).decode("utf-8", "replace")  # an emulator's name may come first
    found = re.search(r"/releases/([^/]+)/", started)
    return found.group(1) if found else None


class SystemdService:
    """molmoact-edge.service."""

    def adopt(self, release: Path) -> None:
        """Install a release's unit and udev rule, and tell systemd and udev.

        They are told where nothing differs, too: who wrote the files may not have come so far.
        """
        for name, folder in _SYSTEM_FOLDERS.items():
            content = (release / "system" / name).read_bytes()
            target = folder / name
            if not target.exists() or target.read_bytes() != content:
                write_whole(target, content)
        _command("systemctl", "daemon-reload")
        _command("systemctl", "enable", SERVICE)
        if os.path.exists(_UDEV):
            _command("udevadm", "control", "--reload-rules")
            _command("udevadm", "trigger", "--subsystem-match=tty")

    def restart(self) -> None:
        """Start the current release anew, whatever failed before; does not wait for it."""
        _command("systemctl", "reset-failed", SERVICE, may_fail=True)
        _command("systemctl", "restart", "--no-block", SERVICE)

    def stop(self) -> None:
        """Stop it and wait: the arm is let down first."""
        _command("systemctl", "stop", SERVICE, may_fail=True)

    def status(self) -> dict:
        """Return state, pid, restarts, the release that runs, and why when it failed."""
        shown = self._shown("ActiveState", "NRestarts", "MainPID", "StatusText")
        pid = int(shown.get("MainPID") or 0) or None
        state = _FROM_SYSTEMD.get(shown.get("ActiveState", ""), STOPPED)
        says = "" if state == STOPPED else shown.get("StatusText", "")  # stays when it is over
        return {
            "kind": "systemd",
            "state": state,
            "restarts": int(shown.get("NRestarts") or 0),
            "pid": pid,
            "release": release_of_process(pid),
            "says": self.last_words() if state == FAILED else says,
        }

    def last_words(self) -> str:
        """Return the last line that the service logged, and how it ended where it was ended.

        By program and invocation: what systemd logs of the unit comes behind the service's reason.
        """
        shown = self._shown("InvocationID", "Result")
        which = "_SYSTEMD_INVOCATION_ID=" + shown.get("InvocationID", "")
        words = ("journalctl", which, "-t", _PROGRAM, "-q", "-n", "1", "-o", "cat")
        said = _command(*words, may_fail=True).strip() or "it said nothing"
        ended = shown.get("Result", "success")
        return said if ended in ("exit-code", "success") else f"{said} (systemd: {ended})"

    def _shown(self, *names: str) -> dict:
        text = _command("systemctl", "show", "-p", ",".join(names), SERVICE, may_fail=True)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


class SupervisedService:
    """The service under `agent.pyz supervise`, see `deploy.device.supervisor`."""

    def __init__(self, layout: Layout) -> None:
        """Take the device's folders."""
        self._layout = layout

    def adopt(self, release: Path) -> None:
        """Nothing of a release is installed elsewhere."""

    def restart(self) -> None:
        """Ask the supervisor for a new start, and start it first where it does not run."""
        request = self._ask("run")
        if self._supervisor_pid() is None:
            self._start_supervisor()
        self._wait_for(request)

    def stop(self) -> None:
        """Stop the service; the supervisor stays."""
        request = self._ask("stop")
        if self._supervisor_pid() is not None:
            self._wait_for(request)

    def status(self) -> dict:
        """Return state, pid, restarts and the release that runs."""
        stated = self._stated()
        if self._supervisor_pid() is None:
            stated = {}
        pid = stated.get("pid")
        return {
            "kind": "supervisor",
            "state": stated.get("state", STOPPED),
            "restarts": stated.get("restarts", 0),
            "pid": pid,
            "release": release_of_process(pid),
            "says": stated.get("says", ""),
        }

    def last_words(self) -> str:
        """Return the last line that the service logged."""
        try:
            with (self._layout.run / "service.log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        own = [line for line in lines if not line.startswith(SUPERVISOR_SAYS)]
        return (own or lines or [""])[-1]

    def _ask(self, wanted: str) -> str:
        request = f"{os.getpid()}-{time.monotonic_ns()}"
        stated = json.dumps({"wanted": wanted, "request": request}).encode("utf-8")
        write_whole(self._layout.run / "request.json", stated)
        pid = self._supervisor_pid()
        if pid is not None:
            os.kill(pid, signal.SIGHUP)
        return request

    def _wait_for(self, request: str) -> None:
        deadline_s = time.monotonic() + _SUPERVISOR_START_S
        while self._stated().get("request") != request:
            if time.monotonic() > deadline_s:
                raise DeviceError("the supervisor does not answer; see run/supervisor.log")
            time.sleep(0.02)

    def _stated(self) -> dict:
        try:
            return json.loads((self._layout.run / "service.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def _supervisor_pid(self) -> int | None:
        try:
            pid = int((self._layout.run / "supervisor.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if b"supervise" in words else None

    def _start_supervisor(self) -> None:
        command = [sys.executable, "-I", str(self._layout.agent), "supervise"]
        with (self._layout.run / "supervisor.log").open("ab") as log:
            subprocess.Popen(
                [*command, "--root", str(self._layout.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )


def watch(
    service: Service,
    release_id: str,
    start_s: float,
    settle_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when `release_id` has run undisturbed for `settle_s`; DeviceError when it does not.

    It may take `start_s` until it says that it is ready.
    """
    begun_s = clock()
    ready_s = first_pid = None
    while True:
        now_s = clock()
        status = service.status()
        ours = status["release"] == release_id
        if status["state"] == RUNNING and ours:
            if ready_s is None:
                ready_s, first_pid = now_s, status["pid"]
            elif status["pid"] != first_pid:
                raise DeviceError(f"{release_id} started anew: {service.last_words()}")
            elif now_s - ready_s >= settle_s:
                return
        elif ready_s is not None:
            raise DeviceError(f"{release_id} did not stay up: {service.last_words()}")
        elif status["state"] == FAILED or status["restarts"]:
            raise DeviceError(f"{release_id} did not start: {service.last_words()}")
        elif now_s - begun_s > start_s:
            raise DeviceError(f"{release_id} was not ready after {start_s:g} s")
        sleep(0.1)


Service = Union[SystemdService, SupervisedService]


def _command(*words: str, may_fail: bool = False) -> str:
    try:
        done = subprocess.run(
            list(words),
            capture_output=True,
            timeout=_COMMAND_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError("{}: {}".format(" ".join(words), error)) from None
    if done.returncode and not may_fail:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise DeviceError("{}: {}".format(" ".join(words), said[-1]))
    return done.stdout.decode("utf-8", "replace")
