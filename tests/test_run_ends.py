import dataclasses
import errno
import os
import threading
import time

import numpy as np
import pytest
from run_rig import SIM, FakeWorld, Rig, run

import edge.run
from edge.black_box import BlackBoxError
from edge.box_reader import read_box
from edge.frame_file import FrameFile
from edge.joints import JointIoError
from edge.replay_gate import recorded_profile, rerun_gate
from edge.report import ReportError, format_report
from edge.run_options import RunError


@pytest.fixture
def rig(monkeypatch):
    return Rig(monkeypatch)


def impatient(**changes):
    """The simulated profile with little patience; `changes` go to every camera."""
    safety = dataclasses.replace(SIM.arm.safety, max_hold_s=0.4)
    cameras = tuple(dataclasses.replace(camera, **changes) for camera in SIM.cameras)
    arm = dataclasses.replace(SIM.arm, safety=safety)
    return dataclasses.replace(SIM, arm=arm, cameras=cameras)


def test_every_run_leaves_a_box_that_can_be_replayed(rig, tmp_path):
    result, lines = run(rig, black_box=tmp_path / "run.box")
    assert result.report["black_box"] == str(tmp_path / "run.box")
    assert f"look at it with 'molmoact-edge replay {tmp_path / 'run.box'}'" in lines[-2]
    box = read_box(tmp_path / "run.box")
    assert box.view.n_ticks == result.report["ticks"]["run"]
    assert box.view.text("reason") == "0.5 s are over"
    assert box.card["task"] == "pick the red cube"
    assert recorded_profile(box) == SIM
    assert rerun_gate(box, SIM)["differences"] == []
    with pytest.raises(RunError, match=r"run.box: already exists; remove it"):
        run(rig, black_box=tmp_path / "run.box")


def test_boxes_go_into_the_profiles_folder_and_the_oldest_goes(rig, tmp_path):
    settings = dataclasses.replace(SIM.board.black_box, folder=tmp_path / "boxes", keep=1)
    profile = dataclasses.replace(SIM, board=dataclasses.replace(SIM.board, black_box=settings))
    for _ in range(2):
        result, _ = run(rig, profile, seconds=0.1)
    assert [str(path) for path in (tmp_path / "boxes").iterdir()] == [result.report["black_box"]]


def test_full_disk_is_refused_before_the_arm_has_torque(rig, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(BlackBoxError, match=r"no room for the black box of .*No space left"):
        run(rig, black_box=tmp_path / "run.box")
    assert (rig.arm.log, rig.policy.calls) == ([], 0)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_full_at_the_end_costs_the_report_but_not_the_reason(
    rig, tmp_path, monkeypatch
):
    def refuse(*_):
        raise ReportError("r.json: cannot write the report: No space left on device")

    monkeypatch.setattr(edge.run, "write_report", refuse)
    result, _ = run(rig, report=tmp_path / "r.json", black_box=tmp_path / "run.box")
    assert result.end.reason == "0.5 s are over"
    assert result.output_error == "r.json: cannot write the report: No space left on device"
    assert read_box(tmp_path / "run.box").view.text("reason") == "0.5 s are over"


def test_run_that_does_not_start_leaves_no_box(rig, tmp_path):
    rig.arm.give_torque = lambda box: (_ for _ in ()).throw(JointIoError("servo 2: 60 C"))
    with pytest.raises(JointIoError):
        run(rig, black_box=tmp_path / "run.box")
    assert list(tmp_path.iterdir()) == []


def test_hung_policy_ends_softly_with_a_box_and_does_not_keep_the_program(
    rig, tmp_path, monkeypatch
):
    monkeypatch.setattr(edge.run, "POLICY_END_SOON_S", 0.05)
    monkeypatch.setattr(edge.run, "POLICY_END_S", 0.05)
    hangs = threading.Event()
    act = rig.policy.act

    def hang(*arguments, **options):
        if rig.policy.calls == 2:
            hangs.wait()
        return act(*arguments, **options)

    rig.policy.act = hang
    result, lines = run(rig, impatient(), seconds=60.0, black_box=tmp_path / "run.box")
    hangs.set()
    assert (result.end.how, result.policy_hangs) == ("stop", True)
    assert result.end.reason == "held for 0.4 s, limit 0.4: no action chunk"
    assert rig.arm.log == ["torque", "write", "soft stop", "close"]
    assert "the policy call in progress did not end within 0 s" in lines
    assert read_box(tmp_path / "run.box").view.text("reason") == result.end.reason


def test_dead_camera_ends_softly_and_is_named(rig, tmp_path, monkeypatch):
    wait_ready = FakeWorld.wait_ready

    def publish_once(world):
        wait_ready(world)
        for camera in SIM.cameras:
            FrameFile.create(world.frames_dir / camera.path, 48, 64).publish(
                np.full((48, 64, 3), 90, np.uint8), time.monotonic()
            )

    monkeypatch.setattr(FakeWorld, "wait_ready", publish_once)
    profile = impatient(max_age_s=0.5)
    result, _ = run(rig, profile, seconds=60.0, black_box=tmp_path / "run.box")
    assert result.end.reason.startswith("held for 0.4 s, limit 0.4: camera front: newest picture")
    assert rig.arm.log == ["torque", "write", "soft stop", "close"]
    assert read_box(tmp_path / "run.box").view.text("reason") == result.end.reason


def test_what_the_system_refuses_is_said_once_and_is_in_the_report(rig, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    real_time = dataclasses.replace(SIM.board.real_time, fifo_priority=40)
    profile = dataclasses.replace(SIM, board=dataclasses.replace(SIM.board, real_time=real_time))
    result, lines = run(rig, profile, seconds=0.1)
    assert result.end.how == "time"
    (said,) = [line for line in lines if "SCHED_FIFO" in line]
    assert said.startswith("priority: SCHED_FIFO 40 refused (Operation not permitted)")
    assert result.report["real_time"] == [said]
    assert f"real time      {said}" in format_report(result.report)
