"""How long each stage of a policy call takes, and what it grows with.

Cameras, share of changed depth cells and horizon (actions a call predicts) are varied one at a
time from a base setting. Each stage is read against its floor, the least time that the measured
ceiling of the machine allows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.ceiling import Ceiling, higher, measure_ceiling
from benchmarks.floors import floors_ms
from benchmarks.latency_report import LatencyReport, Row, Setting, StageTimes
from benchmarks.one_token import measure_one_token
from benchmarks.stimulus import TASK, check_horizon, count_tokens, moving_pictures, varied_tag
from edge.manifest import Manifest, read_manifest
from edge.normalization import RobotTag, choose_tag
from edge.policy import STAGES, Policy, PolicyResult
from edge.profile import load_profile
from edge.report import machine_name

WARM_UP_CALLS = 2
FEWEST_REPEATS = 30
FEWEST_FOR_PERCENTILES = 20
_BASE_CAMERAS, _BASE_PERCENT = 2, 30


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """The calls of one row, warm-up included."""

    setting: Setting
    results: list[PolicyResult]
    seconds: list[float]


def measure_latency(
    bundle: Path,
    *,
    profile: str | None,
    cameras: Sequence[int],
    changed_percent: Sequence[int],
    horizons: Sequence[int] | None,
    norm_tag: str | None,
    repeats: int,
    seconds_per_row: float | None = None,
) -> LatencyReport:
    """Time calls, one cost driver varied at a time; raises `EdgeError`.

    `horizons` None means a half and the whole of the model's. A row ends early when it has taken
    `seconds_per_row` with its warm-up calls, though not before one counted call. The ceiling is
    measured before and after, and the better counts: other users of a machine come and go.
    """
    manifest = read_manifest(bundle)
    for horizon in horizons or ():
        check_horizon(horizon, manifest)
    board = load_profile(profile) if profile else None
    threads = board.board.threads if board else None
    before = measure_ceiling(threads)
    started = time.perf_counter()
    policy = Policy.open(bundle, profile=board)
    count_tokens(policy)
    load_s = time.perf_counter() - started
    tag = choose_tag(policy.bundle.tags, norm_tag)
    base, settings = _settings(manifest, tag, cameras, changed_percent, horizons)
    measured, one_token = [], None
    for setting in settings:
        measured.append(measure_row(policy, tag, setting, repeats, seconds_per_row))
        plain = setting.changed_percent is None and manifest.model.depth_cells
        if plain and one_token is None:  # the cache holds a prompt and nothing else
            prompt_tokens = measured[-1].results[-1].prompt_tokens
            one_token = measure_one_token(policy, prompt_tokens, before.threads)
    del policy
    ceiling = higher(before, measure_ceiling(threads))
    return LatencyReport(
        bench="latency",
        machine=machine_name(),
        bundle=str(bundle),
        recipe=manifest.recipe.name,
        source_sha256=manifest.source.sha256,
        profile=profile,
        repeats=repeats,
        seconds_per_row=seconds_per_row,
        warm_up_calls=WARM_UP_CALLS,
        load_s=load_s,
        first_call_s=measured[0].seconds[0],
        ceiling=ceiling,
        one_token=one_token,
        base=base,
        rows=[_row(manifest, ceiling, row, repeats) for row in measured],
    )


def _settings(
    manifest: Manifest,
    tag: RobotTag,
    cameras: Sequence[int],
    changed_percent: Sequence[int],
    horizons: Sequence[int] | None,
) -> tuple[Setting, list[Setting]]:
    """Return the base setting and every setting to measure, the base once."""
    shares = changed_percent if manifest.model.depth_cells else []
    base = Setting(
        cameras=_nearest(cameras, len(tag.cameras) or _BASE_CAMERAS),
        changed_percent=_nearest(shares, _BASE_PERCENT) if shares else None,
        horizon=tag.action_horizon,
    )
    most = manifest.model.max_action_horizon
    horizons = [max(most // 2, manifest.model.n_obs_steps), most] if horizons is None else horizons
    settings = [
        *(replace(base, cameras=count) for count in cameras),
        *(replace(base, changed_percent=share) for share in (None, *shares)),
        *(replace(base, horizon=horizon) for horizon in horizons),
    ]
    return base, list(dict.fromkeys(settings))


def measure_row(
    policy: Policy, tag: RobotTag, setting: Setting, repeats: int, seconds_per_row: float | None
) -> MeasuredRow:
    """Call a policy `repeats` times at one setting, after warm-up; fewer when the time is over."""
    manifest, share = policy.bundle.manifest, setting.changed_percent
    tag = varied_tag(tag, manifest, setting.horizon)
    policy.bundle.tags[tag.name] = tag
    state = tag.state.unnormalize(np.zeros(tag.state.dim))
    depth = "off" if share is None else "incremental"
    policy.reset()
    results, seconds = [], []
    for images in moving_pictures(manifest, setting.cameras, share or 0, repeats + WARM_UP_CALLS):
        started = time.perf_counter()
        results.append(policy.act(images, TASK, state, tag.name, depth=depth))
        seconds.append(time.perf_counter() - started)
        spent = seconds_per_row is not None and sum(seconds) >= seconds_per_row
        if spent and len(seconds) > WARM_UP_CALLS:
            break
    return MeasuredRow(setting, results, seconds)


def _row(manifest: Manifest, ceiling: Ceiling, measured: MeasuredRow, repeats: int) -> Row:
    calls, seconds = measured.results[WARM_UP_CALLS:], measured.seconds[WARM_UP_CALLS:]
    notes = []
    if len(calls) < repeats:
        spent_s = sum(measured.seconds)
        notes.append(f"stopped after {spent_s:.0f} s with {len(calls)} of {repeats} calls")
    if len(calls) < FEWEST_FOR_PERCENTILES:
        counted = f"{len(calls)} repeat{'s' * (len(calls) > 1)}"
        notes.append(f"{counted}: too few for percentiles")
    return Row(
        **asdict(measured.setting),
        calls=len(calls),
        note="; ".join(notes),
        prompt_tokens=calls[0].prompt_tokens,
        depth_passes_mean=float(np.mean([call.depth_passes for call in calls])),
        changed_cells_mean=float(np.mean([call.changed_cells for call in calls])),
        moved_cells_mean=float(np.mean([call.moved_cells for call in calls])),
        stages_ms={
            stage: times_from_seconds([call.stages[stage] for call in calls]) for stage in STAGES
        },
        call_ms=times_from_seconds(seconds),
        floors_ms=floors_ms(
            manifest,
            ceiling,
            cameras=measured.setting.cameras,
            prompt_tokens=calls[0].prompt_tokens,
            depth_passes=int(min(call.depth_passes for call in calls)),
            horizon=measured.setting.horizon,
        ),
    )


def times_from_seconds(seconds: list[float]) -> StageTimes:
    """Reduce the calls of one stage; percentiles only of enough calls."""
    milliseconds = np.array(seconds) * 1e3
    enough = len(seconds) >= FEWEST_FOR_PERCENTILES
    p95, p99 = map(float, np.percentile(milliseconds, [95, 99])) if enough else (None, None)
    median = float(np.median(milliseconds))
    return StageTimes(float(milliseconds.min()), median, p95, p99, float(milliseconds.max()))


def _nearest(values: Iterable[int], wanted: int) -> int:
    return min(values, key=lambda value: abs(value - wanted))
