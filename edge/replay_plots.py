"""Draw a black box: goals against measurements, what the servos report, verdicts and ages.

Made with matplotlib (extra `demo`), which is imported when something is drawn.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge.black_box import BlackBoxError
from edge.box_reader import RecordedBox
from edge.plots import OUTCOME_COLOURS

WIDTH_IN, DPI = 13.0, 100
NAMES = ("goals", "servos", "timing")
SUFFIX = ".png"

Ticks = dict[str, np.ndarray]
Panel = tuple[float, Callable[[Any, Ticks, np.ndarray, RecordedBox], None]]


def plot_paths(place: Path) -> dict[Path, tuple[str, ...]]:
    """Return which figures go into which file: all into one .png, or one each into a folder.

    Raises BlackBoxError when a file is there already or cannot be made, or matplotlib is absent.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise BlackBoxError(
            "--plot needs matplotlib, not installed here; "
            "install with: pip install 'molmoact-edge[demo]'"
        )
    if place.suffix.lower() == SUFFIX:
        paths = {place: NAMES}
    else:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BlackBoxError(f"{place}: cannot be a folder: {error.strerror}") from error
        paths = {place / f"{name}{SUFFIX}": (name,) for name in NAMES}
    for path in paths:
        if path.exists():
            raise BlackBoxError(f"{path}: already exists; remove it or choose another path")
        if not path.parent.is_dir():
            raise BlackBoxError(f"{path}: the folder {path.parent} does not exist; create it first")
    return paths


def write_plots(box: RecordedBox, paths: dict[Path, tuple[str, ...]]) -> None:
    """Draw the figures of `plot_paths`; BlackBoxError when a file cannot be written."""
    ticks = box.view.columns()
    for path, names in paths.items():
        panels = [panel for name in names for panel in _panels(name, box)]
        try:
            _draw(path, box, ticks, panels)
        except OSError as error:
            raise BlackBoxError(f"{path}: cannot write the plot: {error.strerror}") from error


def _panels(name: str, box: RecordedBox) -> list[Panel]:
    if name == "goals":
        joints = range(box.view.layout.n_joints)
        return [(1.6, _joint_panel(joint)) for joint in joints] + [(0.6, _verdicts)]
    if name == "servos":
        return [
            (1.5, _servo_panel("load", "load, %", 100.0)),
            (1.5, _servo_panel("current_ma", "current, mA", 1.0)),
            (1.5, _servo_panel("temperature_c", "temperature, C", 1.0)),
            (1.5, _servo_panel("voltage_v", "voltage, V", 1.0)),
        ]
    return [(1.5, _stages), (1.5, _ages), (0.6, _verdicts)]


def _draw(path: Path, box: RecordedBox, ticks: Ticks, panels: list[Panel]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    t_s = ticks["t_s"] - (ticks["t_s"][0] if len(ticks["t_s"]) else 0.0)
    heights = [height for height, _ in panels]
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 1.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)
    for axis, (_, draw) in zip(axes[:, 0], panels, strict=True):
        draw(axis, ticks, t_s, box)
    axes[-1, 0].set_xlabel("seconds in the box")
    card = box.card
    reason = box.view.text("reason") or box.view.text("outside_reason") or "unknown"
    figure.suptitle(
        f"{card.get('task')}\n{card.get('servos')} servos, measured on {card.get('machine')}\n"
        f"ended: {reason}",
        fontsize=10,
    )
    with path.open("xb") as file:
        figure.savefig(file, format="png")


def _joint_panel(joint: int) -> Callable[..., None]:
    def draw(axis: Any, ticks: Ticks, t_s: np.ndarray, box: RecordedBox) -> None:
        axis.plot(t_s, ticks["asked"][:, joint], color="#bbbbbb", lw=1.0, label="asked by policy")
        axis.plot(t_s, ticks["written"][:, joint], color="#e45756", lw=1.2, label="written")
        axis.plot(t_s, ticks["present"][:, joint], color="#4c78a8", lw=1.2, label="measured")
        axis.set_ylabel(box.card["joints"][joint], fontsize=8)
        axis.grid(alpha=0.25)
        if joint == 0:
            axis.legend(loc="upper right", ncols=3, fontsize=8)

    return draw


def _servo_panel(column: str, label: str, scale: float) -> Callable[..., None]:
    def draw(axis: Any, ticks: Ticks, t_s: np.ndarray, box: RecordedBox) -> None:
        for joint, name in enumerate(box.card["joints"]):
            axis.plot(t_s, ticks[column][:, joint] * scale, lw=1.0, label=name)
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        axis.legend(loc="upper right", ncols=6, fontsize=7)

    return draw


def _verdicts(axis: Any, ticks: Ticks, t_s: np.ndarray, box: RecordedBox) -> None:
    colours = {outcome.name.lower(): colour for outcome, colour in OUTCOME_COLOURS.items()}
    for number, name in enumerate(box.card["outcomes"]):
        at = t_s[ticks["outcome"] == number]
        axis.vlines(at, 0.0, 1.0, color=colours.get(name, "#888888"), lw=1.5, label=name)
    axis.set_ylim(0.0, 1.0)
    axis.set_yticks([])
    axis.set_ylabel("gate")
    axis.legend(loc="upper right", ncols=len(box.card["outcomes"]), fontsize=8)


def _stages(axis: Any, ticks: Ticks, t_s: np.ndarray, box: RecordedBox) -> None:
    for column, label in (
        ("late_s", "tick lateness"),
        ("read_s", "bus read"),
        ("decide_s", "safety gate"),
        ("write_s", "bus write"),
    ):
        axis.plot(t_s, ticks[column] * 1e3, lw=0.9, label=label)
    axis.set_ylabel("ms")
    axis.set_ylim(bottom=0.0)
    axis.grid(alpha=0.25)
    axis.legend(loc="upper right", ncols=4, fontsize=8)


def _ages(axis: Any, ticks: Ticks, t_s: np.ndarray, box: RecordedBox) -> None:
    axis.plot(t_s, ticks["chunk_age_s"], lw=1.0, label="chunk's observation")
    axis.plot(t_s, ticks["checked_s"] - ticks["measured_s"], lw=1.0, label="measurement")
    for index, name in enumerate(box.card["cameras"]):
        axis.plot(t_s, ticks["camera_ages_s"][:, index], lw=1.0, label=f"{name} picture")
    axis.set_ylabel("age, s")
    axis.set_ylim(bottom=0.0)
    axis.grid(alpha=0.25)
    axis.legend(loc="upper right", ncols=4, fontsize=8)
