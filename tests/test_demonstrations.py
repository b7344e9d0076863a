"""Recorded demonstrations: opened by LeRobot, true to what happened, all of them or nothing."""

import fcntl
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulator needs mujoco")
torch = pytest.importorskip("torch", reason="datasets are written with LeRobot")
pytest.importorskip("lerobot", reason="datasets are written with LeRobot")

from conftest import REFERENCE

from firmware_bridge.calibration import JOINTS
from quantization.build import build_bundle
from sim.demonstration import demonstrate, draw_plan
from sim.gl import GlError, ensure_gl
from sim.offline_world import OfflineWorld
from training.cli import main
from training.demonstrations import worker
from training.demonstrations.crew import Crew
from training.demonstrations.recording import record_demonstrations
from training.demonstrations.true_depth import TrueDepth, TrueDepthError
from training.demonstrations.worker import NeverSucceeded, Settings
from training.errors import TrainingError

SETTINGS = Settings(seed=6, size=(96, 72), kinds=("touch",), varied=True, held_out=False)
EPISODES = 2

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def off_screen_gl():
    try:
        ensure_gl()
    except GlError as error:
        pytest.skip(f"pictures cannot be rendered: {error}")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two touches, recorded by two processes; where they lie, and the report."""
    out = tmp_path_factory.mktemp("recorded") / "demos"
    report = record_demonstrations(
        out, EPISODES, SETTINGS, workers=2, on_episode=lambda episode: None
    )
    return out, report


@pytest.fixture(scope="module")
def opened(recorded):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/demos", root=recorded[0], video_backend="pyav")


def plan_of(number):
    return draw_plan(SETTINGS.seed, number, kinds=SETTINGS.kinds)


def test_lerobots_loader_opens_it_with_the_right_shapes_rate_and_tasks(recorded, opened):
    frames = [episode.frames for episode in recorded[1].episodes]
    assert opened.num_episodes == EPISODES
    assert opened.num_frames == sum(frames)
    assert opened.fps == 30
    assert opened.meta.robot_type == "so101"
    assert list(opened.meta.tasks.index) == [plan_of(n).instruction for n in range(EPISODES)]
    item = opened[frames[0]]
    assert item["episode_index"] == 1
    assert item["frame_index"] == 0
    assert item["task"] == plan_of(1).instruction
    assert item["observation.state"].shape == item["action"].shape == (6,)
    for camera in ("front", "wrist"):
        assert item[f"observation.images.{camera}"].shape == (3, 72, 96)
    names = [f"{joint}.pos" for joint in JOINTS]
    assert opened.features["action"]["names"] == names
    assert opened.features["observation.state"]["names"] == names


def test_frames_states_goals_and_depth_are_those_of_the_demonstration(recorded, opened):
    world = OfflineWorld(size=SETTINGS.size, depth=True)
    try:
        episode = demonstrate(world, plan_of(0))
    finally:
        world.close()
    depth = TrueDepth.open(recorded[0])
    assert depth.lengths == tuple(e.frames for e in recorded[1].episodes)
    for frame in (0, len(episode.states) // 2, len(episode.states) - 1):
        item = opened[frame]
        np.testing.assert_array_equal(item["observation.state"].numpy(), episode.states[frame])
        np.testing.assert_array_equal(item["action"].numpy(), episode.actions[frame])
        for number, camera in enumerate(("front", "wrist")):
            decoded = 255.0 * item[f"observation.images.{camera}"].permute(1, 2, 0).numpy()
            # What the codec costs; a frame off by a few differs more where the arm is.
            assert np.abs(decoded - episode.images[number][frame]).mean() < 5.0
        metres = depth.frame(0, frame)
        assert metres.dtype == np.float32
        np.testing.assert_array_equal(np.rint(metres * 1000), episode.depth_mm[frame])


def test_what_was_planned_is_written_down(recorded):
    lines = (recorded[0] / "meta" / "demonstrations.jsonl").read_text().splitlines()
    for number, line in enumerate(lines):
        plan, record = plan_of(number), json.loads(line)
        assert record["episode"] == number
        assert (record["task"], record["colour"]) == (plan.task.kind, plan.task.colour)
        assert record["layout_seed"] == plan.layout_seed
        assert record["variation_seed"] == plan.variation_seed
        assert record["instruction"] == plan.instruction


def test_the_files_do_not_depend_on_how_many_processes_recorded(recorded, tmp_path):
    record_demonstrations(tmp_path / "demos", EPISODES, SETTINGS, workers=1, on_episode=print)
    assert digests(tmp_path / "demos") == digests(recorded[0])


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def test_nothing_but_the_dataset_is_left(recorded):
    assert os.listdir(recorded[0].parent) == ["demos"]
    assert sorted(os.listdir(recorded[0])) == ["data", "depth", "meta", "videos"]
    assert sum(recorded[1].bytes.values()) == sum(
        path.stat().st_size for path in recorded[0].rglob("*") if path.is_file()
    )


@pytest.fixture
def quick_worker(monkeypatch):
    """A worker whose demonstrations take no time; returns the list of those that fail."""
    failures = []

    def fake(world, plan, every, other_tasks):
        from sim.demonstration import Episode
        from sim.visits import Visits

        picture = np.zeros((72, 96, 3), np.uint8)
        failed = plan.seed in failures
        episode = Episode(
            plan,
            succeeded=not failed,
            attempts=1,
            clamped_ticks=0,
            states=np.zeros((3, 6), np.float32),
            actions=np.zeros((3, 6), np.float32),
            images=([picture] * 3, [picture] * 3),
            depth_mm=[np.zeros((72, 96), np.uint16)] * 3,
            seen_ticks=[0, 1, 2],
        )
        return Visits(episode, episode.states, np.zeros((3, 30, 6), np.float32), ["touch it"] * 3)

    class FakeWorld:
        rate_hz = worker.FPS

    monkeypatch.setattr(worker, "visit_expert", fake)
    monkeypatch.setattr(worker, "_world", FakeWorld())
    return failures


def test_an_episode_that_fails_is_thrown_away_counted_and_drawn_anew(quick_worker, tmp_path):
    quick_worker += [(6, 4, 0), (6, 4, 1)]
    episode = worker.record(SETTINGS, 4, tmp_path)
    assert episode.thrown_away == 2
    assert episode.plan.seed == (6, 4, 2)
    assert worker.record(SETTINGS, 5, tmp_path).thrown_away == 0


def test_an_episode_of_one_picture_is_drawn_anew(quick_worker, tmp_path, monkeypatch):
    """LeRobot could not append it: its video has no length."""
    whole = worker.visit_expert

    def short_at_first(world, plan, *words):
        visits = whole(world, plan, *words)
        if plan.seed == (6, 4, 0):
            visits.states = visits.states[:1]
        return visits

    monkeypatch.setattr(worker, "visit_expert", short_at_first)
    assert worker.record(SETTINGS, 4, tmp_path).plan.seed == (6, 4, 1)


def test_an_expert_that_never_succeeds_ends_the_recording(quick_worker, tmp_path):
    quick_worker += [(6, 4, attempt) for attempt in range(worker.MAX_ATTEMPTS)]
    with pytest.raises(NeverSucceeded, match="episode 4: the expert failed 8 times"):
        worker.record(SETTINGS, 4, tmp_path)


def test_a_recording_that_fails_leaves_nothing_and_clears_what_another_left(tmp_path, monkeypatch):
    left = tmp_path / ".demos.recording" / "staging"
    left.mkdir(parents=True)
    (left / "000000").write_text("of a recording that was killed")

    def fail(crew, episodes):
        assert not (left / "000000").exists()
        assert len(list(tmp_path.iterdir())) == 2
        raise TrainingError("enough")

    monkeypatch.setattr(Crew, "record", fail)
    with pytest.raises(TrainingError, match="enough"):
        record_demonstrations(tmp_path / "demos", 1, SETTINGS, workers=1, on_episode=print)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_ends_the_recording_in_one_line(tmp_path):
    with Crew(1, SETTINGS, tmp_path) as crew:
        (process,) = crew._processes.values()
        process.kill()
        with pytest.raises(TrainingError, match=r"ended with -9; .* Try fewer --workers"):
            list(crew.record(1))


def test_an_expert_that_always_fails_is_told_with_what_to_do(tmp_path, monkeypatch):
    with Crew(1, SETTINGS, tmp_path) as crew:
        (connection,) = crew._processes
        monkeypatch.setattr(
            type(connection), "recv", lambda _: NeverSucceeded("episode 0: the expert failed")
        )
        with pytest.raises(TrainingError, match="the expert failed; try another --seed"):
            crew._received(connection)


def test_an_output_that_is_being_recorded_is_refused(tmp_path):
    with (tmp_path / ".demos.recording.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="demos is being recorded by another process"):
            record_demonstrations(tmp_path / "demos", 1, SETTINGS, workers=1, on_episode=print)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["taken"], "taken already exists; remove it or choose another output path"),
        (["none/demos"], "folder none does not exist; create it first"),
        (["demos", "--size", "33x20"], "--size 33x20: video needs even sides"),
        (["demos", "--size", "4x4"], "a size is WxH in pixels, each side 16..4096"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    assert main(["demos", *arguments, "--episodes", "1", "--seed", "0"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == ["taken"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--episodes", "0", "--seed", "0"],
        ["--episodes", "1", "--seed", "-1"],
        ["--episodes", "1", "--seed", "0", "--workers", "no"],
        ["--episodes", "1", "--seed", "0", "--tasks", "juggle"],
        ["--episodes", "1", "--seed", "0", "--starts", "upside_down=1"],
        ["--episodes", "1", "--seed", "0", "--starts", "folded=0,after=-1"],
        ["--episodes", "1", "--seed", "0", "--starts", "folded"],
        ["--episodes", "1", "--seed", "0", "--other-tasks", "1.5"],
        ["--episodes", "1"],
    ],
)
def test_bad_usage_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["demos", "out", *arguments])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("kind", ["--beginnings", "--recoveries"])
@pytest.mark.parametrize("other", [["--policy", "b"], ["--other-tasks", "0.5"]])
def test_what_does_no_task_takes_no_option_that_could_change_one(kind, other, capsys):
    asked = ["demos", "out", "--episodes", "1", "--seed", "0", kind, *other]
    assert main(asked) == 2
    assert f"{kind} does no task; leave out --policy" in capsys.readouterr().err


def test_depth_is_asked_of_a_policy_that_has_it(tmp_path, capsys):
    asked = ["demos", "out", "--episodes", "1", "--seed", "0", "--depth", "incremental"]
    assert main(asked) == 2
    assert "--depth incremental: no policy is asked; give --policy" in capsys.readouterr().err
    checkpoint, without = tmp_path / "checkpoint", tmp_path / "without"
    shutil.copytree(REFERENCE / "two_cameras" / "checkpoint", checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"enable_depth_reasoning": False}))
    build_bundle(checkpoint, without, "fp32")
    assert main([*asked, "--policy", str(without)]) == 2
    assert f"{without} has no depth tokens; leave it out" in capsys.readouterr().err


def test_beginnings_and_recoveries_are_two_recordings(capsys):
    asked = ["demos", "out", "--episodes", "1", "--seed", "0", "--beginnings", "--recoveries"]
    assert main(asked) == 2
    assert "--beginnings and --recoveries: give one of them" in capsys.readouterr().err


def test_depth_that_is_missing_damaged_or_not_asked_for_rightly_is_refused(recorded, tmp_path):
    with pytest.raises(TrueDepthError, match="there is no true depth of camera 'front'"):
        TrueDepth.open(tmp_path)
    depth = TrueDepth.open(recorded[0])
    with pytest.raises(TrueDepthError, match="episode 2 does not exist; there are 2"):
        depth.frame(2, 0)
    with pytest.raises(TrueDepthError, match=rf"frame {depth.lengths[1]} of episode 1 does not"):
        depth.frame(1, depth.lengths[1])
    folder = tmp_path / "depth" / "front"
    folder.mkdir(parents=True)
    info = (recorded[0] / "depth" / "front" / "info.json").read_text()
    (folder / "info.json").write_text(info)
    (folder / "episode_000000.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(TrueDepthError, match=r"episode_000000.npz: frame 0 cannot be read"):
        TrueDepth.open(tmp_path).frame(0, 0)
    (folder / "info.json").write_text(info.replace("molmoact_true_depth.v1", "other"))
    with pytest.raises(TrueDepthError, match="format is 'other', known is"):
        TrueDepth.open(tmp_path)
