"""Write recorded demonstrations as a LeRobot v3 dataset, with LeRobot's own writer.

LeRobot streams pictures into its encoder threads and drops those that come too fast; here nothing
is live, so the queue is as long as an episode and everything is kept.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np

from firmware_bridge.calibration import JOINTS
from sim.camera_process import CAMERA_NAMES
from sim.demonstration import MAX_TICKS
from sim.visits import HORIZON
from training.datasets.dataset_files import CHUNK_KEY
from training.demonstrations import true_depth
from training.demonstrations.worker import INSTRUCTIONS, Recorded, Settings

ROBOT_TYPE = "so101"
# A picture costs at most one more to decode (LeRobot's default). H.264 is decoded as quickly as AV1
# and encoded in 60 % of its time (measured at 320x240 on one core).
CODEC, GROUP_OF_PICTURES, QUALITY, PRESET = "h264", 2, 20, "veryfast"
# A file is copied whenever an episode is added to it.
VIDEO_FILE_MB = 16
DEPTH_CAMERA = "front"
PLANS_FILE = "meta/demonstrations.jsonl"


class DemonstrationDataset:
    """A dataset being written to a folder that does not exist yet; then `finish`."""

    def __init__(self, root: Path, name: str, settings: Settings) -> None:
        """Create `root`; `name` becomes the repository id. Imports LeRobot, which takes seconds."""
        logging.getLogger("lerobot").setLevel(logging.ERROR)
        import av
        import datasets
        from lerobot.configs import RGBEncoderConfig
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        av.logging.set_libav_level(av.logging.ERROR)
        datasets.disable_progress_bars()
        self._root = root
        self._settings = settings
        self._lengths: list[int] = []
        self._plans: list[str] = []
        self._depth = Path(true_depth.FOLDER) / DEPTH_CAMERA
        self._dataset = LeRobotDataset.create(
            repo_id=f"local/{name}",
            fps=settings.fps,
            features=_features(settings),
            root=root,
            robot_type=ROBOT_TYPE,
            rgb_encoder=RGBEncoderConfig(
                vcodec=CODEC, g=GROUP_OF_PICTURES, crf=QUALITY, preset=PRESET
            ),
            streaming_encoding=True,
            encoder_queue_maxsize=MAX_TICKS,
            encoder_threads=1,
            video_files_size_in_mb=VIDEO_FILE_MB,
        )
        (root / self._depth).mkdir(parents=True)

    def add(self, episode: Recorded) -> None:
        """Append an episode and remove its staging folder."""
        images = [np.load(episode.folder / f"{name}.npy", mmap_mode="r") for name in CAMERA_NAMES]
        states, chunks = (np.load(episode.folder / f"{n}.npy") for n in ("states", "chunks"))
        instructions = json.loads((episode.folder / INSTRUCTIONS).read_text("utf-8"))
        for frame in range(episode.frames):
            self._dataset.add_frame(
                {
                    **{
                        f"observation.images.{name}": np.asarray(pictures[frame])
                        for name, pictures in zip(CAMERA_NAMES, images, strict=True)
                    },
                    "observation.state": states[frame],
                    "action": chunks[frame, 0],
                    **({CHUNK_KEY: chunks[frame].ravel()} if self._settings.has_chunks else {}),
                    "task": instructions[frame],
                }
            )
        self._dataset.save_episode()
        number = len(self._lengths)
        shutil.move(
            episode.folder / "depth.npz",
            true_depth.episode_path(self._root / self._depth, number),
        )
        self._lengths.append(episode.frames)
        self._plans.append(json.dumps(_plan_record(number, episode)))
        shutil.rmtree(episode.folder)

    def abandon(self) -> None:
        """Close what is open, so that LeRobot's writer does not come back to it later."""
        with contextlib.suppress(Exception):
            self._dataset.finalize()

    def finish(self) -> None:
        """Close every file; the dataset is whole then."""
        self._dataset.finalize()
        true_depth.write_info(
            self._root / self._depth,
            DEPTH_CAMERA,
            self._settings.size,
            self._settings.fps,
            self._lengths,
        )
        text = "".join(f"{line}\n" for line in self._plans)
        (self._root / PLANS_FILE).write_text(text, encoding="utf-8")
        _sort_keys(self._root / "meta" / "stats.json")


def _features(settings: Settings) -> dict[str, dict]:
    width, height = settings.size
    positions = {
        "dtype": "float32",
        "shape": (len(JOINTS),),
        "names": [f"{joint}.pos" for joint in JOINTS],
    }
    picture = {
        "dtype": "video",
        "shape": (height, width, 3),
        "names": ["height", "width", "channels"],
    }
    chunk = {"dtype": "float32", "shape": (HORIZON * len(JOINTS),), "names": None}
    return {
        "action": positions,
        **({CHUNK_KEY: chunk} if settings.has_chunks else {}),
        "observation.state": dict(positions),
        **{f"observation.images.{name}": dict(picture) for name in CAMERA_NAMES},
    }


def _sort_keys(path: Path) -> None:
    """LeRobot writes them in the order of a set, which is another in each process."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")


def _plan_record(number: int, episode: Recorded) -> dict[str, object]:
    plan = episode.plan
    return {
        "episode": number,
        "task": plan.task.kind,
        "colour": plan.task.colour,
        "instruction": plan.instruction,
        "layout_seed": plan.layout_seed,
        "variation_seed": plan.variation_seed,
        "start": plan.start,
        "disturbance": round(plan.disturbance, 4),
        "seed": list(plan.seed),
        "succeeded": episode.succeeded,
        "attempts": episode.attempts,
        "clamped_ticks": episode.clamped_ticks,
    }
