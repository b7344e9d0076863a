"""Draw the timeline of a run: tasks, goals against measurements, policy calls, verdicts, bus time.

Made after the run, with matplotlib (extra `demo`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.black_box import BlackBox
from edge.policy_thread import PolicyCall
from edge.safety import Outcome
from edge.task_turns import Turn

STAGE_COLOURS = {
    "preprocess": "#9aa5b1",
    "vision": "#4c78a8",
    "prefill": "#72b7b2",
    "depth": "#f2a541",
    "expert": "#e45756",
}
OUTCOME_COLOURS = {
    Outcome.PASS: "#54a24b",
    Outcome.CLAMP: "#f2cf5b",
    Outcome.HOLD: "#f58518",
    Outcome.STOP: "#b3001b",
}
# Of a task by whether it was done; None: nobody judged it.
TURN_COLOURS = {True: "#54a24b", False: "#d9787a", None: "#b8bec6"}
WIDTH_IN, HEIGHT_IN, DPI = 13.0, 15.0, 100
LETTERS, LEAST_LETTERS = 130, 8  # of a bar as wide as the figure; of any bar


def write_timeline(
    path: Path,
    box: BlackBox,
    calls: Sequence[PolicyCall],
    report: dict[str, Any],
    turns: Sequence[Turn],
) -> None:
    """Write a PNG of one run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ticks = box.columns()
    start_s = ticks["t_s"][0] if len(ticks["t_s"]) else 0.0
    t_s = ticks["t_s"] - start_s
    n_joints = len(box.joint_names)
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    heights = [1.0] + [2.0] * n_joints + [1.2, 0.5, 1.2]
    task_axis, *axes = figure.subplots(n_joints + 4, 1, sharex=True, height_ratios=heights)
    for joint, (axis, name) in enumerate(zip(axes, box.joint_names, strict=False)):
        axis.plot(t_s, ticks["asked"][:, joint], color="#bbbbbb", lw=1.0, label="asked by policy")
        axis.plot(t_s, ticks["written"][:, joint], color="#e45756", lw=1.2, label="written")
        axis.plot(t_s, ticks["present"][:, joint], color="#4c78a8", lw=1.2, label="measured")
        axis.set_ylabel(f"{name}\n{'%' if name == 'gripper' else 'deg'}")
        axis.grid(alpha=0.25)
    axes[0].legend(loc="upper right", ncols=3, fontsize=8)
    _draw_turns([task_axis, *axes], turns, start_s)
    _draw_calls(axes[n_joints], calls, start_s)
    _draw_verdicts(axes[n_joints + 1], ticks["outcome"], t_s)
    _draw_bus(axes[n_joints + 2], ticks, t_s)
    axes[-1].set_xlabel("seconds")
    card = report["card"]
    figure.suptitle(
        f"{card['task']}  ({card['recipe']}, depth {card['depth']})\n"
        f"{card['servos']} servos, measured on {card['machine']}",
        fontsize=10,
    )
    figure.savefig(path)


def _draw_turns(axes: Sequence[Any], turns: Sequence[Turn], start_s: float) -> None:
    """Draw each task as a bar with its name, where it was done, and where the next one began."""
    turns_end_s = max([turn.ended_s for turn in turns if turn.ended_s is not None], default=0.0)
    for turn in turns:
        if turn.began_s is None or turn.ended_s is None:
            continue
        left_s, width_s = turn.began_s - start_s, turn.ended_s - turn.began_s
        colour = TURN_COLOURS[turn.succeeded]
        axes[0].barh(0, width_s, left=left_s, height=0.9, color=colour, edgecolor="white")
        outcome = "" if turn.succeeded is None else f": {turn.outcome_at(turn.ended_s)}"
        letters = round(LETTERS * width_s / (turns_end_s - start_s))
        words = textwrap.fill(f"{turn.task}{outcome}", max(LEAST_LETTERS, letters))
        axes[0].text(left_s + width_s / 2, 0, words, va="center", ha="center", fontsize=8)
        for axis in axes[1:] if turn.number else ():
            axis.axvline(left_s, color="#555555", lw=0.8, ls=":")
        if turn.done_s is not None:
            axes[0].axvline(turn.done_s - start_s, color="#1b5e20", lw=2.0)
    axes[0].set_yticks([])
    axes[0].set_ylabel("tasks")


def _draw_calls(axis: Any, calls: Sequence[PolicyCall], start_s: float) -> None:
    for call in calls:
        left_s = call.started_s - start_s
        for stage, colour in STAGE_COLOURS.items():
            width_s = call.stages_s.get(stage, 0.0)
            label = stage if call.number == 0 else None
            axis.barh(0, width_s, left=left_s, height=0.8, color=colour, label=label)
            left_s += width_s
    axis.set_yticks([])
    axis.set_ylabel("policy\ncalls")
    if calls:
        axis.legend(loc="upper right", ncols=len(STAGE_COLOURS), fontsize=8)


def _draw_verdicts(axis: Any, outcomes: np.ndarray, t_s: np.ndarray) -> None:
    for outcome, colour in OUTCOME_COLOURS.items():
        at = t_s[outcomes == outcome]
        axis.vlines(at, 0.0, 1.0, color=colour, lw=1.5, label=outcome.name.lower())
    axis.set_ylim(0.0, 1.0)
    axis.set_yticks([])
    axis.set_ylabel("gate")
    axis.legend(loc="upper right", ncols=len(OUTCOME_COLOURS), fontsize=8)


def _draw_bus(axis: Any, ticks: dict[str, np.ndarray], t_s: np.ndarray) -> None:
    axis.plot(t_s, ticks["read_s"] * 1e3, color="#4c78a8", lw=0.9, label="bus read")
    axis.plot(t_s, ticks["write_s"] * 1e3, color="#e45756", lw=0.9, label="bus write")
    axis.plot(t_s, ticks["late_s"] * 1e3, color="#999999", lw=0.9, label="tick lateness")
    axis.set_ylabel("ms")
    axis.set_ylim(bottom=0.0)
    axis.grid(alpha=0.25)
    axis.legend(loc="upper right", ncols=3, fontsize=8)
