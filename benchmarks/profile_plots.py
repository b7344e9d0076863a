"""Draws a profile for its HTML page: vector pictures that take the page's colours.

Text and lines are drawn in two colours that stand for the page's own, so that one picture is
readable on light and on dark. Series have colours of middle lightness.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.profile_report import ProfileReport, StageRow
from edge.plots import STAGE_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#010203", "#040506"  # replaced by the page's text and grid colours
WIDTH_IN, HEIGHT_IN = 9.0, 2.9
SERIES = ("#3b82c4", "#d9822b", "#3f9c58", "#c2487b", "#8a6fd1", "#1f9aa6", "#a08325", "#d0524a")
PREDICTED = {"alpha": 0.6, "hatch": "////", "edgecolor": INK}
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


def pictures_of(report: ProfileReport) -> dict[str, str]:
    """Return SVG elements by title; only what was measured is drawn."""
    drawn = {"Stages of a policy call, median and 95th percentile": _stages(report)}
    drawn |= {
        "Temperature": _over_time(report, "temperatures_c", "degrees C", _trip(report)),
        "Clocks": _over_time(report, "clocks_mhz", "MHz", {}),
        "Power": _over_time(report, "power_mw", "mW", {}),
    }
    if report.loop is not None:
        drawn["Worst lateness of each second of the control loop"] = _lateness(report)
    return {title: svg for title, svg in drawn.items() if svg is not None}


def _stages(report: ProfileReport) -> str:
    def draw(axes: Axes) -> None:
        names: list[str] = []
        for row in report.stages:
            medians = {stage: row.stages_ms[stage].p50 for stage in STAGE_COLOURS}
            _stack(axes, len(names), medians, {})
            call = row.stages_ms["call"]
            high = call.p95 if call.p95 is not None else call.max
            spread = [[0.0], [max(high - call.p50, 0.0)]]
            axes.errorbar(call.p50, len(names), xerr=spread, color=INK, capsize=3)
            names.append(f"measured, {_depth(row)}")
            if row.predicted:
                _stack(axes, len(names), row.predicted["stages_ms"], PREDICTED)
                names.append(f"predicted for\n{_plain(row.predicted['board'])}")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds")
        for stage, colour in STAGE_COLOURS.items():
            axes.barh(0, 0, color=colour, label=stage)
        axes.legend(ncols=len(STAGE_COLOURS), loc="lower center", bbox_to_anchor=(0.5, 1.0))

    return _svg(draw, "stages")


def _stack(axes: Axes, line: int, stages_ms: dict[str, float], look: dict[str, Any]) -> None:
    left = 0.0
    for stage, colour in STAGE_COLOURS.items():
        width = stages_ms.get(stage) or 0.0
        axes.barh(line, width, left=left, height=0.6, color=colour, **look)
        left += width


def _depth(row: StageRow) -> str:
    return (
        "no depth" if row.changed_percent is None else f"{row.changed_percent} % of cells changed"
    )


def _over_time(report: ProfileReport, kind: str, unit: str, lines: dict[str, float]) -> str | None:
    columns = report.board.samples
    names = [name for name in columns if name.startswith(f"{kind}.")]
    if not names:
        return None

    def draw(axes: Axes) -> None:
        for number, name in enumerate(names):
            colour = SERIES[number % len(SERIES)]
            values = [float("nan") if v is None else v for v in columns[name]]
            label = _plain(name.partition(".")[2])
            axes.plot(columns["t_s"], values, color=colour, lw=1.6, label=label)
        for label, value in lines.items():
            axes.axhline(value, color=INK, lw=1.0, ls="--", label=label)
        _shade_phases(axes, columns)
        axes.set_xlabel("seconds")
        axes.set_ylabel(unit)
        axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    return _svg(draw, kind)


def _shade_phases(axes: Axes, columns: dict[str, list[Any]]) -> None:
    """Mark where the control loop ran and where the board was throttled."""
    times = columns["t_s"]
    loop = [t for t, phase in zip(times, columns["phase"], strict=True) if phase == "loop"]
    if loop:
        axes.axvspan(min(loop), max(loop), color=INK, alpha=0.06, label="control loop")
    for time_s, throttled in zip(times, columns["throttled"], strict=True):
        if throttled:
            axes.axvline(time_s, color=SERIES[-1], lw=2.0, alpha=0.4)


def _lateness(report: ProfileReport) -> str:
    repeats = report.loop.repeats

    def draw(axes: Axes) -> None:
        for number, (name, values) in enumerate(repeats.items()):
            if name != "policy call":
                axes.plot(range(len(values)), values, color=SERIES[number], lw=1.6, label=name)
        period_ms = 1e3 / report.profile.control_hz
        axes.axhline(period_ms, color=INK, lw=1.0, ls="--", label="one tick")
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("second of the loop")
        axes.set_ylabel("ms")
        axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))

    return _svg(draw, "lateness")


def _trip(report: ProfileReport) -> dict[str, float]:
    value = report.board.throttle_c
    return {} if value is None else {f"throttles at {value:g}": value}


def _svg(draw: Callable[[Axes], None], salt: str) -> str:
    """Return one set of axes as an SVG element."""
    import matplotlib as mpl

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 10.0,
        "legend.frameon": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        "axes.edgecolor": FAINT,
        "grid.color": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        return _element(_figure(draw), salt)


def _figure(draw: Callable[[Axes], None]) -> Figure:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.35)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0.0)
    draw(axes)
    return figure


def _element(figure: Figure, salt: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = _METADATA.sub("", text.getvalue())
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{salt}-", svg)
    return svg.replace(INK, "currentColor").replace(FAINT, "var(--grid)")


def _plain(text: str) -> str:
    """Keep a name that the system or a file gave from being read as a formula."""
    return text.replace("$", r"\$")
