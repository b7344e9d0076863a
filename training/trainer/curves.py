"""losses.png: how the losses of a run fell."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PARTS = ("loss", "language", "flow")
WINDOW_SHARE = 0.05  # of the steps: what a smoothed point averages


def draw_curves(log: list[dict], out: Path, title: str) -> None:
    """Draw the losses over the steps, pale as they are and dark smoothed, replacing `out`."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = np.array([entry["step"] for entry in log])
    for index, part in enumerate(PARTS):
        values = np.array([entry[part] for entry in log], float)
        if not values.any():
            continue
        axes.plot(steps, values, color=f"C{index}", alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smoothed(values), color=f"C{index}", label=part)
    axes.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    hidden = out.with_name(f".{out.name}")
    figure.savefig(hidden, dpi=110, format="png")
    os.replace(hidden, out)


def _smoothed(values: np.ndarray) -> np.ndarray:
    window = max(1, int(len(values) * WINDOW_SHARE))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)
