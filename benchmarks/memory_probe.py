"""The process whose memory `molmoact-bench memory` measures: open a bundle, call it, again, again.

    python -m benchmarks.memory_probe JOB

is what is started; nobody needs to type it. It imports what a robot imports and nothing else, says
on stdout what it has just done, and waits for a line on stdin before it goes on, so that its memory
is read while it stands still.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from benchmarks.stimulus import TASK, count_tokens, moving_pictures, varied_tag
from edge.errors import EdgeError
from edge.normalization import choose_tag
from edge.policy import Policy


def main(argv: list[str] | None = None) -> int:
    """Run the job given as JSON; 2 and the reason on stdout when it cannot be done."""
    try:
        _run(**json.loads((sys.argv[1:] if argv is None else argv)[0]))
    except EdgeError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    return 0


def _run(
    bundle: str,
    profile: str | None,
    norm_tag: str | None,
    cameras: int | None,
    cycles: int,
    changed_percent: int,
) -> None:
    _tell(phase="imports", seconds=None)
    started = time.perf_counter()
    policy = Policy.open(bundle, profile=profile)
    count_tokens(policy)
    _tell(phase="load", seconds=time.perf_counter() - started)
    manifest = policy.bundle.manifest
    tag = choose_tag(policy.bundle.tags, norm_tag)
    count = cameras or len(tag.cameras) or 2
    tag = varied_tag(tag, manifest, tag.action_horizon)
    policy.bundle.tags[tag.name] = tag
    state = tag.state.unnormalize(np.zeros(tag.state.dim))
    for number, images in enumerate(moving_pictures(manifest, count, changed_percent, cycles + 1)):
        started = time.perf_counter()
        result = policy.act(images, TASK, state, tag.name, depth=manifest.model.usual_depth)
        _tell(
            phase=f"cycle {number}" if number else "first call",
            seconds=time.perf_counter() - started,
            cameras=count,
            prompt_tokens=result.prompt_tokens,
        )


def _tell(**event: Any) -> None:
    print(json.dumps(event), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    sys.exit(main())
