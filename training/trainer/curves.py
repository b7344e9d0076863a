"""losses.png: how the losses of a run fell, or of runs that began where the last one ended."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PARTS = ("loss", "language", "flow")
WINDOW_SHARE = 0.05  # of the steps: what a smoothed point averages
NAME_HEIGHT = 1.01  # of the axes: where a run's name stands


def draw_curves(log: list[dict], out: Path, title: str) -> None:
    """Draw the losses over the steps, pale as they are and dark smoothed, replacing `out`."""
    draw_chain({"": log}, out, title)


def draw_chain(logs: dict[str, list[dict]], out: Path, title: str) -> None:
    """Draw the runs of `logs` (lines of log.jsonl by name) one after the other, as `draw_curves`.

    A loss that is 0 all through a run is not part of it and is left out there.
    """
    several = len(logs) > 1
    figure = Figure(figsize=(11 if several else 8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    done, labelled = 0, set()
    for name, log in logs.items():
        labelled |= _draw_run(axes, log, done, labelled)
        if several:
            axes.axvline(done, color="grey", linewidth=0.6)
            place = axes.get_xaxis_transform()
            axes.text(done, NAME_HEIGHT, name, transform=place, fontsize="small", rotation=20)
            done += len(log)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.set_title(title, pad=26 if several else None)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    hidden = out.with_name(f".{out.name}")
    figure.savefig(hidden, dpi=110, format="png")
    os.replace(hidden, out)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the mean over each value of (steps,) and those just before it, a twentieth of all."""
    window = max(1, int(len(values) * WINDOW_SHARE))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _draw_run(axes: Axes, log: list[dict], done: int, labelled: set[str]) -> set[str]:
    """Draw one run that begins after `done` steps; return the parts that it has."""
    steps = done + np.array([entry["step"] for entry in log])
    drawn = set()
    for index, part in enumerate(PARTS):
        values = np.array([entry[part] for entry in log], float)
        if not values.any():
            continue
        drawn.add(part)
        label = None if part in labelled else part
        axes.plot(steps, values, color=f"C{index}", alpha=0.25, linewidth=0.8)
        axes.plot(steps, smoothed(values), color=f"C{index}", label=label)
    return drawn
