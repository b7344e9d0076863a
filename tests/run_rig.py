"""A policy, an arm and a world that do as they are told, for tests of `molmoact-edge run`."""

import time
from types import SimpleNamespace

import numpy as np
from readings import reading_of

import edge.run
from edge.errors import EdgeError
from edge.frame_file import FrameFile
from edge.profile import load_profile
from edge.run import run_robot
from edge.run_options import RunOptions
from edge.task_turns import DONE, JUDGED, Ruling

SIM = load_profile("sim")
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
            files={},
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


class Rig:
    """A run with a fake policy, a fake arm and a fake world."""

    def __init__(self, monkeypatch):
        self.policy, self.arm = FakePolicy(), FakeArm()
        monkeypatch.setattr(edge.run.Policy, "open", classmethod(lambda cls, *a, **k: self.policy))
        monkeypatch.setattr(edge.run, "SimulatedWorld", FakeWorld)


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
