"""What the numbers of an action mean to a person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.datasets.embodiment import Embodiment

_DEGREE_SUFFIX = ".pos"  # LeRobot's names of joints, which it records in degrees
_LENGTHS = ("x", "y", "z")


@dataclass(frozen=True, slots=True)
class DimUnit:
    """A dim's unit for print, and what its numbers are multiplied by to get it."""

    unit: str
    factor: float


def dim_units(embodiment: Embodiment) -> tuple[DimUnit, ...]:
    """Return one unit a dim: deg for joints and angles, mm for positions, % for grippers.

    Joints called `*.pos` are in degrees and their gripper is 0 to 100, as LeRobot records them; all
    else is in radians or metres, its gripper 0 to 1 (MolmoAct2 release).
    """
    return tuple(_unit(name) for name in embodiment.action_names)


def _unit(name: str) -> DimUnit:
    in_degrees = name.endswith(_DEGREE_SUFFIX)
    if "gripper" in name:
        return DimUnit("%", 1.0 if in_degrees else 100.0)
    if name in _LENGTHS:
        return DimUnit("mm", 1000.0)
    return DimUnit("deg", 1.0 if in_degrees else float(np.degrees(1.0)))
