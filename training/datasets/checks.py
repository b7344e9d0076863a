"""What a dataset must be before anything is learnt from it.

Training on a wrong dataset does not crash, it teaches: an arm in the other calibration's frame, a
task that is an empty text, a camera in another's place. Each is refused here with file, episode and
field, in one pass over the rows; the pass also returns them, so nothing is read twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edge.errors import shown
from edge.prompt import clean_task, is_text
from training.datasets.dataset_files import (
    CHUNK_KEY,
    DatasetError,
    DatasetFiles,
    Rows,
    read_rows,
)
from training.datasets.embodiment import Embodiment, load_embodiment

_ROLLOUTS = re.compile(r"(^|[_\-/])(eval|evaluation|rollouts?)([_\-/]|$)", re.IGNORECASE)
_FRAME_SAMPLE = 200_000  # states that judge the joint convention
_FRAME_MARGIN = 0.25  # of the usual range, allowed on either side of it
_FRAME_LEAD = 0.5  # share of frames by which the other convention must fit better
_RANGE_END, _RANGE_END_SHARE = 100.0, 0.001
_MASKED_LIMIT = 1.0  # what is not normalised has to be in the model's range already


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Rows of a dataset that passed, in the checkpoint's joint frame."""

    starts: np.ndarray  # (episodes + 1,) int64: rows starts[i] to starts[i + 1] are episode i
    state: np.ndarray  # (rows, state_dim) float32
    action: np.ndarray  # (rows, action_dim) float32
    tasks: np.ndarray  # (rows,) int64 into the dataset's tasks
    chunk: np.ndarray | None = None  # (rows, steps, action_dim) float32, where it is recorded


def check_dataset(
    dataset: DatasetFiles,
    embodiment: Embodiment,
    cameras: Iterable[str] = (),
    min_frames: int = 1,
) -> CheckedRows:
    """Check everything and return the rows; raise `DatasetError` at the first thing wrong.

    `cameras` are the feature keys that are going to be used, `min_frames` is the length of the
    shortest episode that is of use: one chunk.
    """
    check_description(dataset, embodiment, cameras, min_frames)
    rows = _collect(dataset, embodiment)
    check_joint_frame(dataset, embodiment, rows.state)
    frames = embodiment.state_frame, embodiment.action_frame
    state = frames[0].model_from_arm(rows.state).astype(np.float32)
    action, chunk = (
        None if values is None else frames[1].model_from_arm(values).astype(np.float32)
        for values in (rows.action, rows.chunk)
    )
    return CheckedRows(rows.starts, state, action, rows.tasks, chunk)


def check_description(
    dataset: DatasetFiles, embodiment: Embodiment, cameras: Iterable[str], min_frames: int
) -> None:
    """Check what `meta/` says: name, rate, dims and their order, cameras, lengths."""
    folder = dataset.folder
    if _ROLLOUTS.search(folder.resolve().name):
        raise DatasetError(
            f"{folder}: named like recordings of a policy, which MolmoAct2's data leave out; "
            "rename the folder if these are demonstrations"
        )
    steps = dataset.chunk_steps(embodiment.action_key)
    if steps and steps < embodiment.horizon:
        raise DatasetError(
            f"{folder}/meta/info.json: {CHUNK_KEY} has {steps} actions, a chunk of embodiment "
            f"{embodiment.name} has {embodiment.horizon}; record it again"
        )
    if dataset.fps != embodiment.fps and not steps:
        raise DatasetError(
            f"{folder}/meta/info.json: fps is {dataset.fps:g}, embodiment {embodiment.name} has "
            f"{embodiment.fps}; a chunk would last another time: record or resample at that rate"
        )
    for key, names in (
        (embodiment.state_key, embodiment.state_names),
        (embodiment.action_key, embodiment.action_names),
    ):
        _check_vector(dataset, embodiment, key, names)
    for camera in cameras:
        _check_camera(dataset, camera)
    for episode in dataset.episodes:
        if episode.frames < min_frames and not steps:
            raise DatasetError(
                f"{episode.data_file}: episode {episode.index} has {episode.frames} frames, a "
                f"chunk needs {min_frames}; remove it with 'lerobot-edit-dataset'"
            )


def check_joint_frame(dataset: DatasetFiles, embodiment: Embodiment, states: np.ndarray) -> None:
    """Tell the calibration frame from where lift and elbow are; (n, dim) as recorded.

    An arm recorded with an old calibration keeps that frame when its dataset is converted to v3.0,
    so the format's version says nothing. The two frames put lift and elbow of nearly every pose in
    ranges that do not meet.
    """
    check = embodiment.frame_check
    if check is None:
        return
    _check_degrees(dataset, embodiment, states)
    other = load_embodiment(check.other)
    sample = states[:: -(-len(states) // _FRAME_SAMPLE)]
    shares = [
        _share_in_range(frame.model_from_arm(sample)[:, check.joints], check.low, check.high)
        for frame in (embodiment.state_frame, other.state_frame)
    ]
    if shares[1] - shares[0] >= _FRAME_LEAD:
        joint = check.joints[0]
        raise DatasetError(
            f"{dataset.folder}: {embodiment.state_key}: the joints look recorded in the frame of "
            f"{other.name}, not {embodiment.name} (median of {embodiment.state_names[joint]} "
            f"{np.median(sample[:, joint]):.0f}; {shares[1]:.0%} of frames fit {other.name}, "
            f"{shares[0]:.0%} {embodiment.name}); use embodiment {other.name}"
        )


def _check_degrees(dataset: DatasetFiles, embodiment: Embodiment, states: np.ndarray) -> None:
    """Tell shares of a joint's range, -100 to 100, from degrees.

    LeRobot cuts shares off at the ends of the range, where arms rest; degrees are never cut off,
    and hardly meet a round number twice.
    """
    body = [index for index, name in enumerate(embodiment.state_names) if "gripper" not in name]
    at_end = np.abs(np.abs(states[:, body]) - _RANGE_END) < 1e-4
    counts = at_end.sum(axis=0)
    if counts.max() < max(2, _RANGE_END_SHARE * len(states)):
        return
    if np.abs(states[:, body]).max() > _RANGE_END + 1e-4:
        return
    joint = int(np.argmax(counts))
    raise DatasetError(
        f"{dataset.folder}: {embodiment.state_key}: the joints look recorded as -100..100 of their "
        f"ranges, not in degrees ({embodiment.state_names[body[joint]]} is at the very end in "
        f"{counts[joint]} frames); record with use_degrees=true"
    )


def _check_vector(
    dataset: DatasetFiles, embodiment: Embodiment, key: str, names: tuple[str, ...]
) -> None:
    where = f"{dataset.folder}/meta/info.json: {key}"
    if dataset.width(key) != len(names):
        raise DatasetError(
            f"{where} has {dataset.width(key)} dims, embodiment {embodiment.name} has "
            f"{len(names)}: {', '.join(names)}"
        )
    found = dataset.names(key)
    if found is None:
        return
    plain = [_plain(name) for name in found]
    expected = [_plain(name) for name in names]
    if sorted(plain) == sorted(expected) and plain != expected:
        raise DatasetError(
            f"{where} lists {', '.join(found)}; embodiment {embodiment.name} needs the order "
            f"{', '.join(names)}"
        )


def _plain(name: str) -> str:
    """Strip what LeRobot's versions put around a motor's name."""
    return name.removeprefix("main_").removesuffix(".pos")


def _check_camera(dataset: DatasetFiles, camera: str) -> None:
    if camera in dataset.cameras:
        for episode in dataset.episodes:
            file = episode.videos[camera][0]
            if not file.is_file():
                raise DatasetError(
                    f"{file}: missing, it has episode {episode.index}; copy it again"
                )
        return
    if camera in dataset.features:
        raise DatasetError(
            f"{dataset.folder}/meta/info.json: {camera} is kept as single pictures; convert it "
            "with 'lerobot-edit-dataset --operation.type convert_image_to_video'"
        )
    raise DatasetError(
        f"{dataset.folder}/meta/info.json: no camera {camera}; it has: "
        f"{', '.join(dataset.cameras) or 'none'}; name those to use ('cameras' in a recipe)"
    )


def _collect(dataset: DatasetFiles, embodiment: Embodiment) -> CheckedRows:
    starts = np.cumsum([0, *(episode.frames for episode in dataset.episodes)])
    keys = embodiment.state_key, embodiment.action_key
    widths = [dataset.width(key) for key in keys]
    values = [np.empty((starts[-1], width), np.float32) for width in widths]
    tasks = np.empty(starts[-1], np.int64)
    steps = dataset.chunk_steps(embodiment.action_key)
    chunks = np.empty((starts[-1], steps, widths[1]), np.float32) if steps else None
    instructive = np.array(
        [index for index, text in dataset.tasks.items() if is_text(text) and clean_task(text)],
        np.int64,
    )
    filled = 0
    for rows in read_rows(dataset, *keys):
        span = slice(filled, filled + len(rows.episode))
        _check_places(rows, starts, filled)
        _check_tasks(rows, dataset, instructive)
        for into, found, key, names in zip(
            values,
            (rows.state, rows.action),
            keys,
            (embodiment.state_names, embodiment.action_names),
            strict=True,
        ):
            _check_values(rows, found, key, names, embodiment.mask(names))
            into[span] = found
        if chunks is not None:
            _check_chunks(rows, embodiment)
            chunks[span] = rows.chunk
        tasks[span] = rows.task
        filled = span.stop
    if filled != starts[-1]:
        raise DatasetError(
            f"{dataset.folder}/data: {filled} frames, meta/episodes lists {starts[-1]}; copy the "
            "dataset again"
        )
    return CheckedRows(starts, values[0], values[1], tasks, chunks)


def _check_places(rows: Rows, starts: np.ndarray, filled: int) -> None:
    places = np.arange(filled, filled + len(rows.episode))
    episodes = np.searchsorted(starts, places, side="right") - 1
    inside = episodes < len(starts) - 1
    frames = places - starts[np.minimum(episodes, len(starts) - 2)]
    wrong = ~inside | (rows.episode != episodes) | (rows.frame != frames)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DatasetError(
            f"{rows.file}: episode {rows.episode[row]} frame {rows.frame[row]} is not where "
            "meta/episodes puts it; a frame is missing or doubled: copy the dataset again"
        )


def _check_tasks(rows: Rows, dataset: DatasetFiles, instructive: np.ndarray) -> None:
    wrong = ~np.isin(rows.task, instructive)
    if wrong.any():
        row = int(np.argmax(wrong))
        text = dataset.tasks.get(int(rows.task[row]))
        raise DatasetError(
            f"{_at(rows, row)}: task is {shown(text)} (task_index {rows.task[row]} of "
            "meta/tasks.parquet), which is no instruction; write what the arm does there"
        )


def _check_values(
    rows: Rows, values: np.ndarray, key: str, names: tuple[str, ...], mask: np.ndarray
) -> None:
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, dim = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        raise DatasetError(
            f"{_at(rows, row)}: {key}[{names[dim]}] is {values[row, dim]}; a finite number is "
            "needed: mend or remove the episode"
        )
    wrong = (np.abs(values) > _MASKED_LIMIT) & ~mask
    if wrong.any():
        row, dim = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        raise DatasetError(
            f"{_at(rows, row)}: {key}[{names[dim]}] is {values[row, dim]:g}, and this embodiment "
            "does not normalise it; -1..1 is needed"
        )


def _check_chunks(rows: Rows, embodiment: Embodiment) -> None:
    names = embodiment.action_names
    for step in range(rows.chunk.shape[1]):
        key = f"{CHUNK_KEY}[{step}]"
        _check_values(rows, rows.chunk[:, step], key, names, embodiment.mask(names))


def _at(rows: Rows, row: int) -> str:
    return f"{rows.file}: episode {rows.episode[row]} frame {rows.frame[row]}"


def _share_in_range(values: np.ndarray, low: tuple[float, ...], high: tuple[float, ...]) -> float:
    margin = _FRAME_MARGIN * (np.array(high) - np.array(low))
    inside = (values >= low - margin) & (values <= high + margin)
    return float(inside.all(axis=1).mean())
