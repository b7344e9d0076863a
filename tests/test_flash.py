"""Releases onto a device in a folder: the real agent and supervisor, each in its own process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from flash_rig import SOON, assert_runs, installed, push, status_of, wait_for

from deploy import cli
from deploy.agent_archive import agent_archive
from deploy.device.layout import Layout
from deploy.device.settings import read_settings
from deploy.device.state import read_state
from deploy.device.supervisor import WATCHDOG_S
from deploy.errors import ConnectionLostError, DeviceRefusedError, FlashError
from deploy.practice_release import CRASHING, SICK, practice_release
from deploy.push import ACTIVATE, RECEIVE, push_release
from edge.service_notify import ServiceNotifier

pytest_plugins = ("flash_rig",)  # key, release, device
pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")


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


def test_a_release_folder_that_lacks_a_content_is_one_line(device, key, tmp_path):
    made = practice_release(tmp_path / "r", 1, key, bundle_kib=4)
    for path in (made.folder / "objects").iterdir():
        path.unlink()
    with pytest.raises(FlashError, match="No such file or directory; build the release again"):
        push(device, made)


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


def test_nothing_of_a_wheel_runs_while_it_is_installed(device, key, tmp_path):
    trace = tmp_path / "trace"
    line = f"import pathlib; pathlib.Path({str(trace)!r}).touch()\n".encode()
    made = practice_release(tmp_path / "r", 1, key, bundle_kib=4, members={"a.pth": line})
    layout = installed(device, made)
    assert not trace.exists()
    env = layout.release(made.manifest.id) / "env"
    assert list(env.rglob("edge/__pycache__/service.*.pyc"))
    subprocess.run([str(env / "bin" / "python"), "-c", ""], check=True)
    assert trace.exists()  # it would have


def test_what_lies_in_the_services_home_shadows_nothing(device, release):
    for name in ("edge/__init__.py", "edge/cli.py", "edge/service.py", "json.py"):
        path = device.root / "home" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('not from the release')\n")
    push(device, release(1))
    assert_runs(device, release(1))


def test_an_agent_is_taken_from_the_newest_release_and_only_if_it_works(device, key, tmp_path):
    shipped = agent_archive()
    other = b"#!/usr/bin/python3 -I\n" + shipped.partition(b"\n")[2]
    agents = {1: shipped, 2: other, 3: b"an agent that does not start\n"}
    made = {
        number: practice_release(tmp_path / str(number), number, key, bundle_kib=4, agent=agent)
        for number, agent in agents.items()
    }
    push(device, made[1])
    push(device, made[2])
    agent = device.root / "agent.pyz"
    assert agent.read_bytes() == other
    with device.connect() as link:
        link.ask("rollback", settle_s=0.2)
    assert agent.read_bytes() == other  # going back brings no older agent
    said = []
    push_release(lambda: device.connect(said.append), made[3], SOON, said.append)
    assert agent.read_bytes() == other
    assert any("the agent stays as it is" in line for line in said)
    assert_runs(device, made[3])


def test_what_was_accepted_for_a_task_is_seen_and_ends_with_it(device, release, capsys):
    push(device, release(1))
    words = ["h", "--via", "env", "--root", str(device.root)]
    layout = Layout(device.root)

    def accepted():
        capsys.readouterr()
        assert cli.main(["status", *words]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if "accepts" in line)

    assert cli.main(["run", *words, "--task", "lift", "--accept", "unjudged"]) == 0
    assert read_settings(layout)["accept"] == ["unjudged"]
    assert accepted().split() == ["accepts", "unjudged"]
    assert cli.main(["run", *words, "--task", "put it down"]) == 0
    assert read_settings(layout)["accept"] == []
    assert "unjudged" not in accepted()


def test_a_crashed_service_is_started_again_and_a_silent_host_does_not_matter(device, release):
    push(device, release(1))
    before = status_of(device)["service"]["pid"]
    environment = Path(f"/proc/{before}/environ").read_text().split("\0")
    told = dict(entry.split("=", 1) for entry in environment if entry)
    assert ServiceNotifier({**told, "NOTIFY_SOCKET": ""}).period_s == WATCHDOG_S / 4
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
