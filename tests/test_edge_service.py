"""The service on a device: what it runs, what it tells the service manager, the health check."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from edge import cli, service
from edge.errors import EdgeError
from edge.health_check import HealthError, check_health
from edge.profile import load_profile
from edge.service import ServiceError, service_arguments
from edge.service_notify import NotifyingArm, ServiceNotifier

ROOT = Path(__file__).parent.parent


@pytest.fixture
def manager():
    """A service manager's end: `heard()` gives the messages so far."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        address = f"@molmoact-test-{os.getpid()}"
        end.bind("\0" + address[1:])
        end.settimeout(20.0)

        def heard():
            messages = []
            while select.select([end], [], [], 0.0)[0]:
                messages.append(end.recv(4096).decode())
            return messages

        yield address, heard, end


class StillArm:
    """An arm that does nothing and says what was asked of it."""

    def __init__(self):
        self.asked = []

    def read(self, deadline_s=None):
        self.asked.append(("read", deadline_s))
        return "reading"

    def write(self, positions):
        self.asked.append(("write", positions))

    def give_torque(self, box=None):
        self.asked.append(("give_torque", box))

    def soft_stop(self):
        self.asked.append(("soft_stop",))

    def close(self):
        self.asked.append(("close",))


def test_ready_comes_with_torque_and_signs_of_life_with_readings(manager):
    address, heard, _ = manager
    now_s = [100.0]
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "8000000"}
    notifier = ServiceNotifier(environment, clock=lambda: now_s[0])
    assert notifier.period_s == 2.0
    arm = NotifyingArm(StillArm(), notifier)
    arm.give_torque()
    assert heard() == ["READY=1\nSTATUS=driving the arm"]
    for now_s[0] in (100.0, 100.01, 101.9, 102.0, 102.5, 104.1):
        assert arm.read(1.5) == "reading"
    assert heard() == ["WATCHDOG=1"] * 3  # not at every tick
    arm.give_torque()
    assert heard() == []  # ready is said once


def test_the_arm_behind_gets_every_call():
    arm = StillArm()
    wrapped = NotifyingArm(arm, ServiceNotifier({}))
    wrapped.give_torque("box")
    wrapped.read(2.0)
    wrapped.write(np.zeros(6))
    wrapped.soft_stop()
    wrapped.close()
    names = [call[0] for call in arm.asked]
    assert names == ["give_torque", "read", "write", "soft_stop", "close"]
    assert arm.asked[:2] == [("give_torque", "box"), ("read", 2.0)]


def test_a_manager_that_is_gone_does_not_matter():
    notifier = ServiceNotifier({"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000"})
    notifier.ready("x")
    notifier.alive()


def device(tmp_path, settings=None, profile="so101"):
    release = tmp_path / "releases" / "1-x"
    release.mkdir(parents=True)
    (release / "manifest.json").write_text(json.dumps({"profile": profile}))
    (tmp_path / "current").symlink_to("releases/1-x")
    if settings is not None:
        (tmp_path / "settings.json").write_text(json.dumps(settings))
    return {"MOLMOACT_ROOT": str(tmp_path)}, release


def test_without_a_task_nothing_is_run(tmp_path):
    environment, _ = device(tmp_path)
    assert service_arguments(environment) is None


def test_a_task_becomes_the_command_that_a_person_would_type(tmp_path):
    settings = {
        "tasks": ["lift the cube"],
        "ports": ["/dev/molmoact-arm"],
        "calibrations": 1,
        "depth": "incremental",
        "accept": ["unjudged"],
        "accepted_bundle": hashlib.sha256(b"{}").hexdigest(),
    }
    environment, release = device(tmp_path, settings, "profile/mine.yaml")
    (release / "bundle").mkdir()
    (release / "bundle" / "manifest.json").write_bytes(b"{}")
    words = service_arguments(environment)
    args = cli.build_parser().parse_args(words)
    assert args.bundle == release / "bundle"
    assert args.profile == str(release / "profile" / "mine.yaml")
    assert (args.task, args.port) == (["lift the cube"], ["/dev/molmoact-arm"])
    assert args.calibration == [tmp_path / "calibration-0.json"]
    assert (args.depth, args.accept) == ("incremental", ["unjudged"])


@pytest.mark.parametrize("manifest", [b"{ }", None])
def test_what_was_accepted_of_one_bundle_is_not_of_another(tmp_path, capsys, manifest):
    accepted = hashlib.sha256(b"{}").hexdigest()
    settings = {"tasks": ["lift it"], "accept": ["failed"], "accepted_bundle": accepted}
    environment, release = device(tmp_path, settings)
    if manifest is not None:
        (release / "bundle").mkdir()
        (release / "bundle" / "manifest.json").write_bytes(manifest)
    assert not any(word.startswith("--accept") for word in service_arguments(environment))
    assert "was another bundle" in capsys.readouterr().err


def test_depth_is_left_to_the_gates_verdict_unless_somebody_chose(tmp_path):
    environment, _ = device(tmp_path, {"tasks": ["lift the cube"]})
    assert cli.build_parser().parse_args(service_arguments(environment)).depth is None


@pytest.mark.parametrize("text", ["{", "[]", '{"tasks": 3}'])
def test_damaged_settings_are_one_line(tmp_path, text):
    environment, _ = device(tmp_path)
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ServiceError, match=r"cannot be read|damaged"):
        service_arguments(environment)


def test_the_waiting_service_says_so_and_ends_when_told(tmp_path, manager):
    address, _, end = manager
    environment, _ = device(tmp_path)
    environment |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000", "PATH": os.environ["PATH"]}
    process = subprocess.Popen([sys.executable, "-m", "edge.service"], cwd=ROOT, env=environment)
    try:
        assert end.recv(4096).decode().startswith("READY=1\nSTATUS=waiting for a task")
        assert end.recv(4096) == b"WATCHDOG=1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()


def test_service_waits_for_ports_and_cameras_that_come_late(tmp_path, monkeypatch):
    devices = [tmp_path / name for name in ("port", "front", "wrist")]
    late, said = iter(devices), []
    cameras = tuple(
        dataclasses.replace(camera, source="v4l2", path=str(path))
        for camera, path in zip(load_profile("so101").cameras, devices[1:], strict=True)
    )
    profile = dataclasses.replace(load_profile("so101"), cameras=cameras)
    monkeypatch.setattr(service, "load_profile", lambda name: profile)
    monkeypatch.setattr(service.time, "sleep", lambda seconds: next(late).touch())
    words = ["run", "bundle", "--profile", "mine.yaml", "--port", str(devices[0])]
    service._wait_for_devices(words, SimpleNamespace(status=said.append))
    assert said == [f"waiting for {device}" for device in devices]


def test_check_prints_one_line_with_a_real_inference(bundles, capsys):
    assert cli.main(["check", str(bundles()), "--profile", "so101"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert answer["kind"] == "measured"
    assert set(answer["stages_s"]) == {"preprocess", "vision", "prefill", "depth", "expert"}
    assert "CPUExecutionProvider" in answer["providers"]


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDA")
def test_check_counts_cuda_only_where_it_computes(bundles, monkeypatch):
    """A build lists CUDA where its libraries are missing, too; this one has none to load."""
    listed = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    answer = check_health(bundles(), load_profile("so101"))
    assert "CUDAExecutionProvider" not in answer["providers"]
    assert "CPUExecutionProvider" in answer["providers"]


def test_check_fails_in_one_line(tmp_path, capsys):
    assert cli.main(["check", str(tmp_path), "--profile", "so101"]) == 2
    assert capsys.readouterr().err.startswith("molmoact-edge: error: ")


def test_check_refuses_the_profile_of_another_board(bundles, tmp_path):
    etc = tmp_path / "etc"
    etc.mkdir()
    spec = "TNSPEC 3701-500-0005-L.0-1-1-jetson-agx-orin-devkit-\n"
    (etc / "nv_boot_control.conf").write_text(spec)
    profile = load_profile("orin_nano_8gb_25w")
    with pytest.raises(HealthError, match="is for orin_nano_8gb, this board is agx_orin_64gb"):
        check_health(bundles(), profile, tmp_path)


def test_check_does_not_call_infinite_actions_healthy(bundles, monkeypatch):
    from edge.policy import Policy

    act = Policy.act

    def broken(self, *args, **options):
        result = act(self, *args, **options)
        return dataclasses.replace(result, actions=result.actions * np.nan)

    monkeypatch.setattr(Policy, "act", broken)
    with pytest.raises(EdgeError, match="not finite"):
        check_health(bundles(), load_profile("so101"))
