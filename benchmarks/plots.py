"""Draw a latency report: what each stage takes, against each cost driver, above its floor."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError, one_line, shown
from edge.plots import STAGE_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN, HEIGHT_IN, DPI = 12.0, 5.4, 100
DRIVERS = {
    "cameras": "cameras",
    "changed_percent": "depth cells that changed",
    "horizon": "horizon",
}
_MOST_BYTES = 16 << 20
_SECONDS_FROM_MS = 2000.0  # a slower call is drawn in seconds
_BAR_WIDTH = 0.72


class PlotError(EdgeError):
    """A report cannot be read, or its plot cannot be written."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The medians of one row, in milliseconds."""

    label: str
    stages_ms: dict[str, float]
    call_ms: float
    floor_ms: float  # of all stages together


def check_free(path: Path) -> None:
    """Raise `PlotError` when `path` cannot become a new file, before minutes are spent for it."""
    if path.exists():
        raise PlotError(f"{path}: exists already and is not overwritten; give another name")
    if not path.parent.is_dir():
        raise PlotError(f"{path}: no folder {path.parent}; create it first")


def read_report(path: Path) -> dict[str, Any]:
    """Read a report: the JSON line alone, or everything that `latency` printed."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise PlotError(f"{path}: longer than {_MOST_BYTES} bytes; this is no report")
        lines = text.decode().strip().splitlines() or [""]
        whole = text if lines[0].startswith("{") else lines[-1]
        report = json.loads(whole)
    except OSError as error:
        raise PlotError(f"{path}: cannot read the report: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PlotError(
            f"{path}: holds no JSON report ({one_line(error)}); store the last line that "
            "'molmoact-bench latency' prints"
        ) from None
    if not isinstance(report, dict) or report.get("bench") != "latency":
        raise PlotError(f"{path}: not a report of 'molmoact-bench latency'; nothing else is drawn")
    return report


def bars_by_driver(report: dict[str, Any]) -> dict[str, list[Bar]]:
    """Return the rows that vary each driver alone; `PlotError` names what the report lacks."""
    base = _get(report, "base", dict)
    rows = _get(report, "rows", list)
    series: dict[str, list[tuple[float, Bar]]] = {driver: [] for driver in DRIVERS}
    for number, row in enumerate(rows):
        where = f"rows[{number}]"
        if not isinstance(row, dict):
            raise PlotError(f"report: {where} is {shown(row)}; an object is needed")
        for driver in DRIVERS:
            _driver(row, driver, where)
            others = [other for other in DRIVERS if other != driver]
            if all(row[other] == _driver(base, other, "base") for other in others):
                value = -1 if row[driver] is None else row[driver]
                series[driver].append((value, _bar(row, driver, where)))
    return {
        driver: [bar for _, bar in sorted(bars, key=lambda item: item[0])]
        for driver, bars in series.items()
    }


def latency_figure(report: dict[str, Any]) -> Figure:
    """Draw a report (decoded JSON); one set of axes a driver that was varied."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = bars_by_driver(report)
    drawn = {driver: bars for driver, bars in series.items() if len(bars) > 1}
    drawn = drawn or {"cameras": series["cameras"]}
    if not any(drawn.values()):
        raise PlotError("report: rows hold nothing to draw; measure again")
    slowest_ms = max(bar.call_ms for bars in drawn.values() for bar in bars)
    unit, scale = ("s", 1e-3) if slowest_ms >= _SECONDS_FROM_MS else ("ms", 1.0)
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    widths = [max(len(bars), 2) for bars in drawn.values()]
    all_axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, (driver, bars) in zip(all_axes, drawn.items(), strict=True):
        _draw(axes, bars, unit, scale)
        axes.set_xlabel(DRIVERS[driver])
    all_axes[0].set_ylabel(f"median of a call, {unit}")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(_title(report), fontsize=12)
    return figure


def write_latency_plot(report: dict[str, Any], path: Path) -> None:
    """Write the figure as a PNG; an existing file is never overwritten. Raises `PlotError`."""
    check_free(path)
    picture = io.BytesIO()
    latency_figure(report).savefig(picture, format="png")
    try:
        with path.open("xb") as file:
            file.write(picture.getvalue())
    except OSError as error:
        raise PlotError(f"{path}: cannot write the plot: {error.strerror}") from None


def _draw(axes: Axes, bars: list[Bar], unit: str, scale: float) -> None:
    places = range(len(bars))
    below = [0.0] * len(bars)
    for stage, colour in STAGE_COLOURS.items():
        heights = [bar.stages_ms[stage] * scale for bar in bars]
        axes.bar(places, heights, _BAR_WIDTH, bottom=below, color=colour, label=stage)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    half = _BAR_WIDTH / 2 + 0.06
    axes.hlines(
        [bar.floor_ms * scale for bar in bars],
        [place - half for place in places],
        [place + half for place in places],
        color="black",
        lw=2.0,
        label="floor (this machine's ceiling)",
    )
    for place, top, bar in zip(places, below, bars, strict=True):
        axes.annotate(
            _figure_text(bar.call_ms * scale, unit),
            (place, top),
            textcoords="offset points",
            xytext=(0, 3),
            ha="center",
            fontsize=10,
        )
    axes.set_xticks(list(places), [bar.label for bar in bars])
    axes.margins(y=0.1)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _figure_text(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}"


def _title(report: dict[str, Any]) -> str:
    base, rows = _get(report, "base", dict), _get(report, "rows", list)
    ceiling = _get(report, "ceiling", dict)
    calls = [_number(row, "calls", f"rows[{number}]") for number, row in enumerate(rows)]
    reads, int8, fp32 = (
        _number(ceiling, key, "ceiling") for key in ("read_gb_s", "int8_gop_s", "fp32_gflop_s")
    )
    counted = f"{min(calls):.0f}" if min(calls) == max(calls) else f"{min(calls):.0f} or more"
    share = _driver(base, "changed_percent", "base")
    depth = "no depth" if share is None else f"{share} % of the depth cells changed"
    return (
        f"recipe {_get(report, 'recipe', str)}, {_get(report, 'machine', str)}\n"
        f"one driver varied from: {_driver(base, 'cameras', 'base')} cameras, {depth}, "
        f"{_driver(base, 'horizon', 'base')} actions; median of {counted} calls\n"
        f"ceiling: reads {reads:.0f} GB/s, INT8 {int8:.0f} GOP/s, FP32 {fp32:.0f} GFLOP/s"
    )


def _bar(row: dict[str, Any], driver: str, where: str) -> Bar:
    stages = _get(row, "stages_ms", dict, where)
    floors = _get(row, "floors_ms", dict, where)
    value, suffix = row[driver], " %" if driver == "changed_percent" else ""
    medians = {
        stage: _number(
            _get(stages, stage, dict, f"{where}.stages_ms"), "p50", f"{where}.stages_ms.{stage}"
        )
        for stage in STAGE_COLOURS
    }
    return Bar(
        label="no depth" if value is None else f"{value}{suffix}",
        stages_ms=medians,
        call_ms=_number(_get(row, "call_ms", dict, where), "p50", f"{where}.call_ms"),
        floor_ms=sum(_number(floors, stage, f"{where}.floors_ms") for stage in floors),
    )


def _driver(values: dict[str, Any], driver: str, where: str) -> int | None:
    value = values.get(driver)
    if driver == "changed_percent" and value is None and driver in values:
        return None
    if type(value) is not int or value < 0:
        raise PlotError(f"report: {where}.{driver} is {shown(value)}; a whole number is needed")
    return value


def _number(values: dict[str, Any], key: str, where: str) -> float:
    value = values.get(key) if isinstance(values, dict) else None
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise PlotError(f"report: {where}.{key} is {shown(value)}; a number is needed")
    return float(value)


def _get(values: dict[str, Any], key: str, kind: Callable, where: str = "") -> Any:
    value = values.get(key)
    if not isinstance(value, kind):
        name = {dict: "an object", list: "a list", str: "a text"}[kind]
        place = f"{where}.{key}" if where else key
        raise PlotError(f"report: {place} is {shown(value)}; {name} is needed")
    return value
