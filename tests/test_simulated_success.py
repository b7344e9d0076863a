"""A task that is really done: the expert's goals, the loop, serial bytes, physics, its referee."""

import functools
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulator needs mujoco")

import edge.run
from edge.cli import open_servo_arms
from edge.joint_frame import JointFrame
from edge.profile import load_profile
from edge.run import run_robot
from edge.run_options import RunOptions
from sim.expert import Expert
from sim.gl import GlError, ensure_gl
from sim.offline_world import OfflineWorld
from sim.tasks import TOUCH, Task

SEED = 374
TASK = Task(TOUCH, "green")
ACTIONS = 30


@pytest.fixture(scope="module")
def profile():
    try:
        ensure_gl()
    except GlError as error:
        pytest.skip(f"pictures cannot be rendered: {error}")
    return load_profile("sim")


class Rehearsed:
    """Plays back what the expert did on the same desk, from the first call for a task on."""

    actions = "continuous"

    def __init__(self, profile):
        normalizer = SimpleNamespace(dim=6)
        tag = SimpleNamespace(name="tag", cameras=("front", "wrist"), action=normalizer)
        tag.state = normalizer
        manifest = SimpleNamespace(
            recipe=SimpleNamespace(name="fp32", layers={}),
            source=SimpleNamespace(sha256="ab" * 32, dtype="float32"),
            model=SimpleNamespace(embedding_dtype="float32"),
            files={},
            gate=None,
        )
        self.bundle = SimpleNamespace(tags={"tag": tag}, manifest=manifest)
        world = OfflineWorld()
        world.reset(SEED, task=TASK)
        goals = []
        for goal in Expert(world, TASK, np.random.default_rng(0)).goals():
            goals.append(goal.copy())
            world.step(goal)
        assert world.succeeded
        self._goals = JointFrame(profile.arm.signs, profile.arm.offsets_deg).model_from_arm(
            np.array(goals)
        )
        self._rate_hz = profile.arm.action_hz
        self._began_s = {}

    def check_task(self, task):
        return task

    def reset(self):
        self._began_s = {}

    def act(self, images, task, state, **options):
        now_s = time.monotonic()
        first = round((now_s - self._began_s.setdefault(task, now_s)) * self._rate_hz)
        rows = np.minimum(first + np.arange(ACTIONS), len(self._goals) - 1)
        if "green" not in task:
            rows[:] = len(self._goals) - 1
        return SimpleNamespace(
            actions=self._goals[rows].astype(np.float32),
            depth_codes=None,
            stages={},
            depth_passes=0,
            changed_cells=0,
            moved_cells=0,
            prompt_tokens=0,
            asked_cells=None,
        )


def test_done_task_is_told_by_the_physics_and_the_next_one_gets_its_turn(
    profile, tmp_path, monkeypatch
):
    policy = Rehearsed(profile)
    monkeypatch.setattr(edge.run.Policy, "open", classmethod(lambda *_, **__: policy))
    values = dict.fromkeys(RunOptions.__slots__)
    values.update(bundle=tmp_path, depth="off", seed=SEED, accept=(), task_seconds=15.0)
    values.update(tasks=(TASK.instruction(), "dance"), seconds=9.0)
    open_arm = functools.partial(open_servo_arms, simulated=True)
    result = run_robot(RunOptions(**values), profile, open_arm, lambda line: None)
    first, second = result.report["tasks"]
    assert (first["ended"], first["succeeded"]) == ("done", True)
    assert 2.0 < first["done_after_s"] < 8.0
    assert (second["succeeded"], second["began_s"]) == (None, first["seconds"])
    assert second["note"].startswith("no task of this desk")
    assert second["ended"] == "run ended"
