"""A LeRobot v3 dataset of a few seconds, written by LeRobot's own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

JOINTS = (
    "shoulder_pan.pos",
    "shoulder_lift.pos",
    "elbow_flex.pos",
    "wrist_flex.pos",
    "wrist_roll.pos",
    "gripper.pos",
)
CAMERAS = ("front", "wrist")
HEIGHT_PX, WIDTH_PX = 48, 64
TASKS = ("Put the red cube in the bin.", "Put the blue cube in the bin.")
# Lift and elbow of a new calibration, in degrees.
MIDDLE = np.array([3.0, -33.0, 34.0, 58.0, -11.0, 10.0], np.float32)
SWING = np.array([20.0, 40.0, 40.0, 15.0, 10.0, 9.0], np.float32)


def states(episode: int, frames: int) -> np.ndarray:
    """Give the joints of an episode, (frames, 6) float32: a slow swing about the middle."""
    phase = np.linspace(0, 2 * np.pi, frames, dtype=np.float32)[:, None]
    return (MIDDLE + SWING * np.sin(phase + episode + np.arange(6))).astype(np.float32)


def rising(action: np.ndarray, steps: int) -> np.ndarray:
    """Give the actions that are recorded with one, (steps, joints) float32."""
    return (action + 0.1 * np.arange(steps)[:, None]).astype(np.float32)


def picture(camera: int, episode: int, frame: int) -> np.ndarray:
    """Draw a smooth picture that tells camera, episode and frame apart, even after a codec."""
    rows = np.linspace(0, 60, HEIGHT_PX)[:, None]
    columns = np.linspace(0, 60, WIDTH_PX)[None, :]
    base = rows + columns
    return np.stack(
        [base + 100 * camera, np.full_like(base, 60 * episode), np.full_like(base, 5.0 * frame)], -1
    ).astype(np.uint8)


def write_tiny_dataset(
    folder: Path,
    *,
    lengths: tuple[int, ...] = (40, 36, 44),
    tasks: tuple[str, ...] = TASKS,
    fps: int = 30,
    joints: tuple[str, ...] = JOINTS,
    move=lambda values: values,  # of joints, for datasets of another convention
    video: bool = True,
    chunk_steps: int = 0,
    chunk=rising,  # of an action and a number of steps
) -> Path:
    """Write one episode per length, tasks in turn; the action is the state two frames later.

    With `chunk_steps` each frame has a chunk of that many actions.
    """
    from lerobot.configs import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (len(joints),), "names": list(joints)}
    features = {"observation.state": vector, "action": dict(vector)}
    if chunk_steps:
        shape = (chunk_steps * len(joints),)
        features["action.chunk"] = {"dtype": "float32", "shape": shape, "names": None}
    for camera in CAMERAS:
        features[f"observation.images.{camera}"] = {
            "dtype": "video" if video else "image",
            "shape": (HEIGHT_PX, WIDTH_PX, 3),
            "names": ["height", "width", "channels"],
        }
    dataset = LeRobotDataset.create(
        repo_id="tests/tiny",
        fps=fps,
        features=features,
        root=folder,
        robot_type="so101",
        use_videos=video,
        # LeRobot's default, SVT-AV1, makes the caller a real-time thread for good when it may.
        rgb_encoder=RGBEncoderConfig(vcodec="h264", g=2),
    )
    for episode, length in enumerate(lengths):
        values = move(states(episode, length + 2))
        for frame in range(length):
            row = {"observation.state": values[frame], "action": values[frame + 2]}
            for number, camera in enumerate(CAMERAS):
                row[f"observation.images.{camera}"] = picture(number, episode, frame)
            if chunk_steps:
                row["action.chunk"] = chunk(values[frame + 2], chunk_steps).ravel()
            dataset.add_frame({**row, "task": tasks[episode % len(tasks)]})
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return folder
