"""Examples from a LeRobot v3 dataset: what the arm saw, was told, and did next.

States and actions are turned into the checkpoint's joint frame, normalised by its `norm_stats.json`
and clipped, as the robot does it; the texts of the prompt are those of the statistics too, because
these are what the robot will say. A chunk that reaches past its episode repeats the last action,
marked as padding. A dataset may hold each picture's chunk (`action.chunk`): then pictures may
be rarer than actions, and a chunk need not be what the arm did (corrections).

Numbers of the whole dataset are kept in memory: 4 bytes a dimension and frame, 1 GB for the 20
million frames of MolmoAct2's SO-100/101 mixture. Pictures are decoded as they are drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from edge.errors import BundleError
from edge.json_file import read_json
from edge.normalization import RobotTag, parse_tags
from edge.prompt import clean_task, state_text
from training.datasets.augmentation import Augmentation, augment
from training.datasets.checks import CheckedRows, check_dataset
from training.datasets.dataset_files import DatasetError, DatasetFiles, open_dataset
from training.datasets.embodiment import Embodiment, load_embodiment
from training.datasets.norm_stats import stats_problem
from training.datasets.pictures import PictureReader
from training.datasets.settings import MixtureError, RobotSettings
from training.examples.example import Chunk, Example
from training.examples.input_settings import InputSettings, read_input_settings
from training.examples.robot_text import ACT, DEPTH, robot_answer, robot_question

if TYPE_CHECKING:
    from training.datasets.mixture import MixtureContext

_MAX_STATS_BYTES = 64 << 20


class DepthCodes(Protocol):
    """The depth codes of a dataset's frames."""

    def codes(
        self, episode: int, frame: int, which: str = "buffer", interval: int | None = None
    ) -> np.ndarray:
        """Return the codes of a frame, (cells,) int64."""
        ...


class RobotSource:
    """One dataset as a source of examples."""

    def __init__(
        self,
        settings: RobotSettings,
        context: MixtureContext,
        augmentation: Augmentation | None = None,
        depth: DepthCodes | None = None,
    ) -> None:
        """Open and check the dataset; `depth` stands in for the annotations of the settings."""
        self.name = settings.name
        self._settings = settings
        self._context = context
        self._augmentation = augmentation
        self.embodiment: Embodiment = load_embodiment(settings.embodiment)
        self._inputs: InputSettings = read_input_settings(context.checkpoint)
        self.tag: RobotTag = _open_tag(context, self.embodiment, self._inputs)
        self.cameras = settings.cameras or self.embodiment.cameras
        _check_cameras(context, self.tag, self.cameras)
        self.dataset: DatasetFiles = open_dataset(settings.folder)
        self.rows: CheckedRows = check_dataset(
            self.dataset, self.embodiment, self.cameras, self.tag.action_horizon
        )
        tasks = self.dataset.tasks
        self._tasks = {index: clean_task(tasks[index]) for index in np.unique(self.rows.tasks)}
        self._first, self._past = self._selection()
        self._depth = depth or self._open_depth()
        self._pictures = PictureReader(self.dataset)
        self._pictures.check_files(self.cameras)
        self._styles = list(settings.styles)
        weights = np.array([settings.styles[style] for style in self._styles], np.float64)
        self._shares = weights / weights.sum()
        if settings.discrete and context.action_tokenizer is None:
            raise MixtureError(
                f"data.{self.name}: discrete is true and the recipe names no action_tokenizer"
            )

    @property
    def frames(self) -> int:
        """Frames that examples are drawn from."""
        return self._past - self._first

    def example(self, number: int, rng: np.random.Generator) -> Example:
        """Draw a frame, each alike, and a style by weight."""
        row = int(rng.integers(self._first, self._past))
        style = self._styles[rng.choice(len(self._styles), p=self._shares)]
        return self.example_at(number, row, style, rng)

    def example_at(self, number: int, row: int, style: str, rng: np.random.Generator) -> Example:
        """Make the example of one row of the dataset."""
        episode = int(np.searchsorted(self.rows.starts, row, side="right")) - 1
        frame = row - int(self.rows.starts[episode])
        chunk = self._chunk(row, episode)
        codes = () if style == ACT else self._codes(episode, frame)
        tokens = None
        if self._settings.discrete and style != DEPTH:
            tokens = self._context.action_tokenizer.encode(chunk.actions)
        state = self.tag.state.normalize(self.rows.state[row])
        question = robot_question(
            style,
            self._tasks[int(self.rows.tasks[row])],
            state_text(state, self._inputs.prompt.state_bins),
            self.tag.setup,
            self.tag.control,
            self._inputs.prompt,
        )
        return Example(
            number=number,
            source=self.name,
            images=self._images(episode, frame, style, rng),
            question=question,
            answer=robot_answer(style, codes, tokens),
            chunk=None if style == DEPTH else chunk,
            depth_codes=codes,
        )

    def _chunk(self, row: int, episode: int) -> Chunk:
        if self.rows.chunk is not None:
            actions = self.rows.chunk[row, : self.tag.action_horizon]
            actions = self.tag.action.normalize(actions).astype(np.float32)
            return Chunk(actions, np.zeros(len(actions), bool))
        last = int(self.rows.starts[episode + 1]) - 1
        rows = row + np.arange(self.tag.action_horizon)
        actions = self.tag.action.normalize(self.rows.action[np.minimum(rows, last)])
        return Chunk(actions.astype(np.float32), rows > last)

    def _codes(self, episode: int, frame: int) -> tuple[int, ...]:
        settings = self._settings
        codes = self._depth.codes(
            episode, frame, settings.depth_codes, interval=settings.depth_interval
        )
        return tuple(map(int, codes))

    def _images(
        self, episode: int, frame: int, style: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, ...]:
        cameras = list(self.cameras)
        if self._settings.shuffle_cameras:
            np.random.default_rng((self._context.seed, episode)).shuffle(cameras)
        images = [self._pictures.picture(episode, frame, camera) for camera in cameras]
        if self._augmentation is not None:
            # The depth codes are those of the first picture as it was recorded.
            images = [
                augment(
                    image,
                    self._augmentation,
                    rng,
                    keep_geometry=style != ACT and place == 0,
                )
                for place, image in enumerate(images)
            ]
        return tuple(images)

    def _selection(self) -> tuple[int, int]:
        """Return the first and the past-the-last row of the episodes that are asked for."""
        count = len(self.dataset.episodes)
        first, past = self._settings.episodes or (0, count)
        if past > count:
            raise MixtureError(
                f"data.{self.name}.episodes: [{first}, {past}]; {self.dataset.folder} has {count}"
            )
        return int(self.rows.starts[first]), int(self.rows.starts[past])

    def _open_depth(self) -> DepthCodes | None:
        if set(self._settings.styles) <= {ACT}:
            return None
        from training.depth.annotations import DepthAnnotations

        depth = DepthAnnotations.open(self._settings.depth, self.dataset.folder)
        interval, where = self._settings.depth_interval, f"data.{self.name}"
        cells, codes = self._inputs.depth_cells, self._inputs.depth_codes
        if (depth.info.cells, depth.info.codes) != (cells, codes):
            raise MixtureError(
                f"{where}.depth: {depth.info.cells} cells of {depth.info.codes} codes; the "
                f"checkpoint has {cells} of {codes}"
            )
        if depth.info.camera != self.cameras[0]:
            raise MixtureError(
                f"{where}.depth: annotated from {depth.info.camera}; the first camera is "
                f"{self.cameras[0]}, and depth is that of the first"
            )
        if interval is not None and interval not in depth.intervals:
            raise MixtureError(
                f"{where}.depth_interval: {interval}; annotated: "
                f"{', '.join(map(str, depth.intervals))}"
            )
        return depth


def _check_cameras(context: MixtureContext, tag: RobotTag, cameras: tuple[str, ...]) -> None:
    """The robot shows the pictures in the order of the statistics, so they are learnt in it."""
    if tag.cameras and tag.cameras != cameras:
        raise MixtureError(
            f"{context.norm_stats}: tag {tag.name} lists {', '.join(tag.cameras)}; the recipe uses "
            f"{', '.join(cameras)}: set 'cameras', or make statistics with 'molmoact-train stats "
            "--cameras'"
        )


def _open_tag(context: MixtureContext, embodiment: Embodiment, inputs: InputSettings) -> RobotTag:
    """Read the embodiment's statistics as the robot will read them."""
    try:
        content = read_json(context.norm_stats, _MAX_STATS_BYTES)
        tags = parse_tags(content, inputs.max_horizon, inputs.max_action_dim)
    except BundleError as error:
        raise DatasetError(stats_problem(context.norm_stats, error)) from None
    tag = tags.get(embodiment.norm_tag)
    if tag is None:
        raise DatasetError(
            f"{context.norm_stats}: no tag {embodiment.norm_tag}, which embodiment "
            f"{embodiment.name} needs; make one with 'molmoact-train stats'"
        )
    dims = len(embodiment.state_names), len(embodiment.action_names)
    if (tag.state.dim, tag.action.dim) != dims:
        raise DatasetError(
            f"{context.norm_stats}: tag {tag.name} has {tag.state.dim} state and {tag.action.dim} "
            f"action dims; embodiment {embodiment.name} has {dims[0]} and {dims[1]}"
        )
    return tag
