"""Releases onto a device in a folder: the real agent and supervisor, each in its own process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from deploy.device.layout import Layout
from deploy.device.state import read_state
from deploy.errors import ConnectionLostError, DeviceRefusedError, FlashError
from deploy.practice_device import PracticeDevice
from deploy.practice_release import CRASHING, SICK, make_key, practice_release
from deploy.push import ACTIVATE, RECEIVE, PushWishes, push_release

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")
SOON = PushWishes(settle_s=0.2, start_s=10.0)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return make_key(tmp_path_factory.mktemp("key"), "team")


@pytest.fixture(scope="module")
def release(key, tmp_path_factory):
    """Give `release(number, behaviour)`, each made once."""
    made = {}
    folder = tmp_path_factory.mktemp("releases")

    def make(number, behaviour="healthy"):
        if (number, behaviour) not in made:
            made[number, behaviour] = practice_release(
                folder / f"{number}{behaviour}", number, key, behaviour, bundle_kib=64
            )
        return made[number, behaviour]

    return make


@pytest.fixture
def device(key, tmp_path):
    device = PracticeDevice(tmp_path / "device", [key])
    yield device
    device.close()


def push(device, release, **other):
    return push_release(device.connect, release, SOON, lambda line: None, **other)


def status_of(device):
    with device.connect() as link:
        return link.ask("status")


def assert_runs(device, release):
    """One release runs, the link names it, and the device says so."""
    expected = release.manifest.id
    status = status_of(device)
    assert device.running() == {"link": expected, "process": expected, "state": "running"}
    assert (status["current"], status["confirmed"]) == (expected, expected)
    assert status["trial"] is None
    assert status["service"]["release"] == expected


def test_flash_update_and_back(device, release):
    first = push(device, release(1))
    assert first.sent_bytes == first.total_bytes
    assert first.health["ok"]
    assert_runs(device, release(1))
    update = push(device, release(2))
    changed = [
        file.size
        for file in release(2).manifest.files
        if file.sha256 not in release(1).manifest.objects()
    ]
    assert update.sent_bytes == sum(changed) < first.total_bytes / 4
    assert update.before == release(1).manifest.id
    assert_runs(device, release(2))
    with device.connect() as link:
        assert link.ask("rollback", settle_s=0.2)["release"] == release(1).manifest.id
    assert_runs(device, release(1))


def test_a_sick_and_a_crashing_release_leave_the_old_one_running(device, release):
    push(device, release(1))
    with pytest.raises(DeviceRefusedError, match="actions are not finite"):
        push(device, release(2, SICK))
    assert_runs(device, release(1))
    with pytest.raises(DeviceRefusedError, match="this release crashes; back to"):
        push(device, release(3, CRASHING))
    assert_runs(device, release(1))
    with pytest.raises(DeviceRefusedError, match="no release before"), device.connect() as link:
        link.ask("rollback")


def test_a_first_release_that_crashes_leaves_nothing_running(device, release):
    with pytest.raises(DeviceRefusedError, match="back to no release"):
        push(device, release(3, CRASHING))
    assert device.running()["link"] is None
    assert device.running()["process"] is None


def test_an_agent_killed_during_the_trial_brings_the_old_release_back(device, release):
    push(device, release(1))
    said = []

    def heard(line):
        said.append(line)
        if "switched to" in line:
            for pid in device.agent_pids():
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(ConnectionLostError):
        push_release(lambda: device.connect(heard), release(2), SOON, lambda line: None, tries=1)
    assert any("switched" in line for line in said)
    assert read_state(Layout(device.root)).trial["to"] == release(2).manifest.id
    status_of(device)
    wait_for(lambda: device.running()["process"] == release(1).manifest.id)
    assert_runs(device, release(1))


def test_a_lost_connection_is_taken_up_where_it_was(device, release):
    links = []

    def connect():
        links.append(device.connect())
        return links[-1]

    cuts = iter([True])

    def cut_once(phase):
        if phase == ACTIVATE and next(cuts, False):
            links[-1].cut()

    result = push_release(
        connect, release(1), SOON, lambda line: None, cut_once, sleep=lambda seconds: None
    )
    assert len(links) == 2
    assert result.sent_bytes == result.total_bytes  # and none of them twice
    assert_runs(device, release(1))


def test_a_half_sent_content_goes_on_where_it_stopped(device, release):
    biggest = max(release(1).manifest.files, key=lambda file: file.size)
    part = device.root / "incoming" / f"{biggest.sha256}.part"
    part.write_bytes(release(1).object_path(biggest.sha256).read_bytes()[:1000])
    result = push(device, release(1))
    assert result.sent_bytes == result.total_bytes - 1000
    assert_runs(device, release(1))


def test_a_second_flash_is_turned_away_and_disturbs_nothing(device, release):
    answers = []

    def other(phase):
        if phase == RECEIVE and not answers:
            with pytest.raises(DeviceRefusedError) as refused:
                push(device, release(2))
            answers.append(str(refused.value))

    push(device, release(1), on_phase=other)
    assert "another session has this device (offer, process" in answers[0]
    assert_runs(device, release(1))


def test_prune_keeps_what_may_be_gone_back_to(device, release):
    for number in (1, 2, 4):
        push(device, release(number))
    with device.connect() as link:
        assert link.ask("prune", keep=1)["freed_bytes"] > 0
    assert status_of(device)["releases"] == [release(2).manifest.id, release(4).manifest.id]
    with device.connect() as link:
        link.ask("rollback", settle_s=0.2)
    assert_runs(device, release(2))


def test_a_crashed_service_is_started_again_and_a_silent_host_does_not_matter(device, release):
    push(device, release(1))
    before = status_of(device)["service"]["pid"]
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: status_of(device)["service"]["restarts"] == 1)
    wait_for(lambda: device.running()["state"] == "running")
    assert status_of(device)["service"]["pid"] != before


def test_a_session_whose_host_is_gone_ends_and_lets_the_device_go(device, release):
    link = device.connect()
    link.ask("prune", keep=1)
    link.cut()
    wait_for(lambda: not device.agent_pids())
    push(device, release(1))


def test_what_is_not_understood_is_an_answer_and_no_traceback(device):
    with device.connect() as link, pytest.raises(DeviceRefusedError, match="not known to this"):
        link.ask("dance")
    with device.connect() as link, pytest.raises(DeviceRefusedError, match="no release was"):
        link.ask("install")


def test_a_machine_without_an_agent_says_so(tmp_path):
    from deploy.link import AgentLink, session_command

    words = session_command(["sh", "-c"], str(tmp_path))
    with pytest.raises(FlashError, match="provision it first"):
        AgentLink(words, lambda line: None)


def test_the_agent_needs_nothing_newer_than_python_3_8(device):
    import ast
    from importlib import resources

    for entry in resources.files("deploy").joinpath("device").iterdir():
        if entry.name.endswith(".py"):
            ast.parse(entry.read_text(), entry.name, feature_version=(3, 8))
    run = subprocess.run(
        [sys.executable, "-I", str(device.root / "agent.pyz"), "status"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "runs: nothing (stopped)\ncurrent: none\n"


def wait_for(condition, seconds=20.0):
    """Processes end when they end; a condition that never comes is a failure."""
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that"
        threading.Event().wait(0.05)
