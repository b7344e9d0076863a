"""Observations and verdicts for tests of the gate, without a desk and without a dataset."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from conftest import load_cases

from edge.gate_entry import FAILED, PASSED, GateCheck, GateEntry
from edge.manifest import read_manifest
from quantization.fidelity.observations import RecordedObservation
from quantization.gate_file import only_gate, write_entry


def observations(count=4):
    """Two episodes of the reference's pictures, half a second apart."""
    case = load_cases("two_cameras")[0]
    state = np.asarray(case.arrays["state"], np.float64)
    for number in range(count):
        yield RecordedObservation(
            episode=2 * number // count,
            t_s=0.5 * number,
            images=tuple(np.roll(image, 7 * number, axis=1) for image in case.images),
            task="pick up the red cube",
            state=state * (1.0 + 0.01 * number),
        )


def entry_for(bundle, verdict=PASSED, **changes):
    """Make an entry as a gate would; `changes` are of its fields."""
    value = 1.5 if verdict == PASSED else 6.0
    values = {
        "verdict": verdict,
        "checks": {
            "tip_mean_mm": GateCheck(value, 2.6, False),
            "gripper_agreement": GateCheck(0.99, 0.98, True),
        },
        "figures": {"tip_max_mm": 9.0},
        "actions": "continuous",
        "depth": "incremental",
        "norm_tag": "tag",
        "episodes": "sim",
        "fingerprint": "",
        "seed": 0,
        "observations": 30,
        "trials": 0,
        "source_sha256": read_manifest(bundle).source.sha256,
        "machine": "a machine",
        "judged_at": "2026-01-02T03:04:05+00:00",
        "judged_by": "molmoact-edge 0",
        "keep": ("decoder/blocks.0.q=int8-block",) if verdict == FAILED else (),
        "sha256": "",
    }
    return GateEntry(**{**values, **changes})


def judge_as(bundle, verdict=PASSED, **changes):
    """Write a verdict into a bundle; return its manifest."""
    with only_gate(bundle):
        judged = replace(read_manifest(bundle), gate=None)
        return write_entry(bundle, judged, entry_for(bundle, verdict, **changes))
