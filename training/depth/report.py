"""Measure depth codes: codec, carried codes, and what a checkpoint says.

The last episodes of a dataset are looked at. They are new to codec and checkpoint only in a dataset
of its own (`molmoact-train demos --held-out`): a codec is fitted on frames of every episode, and so
is a checkpoint whose recipe does not leave them out (`episodes: [0, N]`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from training.datasets.pictures import PictureReader
from training.depth.annotate import AnnotateSettings, EpisodeAnnotator, EpisodeLook
from training.depth.buffer import carried_codes
from training.depth.codec_fit import code_usage
from training.depth.depth_error import DepthError, Truth, depth_error, truth_from_metres
from training.depth.report_table import report_text
from training.depth.teacher import SimulatorTeacher, TeacherFrame, checked_depth
from training.errors import OutputExistsError, TrainingError

THRESHOLDS = (0.99, 0.994, 0.996, 0.998, 0.999)
INTERVALS = (1, 5, 10, 15, 30)
_SAMPLES = 8  # frames of an episode whose codes are decoded


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What is measured."""

    dataset: Path
    codec: Path
    teacher: str
    camera: str | None
    episodes: int
    checkpoint: Path | None
    annotations: Path | None
    embodiment: str
    calls: int


@dataclass(slots=True)
class _Carried:
    """Sums of one interval and threshold."""

    changed: list[np.ndarray] = field(default_factory=list)  # (frames, cells) bool
    stale: list[np.ndarray] = field(default_factory=list)  # carried code is not the fresh one
    codes: list[np.ndarray] = field(default_factory=list)  # (cells,) of the sampled frames
    fresh: list[np.ndarray] = field(default_factory=list)  # (cells,) of the same
    truths: list[Truth] = field(default_factory=list)


@dataclass(slots=True)
class _Seen:
    """What was gathered from the episodes."""

    fresh: list[np.ndarray] = field(default_factory=list)  # (frames, cells)
    sampled: list[np.ndarray] = field(default_factory=list)  # (cells,) fresh
    truths: list[Truth] = field(default_factory=list)
    carried: dict[tuple[int, float], _Carried] = field(default_factory=dict)


def depth_report(settings: ReportSettings, out: Path | None) -> tuple[str, dict[str, Any]]:
    """Measure, write the text to `out`, return it and the figures. Raises `TrainingError`."""
    if out is not None and (out.exists() or out.is_symlink()):
        raise OutputExistsError(out)
    if out is not None and not out.parent.is_dir():
        raise TrainingError(f"folder {out.parent} does not exist; create it first")
    annotator = EpisodeAnnotator(
        AnnotateSettings(
            dataset=settings.dataset,
            codec=settings.codec,
            teacher=settings.teacher,
            camera=settings.camera,
            intervals=INTERVALS,
        )
    )
    count = len(annotator.dataset.episodes)
    episodes = range(max(count - settings.episodes, 0), count)
    seen = _Seen()
    for episode in episodes:
        _gather(seen, annotator, episode, annotator.look(episode))
    figures: dict[str, Any] = {
        "dataset": settings.dataset.resolve().name,
        "teacher": annotator.teacher.name,
        "episodes": [episodes.start, episodes.stop],
        "frames": sum(map(len, seen.fresh)),
        "codec": _codec_figures(seen, annotator),
        "carried": _carried_figures(seen, annotator),
        "checkpoint": _checkpoint_figures(settings, annotator, episodes),
    }
    text = report_text(figures)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    return text, figures


def _gather(seen: _Seen, annotator: EpisodeAnnotator, episode: int, look: EpisodeLook) -> None:
    fresh = annotator.codec.encode(look.depth)
    seen.fresh.append(fresh)
    frames = np.unique(np.linspace(0, len(fresh) - 1, _SAMPLES).astype(int))
    truths = {frame: _truth(annotator, episode, int(frame)) for frame in frames}
    seen.sampled += [fresh[frame] for frame in frames]
    seen.truths += truths.values()
    for interval, similarity in look.similarity.items():
        for threshold in THRESHOLDS:
            codes = carried_codes(fresh, similarity < threshold, interval)
            sums = seen.carried.setdefault((interval, threshold), _Carried())
            sums.changed.append(codes.changed[interval:])
            sums.stale.append(codes.buffer[interval:] != fresh[interval:])
            called = [frame for frame in frames if frame >= interval]
            sums.codes += [codes.buffer[frame] for frame in called]
            sums.fresh += [fresh[frame] for frame in called]
            sums.truths += [truths[frame] for frame in called]


def _truth(annotator: EpisodeAnnotator, episode: int, frame: int) -> Truth:
    teacher, codec = annotator.teacher, annotator.codec
    if isinstance(teacher, SimulatorTeacher):
        depth_m = teacher.metres(episode, frame)
        return truth_from_metres(depth_m, codec.shape.side_px, codec.limits)
    picture = PictureReader(annotator.dataset).picture(episode, frame, annotator.camera)
    depth = checked_depth(teacher, TeacherFrame(episode, frame, picture))
    return Truth(codec.picture(depth), None, None)


def _codec_figures(seen: _Seen, annotator: EpisodeAnnotator) -> dict[str, Any]:
    error = depth_error(annotator.codec.decode(np.stack(seen.sampled)), seen.truths)
    used, perplexity = code_usage(np.concatenate(seen.fresh), annotator.codec.shape.codes)
    return {
        **asdict(error),
        "pictures": len(seen.sampled),
        "codes": annotator.codec.shape.codes,
        "codes_used": used,
        "perplexity": perplexity,
    }


def _carried_figures(seen: _Seen, annotator: EpisodeAnnotator) -> list[dict[str, Any]]:
    rows = []
    fresh: dict[int, DepthError] = {}  # by interval: on the frames that have one before
    for (interval, threshold), sums in seen.carried.items():
        changed = np.concatenate(sums.changed)
        if not len(changed) or not sums.codes:
            continue  # no episode is long enough
        if interval not in fresh:
            decoded = annotator.codec.decode(np.stack(sums.fresh))
            fresh[interval] = depth_error(decoded, sums.truths)
        error = depth_error(annotator.codec.decode(np.stack(sums.codes)), sums.truths)
        rows.append(
            {
                "interval": interval,
                "threshold": threshold,
                "changed_share": float(changed.mean()),
                "stale_share": float(np.concatenate(sums.stale).mean()),
                **asdict(error),
                "fresh_levels": fresh[interval].levels,
                "fresh_mm": fresh[interval].mm,
            }
        )
    return rows


def _checkpoint_figures(
    settings: ReportSettings, annotator: EpisodeAnnotator, episodes: range
) -> dict[str, Any] | None:
    if settings.checkpoint is None or settings.annotations is None:
        return None
    from training.depth.code_accuracy import CodeSpeaker

    speaker = CodeSpeaker(
        settings.checkpoint, settings.dataset, settings.annotations, settings.embodiment
    )
    if speaker.annotations.info.codebook != annotator.codec.digest:
        raise TrainingError(
            f"{settings.annotations} was made with another codec than {settings.codec}; annotate "
            "the dataset with this one, or give that one"
        )
    frames = _spread(annotator, episodes, settings.calls)
    said = speaker.said(frames)
    truths = [_truth(annotator, episode, frame) for episode, frame in frames]

    def error(codes: np.ndarray) -> DepthError:
        return depth_error(annotator.codec.decode(codes), truths)

    usual = np.broadcast_to(said.usual, said.buffer.shape)
    return {
        "calls": len(frames),
        "interval": speaker.annotations.intervals[0],
        "forced_share": float((said.forced == said.buffer).mean()),
        "forced_changed_share": float((said.forced == said.buffer)[said.changed].mean()),
        "greedy_share": float((said.greedy == said.buffer).mean()),
        "greedy_fresh_share": float((said.greedy == said.fresh).mean()),
        "usual_share": float((usual == said.buffer).mean()),
        "errors": {
            name: asdict(error(codes))
            for name, codes in (
                ("fresh", said.fresh),
                ("buffer", said.buffer),
                ("greedy", said.greedy),
                ("usual", usual),
            )
        },
    }


def _spread(annotator: EpisodeAnnotator, episodes: range, calls: int) -> list[tuple[int, int]]:
    """Spread calls evenly over the frames of the episodes."""
    frames = [
        (number, frame)
        for number in episodes
        for frame in range(annotator.dataset.episodes[number].frames)
    ]
    places = np.linspace(0, len(frames) - 1, min(calls, len(frames))).astype(int)
    return [frames[place] for place in places]
