import dataclasses
import errno
import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from readings import reading_of

import edge.run
from edge.black_box import BlackBoxError
from edge.box_reader import read_box
from edge.errors import EdgeError
from edge.frame_file import FrameFile
from edge.joints import JointIoError
from edge.profile import load_profile
from edge.replay_gate import recorded_profile, rerun_gate
from edge.report import ReportError, format_report
from edge.run import run_robot
from edge.run_options import RunError, RunOptions
from edge.task_turns import DONE, JUDGED, Ruling

SIM, REAL = load_profile("sim"), load_profile("so101")
HOME = np.array([0.0, -30.0, 30.0, 50.0, 0.0, 20.0])
HOME_MODEL = np.array([0.0, 120.0, 120.0, 50.0, 0.0, 20.0])


class FakePolicy:
    """Asks the arm to stay at home; its depth codes move in one cell per call."""

    actions = "continuous"

    def __init__(self, cameras=("front", "wrist"), dim=6, error=None):
        normalizer = SimpleNamespace(dim=dim)
        tag = SimpleNamespace(name="tag", cameras=cameras, action=normalizer, state=normalizer)
        manifest = SimpleNamespace(
            recipe=SimpleNamespace(name="int4", layers={}),
            source=SimpleNamespace(sha256="ab" * 32, dtype="float32"),
            model=SimpleNamespace(embedding_dtype="float32"),
            gate=None,
        )
        self.bundle = SimpleNamespace(tags={"tag": tag}, manifest=manifest)
        self.error = error
        self.calls = 0
        self.tasks = []

    def act(self, images, task, state, norm_tag, depth, *, committed, committed_weights):
        if self.error is not None and self.calls > 0:
            raise self.error
        codes = np.arange(100)
        codes[self.calls % 100] += 1
        self.calls += 1
        self.tasks.append(task)
        return SimpleNamespace(
            actions=np.tile(HOME_MODEL, (30, 1)).astype(np.float32),
            depth_codes=codes,
            stages={"preprocess": 0.001, "vision": 0.002, "prefill": 0.003, "expert": 0.004},
            depth_passes=2,
            changed_cells=5,
            moved_cells=1,
            prompt_tokens=300,
            asked_cells=np.arange(100) < 5,
        )

    def reset(self):
        pass

    def check_task(self, task):
        if "<" in task:
            raise EdgeError(f"task holds the reserved token {task}")


class FakeArm:
    def __init__(self):
        self.log = []
        self.positions = HOME.copy()

    def read(self, deadline_s=None):
        return reading_of(self.positions, time.monotonic())

    def write(self, positions):
        self.positions = positions.copy()
        if self.log[-1] != "write":
            self.log.append("write")

    def give_torque(self, box=None):
        self.log.append("torque")

    def soft_stop(self):
        self.log.append("soft stop")

    def close(self):
        self.log.append("close")


class FakeWorld:
    """Publishes one frame per camera that stays fresh for the test."""

    stopped = 0
    does_in_s = None
    asked = ()

    def __init__(self, folder, seed, camera):
        FakeWorld.asked = []
        self.link = folder / "port"
        self.frames_dir = folder / "frames"
        self.calibration = folder / "calibration.json"
        self.frames_dir.mkdir()

    def wait_ready(self):
        for camera in SIM.cameras:
            writer = FrameFile.create(self.frames_dir / camera.path, 48, 64)
            writer.publish(np.full((48, 64, 3), 90, np.uint8), time.monotonic() + 60.0)

    def ended(self):
        return None

    def stop(self):
        FakeWorld.stopped += 1
        return {"cubes_in_bin": ["red"]}

    def judge(self, number, task):
        """Find the task done after FakeWorld.does_in_s; never without."""
        self.asked.append((number, task))
        self.found = [Ruling(number, JUDGED, time.monotonic())]
        if FakeWorld.does_in_s is not None:
            self.found.append(Ruling(number, DONE, time.monotonic() + FakeWorld.does_in_s))

    def rulings(self):
        due = [ruling for ruling in self.found if ruling.t_s <= time.monotonic()]
        self.found = [ruling for ruling in self.found if ruling not in due]
        return due


@pytest.fixture
def rig(monkeypatch):
    policy, arm = FakePolicy(), FakeArm()
    monkeypatch.setattr(edge.run.Policy, "open", classmethod(lambda cls, *a, **k: policy))
    monkeypatch.setattr(edge.run, "SimulatedWorld", FakeWorld)
    return SimpleNamespace(policy=policy, arm=arm)


def options(**changes):
    values = dict.fromkeys(RunOptions.__slots__)
    values.update(bundle="bundle", tasks=("pick the red cube",), depth="incremental")
    values.update(seconds=0.5, seed=0, accept=())
    values.update(changes)
    return RunOptions(**values)


def run(rig, profile=SIM, **changes):
    lines = []
    result = run_robot(options(**changes), profile, lambda *_: rig.arm, lines.append)
    return result, lines


def test_run_drives_the_arm_and_leaves_it_soft(rig):
    worlds = FakeWorld.stopped
    result, _ = run(rig)
    assert result.end.how == "time"
    assert rig.arm.log == ["torque", "write", "soft stop", "close"]
    assert FakeWorld.stopped > worlds
    report = result.report
    assert report["ticks"]["run"] + report["ticks"]["missed"] == 15
    assert report["policy"]["calls"] >= 2
    assert report["policy"]["held_actions"]["max"] >= 2
    assert report["policy"]["seam_jump_per_s"]["max"] == pytest.approx(0.0, abs=1e-3)
    assert report["card"]["servos"] == "emulated"
    assert report["stages_ms"]["vision"]["p50"] == pytest.approx(2.0)
    assert report["stages_ms"]["depth"] is None
    assert report["world"] == {"cubes_in_bin": ["red"]}
    text = format_report(report)
    assert "emulated servos, measured on" in text
    assert "cubes in the bin: red" in text


def test_chunks_of_tokens_are_not_held_to_what_the_arm_does_meanwhile(rig, monkeypatch):
    asked = []

    def opened(*_args, actions, **_kwargs):
        asked.append(actions)
        return rig.policy

    monkeypatch.setattr(edge.run.Policy, "open", opened)
    monkeypatch.setattr(FakePolicy, "actions", "discrete")
    result, lines = run(rig, actions="discrete")
    assert asked == ["discrete"]
    assert any(line.startswith("actions are tokens: chunks are blended") for line in lines)
    assert result.report["policy"]["held_actions"]["max"] == 0
    assert result.report["card"]["actions"] == "discrete"
    assert "discrete actions, task: pick" in format_report(result.report)


TASKS = ("touch the red cube", "put the red cube in the bin", "wave")


def test_several_tasks_are_done_in_a_row_with_the_torque_on(rig, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeWorld, "does_in_s", 0.3)
    result, lines = run(
        rig, tasks=TASKS[:2], seconds=None, task_seconds=20.0, black_box=tmp_path / "run.box"
    )
    assert (result.end.how, result.end.reason) == ("tasks", "all 2 tasks are over, 2 of 2 done")
    assert rig.arm.log == ["torque", "write", "soft stop", "close"]
    assert FakeWorld.asked == [(0, TASKS[0]), (1, TASKS[1])]
    assert rig.policy.tasks[0] == TASKS[0]
    assert rig.policy.tasks[-1] == TASKS[1]
    first, second = result.report["tasks"]
    assert (first["ended"], first["succeeded"], second["succeeded"]) == ("done", True, True)
    assert first["done_after_s"] == pytest.approx(0.3, abs=0.05)
    assert second["began_s"] == pytest.approx(first["seconds"], abs=0.05)
    text = format_report(result.report)
    assert "2 of 2 done, as the simulator's physics has it" in text
    assert "yes, after 0.3 s" in text
    said = [
        "task 1 of 2: touch the red cube",
        "task 1 of 2 done after 0.3 s",
        "task 2 of 2: put the red cube in the bin",
        "task 2 of 2 done after 0.3 s",
    ]
    assert [line for line in lines if line.startswith("task")] == said
    box = read_box(tmp_path / "run.box")
    assert [text for _, _, text in box.view.events() if text.startswith("task")] == said
    assert box.card["task"] == "touch the red cube; then put the red cube in the bin"


def test_tasks_that_are_not_done_end_by_time_and_the_run_is_no_failure(rig):
    result, lines = run(rig, tasks=TASKS, seconds=None, task_seconds=0.3)
    assert result.end.reason == "all 3 tasks are over, 0 of 3 done"
    assert [task["ended"] for task in result.report["tasks"]] == ["time up"] * 3
    assert result.report["ticks"]["seconds"] == pytest.approx(0.9, abs=0.2)
    assert "task 3 of 3 not done: its 0.3 s are up" in lines


def test_whole_run_may_end_before_its_tasks(rig):
    result, _ = run(rig, tasks=TASKS, seconds=0.4, task_seconds=0.3)
    assert (result.end.how, result.end.reason) == ("time", "0.4 s are over")
    ended = [task["ended"] for task in result.report["tasks"]]
    assert ended == ["time up", "run ended", None]
    assert "not begun" in format_report(result.report)


def test_several_tasks_need_a_time_and_every_task_is_checked_before_the_arm_moves(rig):
    with pytest.raises(RunError, match="3 tasks and no --task-seconds; say how long each may take"):
        run(rig, tasks=TASKS)
    with pytest.raises(EdgeError, match="reserved token <eos>"):
        run(rig, tasks=(*TASKS, "<eos>"), task_seconds=1.0)
    assert rig.arm.log == []


def test_outputs_are_written_once_and_never_over_others(rig, tmp_path):
    result, _ = run(rig, report=tmp_path / "r.json", arrays=tmp_path / "t.npz")
    assert json.loads((tmp_path / "r.json").read_text()) == result.report
    arrays = np.load(tmp_path / "t.npz")
    assert arrays["present"].shape == (result.report["ticks"]["run"], 6)
    assert list(arrays["joint_names"])[5] == "gripper"
    calls = rig.policy.calls
    with pytest.raises(RunError, match=r"r.json: already exists; remove it"):
        run(rig, report=tmp_path / "r.json")
    with pytest.raises(RunError, match=r"the folder .*absent does not exist"):
        run(rig, report=tmp_path / "absent" / "r.json")
    assert rig.policy.calls == calls


def test_recording_makes_a_film_and_a_timeline(rig, tmp_path):
    av = pytest.importorskip("av")
    pytest.importorskip("matplotlib")
    run(rig, record=tmp_path / "demo")
    assert (tmp_path / "demo" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    with av.open(str(tmp_path / "demo" / "video.mp4")) as film:
        assert film.streams.video[0].codec_context.name == "h264"
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) >= 4
    assert frames[0].shape[0] % 2 == 0
    with pytest.raises(RunError, match=r"video.mp4: already exists"):
        run(rig, record=tmp_path / "demo")


def test_record_folder_that_cannot_be_made_is_refused(rig, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: cannot be a folder: File exists"):
        run(rig, record=tmp_path / "file")
    assert rig.arm.log == []


def test_missing_extras_name_the_install_command(rig, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EdgeError, match=r"pip install 'molmoact-edge\[demo\]'"):
        run(rig, record=tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_failing_policy_stops_softly_with_its_reason(rig):
    rig.policy.error = RuntimeError("out of memory")
    result, _ = run(rig, seconds=20.0)
    assert result.end.how == "stop"
    assert result.end.reason == "policy failed: RuntimeError: out of memory"
    assert "RuntimeError: out of memory" in result.fault_trace
    assert rig.arm.log[-2:] == ["soft stop", "close"]


def test_bundle_for_other_cameras_or_joints_is_refused_before_anything_starts(rig, monkeypatch):
    worlds = FakeWorld.stopped
    for policy, message in [
        (FakePolicy(cameras=("front",)), "2 cameras, norm tag tag of the bundle needs 1: front"),
        (FakePolicy(dim=7), "actions of 7 joints, arm so101 has 6"),
    ]:
        monkeypatch.setattr(edge.run.Policy, "open", classmethod(lambda *a, p=policy, **k: p))
        with pytest.raises(RunError, match=message):
            run(rig)
    assert FakeWorld.stopped == worlds
    assert rig.arm.log == []


def test_arm_that_cannot_be_armed_is_closed_and_the_simulator_ended(rig):
    worlds = FakeWorld.stopped

    def refuse(box):
        raise JointIoError("servo 2 (shoulder_lift): moved 4.0 deg while torque came on")

    rig.arm.give_torque = refuse
    with pytest.raises(JointIoError, match=r"moved 4\.0 deg"):
        run(rig)
    assert rig.arm.log == ["close"]
    assert FakeWorld.stopped > worlds


@pytest.mark.parametrize(
    ("profile", "changes", "message"),
    [
        (SIM, {"ports": ("/dev/ttyACM0",)}, "simulates its arm; leave --port out"),
        (SIM, {"calibrations": ("c.json",)}, "simulates its arm; leave --calibration out"),
        (REAL, {}, "drives a real arm; give its port with --port"),
        (REAL, {"ports": ("/dev/ttyACM0",)}, "names no calibration; give LeRobot's"),
    ],
)
def test_options_that_contradict_the_profile_are_refused(rig, profile, changes, message):
    with pytest.raises(RunError, match=message):
        run(rig, profile, **changes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_running_ends_softly_and_is_reported(rig, number):
    before = signal.getsignal(number)

    def send_when_writing():
        deadline_s = time.monotonic() + 20.0
        while "write" not in rig.arm.log and time.monotonic() < deadline_s:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, number)

    sender = threading.Thread(target=send_when_writing)
    sender.start()
    result, _ = run(rig, seconds=30.0)
    sender.join()
    assert result.end.how == "signal"
    assert result.signal_number == number
    assert rig.arm.log == ["torque", "write", "soft stop", "close"]
    assert signal.getsignal(number) == before


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
