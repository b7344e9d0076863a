"""What each process of a comparison is asked, and what it answers.

All of them get one folder with the same pictures, state, task and counts, and leave their figures
in it. The pictures are drawn on the grid of the depth cells, so that exactly the wanted cells of
the first picture differ from the picture before; both sides find the same cells by themselves.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from edge.images import CHANGE_CELL_PX

TASK = "put the red cube in the bin"
WARM_UP_CALLS = 1
TOKENS_DECODED = 10  # counted passes of one token, each time

NO_DEPTH = "no depth"
FIRST_FRAME = "first frame"
STILL = "still scene"
THIRD_DIFFER = "changed, a third of the codes differ"
ALL_DIFFER = "changed, all codes differ"
DEPTH_SCENARIOS = (FIRST_FRAME, STILL, THIRD_DIFFER, ALL_DIFFER)
SHARE_THAT_DIFFERS = {THIRD_DIFFER: 1 / 3, ALL_DIFFER: 1.0}  # of the changed cells' codes

BLOCK, SCATTERED = "block", "scattered"
PLACES = (BLOCK, SCATTERED)

_JOB, _SCENE, _ANSWER = "job.json", "scene.npz", "answer.json"
_PLAIN_SIDE_PX = 320  # of a picture when the checkpoint has no depth cells


@dataclass(frozen=True, slots=True)
class Job:
    """What to run; `seed` places everything that is drawn."""

    checkpoint: str
    bundle: str | None
    profile: str | None
    norm_tag: str
    threads: int
    calls: int
    prompt_tokens: int | None  # for a peer that runs the decoder alone
    seed: int
    dtype: str = "bfloat16"  # of LeRobot's model


@dataclass(frozen=True, slots=True)
class Scene:
    """What the robot sees now, and what its first camera saw before."""

    pictures: list[np.ndarray]
    before: np.ndarray
    state: np.ndarray


@dataclass(frozen=True, slots=True)
class Call:
    """One whole call."""

    call_s: float
    stages_s: dict[str, float]
    depth_passes: int
    changed_cells: int
    moved_cells: int | None  # None: the peer does not tell
    twin_s: float | None = None  # the call without depth that came right after


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process measured; empty where it has nothing to say."""

    versions: dict[str, str]
    load_s: float
    prompt_tokens: int
    calls: dict[str, list[Call]] = field(default_factory=dict)  # by scenario
    changed: list[int] = field(default_factory=list)  # cells that it saw change
    codes: list[int] = field(default_factory=list)  # of the scene, as it predicts them
    prefill_s: list[float] = field(default_factory=list)  # of the decoder alone
    one_token_s: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def draw_scene(
    cells: int, changed_percent: int, place: str, cameras: int, state: np.ndarray, seed: int
) -> Scene:
    """Draw square pictures in which `changed_percent` of the first one's cells are new."""
    random = np.random.default_rng(seed)
    side = math.isqrt(cells)
    shape = (side * CHANGE_CELL_PX or _PLAIN_SIDE_PX,) * 2 + (3,)
    pictures = [random.integers(0, 256, shape, np.uint8) for _ in range(cameras)]
    before = pictures[0].copy()
    for cell in _changed_cells(cells, round(cells * changed_percent / 100), place, random):
        top, left = (CHANGE_CELL_PX * place for place in divmod(int(cell), side))
        patch = before[top : top + CHANGE_CELL_PX, left : left + CHANGE_CELL_PX]
        patch[:] = random.integers(0, 256, patch.shape, np.uint8)
    return Scene(pictures, before, state)


def altered_codes(
    codes: np.ndarray, changed: np.ndarray, scenario: str, code_count: int, seed: int
) -> np.ndarray:
    """Give the draft for `scenario`: `codes` with as many of the changed cells' codes altered.

    `changed` lists cells. A share that is no whole number of cells is rounded.
    """
    random = np.random.default_rng(seed)
    count = round(len(changed) * SHARE_THAT_DIFFERS.get(scenario, 0.0))
    cells = random.permutation(changed)[:count]
    draft = np.array(codes, np.int64)
    draft[cells] = (draft[cells] + random.integers(1, code_count, count)) % code_count
    return draft


def with_twins(
    scenarios: Sequence[str], calls: int, run: Callable[[str], Call]
) -> dict[str, list[Call]]:
    """Run each scenario `calls` times, every call followed by one without depth, its twin.

    What depth adds is then a difference of neighbours, whatever the machine does over minutes; and
    a policy that learns how often drafts hold sees one scenario for a while, as in life. One call
    of each kind before is not counted. The twins are the calls of `NO_DEPTH`.
    """
    gc.collect()
    gc.freeze()  # a full collection over PyTorch's objects took 0.25 s in the middle of a call
    run(NO_DEPTH)
    done: dict[str, list[Call]] = {NO_DEPTH: []}
    for scenario in scenarios:
        done[scenario] = []
        for index in range(WARM_UP_CALLS + calls):
            print(f"  {scenario}, call {index + 1} of {WARM_UP_CALLS + calls}", flush=True)
            call = run(scenario)
            if index >= WARM_UP_CALLS:
                twin = run(NO_DEPTH)
                done[scenario].append(replace(call, twin_s=twin.call_s))
                done[NO_DEPTH].append(twin)
    if not scenarios:
        done[NO_DEPTH] = [run(NO_DEPTH) for _ in range(calls)]
    return done


def write_job(folder: Path, job: Job, scene: Scene) -> None:
    """Put a job into an existing folder."""
    (folder / _JOB).write_text(json.dumps(asdict(job)), encoding="utf-8")
    np.savez(
        folder / _SCENE,
        pictures=np.stack(scene.pictures),
        before=scene.before,
        state=scene.state,
    )


def read_job(folder: Path) -> tuple[Job, Scene]:
    """Read what `write_job` wrote."""
    with np.load(folder / _SCENE) as arrays:
        scene = Scene(list(arrays["pictures"]), arrays["before"], arrays["state"])
    return Job(**json.loads((folder / _JOB).read_text(encoding="utf-8"))), scene


def write_answer(folder: Path, answer: Answer) -> None:
    """Leave the figures beside the job."""
    (folder / _ANSWER).write_text(json.dumps(asdict(answer)), encoding="utf-8")


def read_answer(folder: Path) -> Answer:
    """Read what `write_answer` wrote."""
    content = json.loads((folder / _ANSWER).read_text(encoding="utf-8"))
    calls = {name: [Call(**call) for call in made] for name, made in content.pop("calls").items()}
    return Answer(calls=calls, **content)


def _changed_cells(cells: int, count: int, place: str, random: np.random.Generator) -> np.ndarray:
    """Choose cells: neighbours, as a thing that moves covers them, or anywhere."""
    if place == SCATTERED:
        return random.permutation(cells)[:count]
    side = math.isqrt(cells)
    wide = max(math.ceil(math.sqrt(count)), 1)
    top, left = (side - -(-count // wide)) // 2, (side - wide) // 2
    block = np.arange(count)
    return (top + block // wide) * side + left + block % wide
