"""True depth beside a dataset: what a perfect depth camera at the front camera's place would see.

    DATASET/depth/front/info.json              camera, size, unit, episodes and their frames
    DATASET/depth/front/episode_000000.npz     one member a frame, "000000": (height, width) uint16

Values are millimetres along the optical axis, so that a plane across it has one value. Every frame
is compressed by itself: one is read without the others. LeRobot's loader does not look here.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.errors import TrainingError

FORMAT = "molmoact_true_depth.v1"
FOLDER = "depth"
MM_PER_M = 1000.0
# Level 1 is three times quicker than the default and a tenth larger.
COMPRESSION_LEVEL = 1
OPEN_EPISODES = 16


class TrueDepthError(TrainingError):
    """Depth that is missing, damaged, or does not belong to its dataset."""


class TrueDepth:
    """The depth of one camera of a recorded dataset; one reader a process, not for threads."""

    def __init__(self, folder: Path, size: tuple[int, int], lengths: Sequence[int]) -> None:
        """Use `folder`; `size` is (width, height), `lengths` the frames of each episode."""
        self.size = size
        self.lengths = tuple(lengths)
        self._folder = folder
        self._open: OrderedDict[int, np.lib.npyio.NpzFile] = OrderedDict()

    @classmethod
    def open(cls, dataset_root: Path, camera: str = "front") -> TrueDepth:
        """Open what lies beside a dataset; raises TrueDepthError when it is not as expected."""
        folder = Path(dataset_root) / FOLDER / camera
        path = folder / "info.json"
        try:
            info = json.loads(path.read_text(encoding="utf-8"))
            if info["format"] != FORMAT:
                raise TrueDepthError(f"{path}: format is {info['format']!r}, known is {FORMAT!r}")
            size = (int(info["width"]), int(info["height"]))
            lengths = [int(length) for length in info["episode_frames"]]
        except FileNotFoundError as error:
            raise TrueDepthError(
                f"{path}: there is no true depth of camera {camera!r}; record it with "
                "'molmoact-train demos', which writes it for its front camera"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrueDepthError(f"{path}: cannot be read ({error!r}); record it again") from error
        return cls(folder, size, lengths)

    def frame(self, episode: int, frame: int) -> np.ndarray:
        """Return (height, width) float32 metres along the optical axis.

        Raises TrueDepthError for an episode or frame that does not exist, or a damaged file.
        """
        return self.frame_mm(episode, frame).astype(np.float32) / np.float32(MM_PER_M)

    def frame_mm(self, episode: int, frame: int) -> np.ndarray:
        """Return (height, width) uint16 millimetres; raises what `frame` raises."""
        if not 0 <= episode < len(self.lengths):
            raise TrueDepthError(
                f"{self._folder}: episode {episode} does not exist; there are {len(self.lengths)}"
            )
        if not 0 <= frame < self.lengths[episode]:
            raise TrueDepthError(
                f"{self._folder}: frame {frame} of episode {episode} does not exist; "
                f"it has {self.lengths[episode]}"
            )
        try:
            depth_mm = self._episode(episode)[f"{frame:06d}"]
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise TrueDepthError(
                f"{episode_path(self._folder, episode)}: frame {frame} cannot be read "
                f"({error}); record the dataset again"
            ) from error
        width, height = self.size
        if depth_mm.shape != (height, width) or depth_mm.dtype != np.uint16:
            raise TrueDepthError(
                f"{episode_path(self._folder, episode)}: frame {frame} is {depth_mm.shape} "
                f"{depth_mm.dtype}, must be {(height, width)} uint16"
            )
        return depth_mm

    def _episode(self, episode: int) -> np.lib.npyio.NpzFile:
        """Return an open file; the least lately used is closed."""
        if episode in self._open:
            self._open.move_to_end(episode)
            return self._open[episode]
        if len(self._open) >= OPEN_EPISODES:
            self._open.popitem(last=False)[1].close()
        self._open[episode] = np.load(episode_path(self._folder, episode))
        return self._open[episode]


def episode_path(folder: Path, episode: int) -> Path:
    """Return the file of an episode."""
    return folder / f"episode_{episode:06d}.npz"


def write_episode(path: Path, frames_mm: Sequence[np.ndarray]) -> None:
    """Write the frames of one episode, each (height, width) uint16; the same bytes each time."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, frame_mm in enumerate(frames_mm):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(frame_mm, dtype=np.uint16))
            # A ZipInfo has a fixed date; a mere name would get that of the recording.
            archive.writestr(
                zipfile.ZipInfo(f"{number:06d}.npy"),
                content.getvalue(),
                zipfile.ZIP_DEFLATED,
                COMPRESSION_LEVEL,
            )


def write_info(
    folder: Path, camera: str, size: tuple[int, int], fps: int, lengths: Sequence[int]
) -> None:
    """Write `info.json`; `size` is (width, height), `lengths` the frames of each episode."""
    info = {
        "format": FORMAT,
        "camera": camera,
        "width": size[0],
        "height": size[1],
        "fps": fps,
        "unit": "millimetres along the optical axis",
        "episode_frames": list(lengths),
    }
    (folder / "info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
