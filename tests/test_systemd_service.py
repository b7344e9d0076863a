"""The service under systemd, with stand-ins for its commands."""

from __future__ import annotations

import os

import pytest

from deploy.device import service as service_module
from deploy.device.errors import DeviceError
from deploy.device.guard import guard
from deploy.device.layout import Layout
from deploy.device.service import (
    FAILED,
    RUNNING,
    STARTING,
    STOPPED,
    SystemdService,
    release_of_process,
    watch,
)
from deploy.device.state import State, read_state, write_state
from deploy.release_build import system_parts
from firmware_bridge import stop_socket

STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> {calls}
[ -f {answer} ] && [ "$1" = show ] && cat {answer}
[ "$(basename "$0") $1" = "journalctl {own}" ] && cat {words}
exit 0
"""
OWN = "_SYSTEMD_INVOCATION_ID=b027dc07"


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """Give (the service, the commands so far, a way to say what `systemctl show` answers)."""
    calls, answer, programs = tmp_path / "calls", tmp_path / "answer", tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "udevadm", "journalctl"):
        stand_in = STAND_IN.format(calls=calls, answer=answer, own=OWN, words=tmp_path / "words")
        (programs / name).write_text(stand_in)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    folders = {"molmoact-edge.service": tmp_path / "system", "60-molmoact-arm.rules": tmp_path}
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(service_module, "_SYSTEM_FOLDERS", folders)
    monkeypatch.setattr(service_module, "_UDEV", tmp_path / "udev")
    (tmp_path / "udev").touch()

    def heard():
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines

    def answers(**values):
        answer.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    return SystemdService(), heard, answers


def release_in(folder, unit="unit 1", rules="rules 1"):
    (folder / "system").mkdir(parents=True, exist_ok=True)
    (folder / "system" / "molmoact-edge.service").write_text(unit)
    (folder / "system" / "60-molmoact-arm.rules").write_text(rules)
    return folder


def test_the_units_sandbox_leaves_the_stop_socket_where_it_is_looked_for():
    lines = system_parts()["system/molmoact-edge.service"].decode().splitlines()
    stated = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    assert ("PrivateTmp", "yes") not in [tuple(pair) for pair in stated]
    writable = [path for key, value in stated if key == "ReadWritePaths" for path in value.split()]
    assert str(stop_socket._SHARED_FOLDER) in writable


TOLD = [
    "systemctl daemon-reload",
    "systemctl enable molmoact-edge.service",
    "udevadm control --reload-rules",
    "udevadm trigger --subsystem-match=tty",
]


def test_a_releases_unit_and_rule_are_installed_and_told(systemd, tmp_path):
    service, heard, _ = systemd
    service.adopt(release_in(tmp_path / "r1"))
    assert (tmp_path / "system" / "molmoact-edge.service").read_text() == "unit 1"
    assert (tmp_path / "60-molmoact-arm.rules").read_text() == "rules 1"
    assert heard() == TOLD


def test_files_whose_writer_died_before_telling_are_told_the_next_time(systemd, tmp_path):
    service, heard, _ = systemd
    release = release_in(tmp_path / "r1")
    for name, folder in service_module._SYSTEM_FOLDERS.items():
        (folder / name).write_bytes((release / "system" / name).read_bytes())
    service.adopt(release)
    assert heard() == TOLD


def test_where_udev_does_not_run_its_rule_is_installed_and_nobody_told(systemd, tmp_path):
    service, heard, _ = systemd
    (tmp_path / "udev").unlink()
    service.adopt(release_in(tmp_path / "r1"))
    assert (tmp_path / "60-molmoact-arm.rules").read_text() == "rules 1"
    assert heard() == TOLD[:2]


@pytest.fixture
def on_trial(systemd, tmp_path):
    """Give a device whose session died after it had put the new release's unit in place."""
    layout = Layout(tmp_path / "root")
    layout.releases.mkdir(parents=True)
    release_in(layout.release("1-old"))
    service, heard, _ = systemd
    service.adopt(release_in(layout.release("2-new"), unit="unit 2", rules="rules 2"))
    heard()
    layout.current.symlink_to("releases/2-new")
    write_state(layout, State({"confirmed": "1-old", "trial": {"from": "1-old", "to": "2-new"}}))
    return layout


def test_the_old_release_comes_back_with_its_unit(systemd, on_trial, tmp_path):
    service, heard, _ = systemd
    assert guard(on_trial, service) == "2-new had not proved itself; back to 1-old"
    assert on_trial.current_id() == "1-old"
    assert (tmp_path / "system" / "molmoact-edge.service").read_text() == "unit 1"
    assert (tmp_path / "60-molmoact-arm.rules").read_text() == "rules 1"
    assert heard() == TOLD
    assert read_state(on_trial).trial is None


def test_a_trial_is_not_over_before_the_old_unit_is_back(systemd, on_trial, tmp_path):
    service, _, _ = systemd
    unit = tmp_path / "system" / "molmoact-edge.service"
    unit.with_name(f".{unit.name}.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        guard(on_trial, service)
    assert read_state(on_trial).trial == {"from": "1-old", "to": "2-new"}
    unit.with_name(f".{unit.name}.new").rmdir()
    guard(on_trial, service)
    assert unit.read_text() == "unit 1"


def test_a_new_start_forgets_what_failed_before(systemd):
    service, heard, _ = systemd
    service.restart()
    assert heard() == [
        "systemctl reset-failed molmoact-edge.service",
        "systemctl restart --no-block molmoact-edge.service",
    ]


@pytest.mark.parametrize(
    ("said", "state"),
    [("active", RUNNING), ("activating", STARTING), ("failed", FAILED), ("inactive", STOPPED)],
)
def test_what_systemd_says_is_read(systemd, said, state):
    service, _, answers = systemd
    answers(ActiveState=said, NRestarts=2, MainPID=0, StatusText="waiting for a task: x=y")
    status = service.status()
    assert (status["state"], status["restarts"], status["pid"]) == (state, 2, None)
    if said.startswith("activ"):
        assert status["says"] == "waiting for a task: x=y"


def test_a_service_that_failed_says_why_and_not_what_it_waited_for(systemd, tmp_path):
    service, _, answers = systemd
    said = "molmoact-edge: error: camera front: /dev/video0 does not exist"
    (tmp_path / "words").write_text(said + "\n")
    shown = {"MainPID": 0, "StatusText": "waiting for /dev/molmoact-arm", "Result": "exit-code"}
    answers(ActiveState="failed", InvocationID="b027dc07", **shown)
    assert service.status()["says"] == service.last_words() == said
    answers(ActiveState="inactive", **shown)
    assert service.status()["says"] == ""


def test_a_service_that_was_ended_says_by_what(systemd, tmp_path):
    service, _, answers = systemd
    answers(ActiveState="failed", InvocationID="b027dc07", Result="watchdog")
    (tmp_path / "words").write_text("")
    assert service.status()["says"] == "it said nothing (systemd: watchdog)"
    (tmp_path / "words").write_text("opening the bundle\n")
    assert service.status()["says"] == "opening the bundle (systemd: watchdog)"


class Told:
    """A service whose states come from a list, one a look."""

    def __init__(self, *looks):
        self.looks = list(looks)

    def status(self):
        state, pid, restarts = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        release = "new" if pid else None
        return {"state": state, "pid": pid, "restarts": restarts, "release": release}

    def last_words(self):
        return "its last words"


def watched(*looks, start_s=5.0, settle_s=2.0):
    now_s = [0.0]

    def sleep(seconds):
        now_s[0] += seconds

    watch(Told(*looks), "new", start_s, settle_s, clock=lambda: now_s[0], sleep=sleep)
    return now_s[0]


def test_a_release_is_good_when_it_has_stayed_up():
    assert watched((STARTING, 7, 0), (STARTING, 7, 0), (RUNNING, 7, 0)) == pytest.approx(2.2)


@pytest.mark.parametrize(
    ("looks", "says"),
    [
        ([(STARTING, 7, 0), (FAILED, None, 0)], "did not start: its last words"),
        ([(STARTING, None, 1)], "did not start"),
        ([(RUNNING, 7, 0), (STARTING, None, 1)], "did not stay up"),
        ([(RUNNING, 7, 0), (RUNNING, 8, 1)], "started anew"),
        ([(STARTING, 7, 0)], "was not ready after 5 s"),
    ],
)
def test_a_release_that_does_not_stay_up_is_told(looks, says):
    with pytest.raises(DeviceError, match=says):
        watched(*looks)


def test_a_process_without_a_release_is_none():
    assert release_of_process(os.getpid()) is None
    assert release_of_process(None) is None
