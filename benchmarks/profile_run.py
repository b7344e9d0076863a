"""Profiles a bundle on the machine it is on: the stages, the control loop, and the board meanwhile.

    molmoact-bench profile bundle --profile sim --out today

The policy is first called alone, so that a stage's time is its own; then a whole run as
`molmoact-edge run` makes it, with the simulated arm or a real one, while the board's temperatures,
clocks, power and throttling are sampled. A profile of a board without an arm of its own borrows the
simulated one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.board_sampler import BoardSampler, Phase, Sample, StateSource
from benchmarks.energy import energy_per_action
from benchmarks.errors import ProfileBenchError
from benchmarks.latency import WARM_UP_CALLS, MeasuredRow, measure_row, times_from_seconds
from benchmarks.latency_report import Setting
from benchmarks.machine_card import label, read_bundle, read_machine, read_profile
from benchmarks.predict import predict_row
from benchmarks.profile_board import board_part, memory_parts
from benchmarks.profile_loop import LoopRun, loop_part, run_loop_once
from benchmarks.profile_report import SCHEMA, ProfileReport, StageRow
from benchmarks.stimulus import check_horizon, count_tokens
from edge.board_state import BoardReader
from edge.gate_entry import Asked, check_standing
from edge.manifest import Manifest, read_manifest
from edge.normalization import RobotTag, choose_tag
from edge.policy import STAGES, Policy
from edge.profile import PORT_SIMULATED, Profile, load_profile
from edge.report import SERVOS_EMULATED, SERVOS_REAL
from edge.run_options import RunOptions, check_options

BASE_CAMERAS, BASE_PERCENT = 2, 30
REST_S = 3.0
SIMULATED_ROBOT = "sim"
REST, STAGES_PHASE, LOOP_PHASE = "rest", "stages", "loop"
NOT_ASKED = "not asked for"
NO_SERVOS = "no"

Predict = Callable[[Profile, Manifest, StageRow], tuple[dict[str, Any] | None, str]]


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What was asked for on the command line."""

    bundle: Path
    profile: str
    seconds: float | None  # of the loop; None: no loop
    repeats: int
    seconds_per_row: float | None
    rest_s: float
    task: str
    depth: str
    norm_tag: str | None
    ports: tuple[str, ...] | None
    calibrations: tuple[Path, ...] | None
    seed: int
    accept: tuple[str, ...]
    command: str


@dataclass(frozen=True, slots=True)
class Profiled:
    """The report, and what a trace is made of; times on time.monotonic."""

    report: ProfileReport
    began_s: float
    samples: list[Sample]
    phases: list[Phase]
    loop: LoopRun | None


def measure_profile(
    options: ProfileOptions,
    say: Callable[[str], None],
    *,
    reader: BoardReader | None = None,
    predict: Predict = predict_row,
    make_sampler: Callable[[StateSource], BoardSampler] = BoardSampler,
    sleep: Callable[[float], None] = time.sleep,
) -> Profiled:
    """Measure it all; raises `EdgeError` when something cannot start.

    `reader` is the board's, by default this machine's.
    """
    manifest = read_manifest(options.bundle)
    profile = with_an_arm(load_profile(options.profile), options.ports)
    if options.seconds is not None:
        check_options(_run_options(options), profile)
    with reader or BoardReader() as board:
        machine = read_machine(board.identity(), board.state())
        sampler = make_sampler(board)
        began_s = sampler.clock()
        sampler.start()
        try:
            with sampler.phase(REST):
                say(f"board at rest for {options.rest_s:g} s")
                sleep(options.rest_s)
            with sampler.phase(STAGES_PHASE):
                load_s, rows = measure_stages(options, profile, manifest, say)
            loop, reason = None, NOT_ASKED
            if options.seconds is not None:
                with sampler.phase(LOOP_PHASE):
                    say(f"control loop at {profile.arm.control_hz:g} Hz for {options.seconds:g} s")
                    loop, reason = run_loop_once(_run_options(options), profile, say), ""
        finally:
            sampler.close()
    rows, predicted_reason = _predicted(rows, profile, manifest, predict)
    report = ProfileReport(
        schema=SCHEMA,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        labels=label(profile, machine, _servos(profile) if loop else NO_SERVOS),
        machine=machine,
        bundle=read_bundle(options.bundle, manifest),
        profile=read_profile(profile),
        load_s=load_s,
        stages=rows,
        loop=loop_part(loop, options.task, options.depth, profile) if loop else None,
        loop_reason=reason,
        board=board_part(sampler.samples, began_s),
        energy=energy_per_action(
            [sample.state for sample in sampler.of_phase(REST)],
            [sample.state for sample in sampler.of_phase(LOOP_PHASE)],
            loop.ticks if loop else None,
            simulated=profile.port == PORT_SIMULATED,
        ),
        memory=memory_parts(sampler.samples, (REST, STAGES_PHASE, LOOP_PHASE)),
        predicted_reason=predicted_reason,
        command=options.command,
    )
    return Profiled(report, began_s, sampler.samples, sampler.phases, loop)


def with_an_arm(profile: Profile, ports: tuple[str, ...] | None) -> Profile:
    """Return the profile, with the simulated robot's arm and cameras where it has no port."""
    if profile.port == PORT_SIMULATED or ports:
        return profile
    robot = load_profile(SIMULATED_ROBOT)
    return replace(robot, name=profile.name, board=profile.board)


def measure_stages(
    options: ProfileOptions, profile: Profile, manifest: Manifest, say: Callable[[str], None]
) -> tuple[float, list[StageRow]]:
    """Call the policy alone without depth and, where there is depth, with it; seconds to load."""
    started_s = time.perf_counter()
    policy = Policy.open(options.bundle, profile=profile)
    count_tokens(policy)
    load_s = time.perf_counter() - started_s
    tag = choose_tag(policy.bundle.tags, options.norm_tag)
    if options.seconds is not None:  # what the loop would refuse, before minutes are spent
        asked = Asked(policy.actions, tag.name, options.depth)
        check_standing(options.bundle, manifest, asked, options.accept)
    rows = []
    for setting in settings_of(manifest, tag):
        share = setting.changed_percent
        depth = "no depth" if share is None else f"{share} % of the depth cells changed"
        say(f"stages: {depth}, {options.repeats} calls")
        measured = measure_row(policy, tag, setting, options.repeats, options.seconds_per_row)
        rows.append(stage_row(measured, options.repeats))
    return load_s, rows


def settings_of(manifest: Manifest, tag: RobotTag) -> list[Setting]:
    """Return what the stages are measured at: the tag's cameras and horizon, without and with."""
    check_horizon(tag.action_horizon, manifest)
    plain = Setting(len(tag.cameras) or BASE_CAMERAS, None, tag.action_horizon)
    if not manifest.model.depth_cells:
        return [plain]
    return [plain, replace(plain, changed_percent=BASE_PERCENT)]


def stage_row(measured: MeasuredRow, repeats: int) -> StageRow:
    """Reduce the counted calls of one setting."""
    calls, seconds = measured.results[WARM_UP_CALLS:], measured.seconds[WARM_UP_CALLS:]
    if not calls:
        raise ProfileBenchError(
            f"{len(measured.results)} calls in the time of one row and {WARM_UP_CALLS} of them are "
            "warm-up; raise --seconds-per-row"
        )
    repeats_s = {stage: [call.stages[stage] for call in calls] for stage in STAGES}
    repeats_s["call"] = seconds
    short = len(calls) < repeats
    return StageRow(
        **asdict(measured.setting),
        calls=len(calls),
        warm_up_calls=WARM_UP_CALLS,
        note=f"stopped after {len(calls)} of {repeats} calls" if short else "",
        prompt_tokens=calls[0].prompt_tokens,
        depth_passes_mean=float(np.mean([call.depth_passes for call in calls])),
        stages_ms={stage: times_from_seconds(values_s) for stage, values_s in repeats_s.items()},
        repeats_ms={
            stage: [round(value_s * 1e3, 4) for value_s in values_s]
            for stage, values_s in repeats_s.items()
        },
    )


def _predicted(
    rows: list[StageRow], profile: Profile, manifest: Manifest, predict: Predict
) -> tuple[list[StageRow], str]:
    """Put beside each row what the profile's board predicts of it, or return why there is none."""
    answers = [predict(profile, manifest, row) for row in rows]
    beside = [replace(row, predicted=found) for row, (found, _) in zip(rows, answers, strict=True)]
    return beside, next((reason for _, reason in answers if reason), "")


def _servos(profile: Profile) -> str:
    return SERVOS_EMULATED if profile.port == PORT_SIMULATED else SERVOS_REAL


def _run_options(options: ProfileOptions) -> RunOptions:
    return RunOptions(
        bundle=options.bundle,
        tasks=(options.task,),
        depth=options.depth,
        norm_tag=options.norm_tag,
        ports=options.ports,
        calibrations=options.calibrations,
        seconds=options.seconds,
        seed=options.seed,
        report=None,
        arrays=None,
        record=None,
        black_box=None,
        accept=options.accept,
    )
