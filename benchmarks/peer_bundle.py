"""Our side of a comparison: a bundle through `Policy`, in a process of its own.

With random weights nobody knows which codes a model prefers, so each scene is first run until its
codes stay as they are. A draft that differs from them in k of the changed cells then makes exactly
k codes move: how much the model has to correct is what the scenario asks, not chance.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from benchmarks.one_token import one_token_s
from benchmarks.peer_job import (
    DEPTH_SCENARIOS,
    FIRST_FRAME,
    NO_DEPTH,
    STILL,
    TASK,
    TOKENS_DECODED,
    Answer,
    Call,
    Job,
    Scene,
    altered_codes,
    with_twins,
)
from edge.images import changed_cells
from edge.policy import Policy, PolicyResult
from edge.profile import Profile, load_profile

_MOST_SETTLING_CALLS = 4


def profile_with_threads(name: str, threads: int) -> Profile:
    """Load a profile and fix the engine's threads, so that both sides have the same number."""
    profile = load_profile(name)
    return dataclasses.replace(profile, board=dataclasses.replace(profile.board, threads=threads))


def measure_bundle(job: Job, scene: Scene) -> Answer:
    """Run every scenario on `job.bundle`; raises `EdgeError`."""
    started = time.perf_counter()
    policy = Policy.open(
        job.bundle, profile_with_threads(job.profile, job.threads), actions="continuous"
    )
    load_s = time.perf_counter() - started
    model = policy.bundle.manifest.model

    def act(depth: str) -> PolicyResult:
        return policy.act(scene.pictures, TASK, scene.state, job.norm_tag, depth=depth)

    if not model.depth_cells:
        calls = with_twins((), job.calls, lambda _: _timed(lambda: act("off")))
        return Answer(_versions(), load_s, act("off").prompt_tokens, calls)
    codes = _settled_codes(policy, scene, job)
    changed = np.flatnonzero(changed_cells(scene.pictures[0], scene.before, model.depth_cells))

    prompt_tokens, tokens_s = act("off").prompt_tokens, []

    def run(scenario: str) -> Call:
        if scenario == NO_DEPTH:
            call = _timed(lambda: act("off"))
            tokens_s.extend(one_token_s(policy, prompt_tokens, TOKENS_DECODED))
            return call
        if scenario == FIRST_FRAME:
            policy.reset()
        else:
            before = scene.pictures[0] if scenario == STILL else scene.before
            draft = altered_codes(codes, changed, scenario, model.depth_codes, job.seed)
            set_previous(policy, before, draft)
        return _timed(lambda: act("incremental"))

    calls = with_twins(DEPTH_SCENARIOS, job.calls, run)
    return Answer(
        versions=_versions(),
        load_s=load_s,
        prompt_tokens=prompt_tokens,
        calls=calls,
        changed=changed.tolist(),
        codes=codes.tolist(),
        one_token_s=tokens_s,
    )


def set_previous(policy: Policy, picture: np.ndarray, codes: np.ndarray) -> None:
    """Make a policy believe that its last call saw `picture` and predicted `codes`.

    Nothing but a benchmark may know the answer before it asks, so `Policy` has no public way.
    """
    policy._previous = (np.array(picture), np.array(codes, np.int64))


def _settled_codes(policy: Policy, scene: Scene, job: Job) -> np.ndarray:
    """Run the scene until no code moves; (cells,) int64.

    The same cells have changed as in the scenarios, since a bundle may take those before the first
    changed one through other weights; what settles is what later calls answer.
    """
    policy.reset()
    observed = scene.pictures, TASK, scene.state, job.norm_tag
    codes = policy.act(*observed, depth="full").depth_codes
    for _ in range(_MOST_SETTLING_CALLS):
        set_previous(policy, scene.before, codes)
        result = policy.act(*observed, depth="incremental")
        codes = result.depth_codes
        if not result.moved_cells:
            break
    return codes


def _timed(act: Callable[[], PolicyResult]) -> Call:
    started = time.perf_counter()
    result = act()
    return Call(
        call_s=time.perf_counter() - started,
        stages_s=result.stages,
        depth_passes=int(result.depth_passes),
        changed_cells=int(result.changed_cells),
        moved_cells=int(result.moved_cells),
    )


def _versions() -> dict[str, str]:
    return {"onnxruntime": version("onnxruntime")}
