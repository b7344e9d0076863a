import json
import signal
import threading
import time

import numpy as np
import pytest
from run_rig import SIM, FakePolicy, FakeWorld, Rig, run

import edge.run
from edge.box_reader import read_box
from edge.errors import EdgeError
from edge.joints import JointIoError
from edge.profile import load_profile
from edge.report import format_report
from edge.run_options import RunError

REAL = load_profile("so101")


@pytest.fixture
def rig(monkeypatch):
    return Rig(monkeypatch)


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


def test_depth_is_the_one_that_was_judged_unless_another_is_asked_for(rig, monkeypatch):
    monkeypatch.setattr(edge.run, "judged_depth", lambda manifest: "full")
    assert run(rig, depth=None)[0].report["card"]["depth"] == "full"
    assert run(rig, depth="incremental")[0].report["card"]["depth"] == "incremental"


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
