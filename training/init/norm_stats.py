"""norm_stats.json: what -1 and +1 mean for each joint of an SO-100/SO-101.

Joint positions are degrees in the frame of LeRobot's old calibration (dataset format v2.1), which
the released SO-100/SO-101 checkpoint uses; the gripper is 0 (closed) to 100. An arm calibrated the
new way maps to it by signs [1, -1, 1, 1, 1, 1] and offsets [0, 90, 90, 0, 0, 0] (LeRobot
documentation, "MolmoAct2").

The state's q01, q50 and q99 are those reported for the SO-100/SO-101 training mixture of MolmoAct2
(arXiv 2605.02881). A commanded joint leads and lags the measured one by little, so the action gets
the same figures, with the gripper's lower end at 0 because a grasp commands less than it reaches.
The other fields follow from those three by a normal distribution on either side of the median:
complete, plausible, and unused in mode q01_q99. Fitting them to data is the trainer's work.
"""

from __future__ import annotations

NORM_TAG = "so100_so101_molmoact2"
SETUP_TYPE = "single so100/so101 robotic arm in molmoact2"
CONTROL_MODE = "absolute joint pose"

JOINTS = (
    "shoulder_pan.pos",
    "shoulder_lift.pos",
    "elbow_flex.pos",
    "wrist_flex.pos",
    "wrist_roll.pos",
    "gripper.pos",
)

STATE_QUANTILES = {
    "q01": (-41.9, 43.7, 38.4, 5.7, -63.5, 0.9),
    "q50": (3.1, 123.2, 124.4, 57.9, -11.0, 9.2),
    "q99": (48.3, 185.3, 173.1, 91.8, 42.9, 44.1),
}
ACTION_QUANTILES = {
    "q01": (-41.9, 43.7, 38.4, 5.7, -63.5, 0.0),
    "q50": (3.1, 123.2, 124.4, 57.9, -11.0, 9.2),
    "q99": (48.3, 185.3, 173.1, 91.8, 42.9, 44.1),
}

# Standard normal quantiles.
Z_90 = 1.2816
Z_99 = 2.3263
Z_999 = 3.0902


def norm_stats(horizon: int, cameras: tuple[str, ...]) -> dict[str, object]:
    """Give the content of norm_stats.json: one tag, chunks of `horizon` steps at 30 Hz."""
    return {
        "format": "molmoact2_norm_stats.v1",
        "norm_mode": "q01_q99",
        "metadata_by_tag": {
            NORM_TAG: {
                "action_key": "action",
                "state_key": "observation.state",
                "camera_keys": [f"observation.images.{camera}" for camera in cameras],
                "normalize_gripper": True,
                "action_dim": len(JOINTS),
                "action_horizon": horizon,
                "n_action_steps": horizon,
                "setup_type": SETUP_TYPE,
                "control_mode": CONTROL_MODE,
                "action_stats": _feature_stats(ACTION_QUANTILES),
                "state_stats": _feature_stats(STATE_QUANTILES),
            }
        },
    }


def _feature_stats(quantiles: dict[str, tuple[float, ...]]) -> dict[str, object]:
    low, mid, high = quantiles["q01"], quantiles["q50"], quantiles["q99"]
    gripper_low, gripper_high = 0.0, 100.0
    smallest, largest = _towards(mid, low, Z_999), _towards(mid, high, Z_999)
    smallest[-1] = max(smallest[-1], gripper_low)
    largest[-1] = min(largest[-1], gripper_high)
    return {
        "mean": list(mid),
        "std": [round((h - lo) / (2 * Z_99), 3) for lo, h in zip(low, high, strict=True)],
        "min": smallest,
        "max": largest,
        "q01": list(low),
        "q10": _towards(mid, low, Z_90),
        "q50": list(mid),
        "q90": _towards(mid, high, Z_90),
        "q99": list(high),
        "mask": [True] * len(JOINTS),
        "names": list(JOINTS),
    }


def _towards(mid: tuple[float, ...], end: tuple[float, ...], z: float) -> list[float]:
    return [round(m + (e - m) * z / Z_99, 3) for m, e in zip(mid, end, strict=True)]
