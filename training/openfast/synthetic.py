"""Made-up motions of four robots, to try the tokenizer where no recording is at hand.

A hand moves the robot from pose to pose by minimum-jerk blends with pauses, the gripper opens and
closes in steps, and every joint shows the noise of its encoder. Real teleoperation is richer: the
figures these data give compare tokenizers with each other, they do not stand for a real dataset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.datasets.embodiment import load_embodiment
from training.whole_folder import whole_folder

_MOVE_S = (0.5, 2.5)
_PAUSE_S = (0.0, 0.6)
_GRASP_S = 0.4  # the gripper's way from open to closed
_EPISODE_S = (8.0, 16.0)


@dataclass(frozen=True, slots=True)
class SyntheticRobot:
    """Where the joints of a robot go, in the units of its datasets."""

    embodiment: str
    low: tuple[float, ...]  # of the joints, grippers left out
    high: tuple[float, ...]
    encoder_step: float
    gripper: tuple[float, float]  # closed, open
    delta: bool  # an action is how far the pose moves, not where it goes


_FRANKA = ((-1.2, -0.9, -1.2, -2.7, -1.2, 1.2, -1.5), (1.2, 1.1, 1.2, -1.2, 1.2, 3.2, 1.5))
_YAM = ((-1.2, 0.1, 0.1, -1.2, -1.2, -1.5), (1.2, 2.4, 2.2, 1.2, 1.2, 1.5))
ROBOTS = (
    SyntheticRobot(
        "so101", (-45, -95, -50, 5, -60), (45, 45, 80, 90, 45), 360 / 4096, (2, 45), False
    ),
    SyntheticRobot("droid_franka", *_FRANKA, 1e-3, (0, 1), False),
    SyntheticRobot("yam_bimanual", _YAM[0] * 2, _YAM[1] * 2, 2 * math.pi / 4096, (0, 1), False),
    SyntheticRobot(
        "bc_z",
        (0.3, -0.3, 0.1, -0.6, -0.6, -1.5),
        (0.7, 0.3, 0.5, 0.6, 0.6, 1.5),
        1e-3,
        (0, 1),
        True,
    ),
)


def write_synthetic(out: Path, episodes: int, seed: int) -> list[Path]:
    """Write one LeRobot v3 dataset a robot, of actions alone, into `out`; all or nothing.

    Raises OutputExistsError when `out` exists.
    """
    with whole_folder(out) as folder:
        for number, robot in enumerate(ROBOTS):
            rng = np.random.default_rng((seed, number))
            _write(folder / robot.embodiment, robot, episodes, rng)
    return [out / robot.embodiment for robot in ROBOTS]


def motion(robot: SyntheticRobot, rng: np.random.Generator) -> np.ndarray:
    """Draw the actions of one episode, (frames, dim) float32, in the robot's units."""
    embodiment = load_embodiment(robot.embodiment)
    fps = embodiment.fps
    frames = round(rng.uniform(*_EPISODE_S) * fps)
    poses = _reaching(np.array(robot.low), np.array(robot.high), frames + 1, fps, rng)
    poses += rng.normal(0, robot.encoder_step, poses.shape)
    poses = np.round(poses / robot.encoder_step) * robot.encoder_step
    joints = np.diff(poses, axis=0) if robot.delta else poses[1:]
    is_gripper = np.array(["gripper" in name for name in embodiment.action_names])
    actions = np.empty((frames, len(is_gripper)))
    actions[:, ~is_gripper] = joints
    closed, opened = robot.gripper
    for dim in np.flatnonzero(is_gripper):
        actions[:, dim] = closed + (opened - closed) * _grasping(frames, fps, rng)
    return actions.astype(np.float32)


def _write(folder: Path, robot: SyntheticRobot, episodes: int, rng: np.random.Generator) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.utils.utils import SuppressProgressBars

    embodiment = load_embodiment(robot.embodiment)
    names = list(embodiment.action_names)
    dataset = LeRobotDataset.create(
        repo_id=f"synthetic/{robot.embodiment}",
        fps=embodiment.fps,
        features={
            embodiment.action_key: {"dtype": "float32", "shape": (len(names),), "names": names}
        },
        root=folder,
        robot_type=robot.embodiment,
        use_videos=False,
        video_backend="pyav",
    )
    with SuppressProgressBars():
        for _ in range(episodes):
            for action in motion(robot, rng):
                dataset.add_frame({embodiment.action_key: action, "task": "reach here and there"})
            dataset.save_episode()
    dataset.finalize()


def _reaching(
    low: np.ndarray, high: np.ndarray, frames: int, fps: int, rng: np.random.Generator
) -> np.ndarray:
    pose = rng.uniform(low, high)
    pieces, made = [], 0
    while made < frames:
        goal = rng.uniform(low, high)
        steps = max(1, round(rng.uniform(*_MOVE_S) * fps))
        time = np.arange(1, steps + 1)[:, None] / steps
        blend = 10 * time**3 - 15 * time**4 + 6 * time**5
        pause = np.repeat(goal[None], round(rng.uniform(*_PAUSE_S) * fps), axis=0)
        pieces += [pose + (goal - pose) * blend, pause]
        made += steps + len(pause)
        pose = goal
    return np.concatenate(pieces)[:frames]


def _grasping(frames: int, fps: int, rng: np.random.Generator) -> np.ndarray:
    """Return how far open the gripper is, (frames,) in 0..1: open or closed, with ramps between."""
    opened, target = np.empty(frames), 1.0
    now, left = 1.0, 0
    for frame in range(frames):
        if left == 0:
            target, left = 1.0 - target, round(rng.uniform(1.0, 4.0) * fps)
        left -= 1
        now += np.clip(target - now, -1 / (_GRASP_S * fps), 1 / (_GRASP_S * fps))
        opened[frame] = now
    return opened
