"""Readings of a healthy arm, with what a test wants otherwise."""

from types import SimpleNamespace

import numpy as np


def reading_of(positions, t_s=0.0, **changes):
    """An arm at rest at `positions`, (n_joints,): 12 V, 30 C, no current, no fault bits."""
    positions = np.array(positions, dtype=np.float64)
    n_joints = len(positions)
    values = {
        "t_s": t_s,
        "positions": positions,
        "velocities": np.zeros(n_joints),
        "loads": np.zeros(n_joints),
        "currents_ma": np.zeros(n_joints),
        "voltages_v": np.full(n_joints, 12.0),
        "temperatures_c": np.full(n_joints, 30.0),
        "status": np.zeros(n_joints, np.uint8),
    }
    return SimpleNamespace(**{**values, **changes})
