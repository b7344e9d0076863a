"""Where depth comes from: a simulator's truth, or Depth-Anything-V2 when its weights are given.

    open_teacher("sim", dataset, camera)              # what 'molmoact-train demos' recorded
    open_teacher("depth-anything", dataset, camera)   # a folder in transformers' layout

A teacher gives relative inverse depth: greater is nearer, the unit is its own. Metres are inverted
(`training.depth.relative`), so that codes mean the same whoever the teacher is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from training.datasets.dataset_files import DatasetFiles
from training.demonstrations.true_depth import TrueDepth
from training.depth.relative import inverse_depth
from training.errors import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SIMULATOR = "sim"


class TeacherError(TrainingError):
    """Depth is not to be had, or is not depth."""


@dataclass(frozen=True, slots=True)
class TeacherFrame:
    """One frame of a dataset."""

    episode: int
    frame: int
    picture: np.ndarray | None  # (H, W, 3) uint8 RGB; None when the teacher does not look


class DepthTeacher(Protocol):
    """Knows how deep every pixel of a frame is."""

    name: str
    looks: bool  # whether it needs the picture

    def depth(self, frame: TeacherFrame) -> np.ndarray:
        """Return (H, W) float32 relative inverse depth; raise `TrainingError`."""
        ...


class SimulatorTeacher:
    """True depth, recorded beside the dataset."""

    name = SIMULATOR
    looks = False

    def __init__(self, dataset: DatasetFiles, camera: str) -> None:
        """Open the depth of `camera`, a feature key such as observation.images.front."""
        self._depth = TrueDepth.open(dataset.folder, camera.rpartition(".")[2])
        lengths = tuple(episode.frames for episode in dataset.episodes)
        if self._depth.lengths != lengths:
            raise TeacherError(
                f"{dataset.folder}/depth: {sum(self._depth.lengths)} frames in "
                f"{len(self._depth.lengths)} episodes, the dataset has {sum(lengths)} in "
                f"{len(lengths)}; record them together with 'molmoact-train demos'"
            )

    def metres(self, episode: int, frame: int) -> np.ndarray:
        """Return (H, W) float32 metres; 0 where nothing was met."""
        return self._depth.frame(episode, frame)

    def depth(self, frame: TeacherFrame) -> np.ndarray:
        """Return (H, W) float32 in 1/m."""
        return inverse_depth(self.metres(frame.episode, frame.frame))


class DepthAnythingTeacher:
    """Depth-Anything-V2 through transformers, from a local folder; nothing is downloaded."""

    looks = True

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._model, self._processor = _load(folder)

    def depth(self, frame: TeacherFrame) -> np.ndarray:
        """Return (H, W) float32 in the model's unit, at the size of the picture."""
        import torch

        if frame.picture is None:
            raise TeacherError("Depth-Anything needs the picture of a frame")
        inputs = self._processor(images=frame.picture, return_tensors="pt")
        with torch.inference_mode():
            outputs = self._model(pixel_values=inputs["pixel_values"].to(self._model.device))
        sized = self._processor.post_process_depth_estimation(outputs, [frame.picture.shape[:2]])
        return sized[0]["predicted_depth"].float().cpu().numpy()


def open_teacher(name: str, dataset: DatasetFiles, camera: str) -> DepthTeacher:
    """Open "sim", or the folder of a Depth-Anything-V2 model; raise `TrainingError`."""
    if name == SIMULATOR:
        return SimulatorTeacher(dataset, camera)
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise TeacherError(
            f"teacher {name!r}: no config.json there; give {SIMULATOR!r}, or the folder of a "
            "Depth-Anything-V2 model in transformers' layout"
        )
    return DepthAnythingTeacher(folder)


def checked_depth(teacher: DepthTeacher, frame: TeacherFrame) -> np.ndarray:
    """Ask the teacher; raise `TeacherError` for what is not a map of finite numbers."""
    depth = np.asarray(teacher.depth(frame), np.float32)
    if depth.ndim != 2 or not np.isfinite(depth).all():
        bad = int(np.count_nonzero(~np.isfinite(depth)))
        raise TeacherError(
            f"episode {frame.episode}, frame {frame.frame}: {teacher.name} gave depth of shape "
            f"{depth.shape} with {bad} values that are not finite; mend or leave out this episode"
        )
    return depth


def _load(folder: Path) -> tuple[PreTrainedModel, object]:
    import torch
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    try:
        model = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TeacherError(
            f"{folder} cannot be loaded ({' '.join(str(error).split())[:200]}); give a model that "
            "transformers' AutoModelForDepthEstimation opens, with preprocessor_config.json"
        ) from None
    if getattr(model.config, "depth_estimation_type", "relative") != "relative":
        raise TeacherError(
            f"{folder} gives metric depth, and codes are of relative inverse depth; give a "
            "relative model"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device), processor
