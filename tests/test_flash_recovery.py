"""What goes wrong around a flash: outages, killed agents, full disks, damaged releases."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from flash_rig import SOON, assert_runs, installed, push, status_of, wait_for

from deploy.device.activation import activate, check_installed
from deploy.device.errors import DeviceError
from deploy.device.guard import locked
from deploy.device.layout import Layout, read_config
from deploy.device.service import service_of
from deploy.device.state import read_state, write_state
from deploy.errors import ConnectionLostError, DeviceRefusedError
from deploy.practice_release import CRASHING
from deploy.push import ACTIVATE, OFFER, RECONNECT_S, push_release

pytest_plugins = ("flash_rig",)  # key, release, device
pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")
ROOT = Path(__file__).parent.parent


class Outage:
    """Connections to a device, of which all after the first come to nothing until told; a clock."""

    def __init__(self, device, cut_at):
        self.device, self.cut_at = device, cut_at
        self.links, self.tried, self.now_s, self.down = [], 0, 0.0, True

    def connect(self):
        self.tried += 1
        if self.links and self.down:
            raise ConnectionLostError("no route to host")
        self.links.append(self.device.connect())
        return self.links[-1]

    def seen(self, phase):
        if phase == self.cut_at and len(self.links) == 1:
            self.links[0].cut()

    def sleep(self, seconds):
        self.now_s += seconds

    def push(self, release, say=lambda line: None):
        sleep, clock = self.sleep, lambda: self.now_s
        return push_release(self.connect, release, SOON, say, self.seen, sleep, clock=clock)


def test_an_outage_and_a_session_that_does_not_know_of_it_are_sat_out(device, release):
    outage, said = Outage(device, ACTIVATE), []
    held = ExitStack()

    def say(line):
        said.append(line)
        if "another session has this device (receive" in line:
            held.close()

    def sleep(seconds):
        outage.now_s += seconds
        if outage.down and outage.tried > 8:  # more than the connections a push may lose
            held.enter_context(locked(Layout(device.root), "receive", wait_s=20.0))
            outage.down = False

    outage.sleep = sleep
    with held:
        result = outage.push(release(1), say)
    assert len([line for line in said if "another session has this device" in line]) == 1
    assert len(outage.links) == 3  # lost, turned away, done
    assert result.sent_bytes == result.total_bytes
    assert_runs(device, release(1))


def test_an_outage_without_end_is_given_up(device, release):
    outage = Outage(device, OFFER)
    with pytest.raises(ConnectionLostError, match="no route to host"):
        outage.push(release(1))
    assert outage.now_s == pytest.approx(RECONNECT_S, abs=5.0)


def test_a_device_that_was_never_reached_is_not_waited_for(device, release):
    outage = Outage(device, OFFER)
    outage.links.append(None)
    with pytest.raises(ConnectionLostError):
        outage.push(release(1))
    assert outage.tried == 1


CHECK_WITH_LITTLE_MEMORY = """
import sys
from pathlib import Path
from deploy.device.activation import check_installed
from deploy.device.installing import installed_manifest
from deploy.device.layout import Layout, read_config
from deploy.device.service import service_of
layout = Layout(Path(sys.argv[1]))
config, manifest = read_config(layout), installed_manifest(layout, sys.argv[2])
manifest.needs.memory_mib = 1 << 24
check_installed(layout, config, manifest, service_of(layout, config), print)
"""


def test_an_agent_killed_while_the_service_makes_room_leaves_no_stopped_robot(device, release):
    push(device, release(1))
    layout = installed(device, release(2))
    check = layout.release(release(2).manifest.id) / "bin" / "molmoact-edge"
    check.write_text("#!/bin/sh\nkill -9 $PPID\n")
    words = [sys.executable, "-c", CHECK_WITH_LITTLE_MEMORY, str(device.root)]
    done = subprocess.run([*words, release(2).manifest.id], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert device.running()["process"] is None
    status_of(device)
    wait_for(lambda: device.running()["state"] == "running")
    assert_runs(device, release(1))


def test_a_check_that_cannot_start_and_a_full_disk_leave_no_stopped_robot(
    device, release, monkeypatch
):
    push(device, release(1))
    layout = installed(device, release(2))
    manifest, old = release(2).manifest, release(1).manifest.id
    config = read_config(layout)
    service = service_of(layout, config)
    (layout.release(manifest.id) / "bin" / "molmoact-edge").unlink()
    monkeypatch.setattr(manifest.needs, "memory_mib", 1 << 24)
    with pytest.raises(DeviceError, match="health check: it cannot be started"):
        check_installed(layout, config, manifest, service, lambda line: None)
    wait_for(lambda: device.running()["state"] == "running")
    assert_runs(device, release(1))
    service.stop()  # as the check does
    layout.state.with_name(".state.json.new").mkdir()
    with pytest.raises(DeviceError, match=f"back to {old}"):
        activate(layout, manifest, service, lambda line: None)
    layout.state.with_name(".state.json.new").rmdir()
    wait_for(lambda: device.running()["state"] == "running")
    assert_runs(device, release(1))


def test_a_guard_that_cannot_write_keeps_no_release_from_starting(device, release):
    push(device, release(1))
    before = device.running()["process"], status_of(device)["service"]["pid"]
    layout = Layout(device.root)
    state = read_state(layout)
    state.trial = {"from": release(1).manifest.id, "to": "20260101000009-never"}
    write_state(layout, state)
    layout.state.with_name(".state.json.new").mkdir()
    os.kill(before[1], signal.SIGKILL)
    wait_for(lambda: device.running()["process"] is None)
    wait_for(lambda: device.running()["process"] == release(1).manifest.id)
    wait_for(lambda: device.running()["state"] == "running")
    layout.state.with_name(".state.json.new").rmdir()
    assert status_of(device)["trial"] is None


def test_a_device_is_held_without_room_for_the_holders_name(device):
    done = subprocess.run(
        [sys.executable, "-I", str(device.root / "agent.pyz"), "guard"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert (done.returncode, done.stdout) == (0, "nothing to undo\n"), done.stderr


def test_only_the_owner_can_lock_a_device(device):
    lock = device.root / "lock"
    lock.touch()
    lock.chmod(0o644)  # of an agent before
    with device.connect() as link:
        link.ask("prune", keep=1)
    assert lock.stat().st_mode & 0o777 == 0o600


def test_damaged_releases_are_pushed_again_and_never_taken_from_under_the_service(device, release):
    push(device, release(1))
    layout = installed(device, release(2))
    new = layout.release(release(2).manifest.id)
    (new / "installed.json").write_bytes(b"")
    push(device, release(2))
    assert_runs(device, release(2))
    (new / "installed.json").write_bytes(b"[]")
    with device.connect() as link:
        link.ask("prune", keep=1)
    assert (new / "bin" / "molmoact-edge-service").exists()
    with pytest.raises(DeviceRefusedError, match="is damaged and runs; build the release again"):
        push(device, release(2))
    with pytest.raises(DeviceRefusedError, match="this release crashes; back to"):
        push(device, release(3, CRASHING))
    assert_runs(device, release(2))
